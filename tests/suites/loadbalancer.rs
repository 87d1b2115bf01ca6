//! Services of type LoadBalancer as their user meets them: an address at once, from the machine and from another host on the link, also when
//! a node is lost, the daemon is killed, or the pool is full.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

struct Cluster {
    machine: Machine,
}

impl Cluster {
    fn up(flags: &[&str]) -> Result<Self> {
        Ok(Cluster { machine: Machine::with_cluster(flags)? })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.machine.kubectl(arguments)?.ok()?.out)
    }

    fn apply(&self, text: &str) -> Result<()> {
        let manifest = self.machine.file("manifest.yaml", text)?;
        self.kubectl(&["apply", "-f", &manifest.to_string_lossy()]).map(drop)
    }

    /// A Service of type LoadBalancer on port 80 for pods `app: NAME`.
    fn service(&self, name: &str, more: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  type: LoadBalancer\n  selector: {{app: {name}}}\n  \
             ports: [{{name: http, port: 80, targetPort: 8080}}]\n{more}"
        ))
    }

    /// A web server on one node that says its name.
    fn pod(&self, name: &str, node: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n    - name: web\n      image: localhost/busybox:test\n      \
             command: [sh, -c, \"echo {name} > /tmp/index.html; exec httpd -f -p 8080 -h /tmp\"]\n      \
             readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}\n"
        ))?;
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=90s"]).map(drop)
    }

    fn jsonpath(&self, what: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    fn address(&self, service: &str) -> Result<String> {
        until("has an address", || {
            let address = self.jsonpath(&format!("service/{service}"), "{.status.loadBalancer.ingress[0].ip}")?;
            ensure!(!address.is_empty(), "{}", self.kubectl(&["describe", "service", service])?);
            Ok(address)
        })
    }

    fn owner(&self, address: &str) -> Result<String> {
        let lease = format!("lease/loadbalancer-{}", address.replace('.', "-"));
        until("has an owner", || {
            let owner = self.kubectl(&["get", "-n", "kube-system", &lease, "-o", "jsonpath={.spec.holderIdentity}"])?;
            ensure!(!owner.is_empty(), "no holder");
            Ok(owner)
        })
    }

    fn netns(&self, name: &str) -> PathBuf {
        self.machine.data_dir().join("run/netns").join(name)
    }

    /// A command in a network namespace of the machine.
    fn within(&self, netns: &std::path::Path, words: &[&str]) -> Result<String> {
        let mut command = self.machine.command("nsenter");
        command.arg(format!("--net={}", netns.display())).args(words);
        Ok(said(&mut command)?.ok()?.out)
    }

    /// Another host on the nodes' link: a namespace of its own on their bridge.
    fn host(&self, address: &str) -> Result<PathBuf> {
        let host = self.machine.file("host", "")?;
        let path = host.to_string_lossy().into_owned();
        said(self.machine.command("unshare").arg(format!("--net={path}")).args(["ip", "link", "set", "lo", "up"]))?
            .ok()?;
        let switch = self.netns("switch");
        self.within(&switch, &["ip", "link", "add", "host", "type", "veth", "peer", "name", "eth0", "netns", &path])?;
        self.within(&switch, &["ip", "link", "set", "host", "master", "bridge", "up"])?;
        self.within(&host, &["ip", "address", "add", address, "dev", "eth0"])?;
        self.within(&host, &["ip", "link", "set", "eth0", "up"])?;
        Ok(host)
    }
}

const CURL: [&str; 5] = ["curl", "--silent", "--show-error", "--max-time", "2"];

fn answers(what: &str, mut ask: impl FnMut() -> Result<String>, expected: &str) -> Result<()> {
    until(what, || {
        let answer = ask()?;
        ensure!(answer.trim() == expected, "{answer}");
        Ok(())
    })
}

