//! From blobs to an image: the one way in, for pulled, loaded and built images alike. Whatever the source says, every
//! layer is hashed while it is unpacked and must be what the configuration, itself hashed, promises.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layer::{Unpacked, inherit, unpack};
use super::{Error, Image, ImageConfig, ImageStore};

/// Keeps a layer from being cleaned away until its image is committed.
pub(super) type Held = Arc<tokio::sync::Mutex<()>>;

/// The image configuration as it travels (OCI image specification, `application/vnd.oci.image.config.v1+json`; Docker's
/// is the same with more fields, any of which may be null).
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ConfigFile {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default)]
    pub(super) config: Option<ConfigInner>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) diff_ids: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConfigInner {
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) user: Option<String>,
    pub(super) working_dir: Option<String>,
    pub(super) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub(super) stop_signal: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// A configuration that is what its digest says and that this machine can run.
pub(super) struct Parsed {
    pub(super) id: String,
    pub(super) config: ImageConfig,
    /// The lowest first.
    pub(super) layers: Vec<LayerId>,
}

/// A layer on top of certain others: the same files on another base may have to look different (see
/// [`super::layer::inherit`]), so a layer is stored once for each base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerId {
    /// Of the uncompressed tar.
    pub(super) diff: String,
    /// Of this layer and all below it (OCI image specification, "Layer ChainID").
    pub(super) chain: String,
}

/// The layers of an image, by what its configuration says.
pub(super) fn layer_ids(diff_ids: &[String]) -> Vec<LayerId> {
    let mut layers: Vec<LayerId> = Vec::new();
    for diff in diff_ids {
        let chain = match layers.last() {
            None => diff.clone(),
            Some(below) => digest_of(format!("{} {diff}", below.chain).as_bytes()),
        };
        layers.push(LayerId { diff: diff.clone(), chain });
    }
    layers
}

/// Reads a configuration; its digest becomes the image's id.
pub(super) fn parse_config(bytes: &[u8]) -> Result<Parsed, Error> {
    let file: ConfigFile = serde_json::from_slice(bytes).map_err(|e| Error::damaged("the image configuration", e))?;
    let machine = architecture();
    if file.os != "linux" || file.architecture != machine {
        let found = format!("{}/{}", file.os, file.architecture);
        return Err(Error::WrongPlatform { found, wanted: format!("linux/{machine}") });
    }
    let diff_ids = file.rootfs.diff_ids.unwrap_or_default();
    for diff_id in &diff_ids {
        check_digest(diff_id)?;
    }
    let inner = file.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: inner.entrypoint.unwrap_or_default(),
        cmd: inner.cmd.unwrap_or_default(),
        env: inner.env.unwrap_or_default(),
        user: inner.user.unwrap_or_default(),
        working_dir: inner.working_dir.unwrap_or_default(),
        exposed_ports: inner.exposed_ports.unwrap_or_default().into_keys().collect(),
        stop_signal: inner.stop_signal.filter(|s| !s.is_empty()),
        labels: inner.labels.unwrap_or_default(),
        architecture: file.architecture,
        os: file.os,
    };
    Ok(Parsed { id: digest_of(bytes), config, layers: layer_ids(&diff_ids) })
}

impl ImageStore {
    /// Unpacks a layer from `blob` unless it is there already. Two images that share a layer share the work.
    pub(super) async fn ensure_layer(&self, layer: &LayerId, blob: PathBuf) -> Result<Held, Error> {
        let lock = self.lock(&layer.chain).await;
        let _unpacking = lock.lock().await;
        if !self.has(layer) {
            let (store, layer) = (self.clone(), layer.clone());
            let unpacked = tokio::task::spawn_blocking(move || store.unpack_layer(&layer, &blob)).await;
            unpacked.map_err(|e| Error::damaged("the layer", e))??;
        }
        Ok(Arc::clone(&lock))
    }

    pub(super) fn has(&self, layer: &LayerId) -> bool {
        self.layer_dir(&layer.chain).is_dir()
    }

    /// One task at a time works on what `digest` names.
    pub(super) async fn lock(&self, digest: &str) -> Held {
        Arc::clone(self.inner.layers.lock().await.entry(digest.to_owned()).or_default())
    }

