//! What a container finds in its file system besides its image: volumes, the pod's own files, its termination log.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use containers::runtime::{Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::context::Context;
use crate::{env, spec, volumes};

/// In a pod's folder: what `subPath` mounts are made from.
pub(super) const SUBPATHS: &str = "subpaths";

/// All mounts of a container's run: its volumes, the pod's own files, and where it leaves its last words.
pub(super) fn mounts(
    node: &Context,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    environment: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let uid = spec::uid(pod);
    let folder = node.folder(uid);
    let root = node.volumes(uid);
    let mut all: Vec<Mount> = Vec::new();
    for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| format!("volume \"{}\" is not in the pod's spec", mount.name))?;
        let base = volumes::source(volume, &root);
        let kept = folder.join(SUBPATHS).join(&container.name).join(number.to_string());
        let source = below(base, mount, environment, &kept)?;
        let projected = volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some();
        let readonly = projected || volume.downward_api.is_some() || volume.image.is_some();
        all.push(bind(source, mount, readonly));
    }
    let has = |all: &[Mount], target: &str| all.iter().any(|m| m.target == Path::new(target));
    for (file, target) in
        [("etc-hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
    {
        if !has(&all, target) {
            all.push(Mount { source: folder.join(file), target: target.into(), ..Mount::default() });
        }
    }
    let target = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !has(&all, target) && !target.is_empty() {
        let source = node.termination_log(uid, &container.name, attempt);
        touch(&source).map_err(|e| format!("cannot make `{}`: {e}", source.display()))?;
        all.push(Mount { source, target: target.into(), ..Mount::default() });
    }
    Ok(all)
}

fn touch(file: &Path) -> io::Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, "")?;
    // Whatever user the container runs as may write it.
    fs::set_permissions(file, fs::Permissions::from_mode(0o666))
}

fn bind(source: PathBuf, mount: &VolumeMount, always_readonly: bool) -> Mount {
    let readonly = always_readonly || mount.read_only.unwrap_or(false);
    Mount {
        source,
        target: PathBuf::from(&mount.mount_path),
        readonly,
        recursive_readonly: readonly && mount.recursive_read_only.as_deref().is_some_and(|r| r != "Disabled"),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            Some(_) | None => Propagation::Private,
        },
    }
}

/// What `subPath` names within a volume: made as a folder if it is not there, and refused if it leads out.
///
/// What was checked is what is mounted: whoever writes to the volume could put a link to elsewhere into the path meanwhile, so it
/// is opened without leaving the volume, and mounted at `kept` from there.
fn below(base: PathBuf, mount: &VolumeMount, environment: &[(String, String)], kept: &Path) -> Result<PathBuf, String> {
    let expression = mount.sub_path_expr.as_ref().filter(|e| !e.is_empty());
    let expanded = expression.map(|expression| expanded(expression, environment)).transpose()?;
    let Some(sub) = expanded.or(mount.sub_path.clone()).filter(|s| !s.is_empty()) else { return Ok(base) };
    volumes::payload::inside(&sub).map_err(|e| e.to_string())?;
    let failed = |e: &dyn std::fmt::Display| {
        format!("failed to prepare subPath for volumeMount \"{}\" of container: {e}", mount.name)
    };
    let path = base.join(&sub);
    if !path.exists() {
        let mode = fs::metadata(&base).map_or(0o755, |m| m.permissions().mode() & 0o7777);
        linux::rooted::create_dir_all(&base, Path::new(&sub), mode).map_err(|e| {
            format!("failed to create subPath directory for volumeMount \"{}\" of container: {e}", mount.name)
        })?;
    }
    let real = |p: &Path| p.canonicalize().map_err(|e| failed(&e));
    let (real_path, real_base) = (real(&path)?, real(&base)?);
    let Ok(inner) = real_path.strip_prefix(&real_base) else {
        return Err(format!("subPath \"{sub}\" of volumeMount \"{}\" leads out of the volume", mount.name));
    };
    let opened = linux::rooted::open_path(&real_base, inner).map_err(|e| failed(&e))?;
    let opened = File::from(opened.ok_or_else(|| failed(&"it has gone"))?);
    keep(&opened, kept).map_err(|e| failed(&e))?;
    Ok(kept.to_path_buf())
}

/// Mounts what is opened at `kept`, in place of what an earlier run had there.
fn keep(opened: &File, kept: &Path) -> io::Result<()> {
    linux::mounts::unmount_all(kept)?;
    let folder = opened.metadata()?.is_dir();
    match (fs::symlink_metadata(kept), folder) {
        (Ok(there), true) if there.is_file() => fs::remove_file(kept)?,
        (Ok(there), false) if there.is_dir() => fs::remove_dir(kept)?,
        (Ok(_) | Err(_), _) => {}
    }
    if folder {
        fs::create_dir_all(kept)?;
    } else {
        kept.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create(kept)?;
    }
    Ok(linux::mounts::bind_opened(opened, kept)?)
}

/// A `subPathExpr` whose variables are all known: a path with a literal `$(NAME)` in it is nobody's wish.
fn expanded(expression: &str, environment: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let lookup = |name: &str| {
        let found = environment.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    };
    let path = env::expand::expand(expression, lookup);
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for \"{name}\"")),
        None => Ok(path),
    }
}
