//! Mounts: overlays, binds, tmpfs, and taking everything below a path away again.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::netns::on_a_throwaway_thread;
use crate::{Error, Result};

/// An overlay: what is written goes to `upper`, what is read comes from the first that has it.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// The folder that `lower` names are relative to. The kernel takes one page of options, so short names matter.
    pub base: &'a Path,
    /// The topmost first.
    pub lower: &'a [String],
    /// Where changes go, with the kernel's scratch folder on the same file system; none makes it read-only. The changes do not outlive a loss of
    /// power, after which the two folders are not to be used again.
    pub upper_and_work: Option<(&'a Path, &'a Path)>,
    pub target: &'a Path,
}

/// Mounts an overlay.
pub fn overlay(overlay: &Overlay<'_>) -> Result<()> {
    let lower: Vec<String> = overlay.lower.iter().map(|l| escaped(Path::new(l))).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    let mut unsynced = None;
    if let Some((upper, work)) = overlay.upper_and_work {
        options.push_str(&format!(",upperdir={},workdir={}", escaped(upper), escaped(work)));
        // Without it (Linux 5.10) whoever takes the overlay away has the kernel write back all of the file system below, and everyone else who
        // waits for that disk waits with it.
        unsynced = Some(format!("{options},volatile"));
    }
    // The current folder belongs to the whole process unless a thread gives up sharing it.
    on_a_throwaway_thread(|| {
        unshare(CloneFlags::CLONE_FS).map_err(|e| Error::call("have a current folder of its own", e))?;
        nix::unistd::chdir(overlay.base).map_err(|e| Error::path("enter", overlay.base, e))?;
        let kind = Some("overlay");
        let mount = |options: &str| mount(kind, overlay.target, kind, MsFlags::empty(), Some(options));
        let mounted = match unsynced.as_deref().map(mount) {
            // An older kernel does not know the word.
            Some(Err(Errno::EINVAL)) | None => mount(&options),
            Some(mounted) => mounted,
        };
        mounted.map_err(|e| Error::path("mount the overlay at", overlay.target, e))
    })?
}

/// Makes `source` (a file or a folder) appear at `target`, which must exist.
pub fn bind(source: &Path, target: &Path, readonly: bool) -> Result<()> {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .map_err(|e| Error::path("bind-mount at", target, e))?;
    if readonly {
        // The first call ignores every flag but MS_REC; see mount(2), "Remounting an existing mount".
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, target, none, flags, none).map_err(|e| Error::path("make read-only", target, e))?;
    }
    Ok(())
}

/// As [`bind`], of a file or folder that is open, whatever its path has become.
pub fn bind_opened(source: &impl AsFd, target: &Path) -> Result<()> {
    bind(&Path::new("/proc/thread-self/fd").join(source.as_fd().as_raw_fd().to_string()), target, false)
}

/// A file system in memory. `size` is in bytes; without it the kernel takes half of the memory.
pub fn tmpfs(target: &Path, size: Option<u64>, mode: u32) -> Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    let kind = Some("tmpfs");
    mount(kind, target, kind, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(|e| Error::path("mount a tmpfs at", target, e))
}

/// Takes away every mount at or below `path`, the last made first. What is still in use goes as soon as it is not.
pub fn unmount_all(path: &Path) -> Result<()> {
    // One mount may hide others, so look again until nothing is left; the bound only stops a fight with a mounter.
    for _ in 0..64 {
        let below = mounted_below(path)?;
        if below.is_empty() {
            return Ok(());
        }
        for target in below.iter().rev() {
            match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(e) => return Err(Error::path("unmount", target, e)),
            }
        }
    }
    Err(Error::path("unmount all below", path, Errno::EBUSY))
}

/// Where something is mounted, at or below `path`, in the order in which it was mounted.
pub fn mounted_below(path: &Path) -> Result<Vec<PathBuf>> {
    // The kernel lists real paths.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let table = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|e| Error::path("read", "/proc/thread-self/mountinfo", e))?;
    Ok(table.lines().filter_map(mount_point).filter(|target| target.starts_with(&path)).collect())
}

/// The fifth field of a line of mountinfo, see proc(5).
fn mount_point(line: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        // Space, tab, newline and backslash are written as three octal digits.
        let octal = (field[at] == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        let value = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        bytes.push(value.unwrap_or(field[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// A path as an overlay option; the kernel takes `:` and `,` as separators unless they are escaped.
fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("portolan mounts-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
        fn dir(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = unmount_all(&self.0);
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_overlay_shows_all_layers_and_keeps_them_untouched() {
        let folder = Folder::new("overlay");
        fs::write(folder.dir("a").join("one"), "1").unwrap();
        fs::write(folder.dir("b").join("two"), "2").unwrap();
        let (upper, work, target) = (folder.dir("up,per:x"), folder.dir("work"), folder.dir("target"));
        let lower = ["a".to_owned(), "b".to_owned()];
        overlay(&Overlay { base: &folder.0, lower: &lower, upper_and_work: Some((&upper, &work)), target: &target })
            .unwrap();
        assert_eq!(fs::read_to_string(target.join("one")).unwrap(), "1");
        assert_eq!(fs::read_to_string(target.join("two")).unwrap(), "2");
        fs::write(target.join("one"), "changed").unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("a/one")).unwrap(), "1");
        assert_eq!(fs::read_to_string(upper.join("one")).unwrap(), "changed");
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let at = format!("{}-overlay/target ", std::process::id());
        let line = mounts.lines().find(|line| line.contains(&at)).unwrap();
        assert!(line.contains("volatile"), "taking it away writes everything back: {line}");
    }

    #[test]
    fn everything_below_is_taken_away_stacked_or_nested() {
        let folder = Folder::new("all");
        let outer = folder.dir("outer with space");
        tmpfs(&outer, Some(1 << 20), 0o755).unwrap();
        fs::create_dir(outer.join("inner")).unwrap();
        tmpfs(&outer.join("inner"), None, 0o700).unwrap();
        tmpfs(&outer, None, 0o755).unwrap();
        assert_eq!(mounted_below(&folder.0).unwrap().len(), 3);
        unmount_all(&folder.0).unwrap();
        assert_eq!(mounted_below(&folder.0).unwrap().len(), 0);
    }

    #[test]
    fn a_readonly_bind_refuses_writes() {
        let folder = Folder::new("bind");
        let (source, target) = (folder.dir("source"), folder.dir("target"));
        bind(&source, &target, true).unwrap();
        assert_eq!(fs::write(target.join("x"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        fs::write(source.join("x"), "").unwrap();
        assert!(target.join("x").exists());
    }
}
