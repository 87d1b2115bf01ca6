//! The Node object: registered at start, kept true, and a heartbeat in its Lease.
//!
//! What others write there (taints, cordon, labels, `podCIDR`) is left alone; ours is merged in.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::context::Context;
use crate::events::Kind;
use crate::status::time;

/// Which kubelet we stand for.
pub const KUBELET_VERSION: &str = concat!("v1.37.0+portolan.", env!("CARGO_PKG_VERSION"));
const LEASES: &str = "kube-node-lease";
/// After so long without a heartbeat the node counts as dead, and its endpoints as not ready. Upstream's is 40 s, renewed every 10.
const LEASE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often the Node object is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(300);
/// A node's status lists so many images.
const MOST_IMAGES: usize = 50;

/// Kept for the system, out of what pods may ask for: bytes.
const RESERVED_MEMORY: u64 = 100 << 20;

/// What the machine has: cpu, memory and pods.
#[derive(Debug, Clone)]
pub struct Machine {
    pub capacity: BTreeMap<String, Quantity>,
    pub allocatable: BTreeMap<String, Quantity>,
    pub info: NodeSystemInfo,
}

impl Machine {
    /// Reads the machine that we are on, and lets it take so many pods.
    pub fn read(max_pods: u16) -> Machine {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = memory_kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default()) * 1024;
        let disk = nix::sys::statvfs::statvfs("/").map_or(0, |fs| fs.blocks() * fs.fragment_size());
        let amounts = |memory: u64| {
            let list = [
                ("cpu", cpus.to_string()),
                ("memory", format!("{}Ki", memory / 1024)),
                ("pods", max_pods.to_string()),
                ("ephemeral-storage", format!("{}Ki", disk / 1024)),
            ];
            list.into_iter().map(|(k, v)| (k.to_owned(), Quantity(v))).collect()
        };
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Machine {
            capacity: amounts(memory),
            allocatable: amounts(memory.saturating_sub(RESERVED_MEMORY)),
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id: line("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: concat!("portolan://", env!("CARGO_PKG_VERSION")).to_owned(),
                kernel_version: line("/proc/sys/kernel/osrelease"),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                machine_id: line("/etc/machine-id"),
                operating_system: "linux".to_owned(),
                os_image: pretty_name(&os_release).unwrap_or("Linux").to_owned(),
                system_uuid: line("/sys/class/dmi/id/product_uuid"),
                ..NodeSystemInfo::default()
            },
        }
    }
}

fn memory_kib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

fn pretty_name(os_release: &str) -> Option<&str> {
    os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"'))
}

/// As Go, and so every manifest, names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let arch = architecture();
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ];
    let own = own.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
    own.chain(config.labels.clone()).collect()
}

fn conditions(old: Option<&Node>, now: Timestamp) -> Vec<NodeCondition> {
    let before = old.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let all = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let one = |(type_, status, reason, message): (&str, &str, &str, &str)| {
        let same = before.iter().find(|c| c.type_ == type_ && c.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(now))),
        }
    };
    all.map(one).into()
}

fn status(config: &Config, machine: &Machine, old: Option<&Node>, now: Timestamp) -> NodeStatus {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut addresses: Vec<_> = config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", config.node_name.clone()));
    let endpoint = DaemonEndpoint { port: i32::from(config.kubelet_port) };
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(machine.capacity.clone()),
        allocatable: Some(machine.allocatable.clone()),
        conditions: Some(conditions(old, now)),
        daemon_endpoints: (config.kubelet_port > 0).then_some(NodeDaemonEndpoints { kubelet_endpoint: Some(endpoint) }),
        node_info: Some(machine.info.clone()),
        images: Some(images(config)),
        ..NodeStatus::default()
    }
}

