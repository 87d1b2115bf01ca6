//! Unpacking a layer: a tar stream that anybody may have written becomes a folder that the kernel can overlay.
//!
//! Every path is opened by the kernel below the layer's folder and may not leave it, neither by `..` nor through a
//! symlink that an earlier entry made. Deletions of lower files become what overlayfs understands: a character device
//! 0/0 for a file (OCI image specification, "Whiteouts"), the attribute `trusted.overlay.opaque` for a folder's whole
//! former contents. Ownership, modes with setuid, times and file capabilities are kept; the order in which they are set
//! matters, because chown(2) takes setuid and capabilities away, and a folder's time changes with its contents.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, futimens, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use serde::{Deserialize, Serialize};
use tar::EntryType;
use xattr::FileExt;

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("the path `{0}` leads out of the image")]
    Escapes(String),
    #[error("the entry `{path}` cannot be made: {source}")]
    Entry { path: String, source: io::Error },
    #[error("the archive is cut short or damaged: {0}")]
    Archive(io::Error),
    #[error("the disk is full")]
    DiskFull,
}

/// What the entries of one tar header ask for, parsed once.
#[derive(Clone, Debug)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    modified: TimeSpec,
    extended: Vec<(String, Vec<u8>)>,
}

/// A layer's folder while it is being filled.
struct Unpacking {
    root: OwnedFd,
    /// The folder of the entry before, which is most often that of the next one too.
    last: Option<(PathBuf, OwnedFd)>,
    /// Folders get their time when nothing changes in them any more.
    folder_times: Vec<(PathBuf, TimeSpec)>,
    described: BTreeSet<PathBuf>,
    undescribed: BTreeSet<PathBuf>,
    bytes: u64,
}

/// What unpacking a layer has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unpacked {
    /// Of all files.
    pub(super) bytes: u64,
    /// Folders that the layer puts something into without describing them. What they look like is for lower layers to
    /// say; see [`inherit`].
    pub(super) undescribed: Vec<PathBuf>,
}

/// Unpacks `layer` (an uncompressed tar) into the empty folder `into`.
pub(super) fn unpack(layer: impl Read, into: &Path) -> Result<Unpacked, LayerError> {
    let root = File::open(into).map_err(|source| LayerError::Entry { path: into.display().to_string(), source })?;
    let mut unpacking = Unpacking {
        root: root.into(),
        last: None,
        folder_times: Vec::new(),
        described: BTreeSet::new(),
        undescribed: BTreeSet::new(),
        bytes: 0,
    };
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries().map_err(LayerError::Archive)? {
        let mut entry = entry.map_err(LayerError::Archive)?;
        let path = entry.path().map_err(LayerError::Archive)?.into_owned();
        unpacking.entry(&mut entry, &path).map_err(|e| e.named(&path))?;
    }
    unpacking.finish()?;
    let Unpacking { undescribed, described, bytes, .. } = unpacking;
    Ok(Unpacked { bytes, undescribed: undescribed.difference(&described).cloned().collect() })
}

/// Gives the folders that a layer does not describe the owner, mode and time that the layers below it give them: an
/// overlay shows a folder as its topmost layer has it, so `/tmp` would else lose its mode to a layer with `tmp/x`.
pub(super) fn inherit(layer: &Path, undescribed: &[PathBuf], below: &[PathBuf]) -> io::Result<()> {
    let layer = OwnedFd::from(File::open(layer)?);
    let below: Vec<OwnedFd> = below.iter().map(|l| File::open(l).map(OwnedFd::from)).collect::<Result<_, _>>()?;
    for path in undescribed {
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let (Ok(folder), Some(model)) = (beneath(&layer, name), below.iter().find_map(|l| beneath(l, name).ok()))
        else {
            continue;
        };
        let (folder, model) = (File::from(folder), File::from(model));
        let metadata = model.metadata()?;
        fchown(&folder, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())))?;
        fchmod(&folder, Mode::from_bits_truncate(metadata.mode() & 0o7777))?;
        for name in model.list_xattr()?.filter(|name| name.to_str().is_some_and(may_be_set)) {
            if let Some(value) = model.get_xattr(&name)? {
                folder.set_xattr(&name, &value)?;
            }
        }
        let modified = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
        futimens(&folder, &modified, &modified)?;
    }
    Ok(())
}

/// Why one entry failed, before it is known which.
enum Failure {
    Escapes,
    Kernel(Errno),
    Io(io::Error),
}

