//! Images from files: OCI layouts, as a folder or a tar, and what `docker save` writes.
//!
//! A tar is first spread out in the store's scratch folder (plain files only, no path may leave it), then read like a
//! folder. Newer `docker save` archives are both kinds at once; their `manifest.json` has the full names.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::ingest::{architecture, check_digest, digest_of, parse_config};
use super::{Error, Image, ImageStore, Reference};

/// One image in an archive: where its parts are, nothing verified yet.
struct Member {
    config: PathBuf,
    /// What the configuration's bytes must hash to, where the archive says so.
    config_digest: Option<String>,
    layers: Vec<PathBuf>,
    names: Vec<String>,
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// `index.json`, and any index it points to.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl ImageStore {
    /// Takes in an archive: an OCI layout (folder or tar, also compressed) or the output of `docker save`.
    pub async fn load(&self, archive: impl AsRef<Path>) -> Result<Vec<Image>, Error> {
        let (store, path) = (self.clone(), archive.as_ref().to_path_buf());
        let spread = tokio::task::spawn_blocking(move || store.spread(&path));
        let (folder, scratch) = spread.await.map_err(|e| Error::damaged("the archive", e))??;
        let loaded = self.load_folder(&folder).await;
        if let Some(scratch) = scratch {
            // What is left is cleared at the next open, should this fail.
            let _ = tokio::fs::remove_dir_all(scratch).await;
        }
        loaded
    }

    async fn load_folder(&self, folder: &Path) -> Result<Vec<Image>, Error> {
        let members = members(folder)?;
        if members.is_empty() {
            return Err(Error::damaged("the archive", "it holds no image for this machine"));
        }
        let mut images = Vec::new();
        for member in members {
            images.push(self.load_member(member).await?);
        }
        Ok(images)
    }

    async fn load_member(&self, member: Member) -> Result<Image, Error> {
        let bytes = fs::read(&member.config).map_err(Error::disk("read", &member.config))?;
        if let Some(expected) = member.config_digest.filter(|expected| *expected != digest_of(&bytes)) {
            let (what, found) = ("the image configuration".to_owned(), digest_of(&bytes));
            return Err(Error::WrongDigest { what, expected, found });
        }
        let parsed = parse_config(&bytes)?;
        if parsed.layers.len() != member.layers.len() {
            return Err(Error::damaged("the archive", "the configuration names another number of layers"));
        }
        let layers = parsed.layers.iter().zip(member.layers).map(|(layer, blob)| self.ensure_layer(layer, blob));
        let held = futures::future::try_join_all(layers).await?;
        self.commit_parsed(parsed, member.names, Vec::new(), &held)
    }

    /// The archive as a folder, and the scratch folder to remove afterwards if one was needed.
    fn spread(&self, archive: &Path) -> Result<(PathBuf, Option<PathBuf>), Error> {
        if archive.is_dir() {
            return Ok((archive.to_path_buf(), None));
        }
        let scratch = self.scratch();
        fs::create_dir(&scratch).map_err(Error::disk("make the folder", &scratch))?;
        let spread = spread_tar(archive, &scratch);
        if spread.is_err() {
            let _ = fs::remove_dir_all(&scratch);
        }
        spread.map(|()| (scratch.clone(), Some(scratch)))
    }
}

fn spread_tar(archive: &Path, into: &Path) -> Result<(), Error> {
    let damaged = |e: io::Error| Error::damaged(format!("`{}`", archive.display()), e);
    let file = File::open(archive).map_err(Error::disk("open", archive))?;
    let mut reader = BufReader::new(file);
    let magic = io::BufRead::fill_buf(&mut reader).map_err(damaged)?.to_vec();
    let tar: Box<dyn Read> = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader).map_err(damaged)?),
        _ => Box::new(reader),
    };
    for entry in tar::Archive::new(tar).entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let to = member_path(into, &path)?;
        // Old `docker save` writes a layer that it has written before as a link to it.
        let link = entry.link_name().map_err(damaged)?.map(|link| link.into_owned());
        let kind = entry.header().entry_type();
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::disk("make the folder", parent))?;
        }
        if kind.is_file() {
            let mut file = File::create_new(&to).map_err(Error::disk("make", &to))?;
            io::copy(&mut entry, &mut file).map_err(Error::disk("write", &to))?;
        } else if let Some(link) = link.filter(|_| kind.is_symlink() || kind.is_hard_link()) {
            let relative_to = if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
            let from = member_path(into, &flattened(&relative_to.join(link)))?;
            fs::hard_link(&from, &to).map_err(Error::disk("make", &to))?;
        }
    }
    Ok(())
}