fn images(config: &Config) -> Vec<ContainerImage> {
    let mut all = config.images.list().unwrap_or_default();
    all.sort_by_key(|image| std::cmp::Reverse(image.size));
    let one = |image: containers::images::Image| ContainerImage {
        names: Some(image.digests.into_iter().chain(image.names).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    all.into_iter().take(MOST_IMAGES).map(one).collect()
}

/// Makes sure that the Node exists and is ours to keep; gives it as it is then. Tries until it works or `shutdown`.
pub(crate) async fn register(
    config: &Config,
    machine: &Machine,
    client: &kube::Client,
    shutdown: &CancellationToken,
) -> Option<Node> {
    let api: Api<Node> = Api::all(client.clone());
    shutdown
        .run_until_cancelled(async {
            loop {
                match try_register(&api, config, machine).await {
                    Ok(node) => {
                        info!(node = %config.node_name, "registered");
                        return node;
                    }
                    Err(error) => {
                        warn!(node = %config.node_name, %error, "cannot register the node, trying again");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        })
        .await
}

async fn try_register(api: &Api<Node>, config: &Config, machine: &Machine) -> kube::Result<Node> {
    let name = &config.node_name;
    let now = Timestamp::now();
    let node = match api.get_opt(name).await? {
        Some(node) => {
            let patch = json!({"metadata": {"labels": labels(config)}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| node)?
        }
        None => {
            let cidrs: Vec<String> = config.pod_cidrs.iter().map(ToString::to_string).collect();
            let spec = NodeSpec {
                pod_cidr: cidrs.first().cloned(),
                pod_cidrs: (!cidrs.is_empty()).then_some(cidrs),
                ..NodeSpec::default()
            };
            let metadata =
                ObjectMeta { name: Some(name.clone()), labels: Some(labels(config)), ..ObjectMeta::default() };
            let node = Node { metadata, spec: Some(spec), status: Some(status(config, machine, None, now)) };
            api.create(&PostParams::default(), &node).await?
        }
    };
    write_status(api, config, machine, Some(&node), now).await
}

async fn write_status(
    api: &Api<Node>,
    config: &Config,
    machine: &Machine,
    old: Option<&Node>,
    now: Timestamp,
) -> kube::Result<Node> {
    let mut patch = json!({"status": status(config, machine, old, now)});
    // The list merges by type, and a dual-stack node has two addresses of one type: it is sent as a whole, as the kubelet does.
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    api.patch_status(&config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// Renews the Lease and keeps the status true, until the agent ends. A node that was deleted is registered again.
pub(crate) async fn keep(node: &Context, machine: &Machine, registered: Node) {
    let config = &node.config;
    node.recorder.node(&config.node_name, Kind::Normal, "Starting", "Starting kubelet.");
    let ready = format!("Node {} status is now: NodeReady", config.node_name);
    node.recorder.node(&config.node_name, Kind::Normal, "NodeReady", ready);
    let mut written = Written { at: Instant::now(), images: images(config) };
    let (mut renewed, mut looked) = (Instant::now(), Instant::now());
    loop {
        node.drain.silence.asked();
        let answer = renew(node, &registered).await;
        if matches!(answer, Ok(()) | Err(kube::Error::Api(_))) {
            node.drain.silence.answered();
        }
        match answer {
            Ok(()) => {
                // Whoever watches Leases may have given the node up meanwhile.
                let late = renewed.elapsed() >= LEASE;
                renewed = Instant::now();
                if late || looked.elapsed() >= LOOK_EVERY {
                    looked = renewed;
                    look(node, machine, &mut written).await;
                }
            }
            Err(error) => {
                warn!(node = %config.node_name, %error, "lease not renewed, trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// What was last said in the status.
struct Written {
    at: Instant,
    images: Vec<ContainerImage>,
}

/// Writes the status if it is due, if there is news, or if somebody else has doubted that the node is ready.
async fn look(node: &Context, machine: &Machine, written: &mut Written) {
    let config = &node.config;
    let api: Api<Node> = Api::all(node.client.clone());
    let current = match api.get_opt(&config.node_name).await {
        Ok(Some(current)) => current,
        Ok(None) => return drop(register(config, machine, &node.client, &node.shutdown).await),
        Err(error) => return warn!(node = %config.node_name, %error, "node not read"),
    };
    let images_now = images(config);
    if written.at.elapsed() < STATUS_EVERY && images_now == written.images && says_ready(&current) {
        return;
    }
    match write_status(&api, config, machine, Some(&current), Timestamp::now()).await {
        Ok(_) => *written = Written { at: Instant::now(), images: images_now },
        Err(error) => warn!(node = %config.node_name, %error, "node status not written"),
    }
}

fn says_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn renew(node: &Context, owner: &Node) -> kube::Result<()> {
    let api: Api<Lease> = Api::namespaced(node.client.clone(), LEASES);
    let name = &node.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE.as_secs(), "renewTime": now}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(refused)) if refused.code == 404 => {}
        other => return other.map(drop),
    }
    let reference = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: owner.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read() {
        assert_eq!(memory_kib("MemFree: 5 kB\nMemTotal:       24622392 kB\n"), 24_622_392);
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), Some("Debian GNU/Linux 12"));
        let machine = Machine::read(110);
        assert!(machine.capacity.contains_key("cpu") && machine.allocatable.contains_key("memory"));
        assert_eq!((&*machine.capacity["pods"].0, &*machine.allocatable["pods"].0), ("110", "110"));
    }

    #[test]
    fn a_condition_keeps_its_transition_time() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut node = Node { status: Some(NodeStatus::default()), ..Node::default() };
        node.status.as_mut().unwrap().conditions = Some(conditions(None, at(1000)));
        let later = conditions(Some(&node), at(2000));
        assert!(later.iter().all(|c| c.last_transition_time == Some(time(at(1000)))));
        assert!(later.iter().all(|c| c.last_heartbeat_time == Some(time(at(2000)))));
    }
}
