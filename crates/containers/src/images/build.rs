//! Making an image from a directory tree, where no registry answers: for tests and for the demonstration.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::ingest::{ConfigFile, ConfigInner, Hashing, RootFs, architecture, digest_of};
use super::{Error, Image, ImageConfig, ImageStore, Reference};

/// Makes an image of one layer from the files below `tree` and puts it into the store under `name`.
pub async fn build(store: &ImageStore, name: &str, tree: &Path, config: &ImageConfig) -> Result<Image, Error> {
    let layout = store.scratch();
    let (to, name, tree, config) = (layout.clone(), name.to_owned(), tree.to_path_buf(), config.clone());
    let written = tokio::task::spawn_blocking(move || write_layout(&to, &name, &tree, &config));
    let loaded = match written.await.map_err(|e| Error::damaged("the image", e))? {
        Ok(()) => store.load(&layout).await,
        Err(e) => Err(e),
    };
    let _ = tokio::fs::remove_dir_all(&layout).await;
    loaded?.pop().ok_or_else(|| Error::damaged("the image", "nothing was written"))
}

/// Writes the same as an OCI archive (a tar of an OCI layout) that any runtime can load.
pub fn write_archive(to: &Path, name: &str, tree: &Path, config: &ImageConfig) -> Result<(), Error> {
    let layout = PathBuf::from(format!("{}.partial", to.display()));
    let written = write_layout(&layout, name, tree, config).and_then(|()| {
        let file = File::create(to).map_err(Error::disk("make", to))?;
        let mut tar = tar::Builder::new(BufWriter::new(file));
        tar.append_dir_all("", &layout).map_err(Error::disk("write", to))?;
        tar.into_inner().and_then(|mut file| file.flush()).map_err(Error::disk("write", to))
    });
    let _ = fs::remove_dir_all(&layout);
    written
}

/// Writes an OCI layout folder.
fn write_layout(to: &Path, name: &str, tree: &Path, config: &ImageConfig) -> Result<(), Error> {
    let blobs = to.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::disk("make the folder", &blobs))?;
    let (layer, size) = write_layer(&blobs, tree)?;
    let config_file = serde_json::to_vec(&config_file(config, &layer)).map_err(|e| Error::damaged("the image", e))?;
    let config_digest = write_blob(&blobs, &config_file)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config_file.len(),
        },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size }],
    })
    .to_string();
    let manifest_digest = write_blob(&blobs, manifest.as_bytes())?;
    let full_name = Reference::parse(name)?.to_string();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture() },
            "annotations": { "io.containerd.image.name": full_name, "org.opencontainers.image.ref.name": full_name },
        }],
    });
    let write = |file: &str, text: String| fs::write(to.join(file), text).map_err(Error::disk("write", to.join(file)));
    write("index.json", index.to_string())?;
    write("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string())
}

fn config_file(config: &ImageConfig, layer: &str) -> ConfigFile {
    let given = |list: &Vec<String>| Some(list.clone()).filter(|l| !l.is_empty());
    let text = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let ports: BTreeMap<_, _> = config.exposed_ports.iter().map(|p| (p.clone(), json!({}))).collect();
    ConfigFile {
        architecture: text(&config.architecture).unwrap_or_else(|| architecture().to_owned()),
        os: text(&config.os).unwrap_or_else(|| "linux".to_owned()),
        config: Some(ConfigInner {
            entrypoint: given(&config.entrypoint),
            cmd: given(&config.cmd),
            env: given(&config.env),
            user: text(&config.user),
            working_dir: text(&config.working_dir),
            exposed_ports: Some(ports).filter(|p| !p.is_empty()),
            stop_signal: config.stop_signal.clone(),
            labels: Some(config.labels.clone()).filter(|l| !l.is_empty()),
        }),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Some(vec![layer.to_owned()]) },
    }
}

fn write_blob(blobs: &Path, bytes: &[u8]) -> Result<String, Error> {
    let digest = digest_of(bytes);
    let to = blobs.join(&digest["sha256:".len()..]);
    fs::write(&to, bytes).map_err(Error::disk("write", &to))?;
    Ok(digest)
}

/// Writes the tree as one uncompressed layer: sorted, so that the same tree is the same image.
fn write_layer(blobs: &Path, tree: &Path) -> Result<(String, u64), Error> {
    let partial = blobs.join("partial");
    let file = File::create(&partial).map_err(Error::disk("make", &partial))?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(256 * 1024, file));
    tar.follow_symlinks(false);
    append(&mut tar, tree, Path::new(""), &mut BTreeMap::new())?;
    tar.into_inner().and_then(|mut file| file.flush()).map_err(Error::disk("write", &partial))?;
    let mut hashing = Hashing::new(File::open(&partial).map_err(Error::disk("open", &partial))?);
    let size = hash(&mut hashing).map_err(Error::disk("read", &partial))?;
    let digest = hashing.digest();
    let to = blobs.join(&digest["sha256:".len()..]);
    fs::rename(&partial, &to).map_err(Error::disk("write", &to))?;
    Ok((digest, size))
}

fn hash(reader: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(total),
            n => total += n as u64,
        }
    }
}

/// Files already written, by device and inode: a further name of one is a hard link.
type Written = BTreeMap<(u64, u64), PathBuf>;

fn append(
    tar: &mut tar::Builder<impl Write>,
    tree: &Path,
    relative: &Path,
    written: &mut Written,
) -> Result<(), Error> {
    let folder = tree.join(relative);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::disk("list", &folder))? {
        names.push(entry.map_err(Error::disk("list", &folder))?.file_name());
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        let (path, source) = (relative.join(&name), folder.join(&name));
        let failed = Error::disk("read", &source);
        let metadata = fs::symlink_metadata(&source).map_err(Error::disk("look at", &source))?;
        if metadata.file_type().is_file() && metadata.nlink() > 1 {
            if let Some(first) = written.get(&(metadata.dev(), metadata.ino())) {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&metadata);
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                tar.append_link(&mut header, &path, first).map_err(failed)?;
                continue;
            }
            written.insert((metadata.dev(), metadata.ino()), path.clone());
        }
        tar.append_path_with_name(&source, &path).map_err(failed)?;
        if metadata.is_dir() {
            append(tar, tree, &path, written)?;
        }
    }
    Ok(())
}
