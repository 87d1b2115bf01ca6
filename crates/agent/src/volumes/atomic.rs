//! Files that change together: a reader sees all of the old or all of the new.
//!
//! The layout is the kubelet's, since programs watch for it: the files are in a folder with a time in its name, `..data` is a link to that
//! folder, and each file's own name is a link through `..data`. Renaming a new `..data` over the old one changes them all at once.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::payload::Files;

const CURRENT: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes `root` hold exactly `files`; says whether anything changed. `group` is given the files to read, when set.
pub fn write(root: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    fs::create_dir_all(root)?;
    let old = fs::read_link(root.join(CURRENT)).ok();
    if let Some(old) = &old
        && same(&root.join(old), files)
    {
        return Ok(false);
    }
    let folder = fresh_folder(root)?;
    for (path, file) in files {
        let target = root.join(&folder).join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.bytes)?;
        let mut mode = file.mode;
        if let Some(group) = group {
            chown(&target, None, Some(group))?;
            mode |= 0o440;
        }
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
    }
    let _ = fs::remove_file(root.join(NEXT));
    symlink(&folder, root.join(NEXT))?;
    fs::rename(root.join(NEXT), root.join(CURRENT))?;
    link_names(root, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(root.join(old))?;
    }
    Ok(true)
}

fn fresh_folder(root: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for number in 0..u32::MAX {
        let name = PathBuf::from(format!("{now}.{number}"));
        match fs::create_dir(root.join(&name)) {
            Ok(()) => {
                fs::set_permissions(root.join(&name), Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Gives each first path element a link, and takes away those that are no longer needed.
fn link_names(root: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&Path> = files.keys().filter_map(|p| p.iter().next()).map(Path::new).collect();
    for name in &wanted {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(CURRENT).join(name), link)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let ours = name.to_string_lossy().starts_with("..");
        if !ours && !wanted.contains(Path::new(&name)) {
            fs::remove_file(root.join(name))?;
        }
    }
    Ok(())
}

fn same(folder: &Path, files: &Files) -> bool {
    let held = files.iter().all(|(path, file)| fs::read(folder.join(path)).is_ok_and(|bytes| bytes == file.bytes));
    held && count(folder) == files.len()
}

fn count(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { bytes: text.into(), mode: 0o640 };
        list.iter().map(|(path, text)| (PathBuf::from(path), file(text))).collect()
    }

    fn shown(root: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| !n.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn files_appear_change_and_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("v");
        assert!(write(&root, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(shown(&root), ["a", "d"]);
        assert_eq!(fs::read_to_string(root.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let before = fs::read_link(root.join(CURRENT)).unwrap();
        assert!(!write(&root, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert!(write(&root, &files(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_ne!(fs::read_link(root.join(CURRENT)).unwrap(), before);
        assert_eq!(shown(&root), ["a", "c"]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "3");
        assert!(!root.join(before).exists());
        assert!(write(&root, &files(&[]), None).unwrap());
        assert!(shown(&root).is_empty());
    }
}