impl Failure {
    fn named(self, path: &Path) -> LayerError {
        let path = path.display().to_string();
        let source = match self {
            Failure::Escapes => return LayerError::Escapes(path),
            Failure::Kernel(errno) => io::Error::from(errno),
            Failure::Io(e) => e,
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LayerError::DiskFull,
            io::ErrorKind::UnexpectedEof => LayerError::Archive(source),
            _ => LayerError::Entry { path, source },
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        // openat2(2): EXDEV is an attempt to leave the folder.
        if errno == Errno::EXDEV { Failure::Escapes } else { Failure::Kernel(errno) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl Unpacking {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink) {
            return Ok(());
        }
        let path = inside(path)?;
        let attributes = attributes(entry)?;
        self.undescribed.insert(PathBuf::new());
        let Some(name) = path.file_name() else { return self.attributes_of_the_root(&attributes) };
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return white_out(&parent, OsStr::from_bytes(hidden));
        }
        if !kind.is_file() {
            self.last = None;
        }
        match kind {
            EntryType::Directory => self.make_folder(&parent, name, &path, &attributes),
            EntryType::Symlink => {
                let to = entry.link_name()?.ok_or_else(|| invalid("a link without a target"))?;
                remove(&parent, name)?;
                symlinkat(to.as_ref(), &parent, name)?;
                attributes.apply_to_special(&parent, name, false)
            }
            EntryType::Link => {
                let to = entry.link_name()?.ok_or_else(|| invalid("a link without a target"))?;
                let to = inside(&to)?;
                let to_name = to.file_name().ok_or_else(|| invalid("a hard link to the root"))?;
                let to_parent = self.folder(to.parent().unwrap_or(Path::new("")))?;
                remove(&parent, name)?;
                Ok(linkat(&to_parent, to_name, &parent, name, AtFlags::empty())?)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
                let device = makedev(major.unwrap_or(0).into(), minor.unwrap_or(0).into());
                let kind = match kind {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                remove(&parent, name)?;
                mknodat(&parent, name, kind, Mode::from_bits_truncate(attributes.mode & 0o777), device)?;
                attributes.apply_to_special(&parent, name, true)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_file(entry, &parent, name, &attributes)
            }
            other => Err(invalid(&format!("an entry of the unknown type {:#x}", other.as_byte()))),
        }
    }

    fn make_file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let private = Mode::from_bits_truncate(0o600);
        let fd = match openat(parent, name, flags, private) {
            Err(Errno::EEXIST) => {
                remove(parent, name)?;
                openat(parent, name, flags, private)?
            }
            other => other?,
        };
        let mut file = File::from(fd);
        self.bytes += io::copy(entry, &mut file)?;
        attributes.apply(&file)?;
        Ok(futimens(&file, &attributes.modified, &attributes.modified)?)
    }

    fn make_folder(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
            Err(Errno::EEXIST) if open_folder(parent, name).is_err() => {
                remove(parent, name)?;
                mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
            }
            Err(Errno::EEXIST) => {}
            other => other?,
        }
        attributes.apply(&File::from(open_folder(parent, name)?))?;
        self.folder_times.push((path.to_path_buf(), attributes.modified));
        self.described.insert(path.to_path_buf());
        Ok(())
    }

    fn attributes_of_the_root(&mut self, attributes: &Attributes) -> Result<(), Failure> {
        attributes.apply(&File::from(self.root.try_clone()?))?;
        self.folder_times.push((PathBuf::new(), attributes.modified));
        self.described.insert(PathBuf::new());
        Ok(())
    }

    /// Opens the folder at `path`, making what is missing: layers need not list the folders that they do not change.
    fn folder(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(fd.try_clone()?);
        }
        let mut at = self.root.try_clone()?;
        if !path.as_os_str().is_empty() {
            at = match beneath(&self.root, path) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => self.make_folders(path)?,
                Err(e) => return Err(e.into()),
            };
        }
        self.last = Some((path.to_path_buf(), at.try_clone()?));
        Ok(at)
    }

    fn make_folders(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        let mut so_far = PathBuf::new();
        let mut at = self.root.try_clone()?;
        for name in path {
            so_far.push(name);
            at = match beneath(&self.root, &so_far) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    mkdirat(&at, name, Mode::from_bits_truncate(0o755))?;
                    fchmod(open_folder(&at, name)?, Mode::from_bits_truncate(0o755))?;
                    self.undescribed.insert(so_far.clone());
                    beneath(&self.root, &so_far)?
                }
                Err(e) => return Err(e.into()),
            };
        }
        Ok(at)
    }

    fn finish(&mut self) -> Result<(), LayerError> {
        for (path, modified) in std::mem::take(&mut self.folder_times).into_iter().rev() {
            let folder = if path.as_os_str().is_empty() {
                self.root.try_clone()
            } else {
                Ok(match beneath(&self.root, &path) {
                    Ok(fd) => fd,
                    // A later entry of the same name put something else there.
                    Err(_) => continue,
                })
            };
            let folder = folder.map_err(LayerError::Archive)?;
            futimens(&folder, &modified, &modified).map_err(|e| Failure::from(e).named(&path))?;
        }
        Ok(())
    }
}

