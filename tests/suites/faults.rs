//! What goes wrong on a machine, and what its user is told: a full disk, a damaged store, images that are not there, containers that exit.

use std::io::{Seek, SeekFrom, Write};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

/// A machine whose data folder is a file system of its own.
fn small_disk() -> Result<Machine> {
    let machine = Machine::new()?;
    std::fs::create_dir_all(machine.data_dir())?;
    let mut mount = machine.command("mount");
    said(mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(machine.data_dir()))?.ok()?;
    Ok(machine)
}

/// Writes until nothing more fits; answers the file to remove.
fn fill(machine: &Machine) -> Result<String> {
    let filler = machine.data_dir().join("filler").to_string_lossy().into_owned();
    let full = said(machine.command("dd").args(["if=/dev/zero", "bs=4k", &format!("of={filler}")]))?;
    ensure!(full.err.contains("No space left on device"), "{}", full.err);
    Ok(filler)
}

fn config_map(machine: &Machine, name: &str) -> Result<testkit::Said> {
    let ballast = format!("--from-literal=ballast={}", "x".repeat(60_000));
    machine.kubectl(&["create", "configmap", name, &ballast])
}

#[test]
fn a_full_disk_refuses_writes_in_words_and_heals_when_there_is_room() -> Result<()> {
    let machine = small_disk()?;
    machine.up(&[])?;
    machine.kubectl(&["create", "configmap", "before"])?.ok()?;
    let filler = fill(&machine)?;
    let mut refused = 0;
    for n in 0..40 {
        let answer = config_map(&machine, &format!("big-{n}"))?;
        if answer.code != Some(0) {
            ensure!(answer.err.contains("the disk of the API server is full, nothing was changed"), "{}", answer.err);
            refused += 1;
        }
    }
    ensure!(refused >= 20, "the disk was not full: {refused} refused");
    machine.kubectl(&["get", "configmap", "before"])?.ok().context("reads went with the disk")?;
    let kept = machine.kubectl(&["get", "configmaps", "--output=name"])?.ok()?.out;
    said(machine.command("rm").arg(filler))?.ok()?;
    config_map(&machine, "after")?.ok().context("the disk has room again")?;
    let now = machine.kubectl(&["get", "configmaps", "--output=name"])?.ok()?.out;
    ensure!(now.lines().count() == kept.lines().count() + 1, "{kept}\n{now}");
    Ok(())
}

#[test]
fn a_full_disk_at_the_start_is_said() -> Result<()> {
    let machine = small_disk()?;
    fill(&machine)?;
    let failed = said(&mut machine.portolan(&["up", "--no-kubeconfig"]))?;
    ensure!(failed.code == Some(1), "{failed:?}");
    ensure!(failed.err.contains("No space left on device") && failed.err.contains("hint:"), "{}", failed.err);
    Ok(())
}

#[test]
fn a_damaged_store_is_said_and_left_as_it_is() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    for n in 0..20 {
        config_map(&machine, &format!("big-{n}"))?.ok()?;
    }
    said(&mut machine.portolan(&["down", "--keep-data"]))?.ok()?;
    let store = machine.data_dir().join("store/data.redb");
    let length = std::fs::metadata(&store)?.len();
    let mut file = std::fs::File::options().write(true).open(&store)?;
    for at in (8192..length).step_by(4096) {
        file.seek(SeekFrom::Start(at + 100))?;
        file.write_all(&[0xa5; 512])?;
    }
    drop(file);
    let damaged = std::fs::read(&store)?;
    let failed = said(&mut machine.portolan(&["up", "--no-kubeconfig"]))?;
    ensure!(failed.code == Some(1), "{failed:?}");
    ensure!(failed.err.contains("damaged") && failed.err.contains("hint:"), "{}", failed.err);
    ensure!(std::fs::read(&store)? == damaged, "what could be saved was written over");
    Ok(())
}

const BROKEN: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: absent}
spec:
  containers: [{name: c, image: 'localhost/nowhere:1', imagePullPolicy: IfNotPresent}]
---
apiVersion: v1
kind: Pod
metadata: {name: exits}
spec:
  containers: [{name: c, image: 'localhost/busybox:test', command: [sh, -c, 'echo bye; exit 7']}]
---
apiVersion: v1
kind: Pod
metadata: {name: no-program}
spec:
  containers: [{name: c, image: 'localhost/busybox:test', command: [/bin/nothing]}]
";

