//! DNS in a cluster: the Service's address on the node itself, the daemon killed and started again under questions, what `dig` explains, and
//! the resolvers of glibc, musl and Go in real containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const DNS: &str = "10.96.0.10";
const KUBERNETES: &str = "kubernetes.default.svc.cluster.local";

struct Cluster {
    machine: Machine,
}

impl Cluster {
    fn up() -> Result<Self> {
        let machine = Machine::new()?;
        machine.up(&[])?;
        let cluster = Cluster { machine };
        until("answered", || {
            let answer = cluster.dig(&[KUBERNETES])?;
            ensure!(answer == "10.96.0.1", "{answer}");
            Ok(())
        })?;
        Ok(cluster)
    }

    fn dig(&self, arguments: &[&str]) -> Result<String> {
        let mut dig = self.machine.command("dig");
        dig.args([&format!("@{DNS}"), "+short", "+tries=1", "+time=5"]).args(arguments);
        Ok(said(&mut dig)?.ok()?.out.trim().to_owned())
    }

    fn daemon(&self) -> Result<String> {
        Ok(fs::read_to_string(self.machine.data_dir().join("run/lock"))?.trim().to_owned())
    }

    /// Sends the daemon a signal and waits for its end.
    fn end_daemon(&self, signal: &str) -> Result<()> {
        let daemon = self.daemon()?;
        said(self.machine.command("kill").args([signal, &daemon]))?.ok()?;
        until("ended", || {
            // The first process of the machine reaps nobody: what has ended stays as a zombie.
            let state = said(self.machine.command("cat").arg(format!("/proc/{daemon}/stat")))?;
            ensure!(state.code != Some(0) || state.out.contains(") Z "), "{daemon} still runs");
            Ok(())
        })
    }

    /// A command in the node's network namespace.
    fn on_node(&self, command: &[&str]) -> Result<String> {
        let folder = self.machine.data_dir().join("run/netns");
        let node = fs::read_dir(folder)?.next().context("no node")??.path();
        let mut enter = self.machine.command("nsenter");
        enter.arg(format!("--net={}", node.display())).arg("--").args(command);
        Ok(said(&mut enter)?.ok()?.out)
    }
}

#[test]
fn the_service_is_the_node_itself_and_its_questions_are_not_tracked() -> Result<()> {
    let cluster = Cluster::up()?;
    ensure!(cluster.dig(&["+tcp", KUBERNETES])? == "10.96.0.1");
    ensure!(cluster.dig(&["-x", "10.96.0.1"])? == format!("{KUBERNETES}."));
    let addresses = cluster.on_node(&["ip", "-br", "address", "show", "lo"])?;
    ensure!(addresses.contains(&format!("{DNS}/32")), "{addresses}");
    let rules = cluster.on_node(&["nft", "list", "table", "ip", "portolan-dns"])?;
    ensure!(rules.matches("notrack").count() == 8, "{rules}");
    let entries = || cluster.on_node(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]);
    // Each question from a port of its own would be an entry of its own.
    let before: i64 = entries()?.trim().parse()?;
    for _ in 0..50 {
        cluster.dig(&[KUBERNETES])?;
    }
    let after: i64 = entries()?.trim().parse()?;
    ensure!(after - before < 40, "{before} entries became {after}");
    // On another port of the address nobody listens; the node says so.
    let other = cluster.on_node(&["curl", "-s", "--max-time", "5", &format!("http://{DNS}:54/")]);
    ensure!(other.is_err());
    Ok(())
}

#[test]
fn dig_says_where_each_record_comes_from() -> Result<()> {
    let cluster = Cluster::up()?;
    let dig = |arguments: &[&str]| said(cluster.machine.portolan(&["dig"]).args(arguments));
    let told = dig(&[KUBERNETES])?.ok()?.out;
    ensure!(told.contains("10.96.0.1") && told.contains("Service default/kubernetes (revision "), "{told}");
    let port = dig(&["-t", "SRV", "_dns._udp.kube-dns.kube-system.svc.cluster.local"])?.ok()?.out;
    ensure!(port.contains(" 53 kube-dns.kube-system.svc.cluster.local."), "{port}");
    let missing = dig(&["nosuch.default.svc.cluster.local."])?;
    ensure!(missing.code == Some(1) && missing.err.contains("no such name"), "{}", missing.err);
    Ok(())
}

/// dnsperf asks each question once: whatever is not answered is lost. A killed daemon may have questions in its hands; they are still in the
/// socket.
#[test]
fn a_restart_loses_no_question() -> Result<()> {
    let cluster = Cluster::up()?;
    let questions = cluster.machine.file("questions", &format!("{KUBERNETES}. A\ndns-version.cluster.local. TXT\n"))?;
    for signal in ["-TERM", "-KILL", "-TERM", "-KILL"] {
        let mut load = cluster.machine.command("dnsperf");
        load.args(["-s", DNS, "-c", "4", "-Q", "200", "-l", "6", "-t", "20", "-d"]).arg(&questions);
        let load = Ended(Some(load.stdout(Stdio::piped()).spawn().context("no dnsperf (package dnsperf)")?));
        cluster.end_daemon(signal)?;
        cluster.machine.up(&[])?;
        let told = load.output()?;
        ensure!(told.contains("Queries lost:         0 (0.00%)"), "{signal}: {told}");
        ensure!(told.contains("NOERROR") && !told.contains("SERVFAIL") && !told.contains("NXDOMAIN"), "{told}");
    }
    said(&mut cluster.machine.portolan(&["down"]))?.ok()?;
    until("ended with the cluster", || {
        let left = said(cluster.machine.command("ps").args(["-eo", "args"]))?.out;
        ensure!(!left.contains("dns-keeper"), "a keeper of sockets is left: {left}");
        Ok(())
    })
}

