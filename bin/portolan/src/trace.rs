//! `portolan trace`: where a packet to a Service goes, and which elements decide.
//!
//! Without more it asks the API server and says what the node's proxy would do, for any cluster and without root. `--kernel` walks the
//! rules that the kernel has; `-f` those for manifests.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use proxy::{Question, Ranges, plan, table_id, trace};
use serde_json::Value;
use service_model::{Model, NodeView, Protocol};

use crate::arguments::DataDir;
use crate::instance::Layout;
use crate::proxy::node_namespace;
use crate::render::{RangeOptions, objects};
use crate::terminal;

#[derive(Debug, Clone, Args)]
pub struct TraceOptions {
    /// Who sends: a pod (`NAME` or `NAMESPACE/NAME`), an address, or `node` for the node itself
    #[arg(long, value_name = "POD|ADDRESS|node")]
    pub from: String,
    /// Where to: `ADDRESS:PORT` or `SERVICE:PORT` (`NAMESPACE/SERVICE:PORT`), `/udp` or `/sctp` behind it if it is not TCP
    #[arg(long, value_name = "VIP:PORT")]
    pub to: String,
    /// The node whose rules decide [default: that of the pod, else the first]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Walk the rules that this machine's kernel has now
    #[arg(long, conflicts_with = "filename")]
    pub kernel: bool,
    /// Ask manifests instead of a cluster
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Cluster to ask [default: that of --data-dir if it runs here, else the current context]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub ranges: RangeOptions,
    #[command(flatten)]
    pub data: DataDir,
}

pub fn run(options: &TraceOptions) -> Result<()> {
    let known = known(options)?;
    let from = sender(options, &known)?;
    let (to, protocol) = destination(&options.to, &known)?;
    let question = Question { from: from.address, to, protocol, from_node: from.node_itself };
    let node = options.node.clone().or(from.node);
    let table = if options.kernel {
        let netns = node_namespace(node.as_deref(), &options.data.data_dir)?;
        let snapshot = netlink::NfTables::open(&netns)?.dump(&table_id())?;
        snapshot
            .table
            .context("this machine's kernel has no table `portolan`\n  hint: leave out --kernel to ask the cluster")?
    } else {
        let view = node_view(&known, node.as_deref())?;
        plan(&Model::build(&known.services, &known.slices, view), &ranges(options, &known)?)
    };
    terminal::text(trace(&table, &question));
    Ok(())
}

/// The objects that decide.
#[derive(Debug, Default)]
struct Known {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
}

fn known(options: &TraceOptions) -> Result<Known> {
    if !options.filename.is_empty() {
        return from_manifests(&objects(&options.filename)?);
    }
    // The kernel alone is asked: addresses need no cluster.
    let addresses = matches!(read_destination(&options.to)?, (Destination::Address(_), _));
    if options.kernel && addresses && options.from.parse::<IpAddr>().is_ok() {
        return Ok(Known::default());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(async {
        let ours = Layout::new(&options.data.data_dir)?.kubeconfig();
        // Not root: the file is there but not ours to read; the user's own kubeconfig has the context then.
        let ours = std::fs::File::open(&ours).is_ok().then_some(ours);
        let client = client::from_kubeconfig(options.kubeconfig.clone().or(ours).as_deref(), None).await?;
        from_cluster(client)
            .await
            .context("cannot ask the API server\n  hint: `portolan status` says whether the cluster is running")
    })
}

fn from_manifests(objects: &[Value]) -> Result<Known> {
    let mut known = Known::default();
    for object in objects {
        let mut object = object.clone();
        if object["metadata"].is_object() && object["metadata"]["namespace"].is_null() && object["kind"] != "Node" {
            object["metadata"]["namespace"] = "default".into();
        }
        match object["kind"].as_str().map(str::to_owned).as_deref() {
            Some("Service") => known.services.push(serde_json::from_value(object)?),
            Some("EndpointSlice") => known.slices.push(serde_json::from_value(object)?),
            Some("Node") => known.nodes.push(serde_json::from_value(object)?),
            Some("Pod") => known.pods.push(serde_json::from_value(object)?),
            Some(_) | None => {}
        }
    }
    Ok(known)
}

async fn from_cluster(client: Client) -> Result<Known> {
    let all = ListParams::default();
    Ok(Known {
        services: Api::all(client.clone()).list(&all).await?.items,
        slices: Api::all(client.clone()).list(&all).await?.items,
        nodes: Api::all(client.clone()).list(&all).await?.items,
        pods: Api::all(client).list(&all).await?.items,
    })
}

/// Who sends.
struct Sender {
    address: IpAddr,
    node: Option<String>,
    node_itself: bool,
}

fn sender(options: &TraceOptions, known: &Known) -> Result<Sender> {
    if options.from == "node" {
        let view = node_view(known, options.node.as_deref())?;
        let address = view.addresses.first().copied().context("the Node has no address")?;
        return Ok(Sender { address, node: Some(view.name.to_string()), node_itself: true });
    }
    let pod_node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let pod_address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()?.parse().ok());
    if let Ok(address) = options.from.parse::<IpAddr>() {
        let pod = known.pods.iter().find(|pod| pod_address(pod) == Some(address));
        let node = known.nodes.iter().find(|node| NodeView::parse(node).addresses.contains(&address));
        let name = pod.and_then(pod_node).or_else(|| node.map(ResourceExt::name_any));
        return Ok(Sender { address, node: name, node_itself: node.is_some() });
    }
    let (namespace, name) = options.from.split_once('/').unwrap_or(("default", &options.from));
    let named = |pod: &&Pod| pod.name_any() == name && pod.namespace().as_deref() == Some(namespace);
    let Some(pod) = known.pods.iter().find(named) else {
        bail!("pod `{name}` was not found in namespace `{namespace}`\n  hint: give NAMESPACE/NAME or an address");
    };
    let address = pod_address(pod).with_context(|| format!("pod `{name}` has no address yet"))?;
    Ok(Sender { address, node: pod_node(pod), node_itself: false })
}

