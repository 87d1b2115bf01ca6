//! Pulling from a registry that does what a test tells it: whole, in parts, with passwords, with lies.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, like the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containers::images::{Auth, Error, Image, ImageConfig, ImageStore, Progress, PullError, PullOptions, build};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the registry holds and how it behaves.
#[derive(Default)]
struct Content {
    /// Path → media type and bytes.
    files: BTreeMap<String, (String, Vec<u8>)>,
    /// Answers to the next blobs break off after so many bytes.
    cuts: Vec<usize>,
    /// Blobs are begun and then nothing more comes.
    stalls: bool,
    /// Only this `Authorization` is let in.
    wanted: Option<String>,
    /// What was asked for, with the range if there was one.
    asked: Vec<String>,
}

#[derive(Clone)]
struct Registry {
    address: String,
    content: Arc<Mutex<Content>>,
}

impl Registry {
    async fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Registry { address, content: Arc::default() };
        let this = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move { this.answer(stream).await });
            }
        });
        registry
    }

    async fn answer(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            request.push(byte);
        }
        let text = String::from_utf8(request).unwrap();
        let header = |name: &str| {
            let found = text.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}: ")));
            found.map(|l| l.split_once(": ").unwrap().1.to_owned())
        };
        // A mirror is told whose place it takes by a query.
        let path = text.split([' ', '?']).nth(1).unwrap().to_owned();
        let (head, mut body) = self.decide(&path, header("range"), header("authorization"));
        let length = body.len();
        if path.contains("/blobs/") && !body.is_empty() {
            let mut content = self.content.lock().unwrap();
            let cut = if content.stalls { Some(length / 2) } else { content.cuts.pop() };
            body.truncate(cut.unwrap_or(length));
        }
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
        if path.contains("/blobs/") && self.content.lock().unwrap().stalls {
            // Until the client has had enough.
            let _ = stream.read_u8().await;
        }
    }

    fn decide(&self, path: &str, range: Option<String>, authorization: Option<String>) -> (String, Vec<u8>) {
        let mut content = self.content.lock().unwrap();
        let noted = range.as_ref().map_or(path.to_owned(), |range| format!("{path} {range}"));
        content.asked.push(noted);
        if content.wanted.is_some() && content.wanted != authorization {
            return ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"".to_owned(), Vec::new());
        }
        if path == "/v2/" {
            return ("200 OK".to_owned(), Vec::new());
        }
        let Some((kind, bytes)) = content.files.get(path) else {
            let error = json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "manifest unknown" }] });
            return ("404 Not Found".to_owned(), error.to_string().into_bytes());
        };
        let head = format!("OK\r\nContent-Type: {kind}");
        let start = range.and_then(|r| r.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().ok());
        match start {
            Some(start) => (format!("206 {head}"), bytes[start..].to_vec()),
            None => (format!("200 {head}"), bytes.clone()),
        }
    }

    /// Publishes what is in an OCI layout folder, behind an index with an image for another machine first.
    fn publish(&self, repository: &str, tag: &str, layout: &Path) -> String {
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let mut content = self.content.lock().unwrap();
        let prefix = format!("/v2/{repository}");
        let manifest = index["manifests"][0].clone();
        for blob in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let digest = format!("sha256:{}", blob.file_name().to_str().unwrap());
            let bytes = std::fs::read(blob.path()).unwrap();
            let (folder, kind) = if manifest["digest"] == digest.as_str() {
                ("manifests", "application/vnd.oci.image.manifest.v1+json")
            } else {
                ("blobs", "application/octet-stream")
            };
            content.files.insert(format!("{prefix}/{folder}/{digest}"), (kind.to_owned(), bytes));
        }
        let mut other = manifest.clone();
        other["platform"] = json!({ "os": "linux", "architecture": "s390x" });
        other["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [other, manifest] }).to_string();
        let digest = format!("sha256:{}", hex(&Sha256::digest(index.as_bytes())));
        for name in [tag, &digest] {
            let file = (kind.to_owned(), index.clone().into_bytes());
            content.files.insert(format!("{prefix}/manifests/{name}"), file);
        }
        digest
    }

    fn asked_for_blobs(&self) -> usize {
        self.content.lock().unwrap().asked.iter().filter(|path| path.contains("/blobs/")).count()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A registry with one image, `team/app:v1`, and an empty store.
struct Setting {
    folder: tempfile::TempDir,
    registry: Registry,
    store: ImageStore,
    digest: String,
    name: String,
}

impl Setting {
    async fn new() -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let (tree, archive, layout) =
            (folder.path().join("tree"), folder.path().join("app.tar"), folder.path().join("layout"));
        std::fs::create_dir_all(&tree).unwrap();
        let noise: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(tree.join("noise"), noise).unwrap();
        let config = ImageConfig { cmd: vec!["/run".to_owned()], ..ImageConfig::default() };
        build::write_archive(&archive, "app", &tree, &config).unwrap();
        tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(&layout).unwrap();
        let registry = Registry::start().await;
        let digest = registry.publish("team/app", "v1", &layout);
        let store = ImageStore::open(folder.path().join("store")).unwrap();
        let name = format!("{}/team/app:v1", registry.address);
        Setting { folder, registry, store, digest, name }
    }

    async fn pull(&self, name: &str) -> Result<Image, PullError> {
        self.store.pull(name, &Auth::Anonymous, &PullOptions::default(), |_| {}).await
    }

    /// Bytes of the layer as the registry has it.
    fn with_layer(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.registry.content.lock().unwrap();
        let layer = content.files.iter_mut().find(|(_, (_, bytes))| bytes.len() > 200_000).unwrap();
        change(&mut layer.1.1);
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_by_tag_and_digest() {
    let setting = Setting::new().await;
    let told = Mutex::new(Vec::new());
    let image = setting
        .store
        .pull(&setting.name, &Auth::Anonymous, &PullOptions::default(), |p| told.lock().unwrap().push(p))
        .await
        .unwrap();
    assert_eq!(image.names, [setting.name.as_str()]);
    let by_digest = format!("{}/team/app@{}", setting.registry.address, setting.digest);
    assert_eq!(image.digests, [by_digest.as_str()]);
    let told = told.into_inner().unwrap();
    let Progress::Started { layers: 1, bytes } = told[0] else { panic!("{told:?}") };
    let transferred: u64 =
        told.iter().map(|p| if let Progress::Transferred { bytes, .. } = p { *bytes } else { 0 }).sum();
    assert_eq!(bytes, transferred);
    assert_eq!(setting.registry.asked_for_blobs(), 2, "configuration and layer");
    assert_eq!(setting.pull(&by_digest).await.unwrap(), image);
    assert_eq!(setting.registry.asked_for_blobs(), 3, "only the configuration again");
    assert_eq!(setting.store.get(&by_digest).unwrap().unwrap(), image);
    assert_eq!(std::fs::read_dir(setting.folder.path().join("store/partial")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_ended() {
    let setting = Setting::new().await;
    // The last is used first: the configuration comes whole, then the layer breaks off twice.
    setting.registry.content.lock().unwrap().cuts = vec![30_000, 100_000, usize::MAX];
    setting.pull(&setting.name).await.unwrap();
    let asked = setting.registry.content.lock().unwrap().asked.clone();
    let ranges: Vec<_> = asked.iter().filter_map(|a| a.split_once(' ')).map(|(_, range)| range).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=130000-"]);
}

#[tokio::test]
async fn a_pull_that_failed_is_taken_up_by_the_next() {
    let setting = Setting::new().await;
    setting.registry.content.lock().unwrap().cuts = vec![10, 10, 150_000, usize::MAX];
    let error = setting.pull(&setting.name).await.unwrap_err();
    assert!(error.to_string().contains("broke off"), "{error}");
    assert_eq!(error.reason(), "ErrImagePull");
    setting.pull(&setting.name).await.unwrap();
    let asked = setting.registry.content.lock().unwrap().asked.clone();
    assert!(asked.last().unwrap().ends_with("bytes=150020-"), "{asked:?}");
}

#[tokio::test]
async fn lies_are_refused_and_the_next_try_works() {
    let setting = Setting::new().await;
    setting.with_layer(|bytes| bytes[5000] ^= 1);
    let error = setting.pull(&setting.name).await.unwrap_err();
    assert!(matches!(error, PullError::Refused { source: Error::WrongDigest { .. }, .. }), "{error}");
    assert_eq!(setting.store.list().unwrap(), []);
    setting.with_layer(|bytes| bytes[5000] ^= 1);
    setting.with_layer(|bytes| bytes.extend_from_slice(&[0; 100]));
    let error = setting.pull(&setting.name).await.unwrap_err();
    assert!(matches!(error, PullError::Refused { .. } | PullError::Registry { .. }), "{error}");
    setting.with_layer(|bytes| bytes.truncate(bytes.len() - 100));
    setting.pull(&setting.name).await.unwrap();
}

#[tokio::test]
async fn passwords_are_used() {
    let setting = Setting::new().await;
    setting.registry.content.lock().unwrap().wanted = Some("Basic bWU6c2VjcmV0".to_owned());
    let error = setting.pull(&setting.name).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let auth = Auth::Basic { username: "me".to_owned(), password: "secret".to_owned() };
    setting.store.pull(&setting.name, &auth, &PullOptions::default(), |_| {}).await.unwrap();
}

#[tokio::test]
async fn failures_have_their_names() {
    let setting = Setting::new().await;
    let error = setting.pull(&setting.name.replace("v1", "v2")).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    let error = setting.pull("Not A Name").await.unwrap_err();
    assert_eq!(error.reason(), "InvalidImageName");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = setting.pull(&format!("{nobody}/x")).await.unwrap_err();
    assert!(error.to_string().contains("onnection refused"), "{error}");
    for (path, (_, bytes)) in &mut setting.registry.content.lock().unwrap().files {
        if path.ends_with("manifests/v1") {
            *bytes = String::from_utf8_lossy(bytes).replace("\"amd64\"", "\"riscv64\"").into_bytes();
        }
    }
    let error = setting.pull(&setting.name).await.unwrap_err();
    assert!(error.to_string().contains("no match for platform in manifest"), "{error}");
}

#[tokio::test]
async fn a_mirror_is_asked_first() {
    let setting = Setting::new().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let mirrors = [("registry.test".to_owned(), vec![nobody, setting.registry.address.clone()])].into();
    let options = PullOptions { mirrors, ..PullOptions::default() };
    let image = setting.store.pull("registry.test/team/app:v1", &Auth::Anonymous, &options, |_| {}).await.unwrap();
    assert_eq!(image.names, ["registry.test/team/app:v1"]);
}

#[tokio::test]
async fn pulls_at_once_share_their_layers() {
    let setting = Setting::new().await;
    let images = futures::future::join_all((0..4).map(|_| setting.pull(&setting.name))).await;
    for image in &images {
        assert_eq!(image.as_ref().unwrap(), images[0].as_ref().unwrap());
    }
    let layers = setting.registry.asked_for_blobs() - 4;
    assert_eq!(layers, 1, "each asks for the configuration, one for the layer");
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up_on_and_the_next_try_works() {
    let setting = Setting::new().await;
    setting.registry.content.lock().unwrap().stalls = true;
    let impatient = PullOptions { stall: Some(Duration::from_millis(200)), ..PullOptions::default() };
    let error = setting.store.pull(&setting.name, &Auth::Anonymous, &impatient, |_| {}).await.unwrap_err();
    assert!(matches!(error, PullError::Registry { .. }), "{error}");
    assert_eq!(error.reason(), "ErrImagePull");
    setting.registry.content.lock().unwrap().stalls = false;
    setting.pull(&setting.name).await.unwrap();
}

/// A small disk; taken away also when the test fails.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = linux::mounts::unmount_all(&self.0);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_is_said_and_the_next_try_works() {
    let mut setting = Setting::new().await;
    let disk = Disk(setting.folder.path().join("small"));
    std::fs::create_dir(&disk.0).unwrap();
    linux::mounts::tmpfs(&disk.0, Some(1 << 20), 0o755).unwrap();
    setting.store = ImageStore::open(disk.0.join("store")).unwrap();
    // Room for the transfer, or for a part of it, and not for what is unpacked.
    for taken in [950_000, 700_000] {
        std::fs::write(disk.0.join("taken"), vec![0; taken]).unwrap();
        let error = setting.pull(&setting.name).await.unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("no space left") || error.to_string().contains("full"),
            "{error}"
        );
        assert_eq!(setting.store.list().unwrap(), []);
        std::fs::remove_file(disk.0.join("taken")).unwrap();
    }
    setting.pull(&setting.name).await.unwrap();
}
