//! The content store: what layers become, what is refused, what survives. Needs root for devices and ownership.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, like the test")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use containers::images::{Error, Image, ImageConfig, ImageStore, LayerError, build};
use linux::mounts::{self, Overlay};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A layer under construction.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    /// The name is written as it is: the library would refuse the hostile ones.
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &str, mode: u32) -> Layer {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.append(&header, data.as_bytes()).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Layer {
        self.entry(EntryType::Regular, path, "", data, 0o644)
    }

    fn folder(self, path: &str) -> Layer {
        self.entry(EntryType::Directory, path, "", "", 0o755)
    }

    fn symlink(self, path: &str, to: &str) -> Layer {
        self.entry(EntryType::Symlink, path, to, "", 0o777)
    }

    fn attribute(mut self, name: &str, value: &[u8]) -> Layer {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes what `docker save` writes.
fn saved(folder: &Path, name: &str, layers: &[Vec<u8>]) -> PathBuf {
    let archive = folder.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    let mut tar = Builder::new(fs::File::create(&archive).unwrap());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    let ids: Vec<String> = layers.iter().map(|l| sha256(l)).collect();
    for (id, layer) in ids.iter().zip(layers) {
        add(&format!("{id}/layer.tar"), layer);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/run"], "Entrypoint": null, "Env": null },
        "rootfs": { "type": "layers", "diff_ids": ids.iter().map(|id| format!("sha256:{id}")).collect::<Vec<_>>() },
    })
    .to_string();
    add("config.json", config.as_bytes());
    let layers: Vec<String> = ids.iter().map(|id| format!("{id}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]);
    add("manifest.json", manifest.to_string().as_bytes());
    tar.into_inner().unwrap();
    archive
}

/// The image's files as a container would see them; unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(store: &ImageStore, image: &Image) -> Mounted {
        let folder = tempfile::tempdir().unwrap();
        let lower = [vec!["empty".to_owned()], store.lower_dirs(image)].concat();
        let base = store.layers_dir();
        mounts::overlay(&Overlay { base: &base, lower: &lower, upper_and_work: None, target: folder.path() }).unwrap();
        Mounted(folder)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = mounts::unmount_all(self.0.path());
    }
}

async fn load(layers: &[Vec<u8>]) -> (tempfile::TempDir, ImageStore, Result<Image, Error>) {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("store")).unwrap();
    let archive = saved(folder.path(), "test/image:1", layers);
    let image = store.load(&archive).await.map(|mut images| images.pop().unwrap());
    (folder, store, image)
}

