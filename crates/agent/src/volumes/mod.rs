//! A pod's volumes on the node: made before its containers, kept fresh while it runs, taken away after it.

pub mod atomic;
pub mod image;
pub mod payload;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, EmptyDirVolumeSource, HostPathVolumeSource, Pod, ProjectedVolumeSource, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::env::fields::Placement;
use crate::quantity;
use payload::{DEFAULT_MODE, File, Files, bits, inside};

/// Published only by clusters whose Services have an authority of their own.
const SECOND_AUTHORITY: &str = "openshift-service-ca.crt";

/// Why a volume is not there. The volume's name is said by [`Failure`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("cannot read {kind} \"{name}\": {source}")]
    Read { kind: &'static str, name: String, source: Box<kube::Error> },
    #[error("failed to fetch token: {0}")]
    Token(Box<kube::Error>),
    #[error(transparent)]
    Payload(#[from] payload::Error),
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPath { path: String, wanted: &'static str },
    #[error("cannot write `{path}`: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot mount a memory-backed folder: {0}")]
    Memory(#[from] linux::Error),
    #[error("volumes of this type are not supported on this node")]
    Unsupported,
}

/// A volume that could not be set up, as the event says it.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
pub struct Failure {
    pub volume: String,
    pub source: Error,
}

/// A pod whose volumes are dealt with.
#[derive(Clone, Copy)]
pub struct Mounter<'a> {
    pub client: &'a Client,
    pub pod: &'a Pod,
    pub placement: &'a Placement,
    /// The folder of the pod's volumes.
    pub root: &'a Path,
}

impl fmt::Debug for Mounter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounter").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Mounter<'_> {
    /// Makes every volume, or brings what can change up to date. Gives the time by which tokens must be renewed.
    pub async fn mount_all(&self) -> Result<Option<Timestamp>, Failure> {
        let mut renew: Option<Timestamp> = None;
        for volume in self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let named = |source| Failure { volume: volume.name.clone(), source };
            let until = self.mount(volume).await.map_err(named)?;
            renew = renew.into_iter().chain(until).min();
        }
        Ok(renew)
    }

    async fn mount(&self, volume: &Volume) -> Result<Option<Timestamp>, Error> {
        let root = self.root.join(&volume.name);
        let mut renew = None;
        if let Some(empty) = &volume.empty_dir {
            self.empty_dir(&root, empty)?;
        } else if let Some(host) = &volume.host_path {
            check_host_path(host)?;
        } else if let Some(source) = &volume.config_map {
            let optional = source.optional.unwrap_or(false);
            let data = self.config_map(&source.name, optional).await?;
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let files = payload::of_keys("config", &data, source.items.as_deref(), mode, optional)?;
            self.write(&root, &files)?;
        } else if let Some(source) = &volume.secret {
            let optional = source.optional.unwrap_or(false);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let data = self.secret(name, optional).await?;
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let files = payload::of_keys("secret", &data, source.items.as_deref(), mode, optional)?;
            self.write(&root, &files)?;
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let items = source.items.as_deref().unwrap_or_default();
            self.write(&root, &payload::downward(self.pod, self.placement, items, mode)?)?;
        } else if let Some(source) = &volume.projected {
            let (files, until) = self.projected(&root, source).await?;
            renew = until;
            self.write(&root, &files)?;
        } else if volume.image.is_some() {
            // Mounted before the others, by who pulls images.
        } else {
            return Err(Error::Unsupported);
        }
        Ok(renew)
    }

    fn group(&self) -> Option<u32> {
        let group = self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
        u32::try_from(group).ok()
    }

    fn empty_dir(&self, root: &Path, source: &EmptyDirVolumeSource) -> Result<(), Error> {
        let memory = source.medium.as_deref() == Some("Memory");
        let is_mounted = || linux::mounts::mounted_below(root).is_ok_and(|below| !below.is_empty());
        // What is in it, and how it is protected, is the pod's from the moment that it was finished; a crash may have come before.
        let finished = finished(root);
        if finished.exists() && (!memory || is_mounted()) {
            return Ok(());
        }
        let wrong = |source| Error::Write { path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(wrong)?;
        if memory && !is_mounted() {
            let limit = source.size_limit.as_ref().and_then(quantity::parse).map(|m| m.units());
            linux::mounts::tmpfs(root, limit.and_then(|l| u64::try_from(l).ok()), 0o777)?;
        }
        let mut mode = 0o777;
        if let Some(group) = self.group() {
            chown(root, None, Some(group)).map_err(wrong)?;
            // New files belong to the group of the folder.
            mode |= 0o2000;
        }
        fs::set_permissions(root, Permissions::from_mode(mode)).map_err(wrong)?;
        fs::write(&finished, "").map_err(wrong)
    }

    fn write(&self, root: &Path, files: &Files) -> Result<(), Error> {
        let wrong = |source| Error::Write { path: root.to_owned(), source };
        atomic::write(root, files, self.group()).map(drop).map_err(wrong)
    }

    async fn projected(
        &self,
        root: &Path,
        source: &ProjectedVolumeSource,
    ) -> Result<(Files, Option<Timestamp>), Error> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let (mut files, mut renew) = (Files::new(), None);
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                // Admission asks for this map in every pod, whether the cluster has a second authority to publish in it or not.
                let optional = map.optional.unwrap_or(map.name == SECOND_AUTHORITY);
                let data = self.config_map(&map.name, optional).await?;
                files.extend(payload::of_keys("config", &data, map.items.as_deref(), mode, optional)?);
            }
            if let Some(secret) = &part.secret {
                let optional = secret.optional.unwrap_or(false);
                let data = self.secret(&secret.name, optional).await?;
                files.extend(payload::of_keys("secret", &data, secret.items.as_deref(), mode, optional)?);
            }
            if let Some(down) = &part.downward_api {
                let items = down.items.as_deref().unwrap_or_default();
                files.extend(payload::downward(self.pod, self.placement, items, mode)?);
            }
            if let Some(token) = &part.service_account_token {
                let path = inside(&token.path)?;
                let (bytes, until) = self.token(root, &path, token).await?;
                files.insert(path, File { bytes, mode: bits(mode) });
                renew = Some(renew.map_or(until, |before: Timestamp| before.min(until)));
            }
        }
        Ok((files, renew))
    }

    /// A fresh token, or the one that is there while it is young enough (upstream renews after four fifths of its life).
    async fn token(
        &self,
        root: &Path,
        path: &Path,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<(Vec<u8>, Timestamp), Error> {
        let now = Timestamp::now();
        let life = wanted.expiration_seconds.unwrap_or(3600);
        let renewal = SignedDuration::from_secs(life * 4 / 5);
        let file = root.join(path);
        if let (Ok(bytes), Ok(meta)) = (fs::read(&file), fs::metadata(&file))
            && let Ok(written) = meta.modified()
            && let Ok(written) = Timestamp::try_from(written)
            && let Ok(until) = written.checked_add(renewal)
            && until > now
        {
            return Ok((bytes, until));
        }
        let meta = &self.pod.metadata;
        let reference = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().filter(|a| !a.is_empty()).map(|a| vec![a]),
                bound_object_ref: Some(reference),
                expiration_seconds: Some(life),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let account = self.pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), self.namespace());
        let made = api.create_token_request(account, &PostParams::default(), &request).await;
        let token = made.map_err(|e| Error::Token(Box::new(e)))?.status.and_then(|s| s.token).unwrap_or_default();
        Ok((token.into_bytes(), now.saturating_add(renewal).unwrap_or(now)))
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    async fn config_map(&self, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace());
        let found = api.get_opt(name).await;
        existing("configmap", name, optional, found.map(|o| o.map(|m| payload::config_map_data(&m))))
    }

    async fn secret(&self, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace());
        let found = api.get_opt(name).await;
        existing("secret", name, optional, found.map(|o| o.map(|s| payload::secret_data(&s))))
    }
}

