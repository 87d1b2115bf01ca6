//! Where nodes live: three in namespaces of one machine, and the machine itself as the node. Both end without a trace. And what becomes of a
//! node that is lost.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
        - name: web
          image: localhost/busybox:test
          command: [sh, -c, "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"#;

fn serve(machine: &Machine) -> Result<()> {
    let manifest = machine.file("web.yaml", WEB)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    machine.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?.ok()?;
    Ok(())
}

fn words(machine: &Machine, kind: &str, path: &str) -> Result<BTreeSet<String>> {
    let said = machine.kubectl(&["get", kind, "-o", &format!("jsonpath={path}")])?.ok()?.out;
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

/// Who answers when asked until all have, or for long enough.
fn answers(expected: &BTreeSet<String>, mut ask: impl FnMut() -> Result<String>) -> Result<()> {
    let mut met = BTreeSet::new();
    until("met every pod", || {
        met.insert(ask()?.trim().to_owned());
        ensure!(met == *expected, "met {met:?} of {expected:?}");
        Ok(())
    })
}

#[test]
fn three_nodes_are_one_cluster() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    let told = machine.up(&["--nodes", "3", "--max-pods", "200"])?.out;
    ensure!(told.contains("3 nodes are Ready"), "{told}");
    let room = words(&machine, "nodes", "{.items[*].status.allocatable.pods}")?;
    ensure!(room == BTreeSet::from(["200".to_owned()]), "nodes take {room:?} pods");
    serve(&machine)?;
    ensure!(words(&machine, "pods", "{.items[*].spec.nodeName}")?.len() == 3, "the pods are not spread");
    let pods = words(&machine, "pods", "{.items[*].metadata.name}")?;
    let curl = |url: &str| Ok(said(machine.command("curl").args(["-sf", "--max-time", "5", url]))?.ok()?.out);
    for node in words(&machine, "nodes", "{.items[*].status.addresses[0].address}")? {
        answers(&pods, || curl(&format!("http://{node}:30080/")))?;
    }
    for vip in words(&machine, "service/web", "{.spec.clusterIP}")? {
        answers(&pods, || curl(&format!("http://{vip}/")))?;
    }
    for pod in &pods {
        answers(&pods, || Ok(machine.kubectl(&["exec", pod, "--", "wget", "-qO-", "http://web/"])?.ok()?.out))?;
    }
    let other = said(&mut machine.portolan(&["up", "--no-kubeconfig", "--api-port", "7443", "--nodes", "2"]))?;
    ensure!(other.err.contains("already runs"), "{}", other.err);
    said(&mut machine.portolan(&["down"]))?.ok()?;
    nothing_left(&machine, "lo")
}

#[test]
fn a_dual_stack_cluster_serves_both_families() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    let ranges = ["--service-cidr=10.96.0.0/16,fd00:10:96::/112", "--pod-cidr=10.244.0.0/16,fd00:10:244::/56"];
    machine.up(&[ranges[0], ranges[1], "--nodes=2"])?;
    let manifest =
        WEB.replace("spec:\n  type: NodePort", "spec:\n  ipFamilyPolicy: RequireDualStack\n  type: NodePort");
    let manifest = machine.file("web.yaml", &manifest.replace("replicas: 3", "replicas: 2"))?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    machine.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?.ok()?;
    let pods = words(&machine, "pods", "{.items[*].metadata.name}")?;
    ensure!(words(&machine, "pods", "{.items[*].status.podIPs[*].ip}")?.len() == 4, "not two addresses a pod");
    let vips = words(&machine, "service/web", "{.spec.clusterIPs[*]}")?;
    ensure!(vips.iter().any(|vip| vip.starts_with("fd00:10:96::")), "{vips:?}");
    let addresses = words(&machine, "nodes", "{.items[*].status.addresses[?(@.type=='InternalIP')].address}")?;
    ensure!(addresses.len() == 4, "{addresses:?}");
    let bracketed = |address: &String| if address.contains(':') { format!("[{address}]") } else { address.clone() };
    let urls = vips.iter().map(bracketed).chain(addresses.iter().map(|node| bracketed(node) + ":30080"));
    for url in urls.map(|host| format!("http://{host}/")) {
        answers(&pods, || Ok(said(machine.command("curl").args(["-gsf", "--max-time", "5", &url]))?.ok()?.out))?;
        for pod in &pods {
            answers(&pods, || Ok(machine.kubectl(&["exec", pod, "--", "wget", "-qO-", &url])?.ok()?.out))?;
        }
    }
    dns_over_both_families(&machine, &pods)?;
    said(&mut machine.portolan(&["down"]))?.ok()?;
    nothing_left(&machine, "lo")
}

