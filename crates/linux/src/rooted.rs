//! Opening files below a folder that somebody else controls: a container's root, an image's layer. Symlinks and `..`
//! are followed as if that folder were `/`, by the kernel itself, so nothing outside is ever reached.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::{Error, Result};

/// Opens `path` for reading as a process inside `root` would; `None` when there is no such file.
pub fn open(root: &Path, path: &Path) -> Result<Option<File>> {
    let folder = File::open(root).map_err(|e| Error::path("open the folder", root, e))?;
    match open_at(&folder, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(e) => Err(Error::path("open inside the container", path, e)),
    }
}

/// As [`open`], a file or folder only to name it (`O_PATH`): to mount it somewhere.
pub fn open_path(root: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let folder = File::open(root).map_err(|e| Error::path("open the folder", root, e))?;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match open_at(&folder, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(e) => Err(Error::path("open inside", path, e)),
    }
}

/// As [`open`], below a folder that is open already, with any flags (close-on-exec is added).
pub fn open_at(root: &impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), path, how)
}

/// Makes the folder `path` and those above it as a process inside `root` would, with this mode; those that exist stay.
pub fn create_dir_all(root: &Path, path: &Path, mode: u32) -> Result<()> {
    let folder = File::open(root).map_err(|e| Error::path("open the folder", root, e))?;
    let failed = |e: Errno| Error::path("make the folder inside the container", path, e);
    let open = |at: &Path| open_at(&folder, at, OFlag::O_PATH | OFlag::O_DIRECTORY);
    let mut so_far = PathBuf::from("/");
    let mut parent = open(&so_far).map_err(failed)?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        parent = match open(&so_far) {
            Err(Errno::ENOENT) => {
                nix::sys::stat::mkdirat(&parent, name, Mode::from_bits_truncate(mode)).map_err(failed)?;
                // The umask of the process is not meant for this one.
                let made = open_at(&folder, &so_far, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?;
                nix::sys::stat::fchmod(&made, Mode::from_bits_truncate(mode)).map_err(failed)?;
                open(&so_far).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn links_stay_below_the_root() {
        let root = std::env::temp_dir().join(format!("portolan-rooted-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/real"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/real", root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/shadow", root.join("etc/escape")).unwrap();
        let mut text = String::new();
        open(&root, Path::new("/etc/passwd")).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert!(open(&root, Path::new("etc/escape")).unwrap().is_none());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