#[tokio::test]
async fn layers_become_the_files_that_they_describe() {
    // A capability set in its on-disk form: version 2, effective, CAP_NET_BIND_SERVICE.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let lower = Layer::new()
        .folder("etc/")
        .file("etc/kept", "kept")
        .file("etc/deleted", "x")
        .file("etc/replaced", "old")
        .folder("full/")
        .file("full/lower", "x")
        .folder("gone/")
        .file("gone/inside", "x")
        .entry(EntryType::Regular, "bin/su", "", "setuid", 0o4755)
        .entry(EntryType::Link, "bin/hard", "bin/su", "", 0o4755)
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/etc/kept")
        .entry(EntryType::Fifo, "pipe", "", "", 0o600)
        .entry(EntryType::Char, "null", "", "", 0o666)
        .attribute("security.capability", &capability)
        .file("bin/ping", "capable")
        .attribute("trusted.overlay.opaque", b"y")
        .folder("plain/")
        .entry(EntryType::Directory, "tmp/", "", "", 0o1777)
        .file("/rooted", "leading slash")
        .file("./dotted", "leading dot");
    let upper = Layer::new()
        .file("etc/.wh.deleted", "")
        .file("etc/replaced", "new")
        .file(".wh.gone", "")
        .folder("full/")
        .file("full/.wh..wh..opq", "")
        .file("full/upper", "x")
        .file("tmp/x", "in a folder that this layer does not describe")
        .file("etc/twice", "first")
        .file("etc/twice", "second");
    let (_folder, store, image) = load(&[lower.bytes(), upper.bytes()]).await;
    let image = image.unwrap();
    assert_eq!(image.names, ["docker.io/test/image:1"]);
    assert_eq!(image.config.cmd, ["/run"]);
    let files = Mounted::new(&store, &image);
    let text = |path: &str| fs::read_to_string(files.at(path)).unwrap_or_else(|e| e.kind().to_string());
    assert_eq!(text("etc/kept"), "kept");
    assert_eq!(text("etc/deleted"), "entity not found");
    assert_eq!(text("etc/replaced"), "new");
    assert_eq!(text("etc/twice"), "second");
    assert_eq!(text("full/lower"), "entity not found");
    assert_eq!(text("full/upper"), "x");
    assert_eq!(text("gone/inside"), "entity not found");
    assert_eq!((text("rooted"), text("dotted")), ("leading slash".to_owned(), "leading dot".to_owned()));
    let su = fs::metadata(files.at("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 7, 8, 2));
    assert_eq!(su.mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(files.at("etc")).unwrap().mtime(), 1_000_000_000);
    let tmp = fs::metadata(files.at("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.uid(), tmp.mtime()), (0o1777, 7, 1_000_000_000));
    assert_eq!(fs::read_link(files.at("lib")).unwrap(), Path::new("usr/lib"));
    assert_eq!(fs::symlink_metadata(files.at("lib")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read_link(files.at("absolute")).unwrap(), Path::new("/etc/kept"));
    assert!(fs::metadata(files.at("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::metadata(files.at("null")).unwrap().file_type().is_char_device());
    assert_eq!(xattr::get(files.at("bin/ping"), "security.capability").unwrap().unwrap(), capability);
}

#[tokio::test]
async fn nothing_leaves_the_image() {
    let outside = tempfile::tempdir().unwrap();
    let away = outside.path().display().to_string();
    let up = format!("../../../../../../../../..{away}");
    let hostile: [(&str, Layer); 9] = [
        ("dots", Layer::new().file("../escaped", "x")),
        ("inner dots", Layer::new().folder("a/").file("a/../../escaped", "x")),
        ("absolute link", Layer::new().symlink("door", &away).file("door/escaped", "x")),
        ("relative link", Layer::new().symlink("door", &up).file("door/escaped", "x")),
        ("link as a folder", Layer::new().symlink("door", &away).folder("door/sub/").file("door/sub/escaped", "x")),
        ("hard link", Layer::new().entry(EntryType::Link, "stolen", "../../../../../../../etc/passwd", "", 0o644)),
        (
            "hard link by a link",
            Layer::new().symlink("etc", "/etc").entry(EntryType::Link, "stolen", "etc/passwd", "", 0o644),
        ),
        ("whiteout", Layer::new().symlink("door", &away).file("door/.wh.victim", "")),
        ("whiteout of the parent", Layer::new().folder("a/").file("a/.wh...", "")),
    ];
    fs::write(outside.path().join("victim"), "alive").unwrap();
    for (name, layer) in hostile {
        let (folder, store, image) = load(&[layer.bytes()]).await;
        let error = image.expect_err(name);
        assert!(matches!(error, Error::Layer { source: LayerError::Escapes(_), .. }), "{name}: {error}");
        assert_eq!(store.list().unwrap(), []);
        let names = |p: &str| fs::read_dir(folder.path().join("store").join(p)).unwrap().count();
        assert_eq!((names("tmp"), names("layers"), names("images")), (0, 1, 0), "{name}");
        let left: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["victim"], "{name}");
    }
}

#[tokio::test]
async fn a_link_replaced_by_a_folder_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let away = outside.path().display().to_string();
    let layer =
        Layer::new().symlink("door", &away).folder("door/").file("door/in", "x").symlink("in", &away).file("in", "y");
    let (_folder, store, image) = load(&[layer.bytes()]).await;
    let files = Mounted::new(&store, &image.unwrap());
    assert_eq!(fs::read_to_string(files.at("door/in")).unwrap(), "x");
    assert_eq!(fs::read_to_string(files.at("in")).unwrap(), "y");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn damage_is_refused_with_its_name() {
    let whole = Layer::new().file("a", "some text").bytes();
    let (folder, store, image) = load(std::slice::from_ref(&whole)).await;
    image.unwrap();
    // The archive of a layer that is not what the configuration promises.
    let mut other = whole.clone();
    other[512] ^= 1;
    let archive = saved(folder.path(), "test/other:1", &[whole]);
    let text = fs::read(&archive).unwrap();
    let at = text.windows(9).position(|w| w == b"some text").unwrap();
    let damaged = [&text[..at], b"SOME text", &text[at + 9..]].concat();
    fs::write(&archive, damaged).unwrap();
    let fresh = ImageStore::open(folder.path().join("fresh")).unwrap();
    let error = fresh.load(&archive).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    fs::write(&archive, &text[..700]).unwrap();
    let error = fresh.load(&archive).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. } | Error::Disk { .. }), "{error}");
    assert_eq!(fresh.list().unwrap(), []);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[tokio::test]
async fn names_move_and_images_go_with_their_last_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("store")).unwrap();
    let shared = Layer::new().file("base", "b").bytes();
    let first = saved(folder.path(), "app:1", &[shared.clone(), Layer::new().file("one", "1").bytes()]);
    let first = store.load(&first).await.unwrap().remove(0);
    let second = saved(folder.path(), "app:1", &[shared.clone(), Layer::new().file("two", "2").bytes()]);
    let second = store.load(&second).await.unwrap().remove(0);
    assert_eq!(store.get("app:1").unwrap().unwrap().id, second.id);
    assert_eq!(store.get("docker.io/library/app:1").unwrap().unwrap().id, second.id);
    assert_eq!(store.get(&first.id).unwrap().unwrap().names, Vec::<String>::new());
    // The same after a restart.
    let store = ImageStore::open(folder.path().join("store")).unwrap();
    assert_eq!(store.get("app:1").unwrap().unwrap().id, second.id);
    store.hold(&second.id, "container x");
    assert!(matches!(store.remove("app:1"), Err(Error::InUse { by, .. }) if by == "container x"));
    store.release(&second.id, "container x");
    store.remove("app:1").unwrap();
    assert!(store.get("app:1").unwrap().is_none());
    let layers = |store: &ImageStore| fs::read_dir(store.layers_dir()).unwrap().count();
    assert_eq!(layers(&store), 1 + 2 * 2, "the shared layer stays for the other image");
    let pruned = store.prune(|_| false).unwrap();
    assert_eq!((pruned.images, pruned.bytes), (vec![first.id], 2));
    assert_eq!(layers(&store), 1);
}

#[tokio::test]
async fn a_built_image_is_the_same_however_it_travels() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), "text").unwrap();
    fs::hard_link(tree.join("sub/file"), tree.join("again")).unwrap();
    std::os::unix::fs::symlink("/sub/file", tree.join("link")).unwrap();
    let config = ImageConfig {
        entrypoint: vec!["/run".to_owned()],
        user: "7:8".to_owned(),
        exposed_ports: vec!["8161/tcp".to_owned()],
        stop_signal: Some("SIGQUIT".to_owned()),
        ..ImageConfig::default()
    };
    let store = ImageStore::open(folder.path().join("store")).unwrap();
    let built = build::build(&store, "built:1", &tree, &config).await.unwrap();
    assert_eq!((&built.config.user, &built.config.stop_signal), (&config.user, &config.stop_signal));
    let archive = folder.path().join("built.tar");
    build::write_archive(&archive, "built:1", &tree, &config).unwrap();
    let other = ImageStore::open(folder.path().join("other")).unwrap();
    let loaded = other.load(&archive).await.unwrap().remove(0);
    assert_eq!(loaded, built);
    let files = Mounted::new(&other, &loaded);
    assert_eq!(fs::read_to_string(files.at("again")).unwrap(), "text");
    assert_eq!(fs::metadata(files.at("again")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(files.at("link")).unwrap(), Path::new("/sub/file"));
}

#[tokio::test]
async fn a_crash_leaves_nothing_half_done() {
    let (folder, store, image) = load(&[Layer::new().file("a", "a").bytes()]).await;
    let image = image.unwrap();
    let dir = folder.path().join("store");
    fs::create_dir(dir.join("tmp/17")).unwrap();
    fs::create_dir(dir.join("layers/0123")).unwrap();
    fs::write(dir.join("images/broken.json"), "{").unwrap();
    let layer = dir.join("layers").join(&store.lower_dirs(&image)[0]);
    // While someone has the store open, what is half done may be theirs.
    assert_eq!(ImageStore::open(&dir).unwrap().list().unwrap(), std::slice::from_ref(&image));
    assert!(dir.join("layers/0123").exists());
    drop(store);
    let again = ImageStore::open(&dir).unwrap();
    assert_eq!(again.list().unwrap(), std::slice::from_ref(&image));
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
    assert!(!dir.join("layers/0123").exists());
    drop(again);
    fs::remove_dir_all(layer).unwrap();
    assert_eq!(ImageStore::open(&dir).unwrap().list().unwrap(), []);
}

#[tokio::test]
async fn what_another_process_loads_is_seen() {
    let (folder, store, image) = load(&[Layer::new().file("a", "a").bytes()]).await;
    let other = ImageStore::open(folder.path().join("store")).unwrap();
    let id = image.unwrap().id;
    assert!(other.get(&id).unwrap().is_some());
    store.remove(&id).unwrap();
    assert_eq!(other.get(&id).unwrap(), None);
}