/// What `--to` says.
#[derive(Debug, PartialEq, Eq)]
enum Destination<'a> {
    Address(SocketAddr),
    Service { name: &'a str, port: &'a str },
}

fn read_destination(text: &str) -> Result<(Destination<'_>, Protocol)> {
    let wrong = || format!("`{text}` is no destination\n  hint: give ADDRESS:PORT or SERVICE:PORT, and /udp or /sctp");
    let suffix = |protocol: &str| {
        text.len()
            .checked_sub(protocol.len())
            .filter(|at| text.is_char_boundary(*at) && text[*at..].eq_ignore_ascii_case(protocol))
    };
    let (place, protocol) = match (suffix("/tcp"), suffix("/udp"), suffix("/sctp")) {
        (Some(at), _, _) => (&text[..at], Protocol::Tcp),
        (_, Some(at), _) => (&text[..at], Protocol::Udp),
        (_, _, Some(at)) => (&text[..at], Protocol::Sctp),
        (None, None, None) => (text, Protocol::Tcp),
    };
    if let Ok(address) = place.parse() {
        return Ok((Destination::Address(address), protocol));
    }
    let (name, port) = place.rsplit_once(':').with_context(wrong)?;
    Ok((Destination::Service { name, port }, protocol))
}

fn destination(text: &str, known: &Known) -> Result<(SocketAddr, Protocol)> {
    let (service, port, protocol) = match read_destination(text)? {
        (Destination::Address(address), protocol) => return Ok((address, protocol)),
        (Destination::Service { name, port }, protocol) => (name, port, protocol),
    };
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    let named = |s: &&Service| s.name_any() == name && s.namespace().as_deref() == Some(namespace);
    let Some(found) = known.services.iter().find(named) else {
        bail!(
            "service `{name}` was not found in namespace `{namespace}`\n  hint: give NAMESPACE/NAME:PORT or ADDRESS:PORT"
        );
    };
    let spec = found.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.and_then(|ip| ip.parse().ok());
    let address: IpAddr = address.with_context(|| format!("service `{name}` has no cluster IP"))?;
    let of_name = spec.ports.iter().flatten().find(|p| p.name.as_deref() == Some(port));
    match (port.parse(), of_name) {
        (Ok(number), _) => Ok((SocketAddr::new(address, number), protocol)),
        (Err(_), Some(port)) => {
            let protocol = Protocol::parse(port.protocol.as_deref()).unwrap_or(protocol);
            Ok((SocketAddr::new(address, u16::try_from(port.port)?), protocol))
        }
        (Err(_), None) => bail!("service `{name}` has no port `{port}`"),
    }
}

fn node_view(known: &Known, name: Option<&str>) -> Result<NodeView> {
    let mut views = known.nodes.iter().map(NodeView::parse);
    match name {
        None => Ok(views.next().unwrap_or_default()),
        Some(name) => {
            let names: Vec<String> = known.nodes.iter().map(ResourceExt::name_any).collect();
            let missing = || format!("no Node `{name}`\n  hint: there are: {}", names.join(", "));
            views.find(|view| &*view.name == name).with_context(missing)
        }
    }
}

/// The flags' ranges; without them those of the cluster that runs here.
fn ranges(options: &TraceOptions, known: &Known) -> Result<Ranges> {
    let mut ranges = options.ranges.ranges();
    if let Some(record) = Layout::new(&options.data.data_dir)?.read().unwrap_or_default()
        && options.kubeconfig.is_none()
        && options.filename.is_empty()
        && ranges == Ranges::default()
    {
        ranges.cluster = record.pod_cidr.all();
        ranges.service = record.service_cidr.all();
    }
    if ranges.cluster.is_empty() {
        // What nodes were given says where pods are, as far as anyone told.
        let specs = known.nodes.iter().filter_map(|node| node.spec.as_ref());
        ranges.cluster = specs.flat_map(|s| s.pod_cidrs.iter().flatten()).filter_map(|r| r.parse().ok()).collect();
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read() {
        let address = |text: &str| Destination::Address(text.parse().unwrap());
        assert_eq!(read_destination("10.96.0.1:53/UDP").unwrap(), (address("10.96.0.1:53"), Protocol::Udp));
        assert_eq!(read_destination("[fd00::1]:80").unwrap(), (address("[fd00::1]:80"), Protocol::Tcp));
        let named = Destination::Service { name: "shop/web", port: "http" };
        assert_eq!(read_destination("shop/web:http/sctp").unwrap(), (named, Protocol::Sctp));
        assert!(read_destination("web").is_err());
    }
}