#[test]
fn an_address_answers_at_once_and_outlives_the_daemon() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.service("web", "")?;
    cluster.pod("web", "portolan")?;
    let address = cluster.address("web")?;
    let url = format!("http://{address}:80");
    ensure!(cluster.kubectl(&["get", "service", "web"])?.contains(&address), "kubectl shows the address");
    let curl = || Ok(said(cluster.machine.command(CURL[0]).args(&CURL[1..]).arg(&url))?.ok()?.out);
    answers("answers from the machine", curl, "web")?;
    let printed = said(&mut cluster.machine.portolan(&["service", "web", "--url"]))?.ok()?.out;
    ensure!(printed.trim() == url, "{printed}");
    let status = said(&mut cluster.machine.portolan(&["status"]))?.ok()?.out;
    ensure!(status.contains("192.168.94.200-192.168.94.250"), "{status}");

    // The daemon is killed: the address goes on answering, and is the same afterwards.
    let lock = cluster.machine.data_dir().join("run/lock");
    let pid = std::fs::read_to_string(lock)?.trim().to_owned();
    said(cluster.machine.command("kill").args(["-9", &pid]))?.ok()?;
    let _ = said(cluster.machine.command("ip").args(["neigh", "flush", "nud", "reachable"]))?;
    answers("answers without a daemon", curl, "web")?;
    cluster.machine.up(&[])?;
    ensure!(cluster.address("web")? == address, "the address has changed");
    answers("answers after the restart", curl, "web")?;

    // A type that needs no address gives it back, and nothing is left on the machine.
    cluster.kubectl(&["patch", "service", "web", "-p", r#"{"spec":{"type":"ClusterIP"}}"#])?;
    until("given back", || {
        let leases = cluster.kubectl(&[
            "get",
            "leases",
            "-n",
            "kube-system",
            "-l",
            "portolan.dev/loadbalancer=address",
            "-o",
            "name",
        ])?;
        let neighbours = said(cluster.machine.command("ip").args(["neigh"]))?.ok()?.out;
        ensure!(leases.is_empty() && !neighbours.contains(&address), "{leases}{neighbours}");
        Ok(())
    })?;
    said(&mut cluster.machine.portolan(&["down"]))?.ok()?;
    let left = said(cluster.machine.command("ip").args(["-br", "link"]))?.ok()?.out;
    ensure!(left.lines().count() == 1, "{left}");
    Ok(())
}

#[test]
fn a_host_on_the_link_reaches_it_also_when_the_node_is_lost() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "3"])?;
    cluster.service("web", "")?;
    let address = cluster.address("web")?;
    let owner = cluster.owner(&address)?;
    let nodes = ["portolan", "portolan-2", "portolan-3"];
    let elsewhere = nodes.into_iter().find(|node| *node != owner).context("no other node")?;
    cluster.pod("web", elsewhere)?;
    let host = cluster.host("192.168.94.190/24")?;
    let url = format!("http://{address}");
    let curl = || cluster.within(&host, &[&CURL[..], &[&url]].concat());
    answers("answers to a host", curl, "web")?;
    let arping = || cluster.within(&host, &["arping", "-f", "-w", "5", "-I", "eth0", &address]);
    let said_mac = arping()?;
    let mac = |node: &str| -> Result<String> {
        let link = cluster.within(&cluster.netns(node), &["ip", "-o", "link", "show", "uplink"])?;
        let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        Ok(mac.context("no MAC address")?.to_uppercase())
    };
    ensure!(said_mac.to_uppercase().contains(&mac(&owner)?), "{owner} owns it: {said_mac}");

    let port = format!("node-{}", owner.rsplit_once('-').map_or("1", |(_, number)| number));
    let lost = Instant::now();
    cluster.within(&cluster.netns("switch"), &["ip", "link", "set", &port, "down"])?;
    answers("answers although its node is lost", curl, "web")?;
    println!("failover took {} ms", lost.elapsed().as_millis());
    let now = cluster.owner(&address)?;
    ensure!(now != owner, "{owner} is lost and owns it still");
    let said_mac = arping()?;
    ensure!(said_mac.to_uppercase().contains(&mac(&now)?), "{now} owns it: {said_mac}");
    let machine = || Ok(said(cluster.machine.command(CURL[0]).args(&CURL[1..]).arg(&url))?.ok()?.out);
    if elsewhere == "portolan" || now != "portolan" {
        answers("answers to the machine", machine, "web")?;
    }
    Ok(())
}