impl Attributes {
    /// For files and folders.
    fn apply(&self, file: &File) -> Result<(), Failure> {
        fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fchmod(file, Mode::from_bits_truncate(self.mode))?;
        for (name, value) in &self.extended {
            match file.set_xattr(name, value) {
                Ok(()) => {}
                // A file system without user attributes loses nothing that a program needs to run.
                Err(e) if name.starts_with("user.") && e.kind() == io::ErrorKind::Unsupported => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// For links, devices and pipes, which must not be opened.
    fn apply_to_special(&self, parent: &OwnedFd, name: &OsStr, has_mode: bool) -> Result<(), Failure> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if has_mode {
            // The entry was just made by us in a folder that nobody else can reach, so it is no symlink.
            let mode = Mode::from_bits_truncate(self.mode);
            nix::sys::stat::fchmodat(parent, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
        }
        utimensat(parent, name, &self.modified, &self.modified, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }
}

/// The path relative to the layer's root. `..` is refused even where it would stay inside: no tool writes it.
fn inside(path: &Path) -> Result<PathBuf, Failure> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Failure::Escapes),
        }
    }
    Ok(clean)
}

fn attributes(entry: &mut tar::Entry<'_, impl Read>) -> Result<Attributes, Failure> {
    let header = entry.header();
    let mut attributes = Attributes {
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        mode: header.mode()? & 0o7777,
        modified: TimeSpec::new(header.mtime()? as i64, 0),
        extended: Vec::new(),
    };
    let Some(extensions) = entry.pax_extensions()? else { return Ok(attributes) };
    for extension in extensions {
        let extension = extension?;
        let (Ok(key), value) = (extension.key(), extension.value_bytes()) else { continue };
        let text = std::str::from_utf8(value).unwrap_or_default();
        match key {
            "uid" => attributes.uid = id(text.parse().map_err(|_| invalid("a user id that is no number"))?)?,
            "gid" => attributes.gid = id(text.parse().map_err(|_| invalid("a group id that is no number"))?)?,
            "mtime" => attributes.modified = time(text).unwrap_or(attributes.modified),
            _ => {
                let name = key.strip_prefix("SCHILY.xattr.").filter(|name| may_be_set(name));
                attributes.extended.extend(name.map(|name| (name.to_owned(), value.to_vec())));
            }
        }
    }
    Ok(attributes)
}

/// Attributes that change what overlayfs shows (`trusted.overlay.…`), or that label for another machine, are not taken.
fn may_be_set(name: &str) -> bool {
    name.starts_with("user.") && !name.starts_with("user.overlay.")
        || name == "security.capability"
        || name.starts_with("system.posix_acl_")
}

fn id(value: u64) -> Result<u32, Failure> {
    u32::try_from(value).map_err(|_| invalid("a user or group id that is too large"))
}

/// Seconds with a fraction, as PAX writes times.
fn time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(TimeSpec::new(seconds.parse().ok()?, nanos.parse().ok()?))
}

fn white_out(parent: &OwnedFd, hidden: &OsStr) -> Result<(), Failure> {
    if hidden == OsStr::new(".wh..opq") {
        return opaque(parent);
    }
    if hidden.as_bytes().starts_with(b".wh.") {
        // Bookkeeping of the file system that whiteouts came from; means nothing here.
        return Ok(());
    }
    if hidden.is_empty() || hidden == OsStr::new(".") || hidden == OsStr::new("..") {
        return Err(Failure::Escapes);
    }
    match mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
        // A whiteout speaks of lower layers only. What this layer itself puts there stays, without what was below.
        Err(Errno::EEXIST) => open_folder(parent, hidden).map_or(Ok(()), |folder| opaque(&folder)),
        other => Ok(other?),
    }
}

fn opaque(folder: &OwnedFd) -> Result<(), Failure> {
    Ok(File::from(folder.try_clone()?).set_xattr("trusted.overlay.opaque", b"y")?)
}

/// Makes room for an entry that comes again: the last one of a name counts.
fn remove(parent: &OwnedFd, name: &OsStr) -> Result<(), Failure> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => {
            let folder = open_folder(parent, name)?;
            // By descriptor, so that no symlink can come in between.
            for entry in std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
                remove(&folder, &entry?.file_name())?;
            }
            Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
        }
        Err(e) => Err(e.into()),
    }
}

fn open_folder(parent: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    openat(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens a folder; symlinks on the way are followed as long as they stay below `root`.
fn beneath(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), path, how)
}

fn invalid(reason: &str) -> Failure {
    Failure::Io(io::Error::new(io::ErrorKind::InvalidData, reason.to_owned()))
}
