//! Drain with acknowledgement across processes: parts that run alone are waited for, who is late is named, flows may end, and where nobody
//! takes part it is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

/// What docs/drain.md tells people to apply.
const DOCUMENT: &str = include_str!("../../docs/drain.md");

fn kubectl(machine: &Machine, arguments: &[&str]) -> Result<String> {
    Ok(machine.kubectl(arguments)?.ok()?.out)
}

fn apply(machine: &Machine, text: &str) -> Result<()> {
    let manifest = machine.file("manifest.yaml", text)?;
    kubectl(machine, &["apply", "-f", &manifest.to_string_lossy()]).map(drop)
}

fn start() -> Result<Machine> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    machine.up(&[])?;
    Ok(machine)
}

/// An app behind a Service that echoes lines on TCP and ends at once when it is told to.
fn app(machine: &Machine, name: &str, annotations: &str, grace: u32) -> Result<()> {
    apply(
        machine,
        &format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{{annotations}}}}}
spec:
  terminationGracePeriodSeconds: {grace}
  containers:
    - name: echo
      image: localhost/busybox:test
      command: [sh, -c, "trap 'exit 0' TERM; nc -ll -p 8080 -e cat & wait"]
      readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
        ),
    )?;
    kubectl(machine, &["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=90s"]).map(drop)
}

/// A part of ours that runs alone on the machine.
struct Alone {
    child: Child,
    log: PathBuf,
}

impl Alone {
    fn start(machine: &Machine, name: &str, kubeconfig: Option<&PathBuf>, arguments: &[&str]) -> Result<Alone> {
        let log = machine.folder().join(format!("{name}.log"));
        let mut command = machine.portolan(arguments);
        if let Some(kubeconfig) = kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        let child = command.stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        Ok(Alone { child, log })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn logs(&self, words: &str) -> Result<()> {
        until("logged", || {
            let log = self.log();
            ensure!(log.contains(words), "no `{words}` in\n{log}");
            Ok(())
        })
    }

    /// The process itself is the child of what entered the machine.
    fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let inner = children.split_whitespace().next().context("it has ended")?;
        said(Command::new("kill").args([signal, inner]))?.ok().map(drop)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.signal("-KILL");
        // It stopped when the process itself was.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn proxy(machine: &Machine, kubeconfig: Option<&PathBuf>) -> Result<Alone> {
    let nowhere = ["--healthz-bind-address", "", "--metrics-bind-address", ""];
    Alone::start(machine, "proxy", kubeconfig, &[&["proxy", "--node-name", "beside"][..], &nowhere].concat())
}

fn dns(machine: &Machine, port: u16, kubeconfig: Option<&PathBuf>, acknowledge_as: &str) -> Result<Alone> {
    let listen = format!("127.0.0.1:{port}");
    let off = ["--health", "off", "--ready", "off", "--metrics", "off", "--handover", "off"];
    let arguments = [&["dns", "--listen", &listen, "--acknowledge-as", acknowledge_as][..], &off].concat();
    Alone::start(machine, acknowledge_as, kubeconfig, &arguments)
}

fn ingress(machine: &Machine) -> Result<Alone> {
    let mut words = vec!["ingress", "--listen", "127.0.0.1", "--http-port", "8081", "--https-port", "8444"];
    words.extend(["--publish-address", "127.0.0.1", "--metrics-address", "127.0.0.1:10255"]);
    words.extend(["--class", "beside", "--controller", "example.com/beside", "--acknowledge-as", "ingress-beside"]);
    Alone::start(machine, "ingress", None, &words)
}

/// Who acknowledges: the selector of what it follows and the revision that it has reached.
fn acknowledged(machine: &Machine) -> Result<BTreeMap<String, (String, u64)>> {
    let path = "jsonpath={range .items[*]}{.spec.holderIdentity}|{.metadata.annotations.portolan\\.dev/follows}|\
        {.metadata.annotations.portolan\\.dev/applied-revision}{\"\\n\"}{end}";
    let listed =
        kubectl(machine, &["get", "leases", "-n", "kube-system", "-l", "portolan.dev/drain=acknowledges", "-o", path])?;
    let row = |line: &str| {
        let mut parts = line.split('|').map(str::to_owned);
        let (name, follows) = (parts.next()?, parts.next()?);
        Some((name, (follows, parts.next()?.parse().ok()?)))
    };
    Ok(listed.lines().filter_map(row).collect())
}

fn names(machine: &Machine, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    until("acknowledged by all", || {
        let all = acknowledged(machine)?;
        let beside: BTreeSet<&str> = all.keys().map(String::as_str).filter(|name| name.contains("beside")).collect();
        ensure!(beside == expected, "{beside:?} acknowledge");
        Ok(())
    })
}

/// A kubeconfig for a ServiceAccount that has these ClusterRoles, and in kube-system these Roles.
fn account(machine: &Machine, name: &str, cluster_roles: &[&str], roles: &[&str]) -> Result<PathBuf> {
    let subject = format!("--serviceaccount=kube-system:{name}");
    kubectl(machine, &["create", "serviceaccount", name, "-n", "kube-system"])?;
    for role in cluster_roles {
        let binding = format!("{name}-{}", role.replace(':', "-"));
        kubectl(machine, &["create", "clusterrolebinding", &binding, &format!("--clusterrole={role}"), &subject])?;
    }
    for role in roles {
        let binding = format!("{name}-{role}");
        kubectl(
            machine,
            &["create", "rolebinding", &binding, "-n", "kube-system", &format!("--role={role}"), &subject],
        )?;
    }
    let token = kubectl(machine, &["create", "token", name, "-n", "kube-system"])?;
    let own = std::fs::read_to_string(machine.data_dir().join("kubeconfig"))?;
    let kubeconfig = machine.file(&format!("{name}.kubeconfig"), &own)?;
    let file = format!("--kubeconfig={}", kubeconfig.display());
    let token = format!("--token={}", token.trim());
    kubectl(machine, &["config", &file, "set-credentials", name, &token])?;
    kubectl(machine, &["config", &file, "set-context", "--current", &format!("--user={name}")])?;
    Ok(kubeconfig)
}

/// The first manifest of the document.
fn documented_rights() -> Result<&'static str> {
    let (_, from) = DOCUMENT.split_once("```yaml\n").context("no manifest in docs/drain.md")?;
    Ok(from.split_once("```").context("its end is missing")?.0)
}

