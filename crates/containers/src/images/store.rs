//! The store itself: which images there are, and their metadata on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use linux::FileLock;
use serde::{Deserialize, Serialize};

use super::ingest::layer_ids;
use super::{Error, Reference};

/// A handle on the store of a node; clones share it.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    dir: PathBuf,
    /// By id; the same as what is in `images/`.
    images: Mutex<BTreeMap<String, Image>>,
    /// When the folder of records had changed last, when it was read.
    seen: Mutex<Option<SystemTime>>,
    /// Held by the one user that may clear up.
    _alone: Option<FileLock>,
    /// Who uses an image now: id → users. Volatile: users say so again after a restart.
    users: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// One layer is fetched and unpacked by one task; others that want it wait here.
    pub(super) layers: tokio::sync::Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    serial: AtomicU64,
}

/// An image that is present: every layer is unpacked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Full names with tags: `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// Full names with digests, for what came from a registry: `docker.io/library/busybox@sha256:…`.
    pub digests: Vec<String>,
    pub config: ImageConfig,
    /// Diff ids (`sha256:…`), the lowest first.
    pub layers: Vec<String>,
    /// Bytes on disk, layers unpacked.
    pub size: u64,
}

/// What the image says about the containers made from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// `name`, `uid`, `name:group`, `uid:gid`; empty is root.
    pub user: String,
    pub working_dir: String,
    /// `8161/tcp`
    pub exposed_ports: Vec<String>,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub architecture: String,
    pub os: String,
}

/// What a clean-up removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names (or ids, where there is no name) of the images that are gone.
    pub images: Vec<String>,
    pub bytes: u64,
}