/// A child that ends with the test.
struct Ended(Option<Child>);

impl Ended {
    fn output(mut self) -> Result<String> {
        let child = self.0.take().context("taken once")?;
        Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a musl program asks with; glibc's own is `getent`, Go's is `kubectl`.
const MUSL: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int count, char **words) {
    struct addrinfo *found, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    if (count < 2 || getaddrinfo(words[1], 0, &hints, &found)) return 2;
    char text[64];
    inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text);
    puts(text);
    return 0;
}
"#;

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": {"terminationGracePeriodSeconds": 0,
 "containers": [{"name": "c", "image": "localhost/resolvers:test", "imagePullPolicy": "Never", "command": ["/bin/busybox", "sleep", "1000"]}]}}"#;

/// Somebody whom the API server does not know.
const KUBECONFIG: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
 "clusters": [{"name": "c", "cluster": {"server": "https://kubernetes.default", "insecure-skip-tls-verify": true}}],
 "users": [{"name": "u", "user": {"token": "nobody"}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}"#;

#[test]
fn resolvers_of_glibc_musl_and_go_find_names_by_search() -> Result<()> {
    let machine = Machine::new()?;
    let root = machine.folder().join("resolvers");
    resolvers(&root)?;
    let root = root.to_string_lossy().into_owned();
    said(&mut machine.portolan(&["image", "import", "--name", "localhost/resolvers:test", &root]))?.ok()?;
    machine.up(&[])?;
    let pod = machine.file("pod.json", POD)?;
    until("made", || machine.kubectl(&["get", "serviceaccount", "default"])?.ok())?;
    machine.kubectl(&["apply", "-f", &pod.to_string_lossy()])?.ok()?;
    machine.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?.ok()?;
    let inside = |command: &[&str]| machine.kubectl(&[&["exec", "client", "--"], command].concat());
    for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc", KUBERNETES, &format!("{KUBERNETES}.")] {
        let glibc = inside(&["/bin/getent", "ahostsv4", name])?.ok()?.out;
        ensure!(glibc.starts_with("10.96.0.1 "), "{name}: {glibc}");
        let musl = inside(&["/bin/resolve-musl", name])?.ok()?.out;
        ensure!(musl == "10.96.0.1\n", "{name}: {musl}");
    }
    for name in ["kube-dns.kube-system", "kube-dns.kube-system.svc.cluster.local"] {
        ensure!(inside(&["/bin/getent", "ahostsv4", name])?.ok()?.out.starts_with(DNS), "{name}");
        ensure!(inside(&["/bin/resolve-musl", name])?.ok()?.out == format!("{DNS}\n"), "{name}");
    }
    for name in ["nosuch", "nosuch.default", "nosuch.default.svc.cluster.local"] {
        ensure!(inside(&["/bin/getent", "ahostsv4", name])?.code == Some(2), "{name}");
        ensure!(inside(&["/bin/resolve-musl", name])?.code == Some(2), "{name}");
    }
    // kubectl is a Go program: it finds the API server by its short name, and gets as far as who it is.
    let go = |arguments: &[&str]| {
        let command = [&["/bin/kubectl", "--kubeconfig", "/etc/kubeconfig"], arguments, &["get", "--raw", "/version"]];
        inside(&command.concat())
    };
    let found = go(&[])?;
    ensure!(found.err.contains("You must be logged in"), "{} {}", found.out, found.err);
    let missing = go(&["--server", "https://nosuch.default.svc.cluster.local."])?;
    ensure!(missing.err.contains("no such host"), "{}", missing.err);
    Ok(())
}

/// A root filesystem with the three resolvers.
fn resolvers(root: &Path) -> Result<()> {
    for folder in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("no /bin/busybox (package busybox-static)")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    fs::write(root.join("etc/kubeconfig"), KUBECONFIG)?;
    with_libraries(Path::new("/usr/bin/getent"), root)?;
    let source = root.join("tmp/resolve.c");
    fs::write(&source, MUSL)?;
    let mut compile = Command::new("musl-gcc");
    compile.args(["-static", "-o"]).arg(root.join("bin/resolve-musl")).arg(&source);
    said(&mut compile).context("no musl-gcc (package musl-tools)")?.ok()?;
    let given = std::env::var_os("KUBECTL_NEWEST").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let kubectl = given.or_else(|| std::env::split_paths(&path).map(|f| f.join("kubectl")).find(|f| f.is_file()));
    fs::copy(kubectl.context("no kubectl")?, root.join("bin/kubectl"))?;
    Ok(())
}

/// Copies a program and the libraries that it is linked with to where it looks for them.
fn with_libraries(program: &Path, root: &Path) -> Result<()> {
    fs::copy(program, root.join("bin").join(program.file_name().context("no name")?))?;
    let told = said(Command::new("ldd").arg(program))?.ok()?.out;
    for library in told.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("no folder")?)?;
        fs::copy(library, place)?;
    }
    Ok(())
}
