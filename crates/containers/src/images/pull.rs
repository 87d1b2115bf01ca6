//! Pulling from registries: manifest, configuration, and the layers that are not here yet, several at a time.
//!
//! A layer that breaks off is taken up again where it ended, by the next attempt and by the next pull. What a registry
//! says is never believed: manifest, configuration, each blob and each unpacked layer are hashed here.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use oci_client::Reference as Remote;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::ingest::{Held, LayerId, architecture, check_digest, digest_of, named, parse_config};
use super::{Error, Image, ImageStore, PullError, Reference};

/// Without an answer for so long, a registry is given up on.
const CONNECT: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;
const AT_ONCE: usize = 3;
/// Manifests and configurations are kept in memory while they are read.
const MOST_METADATA: u64 = 8 << 20;

const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How to log in to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    Bearer(String),
}

#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Registries (`host:port`) that are spoken to in plain HTTP. `localhost` and loopback addresses always are.
    pub insecure_registries: Vec<String>,
    /// Registry → others (`host:port`) that are asked first, in this order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// A registry that sends nothing for so long is given up on; 30 s if it is not said.
    pub stall: Option<Duration>,
}

/// How far a pull has come; counted in bytes as they are transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The manifest is known: so many layers, so many bytes are still to come.
    Started {
        layers: usize,
        bytes: u64,
    },
    Transferred {
        layer: String,
        bytes: u64,
    },
    Unpacked {
        layer: String,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest: the field that is there tells which.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// One registry that has the image, and how to talk to it.
struct Source<'a> {
    client: Client,
    remote: Remote,
    auth: RegistryAuth,
    reference: &'a Reference,
}

/// Why one step of a pull failed.
enum Failure {
    Remote(OciDistributionError),
    Local(Error),
    /// Not yet a layer, and a further attempt may go on from there.
    BrokenOff(io::Error),
    NoPlatform,
}