#[test]
fn pods_say_what_is_wrong_where_a_user_looks() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    machine.up(&[])?;
    let manifest = machine.file("broken.yaml", BROKEN)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    let shown = |pod: &str, word: &str| {
        until(&format!("{pod} shows {word}"), || {
            let row = machine.kubectl(&["get", "pod", pod, "--no-headers"])?.ok()?.out;
            ensure!(row.contains(word), "{row}");
            Ok(())
        })
    };
    shown("absent", "ErrImagePull")?;
    shown("absent", "ImagePullBackOff")?;
    shown("exits", "CrashLoopBackOff")?;
    shown("no-program", "CrashLoopBackOff")?;
    let absent = machine.kubectl(&["describe", "pod", "absent"])?.ok()?.out;
    ensure!(absent.contains("Failed to pull image \"localhost/nowhere:1\""), "{absent}");
    let exits = machine.kubectl(&["describe", "pod", "exits"])?.ok()?.out;
    ensure!(exits.contains("Exit Code:    7") && exits.contains("Back-off restarting failed container"), "{exits}");
    ensure!(
        machine.kubectl(&["logs", "exits", "--previous"])?.out == "bye\n"
            || machine.kubectl(&["logs", "exits"])?.out == "bye\n"
    );
    let program = machine.kubectl(&["describe", "pod", "no-program"])?.ok()?.out;
    ensure!(program.contains("StartError") && program.contains("stat /bin/nothing: no such file"), "{program}");
    let node = machine.kubectl(&["get", "nodes", "--no-headers"])?.ok()?.out;
    ensure!(node.contains(" Ready "), "{node}");
    Ok(())
}

#[test]
fn a_manifest_that_does_not_parse_changes_nothing() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    let broken = machine.file("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x\n")?;
    let answer = machine.kubectl(&["apply", "-f", &broken.to_string_lossy()])?;
    ensure!(answer.code == Some(1) && answer.err.contains("error parsing"), "{}", answer.err);
    let unknown = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{prot: 80}]}\n";
    let unknown = machine.file("unknown.yaml", unknown)?;
    let answer = machine.kubectl(&["apply", "-f", &unknown.to_string_lossy()])?;
    ensure!(answer.err.contains("unknown field \"spec.ports[0].prot\""), "{}", answer.err);
    ensure!(machine.kubectl(&["get", "service", "x"])?.err.contains("NotFound"));
    Ok(())
}

#[test]
fn a_kernel_without_overlayfs_is_said_before_anything_is_made() -> Result<()> {
    let machine = Machine::new()?;
    let without: String = std::fs::read_to_string("/proc/filesystems")?
        .lines()
        .filter(|line| !line.ends_with("overlay"))
        .fold(String::new(), |all, line| all + line + "\n");
    let without = machine.file("filesystems", &without)?;
    said(machine.command("mount").arg("--bind").arg(without).arg("/proc/filesystems"))?.ok()?;
    let refused = said(&mut machine.portolan(&["up", "--no-kubeconfig"]))?;
    ensure!(refused.code == Some(1), "{refused:?}");
    ensure!(
        refused.err.contains("no overlayfs") && refused.err.contains("hint: `modprobe overlay`"),
        "{}",
        refused.err
    );
    // By the lock it was alone to look, and the log says what it found.
    let except = ["-type", "f", "-not", "-name", "lock", "-not", "-name", "portolan.log"];
    let made = said(machine.command("find").arg(machine.data_dir()).args(except))?.ok()?.out;
    ensure!(made.is_empty(), "something was made: {made}");
    ensure!(said(machine.command("ip").args(["-br", "link"]))?.ok()?.out.lines().count() == 1);
    Ok(())
}

#[test]
fn an_ordinary_user_is_told_to_use_sudo() -> Result<()> {
    let machine = Machine::new()?;
    let binary = machine.portolan(&[]).get_args().last().map(std::ffi::OsStr::to_owned).context("no binary")?;
    // The test's folder is root's alone.
    let copy = tempfile::Builder::new().prefix("portolan-test-").tempdir_in("/tmp")?;
    let program = copy.path().join("portolan");
    std::fs::copy(binary, &program)?;
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let data = copy.path().join("data");
    std::fs::create_dir(&data)?;
    std::os::unix::fs::chown(&data, Some(65534), Some(65534))?;
    let mut user = machine.command("setpriv");
    user.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let refused = said(user.args(["up", "--data-dir"]).arg(&data))?;
    ensure!(refused.code == Some(1) && refused.err.contains("hint: run it with sudo"), "{refused:?}");
    Ok(())
}

#[test]
fn a_firewall_that_keeps_pods_in_is_told_with_what_opens_it() -> Result<()> {
    let machine = Machine::new()?;
    let closed = "add table inet firewall; \
                  add chain inet firewall forward { type filter hook forward priority filter; policy drop; }";
    said(machine.command("nft").arg(closed))?.ok()?;
    let warned = machine.up(&[])?.err;
    ensure!(warned.contains("drops what it forwards (chain forward of table inet firewall)"), "{warned}");
    let (_, hint) = warned.split_once("hint: ").context("no hint")?;
    for command in hint.split('`').skip(1).step_by(2) {
        said(machine.command("sh").args(["-c", command]))?.ok()?;
    }
    said(&mut machine.portolan(&["down"]))?.ok()?;
    let quiet = machine.up(&[])?.err;
    ensure!(!quiet.contains("firewall"), "{quiet}");
    Ok(())
}
