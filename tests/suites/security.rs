//! What is exposed and to whom: listeners as docs/security.md names them, and what a pod can do and reach from its own network.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use testkit::{Machine, Said, said, until};

const DOCUMENT: &str = include_str!("../../docs/security.md");

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/busybox:test", command: [sleep, "10000"]}]
---
apiVersion: v1
kind: Secret
metadata: {name: other}
stringData: {password: hidden}
"#;

fn kubectl(machine: &Machine, arguments: &[&str]) -> Result<String> {
    Ok(machine.kubectl(arguments)?.ok()?.out)
}

fn start() -> Result<Machine> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    machine.up(&[])?;
    let manifest = machine.file("pod.yaml", POD)?;
    kubectl(&machine, &["apply", "-f", &manifest.to_string_lossy()])?;
    kubectl(&machine, &["wait", "--for=condition=Ready", "pod/p", "--timeout=90s"])?;
    Ok(machine)
}

/// A program in a network namespace of the cluster.
fn inside(machine: &Machine, namespace: &str, words: &[&str]) -> Result<Said> {
    let namespace = machine.data_dir().join("run/netns").join(namespace);
    said(machine.command("nsenter").arg(format!("--net={}", namespace.display())).arg("--").args(words))
}

/// The namespace of the only pod.
fn pod_namespace(machine: &Machine) -> Result<String> {
    let listed = said(machine.command("ls").arg(machine.data_dir().join("run/netns")))?.ok()?.out;
    listed.lines().find(|name| name.starts_with("pod-")).map(str::to_owned).context("the pod has no namespace")
}

#[test]
fn a_pod_has_its_tokens_rights_and_no_more() -> Result<()> {
    let machine = start()?;
    let pod = pod_namespace(&machine)?;
    let token = kubectl(&machine, &["exec", "p", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])?;
    // From the pod's network, as its program would.
    let code = |header: &str, path: &str| -> Result<String> {
        let url = format!("https://10.96.0.1{path}");
        let words = ["curl", "-sk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", header, &url];
        Ok(inside(&machine, &pod, &words)?.ok()?.out)
    };
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let bearer = bearer.as_str();
    let own = "/api/v1/namespaces/default";
    let tried = [
        ("X-Nobody: 1", "/version", "200"),
        ("X-Nobody: 1", "/api/v1/namespaces", "403"),
        ("Authorization: Bearer x", "/version", "401"),
        ("X-Nobody: 1", "/metrics", "403"),
        (bearer, "/api", "200"),
        (bearer, "/api/v1/namespaces/default/secrets/other", "403"),
        (bearer, "/api/v1/namespaces/default/secrets", "403"),
        (bearer, "/api/v1/namespaces/default/pods", "403"),
        (bearer, "/api/v1/secrets", "403"),
        (bearer, "/api/v1/nodes/portolan/proxy/pods", "403"),
        (bearer, "/portolan/backup", "403"),
        (bearer, "/metrics", "403"),
    ];
    for (header, path, expected) in tried {
        let answered = code(header, path)?;
        ensure!(answered == expected, "{path} with `{:.30}` answers {answered}, not {expected}", header);
    }
    // A right that is given is that one right.
    kubectl(&machine, &["create", "rolebinding", "look", "--clusterrole=view", "--serviceaccount=default:default"])?;
    until("allowed", || {
        let answered = code(bearer, &format!("{own}/pods"))?;
        ensure!(answered == "200", "{answered}");
        Ok(())
    })?;
    ensure!(code(bearer, &format!("{own}/secrets/other"))? == "403", "`view` shows secrets");
    ensure!(
        code(bearer, "/api/v1/namespaces/kube-system/pods")? == "403",
        "a RoleBinding reaches beyond its namespace"
    );
    // Not even as a node: what no pod of it mounts is not its business.
    let as_node = ["--as=system:node:portolan", "--as-group=system:nodes"];
    let refused = machine.kubectl(&[&["get", "secret", "other"][..], &as_node].concat())?;
    ensure!(refused.err.contains("Forbidden") || refused.err.contains("forbidden"), "{refused:?}");
    Ok(())
}