impl From<OciDistributionError> for Failure {
    fn from(error: OciDistributionError) -> Failure {
        Failure::Remote(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Local(error)
    }
}

impl ImageStore {
    /// Pulls an image, or finds that all of it is already there. Several pulls of one layer share the work.
    pub async fn pull(
        &self,
        reference: &str,
        auth: &Auth,
        options: &PullOptions,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, PullError> {
        let parsed = Reference::parse(reference).map_err(|e| invalid_name(reference, e))?;
        let remote: Remote =
            reference.parse().map_err(|e: oci_client::ParseError| invalid_name(reference, e.to_string()))?;
        let name = parsed.to_string();
        let mut last = None;
        let mirrors = options.mirrors.get(parsed.registry()).into_iter().flatten().map(Some);
        for mirror in mirrors.chain([None]) {
            let mut remote = remote.clone();
            if let Some(mirror) = mirror {
                remote.set_mirror_registry(mirror.clone());
            }
            let client = client(remote.resolve_registry(), options).map_err(|e| classified(&name, e.into()))?;
            let source = Source { client, remote, auth: registry_auth(auth), reference: &parsed };
            match self.pull_from(&source, &progress).await {
                Ok(image) => return Ok(image),
                Err(failure) => last = Some(classified(&name, failure)),
            }
        }
        Err(last.unwrap_or(PullError::NotFound { name }))
    }

    async fn pull_from(
        &self,
        source: &Source<'_>,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Image, Failure> {
        let (manifest, digest) = source.manifest().await?;
        let config = manifest.config.ok_or_else(|| Error::damaged("the manifest", "it names no configuration"))?;
        let parsed = parse_config(&source.metadata(&config).await?)?;
        if parsed.layers.len() != manifest.layers.len() {
            return Err(Error::damaged("the manifest", "the configuration names another number of layers").into());
        }
        let missing = parsed.layers.iter().zip(&manifest.layers).filter(|(id, _)| !self.has(id));
        let missing: Vec<u64> = missing.map(|(_, layer)| layer.size).collect();
        progress(Progress::Started { layers: missing.len(), bytes: missing.iter().sum() });
        let layers = parsed.layers.iter().zip(&manifest.layers);
        let work: Vec<BoxFuture<'_, Result<Held, Failure>>> =
            layers.map(|(id, layer)| self.pull_layer(source, id, layer, progress).boxed()).collect();
        let mut work = stream::iter(work).buffer_unordered(AT_ONCE);
        let mut held = Vec::new();
        while let Some(layer) = work.next().await {
            held.push(layer?);
        }
        drop(work);
        let names = source.reference.tag().map(|_| source.reference.without_digest());
        let digests = vec![source.reference.with_digest(&digest)];
        let names = names.filter(|_| source.reference.digest().is_none()).into_iter().collect();
        Ok(self.commit_parsed(parsed, names, digests, &held)?)
    }

    async fn pull_layer(
        &self,
        source: &Source<'_>,
        id: &LayerId,
        layer: &Descriptor,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Held, Failure> {
        check_digest(&layer.digest)?;
        // Two images can bring the same layer at once. The second waits here and then finds it.
        // (The key differs from that of its unpacking, which an uncompressed layer would else share.)
        let downloading = self.lock(&format!("download {}", layer.digest)).await;
        let _turn = downloading.lock().await;
        let blob = self.partial_blob(&layer.digest);
        if !self.has(id) {
            self.download(source, layer, &blob, progress).await?;
        }
        let held = self.ensure_layer(id, blob.clone()).await;
        // Whatever came of it, these bytes are of no use any more.
        let _ = tokio::fs::remove_file(&blob).await;
        progress(Progress::Unpacked { layer: layer.digest.clone() });
        Ok(held?)
    }

    /// Fills `blob`, and sees to it that it is what was asked for.
    async fn download(
        &self,
        source: &Source<'_>,
        layer: &Descriptor,
        blob: &PathBuf,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<(), Failure> {
        let mut attempt = 1;
        let found = loop {
            match source.download_once(layer, blob, progress).await {
                Ok(found) => break found,
                Err(Failure::BrokenOff(e)) if attempt < ATTEMPTS => {
                    tracing::debug!(layer = %layer.digest, error = %e, attempt, "a layer broke off");
                    attempt += 1;
                    tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                }
                Err(e) => return Err(e),
            }
        };
        if found != layer.digest {
            let _ = tokio::fs::remove_file(blob).await;
            let (what, expected) = ("the layer".to_owned(), layer.digest.clone());
            return Err(Error::WrongDigest { what, expected, found }.into());
        }
        Ok(())
    }
}

impl Source<'_> {
    /// The manifest for this machine, and the digest by which the image is known: an index's, where there is one.
    async fn manifest(&self) -> Result<(Document, String), Failure> {
        let (document, digest) = self.document(&self.remote).await?;
        if document.config.is_some() {
            return Ok((document, digest));
        }
        let suits = |p: &Platform| p.os == "linux" && p.architecture == architecture();
        let fitting = document.manifests.iter().find(|m| m.platform.as_ref().is_some_and(suits));
        let fitting = fitting.ok_or(Failure::NoPlatform)?;
        check_digest(&fitting.digest)?;
        let (manifest, _) = self.document(&self.remote.clone_with_digest(fitting.digest.clone())).await?;
        Ok((manifest, digest))
    }

    async fn document(&self, remote: &Remote) -> Result<(Document, String), Failure> {
        let (bytes, _) = self.client.pull_manifest_raw(remote, &self.auth, &ACCEPTED).await?;
        let digest = digest_of(&bytes);
        if let Some(expected) = remote.digest().filter(|expected| *expected != digest) {
            let (what, expected) = ("the manifest".to_owned(), expected.to_owned());
            return Err(Error::WrongDigest { what, expected, found: digest }.into());
        }
        let document = serde_json::from_slice(&bytes).map_err(|e| Error::damaged("the manifest", e))?;
        Ok((document, digest))
    }

    async fn metadata(&self, config: &Descriptor) -> Result<Vec<u8>, Failure> {
        check_digest(&config.digest)?;
        if config.size > MOST_METADATA {
            return Err(Error::damaged("the manifest", "the image configuration is too large").into());
        }
        let mut bytes = Vec::new();
        self.client.pull_blob(&self.remote, config.digest.as_str(), &mut bytes).await?;
        let found = digest_of(&bytes);
        if found != config.digest {
            let (what, expected) = ("the image configuration".to_owned(), config.digest.clone());
            return Err(Error::WrongDigest { what, expected, found }.into());
        }
        Ok(bytes)
    }

    /// One attempt; goes on after what is in `blob` already. Gives the digest of the whole.
    async fn download_once(
        &self,
        layer: &Descriptor,
        blob: &PathBuf,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<String, Failure> {
        let disk = |act| move |e| Failure::Local(Error::disk(act, blob)(e));
        let (mut hash, mut have) = hash_so_far(blob).await?;
        if have > layer.size {
            (hash, have) = (Sha256::new(), 0);
        }
        let mut file = tokio::fs::File::options().create(true).append(true).open(blob).await.map_err(disk("open"))?;
        if have < layer.size || layer.size == 0 {
            let offset = have;
            let response = if offset == 0 {
                BlobResponse::Full(self.client.pull_blob_stream(&self.remote, layer.digest.as_str()).await?)
            } else {
                self.client.pull_blob_stream_partial(&self.remote, layer.digest.as_str(), offset, None).await?
            };
            let mut stream = match response {
                BlobResponse::Partial(stream) => stream,
                BlobResponse::Full(stream) => {
                    // The registry does not do parts: from the start.
                    file.set_len(0).await.map_err(disk("empty"))?;
                    (hash, have) = (Sha256::new(), 0);
                    stream
                }
            };
            while let Some(bytes) = stream.next().await {
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(e) => {
                        // What has come must be there for the next attempt.
                        file.flush().await.map_err(disk("write"))?;
                        return Err(Failure::BrokenOff(e));
                    }
                };
                have += bytes.len() as u64;
                if have > layer.size {
                    return Err(Error::damaged("the layer", "it is longer than the manifest says").into());
                }
                hash.update(&bytes);
                file.write_all(&bytes).await.map_err(disk("write"))?;
                progress(Progress::Transferred { layer: layer.digest.clone(), bytes: bytes.len() as u64 });
            }
            file.flush().await.map_err(disk("write"))?;
        }
        if have < layer.size {
            return Err(Failure::BrokenOff(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        Ok(named(hash))
    }
}

/// The digest so far and the length of what an earlier attempt has left.
async fn hash_so_far(blob: &PathBuf) -> Result<(Sha256, u64), Failure> {
    let path = blob.clone();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        let mut file = match std::fs::File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((hash, 0)),
            opened => opened?,
        };
        let (mut buffer, mut length) = (vec![0; 256 * 1024], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((hash, length)),
                n => {
                    hash.update(&buffer[..n]);
                    length += n as u64;
                }
            }
        }
    });
    let hashed = hashed.await.map_err(|e| Error::damaged("the layer", e))?;
    hashed.map_err(|e| Error::disk("read", blob)(e).into())
}

fn client(registry: &str, options: &PullOptions) -> Result<Client, OciDistributionError> {
    // The HTTP library takes the process's cryptography; whoever set one before keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let loopback = host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let plain = host == "localhost" || loopback || options.insecure_registries.iter().any(|r| r == registry);
    Client::try_from(ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT),
        read_timeout: Some(options.stall.unwrap_or(STALL)),
        user_agent: concat!("portolan/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

fn registry_auth(auth: &Auth) -> RegistryAuth {
    match auth {
        Auth::Anonymous => RegistryAuth::Anonymous,
        Auth::Basic { username, password } => RegistryAuth::Basic(username.clone(), password.clone()),
        Auth::Bearer(token) => RegistryAuth::Bearer(token.clone()),
    }
}

fn invalid_name(name: &str, reason: impl ToString) -> PullError {
    PullError::InvalidName { name: name.to_owned(), reason: reason.to_string() }
}

fn classified(name: &str, failure: Failure) -> PullError {
    let name = name.to_owned();
    match failure {
        Failure::Local(source) => PullError::Refused { name, source },
        Failure::NoPlatform => {
            PullError::Registry { name, reason: "no match for platform in manifest: not found".into() }
        }
        Failure::BrokenOff(e) => PullError::Registry { name, reason: format!("the transfer broke off: {e}") },
        Failure::Remote(error) => match &error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                PullError::Denied { name, reason: text_of(&error) }
            }
            OciDistributionError::ImageManifestNotFoundError(_) => PullError::NotFound { name },
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|e| codes.contains(&e.code));
                if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::BlobUnknown]) {
                    PullError::NotFound { name }
                } else if has(&[OciErrorCode::NameUnknown, OciErrorCode::Denied, OciErrorCode::Unauthorized]) {
                    PullError::Denied { name, reason: text_of(&error) }
                } else {
                    PullError::Registry { name, reason: text_of(&error) }
                }
            }
            OciDistributionError::ServerError { code: 404, .. } => PullError::NotFound { name },
            _ => PullError::Registry { name, reason: text_of(&error) },
        },
    }
}

/// With the causes: "error sending request" alone helps nobody.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(inner) = at {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        at = inner.source();
    }
    text
}