/// Where an archive's member lies, which is never outside the archive's folder.
fn member_path(folder: &Path, path: &Path) -> Result<PathBuf, Error> {
    let mut to = folder.to_path_buf();
    for component in path.components() {
        match component {
            Component::Normal(name) => to.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::damaged("the archive", format!("`{}` leads out of it", path.display())));
            }
        }
    }
    Ok(to)
}

/// `a/../b` is `b`. What would lead out keeps its `..` and is refused later.
fn flattened(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir && flat.file_name().is_some() {
            flat.pop();
        } else {
            flat.push(component);
        }
    }
    flat
}

fn members(folder: &Path) -> Result<Vec<Member>, Error> {
    if folder.join("manifest.json").is_file() {
        let saved: Vec<SavedImage> = read_json(&folder.join("manifest.json"))?;
        return saved.into_iter().map(|image| saved_member(folder, image)).collect();
    }
    let index: Index = read_json(&folder.join("index.json"))?;
    let mut members = Vec::new();
    for descriptor in index.manifests {
        let names = full_name(&descriptor).into_iter().collect();
        if let Some(manifest) = for_this_machine(folder, descriptor)? {
            members.push(oci_member(folder, &manifest, names)?);
        }
    }
    Ok(members)
}

fn saved_member(folder: &Path, image: SavedImage) -> Result<Member, Error> {
    let tags = image.repo_tags.unwrap_or_default();
    let names = tags.iter().map(|tag| Ok(Reference::parse(tag)?.to_string()));
    Ok(Member {
        config: member_path(folder, Path::new(&image.config))?,
        config_digest: None,
        layers: image.layers.iter().map(|l| member_path(folder, Path::new(l))).collect::<Result<_, _>>()?,
        names: names.collect::<Result<_, Error>>()?,
    })
}

fn oci_member(folder: &Path, manifest: &Descriptor, names: Vec<String>) -> Result<Member, Error> {
    let bytes = read_blob(folder, manifest)?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| Error::damaged("the manifest", e))?;
    Ok(Member {
        config: blob(folder, &manifest.config)?,
        config_digest: Some(manifest.config.digest.clone()),
        layers: manifest.layers.iter().map(|layer| blob(folder, layer)).collect::<Result<_, _>>()?,
        names,
    })
}

/// The manifest behind a descriptor, through nested indexes; none when it is for other machines only.
fn for_this_machine(folder: &Path, descriptor: Descriptor) -> Result<Option<Descriptor>, Error> {
    let suits = |p: &Platform| p.os == "linux" && p.architecture == architecture();
    if descriptor.platform.as_ref().is_some_and(|platform| !suits(platform)) {
        return Ok(None);
    }
    if !descriptor.media_type.ends_with("index.v1+json") && !descriptor.media_type.ends_with("manifest.list.v2+json") {
        return Ok(Some(descriptor));
    }
    let bytes = read_blob(folder, &descriptor)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| Error::damaged("the image index", e))?;
    for inner in index.manifests {
        let is_attestation = inner.annotations.contains_key("vnd.docker.reference.type");
        if !is_attestation && let Some(found) = for_this_machine(folder, inner)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Tools write the full name into different annotations; a bare tag names no image.
fn full_name(descriptor: &Descriptor) -> Option<String> {
    let given = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    let name =
        given.iter().find_map(|key| descriptor.annotations.get(*key)).filter(|name| name.contains([':', '/']))?;
    Some(Reference::parse(name).ok()?.to_string())
}

fn blob(folder: &Path, descriptor: &Descriptor) -> Result<PathBuf, Error> {
    check_digest(&descriptor.digest)?;
    Ok(folder.join("blobs/sha256").join(&descriptor.digest["sha256:".len()..]))
}

fn read_blob(folder: &Path, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let path = blob(folder, descriptor)?;
    let bytes = fs::read(&path).map_err(Error::disk("read", &path))?;
    let found = digest_of(&bytes);
    if found != descriptor.digest {
        return Err(Error::WrongDigest { what: "the manifest".to_owned(), expected: descriptor.digest.clone(), found });
    }
    Ok(bytes)
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(Error::disk("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::damaged(format!("`{}`", path.display()), e))
}