fn existing(
    kind: &'static str,
    name: &str,
    optional: bool,
    found: kube::Result<Option<BTreeMap<String, Vec<u8>>>>,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    match found {
        Ok(Some(data)) => Ok(data),
        Ok(None) if optional => Ok(BTreeMap::new()),
        Ok(None) => Err(Error::NotFound { kind, name: name.to_owned() }),
        Err(source) => Err(Error::Read { kind, name: name.to_owned(), source: Box::new(source) }),
    }
}

/// Beside an empty folder that was made to its end; no volume has such a name.
fn finished(root: &Path) -> PathBuf {
    root.with_file_name(format!("..{}.finished", root.file_name().unwrap_or_default().to_string_lossy()))
}

/// Where a volume's contents are on the node.
pub fn source(volume: &Volume, root: &Path) -> PathBuf {
    match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None => root.join(&volume.name),
    }
}

fn check_host_path(source: &HostPathVolumeSource) -> Result<(), Error> {
    let path = Path::new(&source.path);
    let wrong = |error| Error::Write { path: path.to_owned(), source: error };
    let kind = fs::metadata(path).map(|m| m.file_type()).ok();
    let require = |holds: bool, wanted| {
        if holds { Ok(()) } else { Err(Error::HostPath { path: source.path.clone(), wanted }) }
    };
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" if kind.is_none() => fs::create_dir_all(path).map_err(wrong),
        "FileOrCreate" if kind.is_none() => fs::write(path, "").map_err(wrong),
        "Directory" | "DirectoryOrCreate" => require(kind.is_some_and(|k| k.is_dir()), "directory"),
        "File" | "FileOrCreate" => require(kind.is_some_and(|k| k.is_file()), "file"),
        "Socket" => require(kind.is_some_and(|k| k.is_socket()), "socket"),
        "CharDevice" => require(kind.is_some_and(|k| k.is_char_device()), "character device"),
        "BlockDevice" => require(kind.is_some_and(|k| k.is_block_device()), "block device"),
        // Unchecked, and made as a folder when it is not there, as runtimes do.
        _ if kind.is_none() => fs::create_dir_all(path).map_err(wrong),
        _ => Ok(()),
    }
}