/// The DNS Service has an address of each family on every node, and neither is tracked.
fn dns_over_both_families(machine: &Machine, pods: &BTreeSet<String>) -> Result<()> {
    let path = "jsonpath={.spec.clusterIPs[*]}";
    let vips = machine.kubectl(&["get", "-n", "kube-system", "service/kube-dns", "-o", path])?.ok()?.out;
    ensure!(vips == "10.96.0.10 fd00:10:96::a", "{vips}");
    for vip in vips.split(' ') {
        let mut dig = machine.command("dig");
        dig.args([&format!("@{vip}"), "+short", "+tries=1", "+time=5", "kubernetes.default.svc.cluster.local"]);
        let answer = said(&mut dig)?.ok()?.out;
        ensure!(answer == "10.96.0.1\n", "{vip}: {answer}");
        for pod in pods {
            let name = "web.default.svc.cluster.local";
            machine.kubectl(&["exec", pod, "--", "nslookup", "-type=aaaa", name, vip])?.ok()?;
        }
    }
    let (folder, mut untracked) = (machine.data_dir().join("run/netns"), 0);
    for node in std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()? {
        let node = format!("--net={}", node.path().display());
        for family in ["ip", "ip6"] {
            // The folder also holds the namespaces of the bridge and of pods, which have no such table.
            let list = [&node, "--", "nft", "list", "table", family, "portolan-dns"];
            untracked += said(machine.command("nsenter").args(list))?.out.matches("notrack").count();
        }
    }
    ensure!(untracked == 2 * 2 * 8, "{untracked} rules on two nodes");
    Ok(())
}

/// A Deployment whose pods leave a lost node after two seconds, and a StatefulSet, whose pods are one of a kind.
const SPREAD: &str = r#"
apiVersion: apps/v1
kind: KIND
metadata: {name: NAME}
spec:
  replicas: 3
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Honor, labelSelector: {matchLabels: {app: NAME}}}
      containers:
        - name: web
          image: localhost/busybox:test
          command: [sh, -c, "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{port: 80, targetPort: 8080}]}
---
"#;

/// A pod, as far as a lost node matters to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: String,
    uid: String,
    node: String,
    ready: bool,
    leaves: bool,
}

fn pods_of(machine: &Machine, app: &str) -> Result<Vec<Seen>> {
    let path = r#"{range .items[*]}{.metadata.name}|{.metadata.uid}|{.spec.nodeName}|{.status.conditions[?(@.type=="Ready")].status}|{.metadata.deletionTimestamp}{"\n"}{end}"#;
    let label = format!("app={app}");
    let told = machine.kubectl(&["get", "pods", "-l", &label, "-o", &format!("jsonpath={path}")])?.ok()?.out;
    let seen = |line: &str| {
        let mut parts = line.split('|').map(str::to_owned);
        let mut part = || parts.next().with_context(|| line.to_owned());
        let (name, uid, node) = (part()?, part()?, part()?);
        Ok(Seen { name, uid, node, ready: part()? == "True", leaves: !part()?.is_empty() })
    };
    told.lines().map(seen).collect()
}

/// The nodes to whose pods a Service sends, one for each endpoint.
fn endpoints_on(machine: &Machine, service: &str) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName} {end}";
    let label = format!("kubernetes.io/service-name={service}");
    let told = machine.kubectl(&["get", "endpointslices", "-l", &label, "-o", path])?.ok()?.out;
    Ok(told.split_whitespace().map(str::to_owned).collect())
}

fn seconds(text: &str) -> Result<i64> {
    Ok(said(std::process::Command::new("date").args(["+%s", "-d", text]))?.ok()?.out.trim().parse()?)
}