#[test]
fn parts_that_run_alone_are_waited_for() -> Result<()> {
    let machine = start()?;
    apply(&machine, documented_rights()?)?;
    let rights = account(&machine, "beside", &["system:node-proxier", "portolan-drain"], &["portolan-drain"])?;
    let proxy = proxy(&machine, Some(&rights))?;
    let (dns, silent, ingress) =
        (dns(&machine, 5301, None, "dns-beside")?, dns(&machine, 5302, None, "off")?, ingress(&machine)?);
    names(&machine, &["proxy-beside", "dns-beside", "ingress-beside"])?;
    let asked = ["+short", "-p", "5302", "@127.0.0.1", "kubernetes.default.svc.cluster.local"];
    until("answered", || {
        let answer = said(machine.command("dig").args(asked))?.ok()?.out;
        ensure!(answer.contains("10.96.0.1"), "{answer}");
        Ok(())
    })?;

    app(&machine, "web", "", 60)?;
    kubectl(&machine, &["delete", "pod", "web"])?;
    let waiting = kubectl(
        &machine,
        &[
            "get",
            "lease",
            "drain-wait-portolan",
            "-n",
            "kube-system",
            "-o",
            "jsonpath={.metadata.annotations.portolan\\.dev/waiting-for}",
        ],
    )?;
    ensure!(waiting.contains("\":"), "nothing was waited for: {waiting}");
    until("acknowledged", || {
        for (name, (follows, applied)) in acknowledged(&machine)? {
            let asked = format!("\"{follows}\":");
            let revision =
                waiting.split_once(&asked).map(|(_, rest)| rest.split([',', '}']).next().unwrap_or_default());
            // Of one that had passed it before anybody asked nothing was asked.
            let Some(revision) = revision else { continue };
            ensure!(applied >= revision.parse::<u64>()?, "{name} has reached {applied} of {waiting}");
        }
        Ok(())
    })?;
    names(&machine, &["proxy-beside", "dns-beside", "ingress-beside"])?;

    // Who sends no more takes back its word; rules that stay in the kernel keep theirs.
    for alone in [&dns, &ingress, &proxy] {
        alone.signal("-TERM")?;
    }
    names(&machine, &["proxy-beside"])?;
    drop(silent);
    Ok(())
}