#[test]
fn a_pod_reaches_of_the_machine_what_is_meant_for_it() -> Result<()> {
    let machine = start()?;
    let pod = pod_namespace(&machine)?;
    let node = kubectl(&machine, &["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"])?;
    let routed = said(machine.command("ip").args(["-4", "-o", "addr", "show", "portolan0"]))?.ok()?.out;
    let outside = routed.split_whitespace().nth(3).and_then(|net| net.split('/').next()).context("no address")?;
    // Something on the machine's loopback, as many databases are.
    let listen = "import socket,time; s=socket.socket(); s.bind(('127.0.0.1',9999)); s.listen(); print('up',flush=True); time.sleep(600)";
    let mut private = machine.command("python3").args(["-c", listen]).stdout(Stdio::piped()).spawn()?;
    let mut up = [0; 3];
    std::io::Read::read_exact(&mut private.stdout.take().context("no output")?, &mut up)?;
    let reaches = |host: &str, port: &str| -> Result<bool> {
        let words = ["timeout", "5", "bash", "-c", ": < /dev/tcp/$0/$1", host, port];
        Ok(inside(&machine, &pod, &words)?.code == Some(0))
    };
    let tried = [
        // The API by its Service, and DNS.
        ("10.96.0.1", "443", true),
        ("10.96.0.10", "53", true),
        // The kubelet's API has no port.
        (node.as_str(), "10250", false),
        // The machine's loopback, and what listens there: by its own name and by the machine's address.
        ("127.0.0.1", "6443", false),
        ("127.0.0.1", "9999", false),
        (outside, "6443", false),
        (outside, "8090", false),
        (outside, "9999", false),
    ];
    for (host, port, expected) in tried {
        ensure!(reaches(host, port)? == expected, "{host}:{port} is {}reached", if expected { "not " } else { "" });
    }
    private.kill()?;
    private.wait()?;
    Ok(())
}

#[test]
fn an_ordinary_user_reads_nothing_of_the_cluster() -> Result<()> {
    let machine = start()?;
    // A test's own folder is closed; the usual place is not.
    let data = machine.data_dir();
    for folder in [machine.folder(), &data] {
        said(machine.command("chmod").arg("755").arg(folder))?.ok()?;
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "find"];
    let mut find = machine.command("setpriv");
    find.args(nobody).arg(&data).args(["-type", "f", "-readable"]);
    // Handles of namespaces: to enter one takes rights that the file does not give.
    let found = said(find.args(["-not", "-path", "*/run/netns/*"]))?.out;
    let own = ["portolan.log", "run/instance.json", "run/lock"].map(|file| data.join(file).display().to_string());
    let secret: Vec<&str> = found.lines().filter(|file| !own.iter().any(|own| own == file)).collect();
    ensure!(found.contains("run/lock"), "the user sees nothing at all: {found}");
    ensure!(secret.is_empty(), "{secret:#?}");
    Ok(())
}

#[test]
fn nothing_listens_but_what_the_document_names() -> Result<()> {
    let machine = start()?;
    let node = kubectl(&machine, &["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"])?;
    let list = ["ss", "-Hltun"];
    let places = [
        ("machine", said(machine.command(list[0]).args(&list[1..]))?.ok()?.out),
        ("node", inside(&machine, "portolan", &list)?.ok()?.out),
        ("pod", inside(&machine, &pod_namespace(&machine)?, &list)?.ok()?.out),
    ];
    let found: BTreeSet<(String, String)> = places
        .iter()
        .flat_map(|(place, listed)| listed.lines().map(move |line| (place, line)))
        .filter_map(|(place, line)| {
            let mut words = line.split_whitespace();
            let (protocol, at) = (words.next()?, words.nth(3)?);
            Some((
                (*place).to_owned(),
                format!("{protocol} {}", at.replace(&node, "NODE").replace("10.96.0.10", "DNS")),
            ))
        })
        .collect();
    let named: BTreeSet<(String, String)> = DOCUMENT
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (place, listener) = (cells.next()?, cells.next()?);
            Some((place.to_owned(), listener.trim_matches('`').to_owned()))
        })
        .filter(|(place, _)| ["machine", "node", "pod"].contains(&place.as_str()))
        .collect();
    ensure!(found == named, "it listens on\n{found:#?}\nthe document names\n{named:#?}");
    Ok(())
}