/// Its network is cut, so that its agent does not reach the API server. Its pods run on, and nobody can know.
#[test]
fn a_lost_node_is_emptied_and_comes_back() -> Result<()> {
    const LOST: &str = "portolan-3";
    let machine = Machine::with_cluster(&["--nodes", "3"])?;
    let manifest = [("Deployment", "web"), ("StatefulSet", "db")]
        .map(|(kind, name)| SPREAD.replace("KIND", kind).replace("NAME", name))
        .concat();
    let manifest = machine.file("spread.yaml", &manifest)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    for workload in ["deployment/web", "statefulset/db"] {
        machine.kubectl(&["rollout", "status", workload, "--timeout=90s"])?.ok()?;
    }
    let on_lost = |app: &str| -> Result<Seen> {
        let mut all = pods_of(&machine, app)?.into_iter().filter(|pod| pod.node == LOST);
        let pod = all.next().with_context(|| format!("no pod of {app} is on {LOST}"))?;
        ensure!(all.next().is_none(), "two pods of {app} are on {LOST}");
        Ok(pod)
    };
    let (web, db) = (on_lost("web")?, on_lost("db")?);
    let node = |path: &str| -> Result<String> {
        Ok(machine.kubectl(&["get", "node", LOST, "-o", &format!("jsonpath={path}")])?.ok()?.out)
    };
    let link = |state: &str| -> Result<()> {
        let switch = format!("--net={}", machine.data_dir().join("run/netns/switch").display());
        said(machine.command("nsenter").args([&switch, "ip", "link", "set", "node-3", state]))?.ok()?;
        Ok(())
    };

    link("down")?;
    for app in ["web", "db"] {
        until(&format!("nothing is sent to the pod of {app} on the lost node"), || {
            let nodes = endpoints_on(&machine, app)?;
            ensure!(!nodes.contains(&LOST.to_owned()) && nodes.len() >= 2, "{nodes:?}");
            Ok(())
        })?;
    }
    let taints = r#"{range .spec.taints[*]}{.key}:{.effect} {end}"#;
    until("the node is not ready", || {
        let shown = machine.kubectl(&["get", "node", LOST])?.ok()?.out;
        ensure!(shown.contains("NotReady"), "{shown}");
        let taints = node(taints)?;
        let expected = ["NoSchedule", "NoExecute"].map(|effect| format!("node.kubernetes.io/unreachable:{effect} "));
        ensure!(taints == expected.concat(), "{taints}");
        Ok(())
    })?;
    let left = until("the pods on it were told to go, and the Deployment's replaced", || {
        let all = pods_of(&machine, "web")?;
        let (leaving, others): (Vec<Seen>, Vec<Seen>) = all.into_iter().partition(|pod| pod.leaves);
        ensure!(leaving.iter().map(|pod| &pod.uid).eq([&web.uid]), "{leaving:?}");
        ensure!(others.len() == 3 && others.iter().all(|pod| pod.ready && pod.node != LOST), "{others:?}");
        ensure!(endpoints_on(&machine, "web")?.len() == 3);
        Ok(others)
    })?;
    in_order(&machine, &web, &node("{.spec.taints[?(@.effect=='NoExecute')].timeAdded}")?)?;
    until("the one of the StatefulSet was told to go as well", || {
        let all = pods_of(&machine, "db")?;
        let there = all.iter().find(|pod| pod.name == db.name).context("it is gone")?;
        ensure!(there.uid == db.uid && there.leaves, "nobody knows that it has ended: {there:?}");
        ensure!(all.len() == 3, "{all:?}");
        Ok(())
    })?;
    let logs = machine.kubectl(&["logs", &web.name])?;
    ensure!(logs.code != Some(0) && logs.err.contains("no route to host"), "{logs:?}");
    let vip = machine.kubectl(&["get", "service/web", "-o", "jsonpath={.spec.clusterIP}"])?.ok()?.out;
    let names: BTreeSet<String> = left.iter().map(|pod| pod.name.clone()).collect();
    for _ in 0..20 {
        let answer = said(machine.command("curl").args(["-sf", "--max-time", "5", &format!("http://{vip}/")]))?.ok()?;
        ensure!(names.contains(answer.out.trim()), "{answer:?}");
    }

    link("up")?;
    until("the node is ready again", || {
        let (ready, taints) = (node(r#"{.status.conditions[?(@.type=="Ready")].status}"#)?, node(taints)?);
        ensure!(ready == "True" && taints.is_empty(), "{ready} {taints}");
        Ok(())
    })?;
    machine.kubectl(&["rollout", "status", "statefulset/db", "--timeout=90s"])?.ok()?;
    until("every pod runs, and runs once", || {
        let (web, all) = (pods_of(&machine, "web")?, pods_of(&machine, "db")?);
        ensure!(web == left, "{web:?} {left:?}");
        ensure!(all.len() == 3 && all.iter().all(|pod| pod.ready && !pod.leaves && pod.uid != db.uid), "{all:?}");
        let running = "grep -al ^httpd /proc/[0-9]*/cmdline | wc -l";
        let running = said(machine.command("sh").args(["-c", running]))?.ok()?.out;
        ensure!(running.trim() == "6", "{running} processes of 6 pods");
        Ok(())
    })?;
    for service in ["web", "db"] {
        let pods = pods_of(&machine, service)?.into_iter().map(|pod| pod.name).collect();
        let vip = machine.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])?.ok()?.out;
        answers(&pods, || {
            Ok(said(machine.command("curl").args(["-sf", "--max-time", "5", &format!("http://{vip}/")]))?.ok()?.out)
        })?;
    }
    Ok(())
}