#[test]
fn who_is_late_is_named() -> Result<()> {
    let machine = start()?;
    let proxy = proxy(&machine, None)?;
    names(&machine, &["proxy-beside"])?;
    app(&machine, "web", "", 60)?;
    proxy.signal("-STOP")?;
    kubectl(&machine, &["delete", "pod", "web"])?;
    until("said", || {
        let path = "jsonpath={.items[*].involvedObject.name}: {.items[*].message}";
        let late = kubectl(&machine, &["get", "events", "--field-selector", "reason=DrainLate", "-o", path])?;
        ensure!(late.starts_with("web: ") && late.contains("proxy-beside"), "{late}");
        Ok(())
    })
}

/// A connection to the Service, on which lines come back.
struct Conversation {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    fn begin(machine: &Machine, service: &str) -> Result<Conversation> {
        let vip = kubectl(machine, &["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])?;
        let mut client = machine.command("/bin/busybox");
        let mut client =
            client.args(["nc", &vip, "80"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("no nc")?;
        let input = client.stdin.take().context("no input")?;
        let output = BufReader::new(client.stdout.take().context("no output")?);
        Ok(Conversation { client, input, output })
    }

    fn say(&mut self, word: &str) -> Result<String> {
        writeln!(self.input, "{word}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn end(mut self) -> Result<()> {
        // The kernel closes what it had.
        let pid = self.client.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for inner in children.split_whitespace() {
            said(Command::new("kill").args(["-KILL", inner]))?;
        }
        self.client.wait()?;
        Ok(())
    }
}

fn terminating(machine: &Machine, service: &str) -> Result<()> {
    until("terminating", || {
        let label = format!("kubernetes.io/service-name={service}");
        let path = "jsonpath={.items[*].endpoints[*].conditions.terminating}";
        let said = kubectl(machine, &["get", "endpointslices", "-l", &label, "-o", path])?;
        ensure!(said == "true", "{said}");
        Ok(())
    })
}

fn gone(machine: &Machine, pod: &str) -> Result<()> {
    kubectl(machine, &["wait", "--for=delete", &format!("pod/{pod}"), "--timeout=90s"]).map(drop)
}

#[test]
fn a_pod_that_asks_for_it_ends_with_its_last_connection_or_its_grace_period() -> Result<()> {
    let machine = start()?;
    // Far beyond the patience of this test: only the end of the connection ends it.
    app(&machine, "patient", "portolan.dev/drain: no-flows", 600)?;
    let mut conversation = Conversation::begin(&machine, "patient")?;
    ensure!(conversation.say("hello")? == "hello");
    kubectl(&machine, &["delete", "pod", "patient", "--wait=false"])?;
    terminating(&machine, "patient")?;
    // Longer than any pod is held that does not ask for it.
    for number in 0..40 {
        let word = format!("still {number}");
        ensure!(conversation.say(&word)? == word, "the connection ended at {number}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    conversation.end()?;
    gone(&machine, "patient")?;

    app(&machine, "short", "portolan.dev/drain: no-flows", 4)?;
    let mut conversation = Conversation::begin(&machine, "short")?;
    ensure!(conversation.say("hello")? == "hello");
    kubectl(&machine, &["delete", "pod", "short", "--wait=false"])?;
    gone(&machine, "short")?;
    ensure!(conversation.say("anybody").unwrap_or_default().is_empty(), "the pod is gone and answers");
    Ok(())
}

#[test]
fn where_nobody_takes_part_it_works_and_says_so() -> Result<()> {
    let machine = start()?;
    // As on a cluster whose kubelets are others: no agent has said that it waits.
    kubectl(&machine, &["delete", "lease", "drain-wait-portolan", "-n", "kube-system"])?;
    let alone = dns(&machine, 5301, None, "dns-beside")?;
    // CoreDNS' rights, and none to Leases.
    let rights = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: coredns}\nrules:\n  \
        - {apiGroups: [''], resources: [services, namespaces, pods], verbs: [list, watch]}\n  \
        - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}\n";
    apply(&machine, rights)?;
    let rights = account(&machine, "coredns", &["coredns"], &[])?;
    let powerless = dns(&machine, 5302, Some(&rights), "powerless-beside")?;
    alone.logs("no node agent of this cluster waits for acknowledgements")?;
    powerless.logs("cannot see who waits for acknowledgements")?;
    powerless.logs("leases in kube-system")?;
    let asked = ["+short", "-p", "5302", "@127.0.0.1", "kubernetes.default.svc.cluster.local"];
    let answer = said(machine.command("dig").args(asked))?.ok()?.out;
    ensure!(answer.contains("10.96.0.1"), "{answer}");
    names(&machine, &["dns-beside"])
}