    /// Commits the image of a configuration whose layers are unpacked and held.
    pub(super) fn commit_parsed(
        &self,
        parsed: Parsed,
        names: Vec<String>,
        digests: Vec<String>,
        held: &[Held],
    ) -> Result<Image, Error> {
        debug_assert_eq!(held.len(), parsed.layers.len());
        let Parsed { id, config, layers } = parsed;
        let mut size = 0;
        let mut below: Vec<PathBuf> = Vec::new();
        for layer in &layers {
            let folder = self.layer_dir(&layer.chain);
            let unpacked = self.unpacked(layer)?;
            inherit(&folder, &unpacked.undescribed, &below).map_err(Error::disk("finish", &folder))?;
            size += unpacked.bytes;
            below.insert(0, folder);
        }
        let layers = layers.into_iter().map(|layer| layer.diff).collect();
        self.commit(Image { id, names, digests, config, layers, size })
    }

    fn unpacked(&self, layer: &LayerId) -> Result<Unpacked, Error> {
        let file = self.layer_file(&layer.chain);
        let text = fs::read(&file).map_err(Error::disk("read", &file))?;
        serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("`{}`", file.display()), e))
    }

    fn unpack_layer(&self, layer: &LayerId, blob: &Path) -> Result<(), Error> {
        let scratch = self.scratch();
        fs::create_dir(&scratch).map_err(Error::disk("make the folder", &scratch))?;
        let unpacked = self.unpack_into(layer, blob, &scratch);
        if unpacked.is_err() {
            // What is left is cleared at the next open, should even this fail.
            let _ = fs::remove_dir_all(&scratch);
        }
        unpacked
    }

    fn unpack_into(&self, layer: &LayerId, blob: &Path, scratch: &Path) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let refused = |source| Error::Layer { layer: layer.diff.clone(), source };
        fs::set_permissions(scratch, fs::Permissions::from_mode(0o755)).map_err(Error::disk("open up", scratch))?;
        let mut tar = Hashing::new(uncompressed(blob)?);
        let unpacked = unpack(&mut tar, scratch).map_err(refused)?;
        // What follows the end of the archive counts for the digest too.
        io::copy(&mut tar, &mut io::sink()).map_err(|e| refused(super::LayerError::Archive(e)))?;
        let found = tar.digest();
        if found != layer.diff {
            let (what, expected) = ("the unpacked layer".to_owned(), layer.diff.clone());
            return Err(Error::WrongDigest { what, expected, found });
        }
        let file = self.layer_file(&layer.chain);
        let text = serde_json::to_vec(&unpacked).map_err(|e| Error::damaged("the layer", e))?;
        fs::write(&file, text).map_err(Error::disk("write", &file))?;
        let to = self.layer_dir(&layer.chain);
        fs::rename(scratch, &to).map_err(Error::disk("write", &to))
    }
}

/// The tar inside a blob, whatever it is compressed with: its first bytes tell, media types are often wrong.
fn uncompressed(blob: &Path) -> Result<Box<dyn Read>, Error> {
    let open = || File::open(blob).map_err(Error::disk("open", blob));
    let mut magic = Vec::new();
    open()?.take(4).read_to_end(&mut magic).map_err(Error::disk("read", blob))?;
    let file = BufReader::with_capacity(256 * 1024, open()?);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::Decoder::with_buffer(file).map_err(Error::disk("uncompress", blob))?)
        }
        _ => Box::new(file),
    })
}

/// A reader that knows the digest of what has passed.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new() }
    }

    pub(super) fn digest(self) -> String {
        named(self.hash)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    named(Sha256::new_with_prefix(bytes))
}

pub(super) fn named(hash: Sha256) -> String {
    use std::fmt::Write;
    let mut text = "sha256:".to_owned();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Digests become file names, so nothing but a digest may pass.
pub(super) fn check_digest(digest: &str) -> Result<(), Error> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Error::damaged("the image", format!("`{digest}` is not a sha256 digest")))
}

/// This machine in the words of image indexes (Go's GOARCH).
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