/// First nothing is sent to the pod any more, then the taint's toleration runs out, then it is told to go.
fn in_order(machine: &Machine, pod: &Seen, tainted: &str) -> Result<()> {
    let get = |path: &str| -> Result<String> {
        Ok(machine.kubectl(&["get", "pod", &pod.name, "-o", &format!("jsonpath={path}")])?.ok()?.out)
    };
    let unready = get(r#"{.status.conditions[?(@.type=="Ready")].lastTransitionTime}"#)?;
    let grace: i64 = get("{.metadata.deletionGracePeriodSeconds}")?.parse()?;
    let told = seconds(&get("{.metadata.deletionTimestamp}")?)? - grace;
    let (unready, tainted) = (seconds(&unready)?, seconds(tainted)?);
    ensure!(unready <= told, "it was not ready from {unready} on, and told to go at {told}");
    ensure!(tainted + 2 <= told, "tainted at {tainted}, told to go at {told}");
    let reason = get(r#"{.status.conditions[?(@.type=="DisruptionTarget")].reason}"#)?;
    ensure!(reason == "DeletionByTaintManager", "{reason}");
    Ok(())
}

#[test]
fn the_machine_itself_can_be_the_node() -> Result<()> {
    let machine = Machine::new()?;
    let ip = |arguments: &str| said(machine.command("ip").args(arguments.split(' ')))?.ok();
    for step in [
        "link add eth0 type veth peer name cable",
        "addr add 198.51.100.10/24 dev eth0",
        "link set cable up",
        "link set eth0 up",
        "route add default via 198.51.100.1",
    ] {
        ip(step)?;
    }
    machine.busybox_image()?;
    machine.up(&["--host-network"])?;
    serve(&machine)?;
    let pods = words(&machine, "pods", "{.items[*].metadata.name}")?;
    answers(&pods, || {
        Ok(said(machine.command("curl").args(["-sf", "--max-time", "5", "http://198.51.100.10:30080/"]))?.ok()?.out)
    })?;
    for pod in &pods {
        // The API server answers pods through its Service, in TLS: what busybox makes of that is its own affair.
        let api = "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT < /dev/null";
        machine.kubectl(&["exec", pod, "--", "sh", "-c", api])?.ok()?;
    }
    said(&mut machine.portolan(&["down"]))?.ok()?;
    let forwards = said(machine.command("cat").arg("/proc/sys/net/ipv4/ip_forward"))?.ok()?.out;
    ensure!(forwards.trim() == "0", "forwarding was left on");
    nothing_left(&machine, "lo cable eth0")
}

fn nothing_left(machine: &Machine, interfaces: &str) -> Result<()> {
    let links = said(machine.command("ip").args(["-br", "link"]))?.ok()?.out;
    let mut left: Vec<&str> = links.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
    let mut expected: Vec<&str> = interfaces.split(' ').collect();
    left.sort_unstable();
    expected.sort_unstable();
    ensure!(left == expected, "{links}");
    let rules = said(machine.command("nft").args(["list", "ruleset"]))?.ok()?.out;
    ensure!(rules.is_empty(), "{rules}");
    ensure!(!machine.data_dir().exists(), "the data folder was left");
    Ok(())
}
