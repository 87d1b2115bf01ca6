//! How people reach the cluster: the kubeconfig of whoever called, also under sudo; manifests from a file, a folder, a URL and standard input, with
//! the oldest and the newest kubectl that we promise to serve.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, Said, said, until};

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{from: {name}}}\n")
}

/// Both ends of the promise, each by the name that messages show.
fn kubectls() -> Vec<OsString> {
    let named = ["KUBECTL_OLDEST", "KUBECTL_NEWEST"].into_iter().filter_map(std::env::var_os);
    let mut all: Vec<OsString> = named.collect();
    if all.is_empty() {
        all.push("kubectl".into());
    }
    all
}

#[test]
fn manifests_come_from_anywhere() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    let folder = machine.folder().join("manifests");
    fs::create_dir_all(&folder)?;
    for name in ["one", "two"] {
        fs::write(folder.join(format!("{name}.yaml")), config_map(name))?;
    }
    let web = machine.folder().join("web");
    fs::create_dir_all(&web)?;
    fs::write(web.join("remote.yaml"), config_map("remote"))?;
    fs::set_permissions(machine.folder(), fs::Permissions::from_mode(0o755))?;
    // It ends with the machine, as every process on it.
    said(machine.command("/bin/busybox").args(["httpd", "-p", "127.0.0.1:8000", "-h"]).arg(&web))?.ok()?;
    for kubectl in kubectls() {
        let run = |line: &str| -> Result<Said> {
            let mut shell = machine.command("sh");
            // Entering the machine's namespaces forgets the working directory.
            let line = format!("cd {} && {line}", machine.folder().display());
            shell.args(["-c", &line]).env("kubectl", &kubectl);
            said(&mut shell)?.ok().with_context(|| format!("{line} with {}", kubectl.display()))
        };
        run("$kubectl version")?;
        let told = run("$kubectl apply -f manifests")?.out;
        ensure!(told == "configmap/one created\nconfigmap/two created\n", "{told}");
        let told = run("$kubectl apply -f http://127.0.0.1:8000/remote.yaml")?.out;
        ensure!(told == "configmap/remote created\n", "{told}");
        let told = run("cat manifests/one.yaml | $kubectl apply -f -")?.out;
        ensure!(told == "configmap/one unchanged\n", "{told}");
        let told = run("$kubectl apply --server-side -f manifests/two.yaml --force-conflicts")?.out;
        ensure!(told == "configmap/two serverside-applied\n", "{told}");
        let told = run("$kubectl get configmaps one two remote -o name")?.out;
        ensure!(told == "configmap/one\nconfigmap/two\nconfigmap/remote\n", "{told}");
        run("$kubectl delete configmap one two remote")?;
    }
    Ok(())
}

#[test]
fn a_watch_shows_changes_as_they_come() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    for kubectl in kubectls() {
        let shown = machine.folder().join("shown");
        let mut watch = machine.command(&kubectl);
        let mut watch = watch
            .args(["get", "configmaps", "-w", "--watch-only", "--no-headers", "--output-watch-events"])
            .stdout(fs::File::create(&shown)?)
            .spawn()?;
        let seen = |row: &str| {
            until(&format!("{row} is seen"), || {
                // A watch that starts now misses what was before: it is done again until it is seen.
                machine.kubectl(&["delete", "configmap", "seen", "--ignore-not-found"])?.ok()?;
                machine.kubectl(&["create", "configmap", "seen"])?.ok()?;
                let text = fs::read_to_string(&shown)?;
                let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
                ensure!(words.iter().any(|words| words.starts_with(&[row, "seen"])), "{text}");
                Ok(())
            })
        };
        let outcome = seen("ADDED").and_then(|()| seen("DELETED"));
        watch.kill()?;
        watch.wait()?;
        outcome?;
    }
    Ok(())
}

#[test]
fn the_callers_kubeconfig_gains_a_context_and_loses_it() -> Result<()> {
    let machine = Machine::new()?;
    let file = machine.folder().join("theirs");
    let theirs = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  cluster: {server: 'https://198.51.100.1'}\n\
                  contexts:\n- name: work\n  context: {cluster: work, user: me}\nusers:\n- name: me\n  user: {token: secret}\n";
    fs::write(&file, theirs)?;
    let contexts = || -> Result<String> {
        let mut asked = machine.command(kubectls().remove(0));
        Ok(said(asked.args(["config", "get-contexts", "-o", "name"]).env("KUBECONFIG", &file))?.ok()?.out)
    };
    said(machine.portolan(&["up", "--detach"]).env("KUBECONFIG", &file))?.ok()?;
    ensure!(contexts()? == "portolan\nwork\n", "{}", contexts()?);
    let mut nodes = machine.command(kubectls().remove(0));
    let nodes =
        said(nodes.args(["--context", "portolan", "get", "nodes", "-o", "name"]).env("KUBECONFIG", &file))?.ok()?;
    ensure!(nodes.out == "node/portolan\n", "{}", nodes.out);
    said(machine.portolan(&["down"]).env("KUBECONFIG", &file))?.ok()?;
    ensure!(contexts()? == "work\n", "{}", contexts()?);
    Ok(())
}

#[test]
fn under_sudo_the_context_goes_to_who_called() -> Result<()> {
    let machine = Machine::new()?;
    // On a machine with users of its own: `nobody` has a home there.
    let home = machine.folder().join("home");
    fs::create_dir_all(&home)?;
    std::os::unix::fs::chown(&home, Some(65534), Some(65534))?;
    let passwd = machine
        .file("passwd", &format!("root:x:0:0::/root:/bin/sh\nme:x:65534:65534::{}:/bin/sh\n", home.display()))?;
    said(machine.command("mount").args(["--bind"]).arg(passwd).arg("/etc/passwd"))?.ok()?;
    let mut up = machine.portolan(&["up", "--detach"]);
    said(up.env_remove("KUBECONFIG").env("SUDO_UID", "65534").env("SUDO_GID", "65534"))?.ok()?;
    let merged = home.join(".kube/config");
    let about = fs::metadata(&merged).context("no kubeconfig in the caller's home")?;
    ensure!((about.uid(), about.gid()) == (65534, 65534), "it belongs to {}:{}", about.uid(), about.gid());
    ensure!(about.mode() & 0o077 == 0, "others may read it: {:o}", about.mode());
    ensure!(!machine.folder().join(".kube/config").exists(), "root's kubeconfig was written too");
    let mut down = machine.portolan(&["down"]);
    said(down.env_remove("KUBECONFIG"))?.ok()?;
    ensure!(!fs::read_to_string(&merged).unwrap_or_default().contains("portolan"));
    Ok(())
}