#[test]
fn neighbours_find_it_by_both_families() -> Result<()> {
    let ranges = ["--service-cidr=10.96.0.0/16,fd00:10:96::/112", "--pod-cidr=10.244.0.0/16,fd00:10:244::/56"];
    let cluster = Cluster::up(&[ranges[0], ranges[1], "--nodes=2"])?;
    cluster.service("web", "  ipFamilyPolicy: RequireDualStack\n")?;
    cluster.pod("web", "portolan-2")?;
    let addresses = until("has both", || {
        let addresses = cluster.jsonpath("service/web", "{.status.loadBalancer.ingress[*].ip}")?;
        ensure!(addresses.contains(' '), "{addresses}");
        Ok(addresses)
    })?;
    let (v4, v6) = addresses.split_once(' ').context("one address")?;
    let (v4, v6) = if v4.contains(':') { (v6, v4) } else { (v4, v6) };
    let host = cluster.host("192.168.94.190/24")?;
    let network = v6.rsplit_once("::").context("no network")?.0;
    cluster.within(&host, &["ip", "address", "add", &format!("{network}::999/64"), "dev", "eth0", "nodad"])?;
    until("answers ARP", || cluster.within(&host, &["arping", "-f", "-w", "2", "-I", "eth0", v4]).map(drop))?;
    let found = until("answers NDP", || cluster.within(&host, &["ndisc6", "-1", "-q", v6, "eth0"]))?;
    let known = || -> Result<String> {
        let links = ["portolan", "portolan-2"]
            .map(|node| cluster.within(&cluster.netns(node), &["ip", "-o", "link", "show", "uplink"]));
        Ok(links.into_iter().collect::<Result<Vec<_>>>()?.concat().to_lowercase())
    };
    ensure!(known()?.contains(&found.trim().to_lowercase()), "{found} is no node's: {}", known()?);
    for url in [format!("http://{v4}/"), format!("http://[{v6}]/")] {
        answers("answers to the host", || cluster.within(&host, &[&CURL[..], &["-g", &url]].concat()), "web")?;
    }
    Ok(())
}

/// Load balancers of their own, one process a node, as on a cluster that is not ours. One that is killed says nothing to anybody: the others
/// see its Lease stand still.
#[test]
fn a_speaker_that_dies_without_a_word_is_replaced() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "3"])?;
    let nodes = ["portolan", "portolan-2", "portolan-3"];
    let kubeconfig = std::fs::read_to_string(cluster.machine.data_dir().join("kubeconfig"))?;
    let inside: Vec<&str> = kubeconfig
        .lines()
        .map(|line| if line.trim().starts_with("server:") { "    server: https://10.96.0.1:443" } else { line })
        .collect();
    let kubeconfig = cluster.machine.file("inside.kubeconfig", &inside.join("\n"))?;
    let mut speakers = Vec::new();
    for node in nodes {
        let portolan = cluster.machine.portolan(&["loadbalancer", "--node-name", node]);
        let mut speaker = cluster.machine.command("nsenter");
        speaker
            .arg(format!("--net={}", cluster.netns(node).display()))
            // What the machine itself would run, without the way into it.
            .args(portolan.get_args().skip_while(|word| *word != "--").skip(1));
        speaker.args([
            "--kubeconfig",
            &kubeconfig.to_string_lossy(),
            "--class",
            "example.com/own",
            "--namespace",
            "default",
        ]);
        speaker.args(["--pool", "192.168.94.180-192.168.94.189", "--interface", "uplink"]);
        speakers.push((node, Ended(speaker.spawn().context("no nsenter")?)));
    }
    cluster.service("web", "  loadBalancerClass: example.com/own\n")?;
    let address = cluster.address("web")?;
    let lease = format!("lease/loadbalancer-{}", address.replace('.', "-"));
    let owner = until("has an owner", || {
        let owner = cluster.jsonpath(&lease, "{.spec.holderIdentity}")?;
        ensure!(!owner.is_empty());
        Ok(owner)
    })?;
    let host = cluster.host("192.168.94.190/24")?;
    let arping = || cluster.within(&host, &["arping", "-f", "-w", "1", "-I", "eth0", &address]);
    until("answered", || arping().map(drop))?;
    let (dead, _living): (Vec<_>, Vec<_>) = speakers.into_iter().partition(|(node, _)| *node == owner);
    ensure!(dead.len() == 1, "{owner} is no node");
    // The child is the way into the machine; what runs there is a process of its own.
    let its = format!(r"--node-name\x00{owner}\x00--kubeconfig");
    let kill = format!("kill -9 $(grep -alP -e '{its}' /proc/[0-9]*/cmdline | cut -d / -f 3)");
    said(cluster.machine.command("sh").args(["-c", &kill]))?.ok()?;
    drop(dead);
    let killed = Instant::now();
    let next = until("taken over", || {
        let next = cluster.jsonpath(&lease, "{.spec.holderIdentity}")?;
        ensure!(next != owner, "{owner} is dead and holds it still");
        arping()?;
        Ok(next)
    })?;
    println!("{next} answers {} ms after {owner} was killed", killed.elapsed().as_millis());
    Ok(())
}