impl ImageStore {
    /// Opens the store, making it if it is not there, and clears away what a crash left half done.
    pub fn open(dir: impl AsRef<Path>) -> Result<ImageStore, Error> {
        let dir = dir.as_ref().to_path_buf();
        for part in ["partial", "layers/empty", "images", "tmp"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).map_err(Error::disk("make the folder", &part))?;
        }
        let seen = changed(&dir);
        let images = read_records(&dir)?;
        // Whoever else has the store open may be in the middle of a pull: only its one user may clear up.
        let alone = FileLock::try_exclusive(dir.join("lock"))?;
        let clears_up = alone.is_some();
        let store = ImageStore {
            inner: Arc::new(Inner {
                dir,
                images: Mutex::new(images),
                seen: Mutex::new(seen),
                _alone: alone,
                users: Mutex::default(),
                layers: tokio::sync::Mutex::default(),
                serial: AtomicU64::new(0),
            }),
        };
        if clears_up {
            for left_over in entries(&store.tmp())? {
                remove_tree(&left_over)?;
            }
            store.drop_incomplete_images()?;
            store.remove_unneeded_layers()?;
        }
        Ok(store)
    }

    /// Takes note of what another process (`portolan image load`) did to the store: every record that is written changes the folder's time.
    fn follow_others(&self) -> Result<(), Error> {
        let mut images = self.images();
        let mut seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = changed(&self.inner.dir);
        if *seen != now {
            *images = read_records(&self.inner.dir)?;
            *seen = now;
        }
        Ok(())
    }

    /// Every image, by id.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        self.follow_others()?;
        Ok(self.images().values().cloned().collect())
    }

    /// The image of this name (defaults filled in), digest or id.
    pub fn get(&self, name: &str) -> Result<Option<Image>, Error> {
        self.follow_others()?;
        let images = self.images();
        if let Some(image) = images.get(name) {
            return Ok(Some(image.clone()));
        }
        let reference = Reference::parse(name)?;
        let wanted = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.to_string(),
        };
        let found = images.values().find(|image| image.names.contains(&wanted) || image.digests.contains(&wanted));
        Ok(found.cloned())
    }

    /// Removes a name; the image goes with its last one. An id removes the image with all its names.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let mut image = self.get(name)?.ok_or_else(|| Error::NotPresent(name.to_owned()))?;
        if image.id != name {
            let reference = Reference::parse(name)?;
            let full = reference.digest().map_or_else(|| reference.to_string(), |d| reference.with_digest(d));
            image.names.retain(|n| *n != full);
            image.digests.retain(|d| *d != full);
            if !image.names.is_empty() {
                return self.put(image);
            }
        }
        if let Some(by) = self.users().get(&image.id).and_then(|users| users.first().cloned()) {
            return Err(Error::InUse { name: name.to_owned(), by });
        }
        self.forget(&image)?;
        self.remove_unneeded_layers()
    }

    /// Removes every image that nobody uses and `keep` does not ask for, the layers that nothing needs any more, and what
    /// broken-off pulls have left.
    pub fn prune(&self, keep: impl Fn(&Image) -> bool) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for image in self.list()? {
            if keep(&image) || self.users().get(&image.id).is_some_and(|users| !users.is_empty()) {
                continue;
            }
            self.forget(&image)?;
            pruned.bytes += image.size;
            pruned.images.push(image.names.first().unwrap_or(&image.id).clone());
        }
        self.remove_unneeded_layers()?;
        for partial in entries(&self.inner.dir.join("partial"))? {
            let size = fs::metadata(&partial).map_or(0, |m| m.len());
            remove_tree(&partial)?;
            pruned.bytes += size;
        }
        Ok(pruned)
    }

    /// Says that `user` needs the image; it is not removed until [`ImageStore::release`].
    pub fn hold(&self, image_id: &str, user: &str) {
        self.users().entry(image_id.to_owned()).or_default().insert(user.to_owned());
    }

    pub fn release(&self, image_id: &str, user: &str) {
        if let Some(users) = self.users().get_mut(image_id) {
            users.remove(user);
        }
    }

    /// The folder that [`ImageStore::lower_dirs`] are relative to.
    pub fn layers_dir(&self) -> PathBuf {
        self.inner.dir.join("layers")
    }

    /// The name of a layer with nothing in it.
    pub const EMPTY_LAYER: &str = "empty";

    /// The image's layers for an overlay mount, the topmost first.
    pub fn lower_dirs(&self, image: &Image) -> Vec<String> {
        if image.layers.is_empty() {
            return vec![Self::EMPTY_LAYER.to_owned()];
        }
        layer_ids(&image.layers).iter().rev().map(|layer| layer_name(&layer.chain)).collect()
    }

    /// Where a layer is, by its chain id.
    pub(super) fn layer_dir(&self, chain: &str) -> PathBuf {
        self.layers_dir().join(layer_name(chain))
    }

    /// What is known about it.
    pub(super) fn layer_file(&self, chain: &str) -> PathBuf {
        self.layers_dir().join(format!("{}.json", layer_name(chain)))
    }

    /// Where a blob is while it is fetched; what is there already is gone on with.
    pub(super) fn partial_blob(&self, digest: &str) -> PathBuf {
        self.inner.dir.join("partial").join(digest.trim_start_matches("sha256:"))
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.inner.dir.join("tmp")
    }

    /// A path in `tmp/` that nobody else has.
    pub(super) fn scratch(&self) -> PathBuf {
        self.tmp().join(self.inner.serial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Commits an image whose layers are all there, or adds names to one that is known.
    pub(super) fn commit(&self, mut image: Image) -> Result<Image, Error> {
        if let Some(known) = self.images().get(&image.id) {
            image.names = union(&known.names, &image.names);
            image.digests = union(&known.digests, &image.digests);
        }
        // One flush for all layers: a record must not outlive its files when the machine loses power.
        let layers = self.layers_dir();
        let folder = File::open(&layers).map_err(Error::disk("open", &layers))?;
        nix::unistd::syncfs(&folder).map_err(|e| Error::disk("flush", &layers)(e.into()))?;
        self.put(image.clone())?;
        Ok(image)
    }

    /// Writes a record: to disk first, then for everybody. A name moves from the image that had it before.
    fn put(&self, image: Image) -> Result<(), Error> {
        let mut images = self.images();
        let losers: Vec<String> = images
            .values()
            .filter(|other| other.id != image.id && other.names.iter().any(|n| image.names.contains(n)))
            .map(|other| other.id.clone())
            .collect();
        self.write_record(&image)?;
        for id in losers {
            if let Some(loser) = images.get_mut(&id) {
                loser.names.retain(|n| !image.names.contains(n));
                self.write_record(loser)?;
            }
        }
        images.insert(image.id.clone(), image);
        Ok(())
    }

    fn write_record(&self, image: &Image) -> Result<(), Error> {
        let to = self.record(&image.id);
        let text = serde_json::to_vec_pretty(image).map_err(|e| Error::damaged("the image record", e))?;
        let from = self.scratch();
        let mut file = File::create(&from).map_err(Error::disk("make", &from))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(Error::disk("write", &from))?;
        fs::rename(&from, &to).map_err(Error::disk("write", &to))
    }

    fn record(&self, id: &str) -> PathBuf {
        self.inner.dir.join("images").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn forget(&self, image: &Image) -> Result<(), Error> {
        let record = self.record(&image.id);
        fs::remove_file(&record).map_err(Error::disk("remove", &record))?;
        self.images().remove(&image.id);
        Ok(())
    }

    /// After a crash of the machine a record may have survived its layers.
    fn drop_incomplete_images(&self) -> Result<(), Error> {
        for image in self.list()? {
            if let Some(missing) = layer_ids(&image.layers).iter().find(|layer| !self.has(layer)) {
                tracing::warn!(image = %image.id, layer = %missing.diff, "forgetting an image whose layer is lost");
                self.forget(&image)?;
            }
        }
        Ok(())
    }

    /// Removes layers, and blobs, that no image names. Layers that are being made are in `tmp/` until their image is.
    pub(super) fn remove_unneeded_layers(&self) -> Result<(), Error> {
        // Whoever holds a layer's lock has unpacked it, or found it there, and is about to commit an image that needs it.
        let Ok(mut busy) = self.inner.layers.try_lock() else { return Ok(()) };
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        let mut needed: BTreeSet<String> = busy.keys().map(|chain| layer_name(chain)).collect();
        for image in self.images().values() {
            needed.extend(layer_ids(&image.layers).iter().map(|layer| layer_name(&layer.chain)));
        }
        needed.insert(Self::EMPTY_LAYER.to_owned());
        for layer in entries(&self.layers_dir())? {
            let name = layer.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !needed.contains(name.trim_end_matches(".json")) {
                remove_tree(&layer)?;
            }
        }
        Ok(())
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Image>> {
        self.inner.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.inner.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer's folder: 128 bits of its digest. All layers of an image must be named in one page of mount options.
fn layer_name(chain: &str) -> String {
    chain.trim_start_matches("sha256:").chars().take(32).collect()
}

fn union(a: &[String], b: &[String]) -> Vec<String> {
    a.iter().chain(b).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::disk("list", dir))? {
        found.push(entry.map_err(Error::disk("list", dir))?.path());
    }
    found.sort();
    Ok(found)
}

pub(super) fn remove_tree(path: &Path) -> Result<(), Error> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(Error::disk("remove", path))
}

/// When a record of the store was written or removed last.
fn changed(dir: &Path) -> Option<SystemTime> {
    fs::metadata(dir.join("images")).and_then(|meta| meta.modified()).ok()
}

fn read_records(dir: &Path) -> Result<BTreeMap<String, Image>, Error> {
    let mut images = BTreeMap::new();
    for file in entries(&dir.join("images"))? {
        let text = match fs::read(&file) {
            Ok(text) => text,
            // Another process removed it since the folder was listed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::disk("read", &file)(e)),
        };
        match serde_json::from_slice::<Image>(&text) {
            Ok(image) => drop(images.insert(image.id.clone(), image)),
            // The image can be pulled again; a store that does not open cannot be helped.
            Err(e) => {
                tracing::warn!(file = %file.display(), error = %e, "forgetting a damaged image record");
                fs::remove_file(&file).map_err(Error::disk("remove", &file))?;
            }
        }
    }
    Ok(images)
}
