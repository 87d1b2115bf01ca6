//! A root filesystem from Debian packages: downloaded, unpacked, not installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{output, program, target};

/// A folder that holds a small system: the packages' files, a shell from busybox, a user.
pub struct Rootfs {
    folder: PathBuf,
}

impl Rootfs {
    /// Makes the folder anew from `packages`, which must include `busybox-static`.
    pub fn new(folder: &Path, packages: &[&str]) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        for archive in download(packages)? {
            output(program("dpkg-deb", &["--extract"]).arg(archive).arg(folder))?;
        }
        let root = Rootfs { folder: folder.to_owned() };
        root.merge_usr()?;
        root.shell()?;
        root.users()?;
        Ok(root)
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.join(inside)
    }

    /// Newer releases keep everything below `/usr` and leave the links of the root to a package that we do not take.
    fn merge_usr(&self) -> Result<()> {
        for name in ["bin", "sbin", "lib", "lib64"] {
            let merged = format!("usr/{name}");
            if !self.path(name).exists() && self.path(&merged).exists() {
                symlink(&merged, self.path(name))?;
            }
        }
        Ok(())
    }

    fn shell(&self) -> Result<()> {
        let busybox = ["bin/busybox", "usr/bin/busybox"].into_iter().map(|p| self.path(p)).find(|p| p.exists());
        let applets =
            output(program(busybox.context("busybox-static holds no busybox")?, &["--list"]).current_dir("/"))?;
        for applet in applets.lines() {
            let link = self.path("bin").join(applet);
            if !link.exists() && !self.path("usr/bin").join(applet).exists() {
                symlink("/bin/busybox", link)?;
            }
        }
        Ok(())
    }

    fn users(&self) -> Result<()> {
        fs::create_dir_all(self.path("etc"))?;
        fs::create_dir_all(self.path("tmp"))?;
        fs::create_dir_all(self.path("usr/bin"))?;
        output(program("chmod", &["1777"]).arg(self.path("tmp")))?;
        fs::write(self.path("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/tmp:/bin/sh\n")?;
        fs::write(self.path("etc/group"), "root:x:0:\napp:x:1000:\n")?;
        fs::write(self.path("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
        Ok(())
    }
}

/// The first of `packages` that this release has.
pub fn first_available(packages: &'static [&'static str]) -> Result<&'static str> {
    let has = |name: &&&str| {
        output(&mut program("apt-cache", &["show", "--no-all-versions", name])).is_ok_and(|t| !t.is_empty())
    };
    match packages.iter().find(has) {
        Some(found) => Ok(found),
        None => bail!("this release has none of {}\n  hint: `apt-get update`", packages.join(", ")),
    }
}

/// The packages' archives, kept between runs.
fn download(packages: &[&str]) -> Result<Vec<PathBuf>> {
    let cache = target().join("demo/packages");
    fs::create_dir_all(&cache)?;
    let found = |package: &str| -> Option<PathBuf> {
        let start = format!("{package}_");
        let mut entries = fs::read_dir(&cache).ok()?.flatten();
        entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&start)).map(|entry| entry.path())
    };
    let missing: Vec<&str> = packages.iter().copied().filter(|package| found(package).is_none()).collect();
    if !missing.is_empty() {
        println!("  downloading {} packages", missing.len());
        let fetch = || {
            let mut get = program("apt-get", &["download", "-q", "-o", "APT::Sandbox::User=root"]);
            output(get.args(&missing).current_dir(&cache))
        };
        if fetch().is_err() {
            output(&mut program("apt-get", &["update", "-q"]))?;
            fetch().context("hint: the demo's images are made of Debian's packages; is the archive reachable?")?;
        }
    }
    packages.iter().map(|package| found(package).with_context(|| format!("{package} was not downloaded"))).collect()
}