/// A child that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_address_beyond_the_nodes_network_is_routed() -> Result<()> {
    let cluster = Cluster::up(&["--load-balancer-pool", "office=10.77.0.8/30"])?;
    cluster.service("web", "")?;
    cluster.pod("web", "portolan")?;
    let address = cluster.address("web")?;
    ensure!(address == "10.77.0.8", "{address}");
    let url = format!("http://{address}");
    let curl = || Ok(said(cluster.machine.command(CURL[0]).args(&CURL[1..]).arg(&url))?.ok()?.out);
    answers("answers from the machine", curl, "web")?;
    cluster.kubectl(&["delete", "service", "web"])?;
    until("no route left", || {
        let routes = said(cluster.machine.command("ip").arg("route"))?.ok()?.out;
        ensure!(!routes.contains("10.77.0.8"), "{routes}");
        Ok(())
    })
}

#[test]
fn policy_local_is_answered_where_the_pod_is_and_a_full_pool_is_explained() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "3", "--load-balancer-pool", "192.168.94.210-192.168.94.211"])?;
    cluster.service("local", "  externalTrafficPolicy: Local\n")?;
    cluster.pod("local", "portolan-3")?;
    let address = cluster.address("local")?;
    until("owned by the pod's node", || {
        let owner = cluster.owner(&address)?;
        ensure!(owner == "portolan-3", "{owner}");
        Ok(())
    })?;
    let url = format!("http://{address}");
    let curl = || Ok(said(cluster.machine.command(CURL[0]).args(&CURL[1..]).arg(&url))?.ok()?.out);
    answers("answers", curl, "local")?;

    let shared = "  loadBalancerIP: 192.168.94.211\n";
    let annotated = |name: &str, port: u16| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations: {{metallb.io/allow-shared-ip: k}}\nspec:\n  \
             type: LoadBalancer\n  selector: {{app: {name}}}\n  ports: [{{port: {port}}}]\n{shared}"
        ))
    };
    annotated("one", 81)?;
    annotated("two", 82)?;
    ensure!(cluster.address("one")? == "192.168.94.211" && cluster.address("two")? == "192.168.94.211", "not shared");
    cluster.service("late", "")?;
    until("explained", || {
        let told = cluster.kubectl(&["describe", "service", "late"])?;
        ensure!(told.contains("AllocationFailed") && told.contains("hint: enlarge the pool"), "{told}");
        Ok(())
    })?;
    let condition = cluster.jsonpath("service/late", "{.status.conditions[0].reason}")?;
    ensure!(condition == "PoolExhausted", "{condition}");
    let printed = said(&mut cluster.machine.portolan(&["service", "late"]))?.ok()?.err;
    ensure!(printed.contains("has no external address"), "{printed}");
    cluster.kubectl(&["delete", "service", "one", "two"])?;
    ensure!(cluster.address("late")? == "192.168.94.211", "the address is free again");
    Ok(())
}
