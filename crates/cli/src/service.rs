//! `portolan service NAME`: where a Service answers, as a table of working URLs.
//!
//! Every address is reachable from the machine itself, so there is no tunnel to keep open: the external address of a load balancer if there
//! is one, else node ports on the node's address, other ports on the cluster IP. A Service that cannot answer says so, and why.

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IngressClass;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use thiserror::Error;

use crate::table;

/// The condition by which the load balancer says why an address is pending.
const ADDRESS_ASSIGNED: &str = "portolan.dev/AddressAssigned";
/// The annotation of an IngressClass that says at which port of the machine HTTP Services have names.
pub const NAMES_PORT: &str = "portolan.dev/names-port";

/// Why a Service's addresses could not be told.
#[derive(Debug, Error)]
pub enum Error {
    #[error("service `{name}` was not found in namespace `{namespace}`{}", near_misses(.near))]
    NotFound { namespace: String, name: String, near: Vec<String> },
    #[error("cannot ask the API server\n  hint: `portolan status` says whether the cluster is running")]
    Ask(#[from] kube::Error),
}

fn near_misses(near: &[String]) -> String {
    match near {
        [] => "\n  hint: `kubectl get services --all-namespaces` lists what there is".to_owned(),
        names => format!("\n  hint: did you mean {}?", names.join(", ")),
    }
}

/// What to print and what to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub table: String,
    /// Of the ports, in their order; the name on the machine is in the table alone.
    pub urls: Vec<String>,
    /// Why the Service would not answer now; empty when it would.
    pub trouble: Option<String>,
    /// Why a Service of type LoadBalancer has no external address; the URLs are others' then.
    pub pending: Option<String>,
}

/// Asks the API server where `name` answers.
///
/// # Errors
/// [`Error::NotFound`] with names that are near, or the API server's own error.
pub async fn addresses(client: Client, namespace: &str, name: &str) -> Result<Addresses, Error> {
    let Some(service) = Api::<Service>::namespaced(client.clone(), namespace).get_opt(name).await? else {
        let all = Api::<Service>::all(client).list(&ListParams::default()).await?;
        let known = all.items.iter().map(|s| (s.namespace().unwrap_or_default(), s.name_any()));
        let near = near_names(namespace, name, known);
        return Err(Error::NotFound { namespace: namespace.to_owned(), name: name.to_owned(), near });
    };
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace).list(&of_service).await?;
    let pods = match selector(&service) {
        Some(labels) => {
            Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default().labels(&labels)).await?.items
        }
        None => Vec::new(),
    };
    let classes = Api::<IngressClass>::all(client).list(&ListParams::default()).await;
    let names_port = classes.ok().and_then(|classes| classes.items.iter().find_map(names_port));
    Ok(describe(&service, &nodes.items, &slices.items, &pods, names_port))
}

fn selector(service: &Service) -> Option<String> {
    let labels = service.spec.as_ref()?.selector.as_ref()?;
    Some(labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","))
}

fn names_port(class: &IngressClass) -> Option<u16> {
    class.metadata.annotations.as_ref()?.get(NAMES_PORT)?.parse().ok()
}

/// Draws the table; pure. With the port where Services have names, an HTTP Service has a URL that a person remembers.
pub fn describe(
    service: &Service,
    nodes: &[Node],
    slices: &[EndpointSlice],
    pods: &[Pod],
    names_port: Option<u16>,
) -> Addresses {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.clone().unwrap_or_default();
    let urls: Vec<String> = ports.iter().filter_map(|port| url(service, port, nodes)).collect();
    let targets: Vec<String> = ports.iter().map(target).collect();
    let namespace = service.namespace().unwrap_or_default();
    let name = names_port.filter(|_| service_model::http_port(service).is_some());
    let name = name.map(|port| format!("http://{}.{namespace}.localhost:{port}", service.name_any()));
    let all: Vec<String> = urls.iter().cloned().chain(name).collect();
    let shown = if all.is_empty() { vec!["No URL".to_owned()] } else { all };
    let row = vec![vec![namespace], vec![service.name_any()], targets, shown];
    let table = table::draw(&["NAMESPACE", "NAME", "TARGET PORT", "URL"], &[row]);
    Addresses { table, urls, trouble: trouble(service, slices, pods), pending: pending(service) }
}

fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// The first address, or the first name, that a load balancer gave.
fn external(service: &Service) -> Option<String> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    is_balanced(service).then(|| ingress.ip.clone().or_else(|| ingress.hostname.clone())).flatten()
}

fn pending(service: &Service) -> Option<String> {
    if !is_balanced(service) || external(service).is_some() {
        return None;
    }
    let mut conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let said = conditions.find(|condition| condition.type_ == ADDRESS_ASSIGNED && condition.status == "False");
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.clone());
    Some(match (said, class) {
        (Some(condition), _) => condition.message.replacen("; hint:", "\n  hint:", 1),
        (None, Some(class)) => format!("nobody has given it one yet; its class is `{class}`"),
        (None, None) => "nobody has given it one yet".to_owned(),
    })
}

/// The port as minikube names it: `name/port`, or the port alone.
fn target(port: &ServicePort) -> String {
    port.name.as_ref().map_or_else(|| port.port.to_string(), |name| format!("{name}/{}", port.port))
}

fn url(service: &Service, port: &ServicePort, nodes: &[Node]) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let (host, number) = match (port.node_port, spec.cluster_ip.as_deref()) {
        (Some(node_port), _) if node_port != 0 => (nodes.iter().find_map(internal_address)?, node_port),
        (_, Some("" | "None") | None) => return None,
        (_, Some(cluster_ip)) => (cluster_ip.to_owned(), port.port),
    };
    let (host, number) = external(service).map_or((host, number), |external| (external, port.port));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Some(format!("{}://{host}:{number}", scheme(port)))
}

/// Names say what a port speaks (`https`, `stomp`); TCP that says nothing is shown as `http`, as minikube does.
fn scheme(port: &ServicePort) -> &'static str {
    let said = port.app_protocol.as_deref().or(port.name.as_deref()).unwrap_or_default();
    match (port.protocol.as_deref(), said) {
        (Some("UDP"), _) => "udp",
        (Some("SCTP"), _) => "sctp",
        (_, "https") => "https",
        (_, "stomp") => "stomp",
        (_, "grpc") => "grpc",
        (_, _) if port.port == 443 => "https",
        (_, _) => "http",
    }
}

fn internal_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|address| address.type_ == "InternalIP").map(|address| address.address.clone())
}

fn trouble(service: &Service, slices: &[EndpointSlice], pods: &[Pod]) -> Option<String> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default();
        return Some(format!("it is an ExternalName: only a DNS alias inside the cluster, for `{target}`"));
    }
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false))).count();
    if ready > 0 {
        return None;
    }
    let Some(labels) = selector(service) else {
        return Some("it has no selector and no ready endpoint\n  hint: write an EndpointSlice for it".to_owned());
    };
    let why = match pods {
        [] => format!("no pod has the labels `{labels}`\n  hint: compare with `kubectl get pods --show-labels`"),
        [pod] => format!("{}\n  hint: `kubectl describe pod {}`", not_ready(pod), pod.name_any()),
        [pod, ..] => {
            format!("none of {} pods is ready: {}\n  hint: `kubectl get pods -l {labels}`", pods.len(), not_ready(pod))
        }
    };
    Some(format!("it has no ready endpoint: {why}"))
}

fn not_ready(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some([waiting.reason.clone(), waiting.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": "))
    });
    let reason = waiting.or(status.reason).or(status.phase).unwrap_or_else(|| "not started yet".to_owned());
    format!("pod `{}` is not ready ({reason})", pod.name_any())
}

/// Names that the writer may have meant: nearly the same here, or the same in another namespace.
fn near_names(namespace: &str, name: &str, known: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut near: Vec<(usize, String)> = known
        .filter_map(|(its_namespace, its_name)| {
            let distance = strsim::damerau_levenshtein(name, &its_name);
            let close = distance <= 1 + name.len() / 4 || its_name.contains(name) || name.contains(&its_name);
            let here = its_namespace == namespace;
            let shown = if here { format!("`{its_name}`") } else { format!("`{its_name} -n {its_namespace}`") };
            (close && (here || distance == 0)).then_some((distance, shown))
        })
        .collect();
    near.sort();
    near.into_iter().map(|(_, shown)| shown).take(3).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus, ServiceSpec};
    use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use kube::core::ObjectMeta;

    use super::*;

    fn port(name: &str, number: i32, node_port: Option<i32>) -> ServicePort {
        let target_port = Some(IntOrString::Int(number));
        ServicePort { name: Some(name.to_owned()), port: number, node_port, target_port, ..ServicePort::default() }
    }

    fn service(ports: Vec<ServicePort>) -> Service {
        let selector = Some([("app".to_owned(), "activemq".to_owned())].into());
        let cluster_ip = Some("10.96.4.7".to_owned());
        let spec = ServiceSpec { ports: Some(ports), cluster_ip, selector, ..ServiceSpec::default() };
        let metadata = ObjectMeta {
            name: Some("activemq-service".into()),
            namespace: Some("default".into()),
            ..ObjectMeta::default()
        };
        Service { metadata, spec: Some(spec), status: None }
    }

    fn node() -> Node {
        let address = NodeAddress { type_: "InternalIP".into(), address: "192.168.94.2".into() };
        let status = NodeStatus { addresses: Some(vec![address]), ..NodeStatus::default() };
        Node { status: Some(status), ..Node::default() }
    }

    fn slice(ready: bool) -> EndpointSlice {
        let conditions = Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() });
        let endpoint = Endpoint { addresses: vec!["10.244.0.5".into()], conditions, ..Endpoint::default() };
        EndpointSlice { endpoints: Some(vec![endpoint]), ..EndpointSlice::default() }
    }

    #[test]
    fn node_ports_are_shown_on_the_node_and_others_on_the_cluster_ip() {
        let ports = vec![port("http", 8161, Some(30161)), port("stomp", 61613, None)];
        let shown = describe(&service(ports), &[node()], &[slice(true)], &[], None);
        let expected = "\
|-----------|------------------|-------------|---------------------------|
| NAMESPACE |       NAME       | TARGET PORT |            URL            |
|-----------|------------------|-------------|---------------------------|
| default   | activemq-service | http/8161   | http://192.168.94.2:30161 |
|           |                  | stomp/61613 | stomp://10.96.4.7:61613   |
|-----------|------------------|-------------|---------------------------|
";
        assert_eq!(shown.table, expected);
        assert_eq!(shown.trouble, None);
    }

    #[test]
    fn an_external_address_comes_first_and_a_pending_one_is_explained() {
        let mut web = service(vec![port("http", 80, Some(30080))]);
        web.spec.as_mut().unwrap().type_ = Some("LoadBalancer".into());
        let shown = describe(&web, &[node()], &[slice(true)], &[], None);
        assert_eq!(shown.urls, ["http://192.168.94.2:30080"]);
        assert_eq!(shown.pending.as_deref(), Some("nobody has given it one yet"));
        let condition = serde_json::json!({
            "type": ADDRESS_ASSIGNED, "status": "False", "reason": "PoolExhausted", "lastTransitionTime": "2026-01-01T00:00:00Z",
            "message": "all are in use; hint: enlarge the pool"
        });
        web.status = serde_json::from_value(serde_json::json!({"conditions": [condition]})).ok();
        let pending = describe(&web, &[node()], &[slice(true)], &[], None).pending;
        assert_eq!(pending.as_deref(), Some("all are in use\n  hint: enlarge the pool"));
        web.status =
            serde_json::from_value(serde_json::json!({"loadBalancer": {"ingress": [{"ip": "192.168.94.200"}]}})).ok();
        let shown = describe(&web, &[node()], &[slice(true)], &[], None);
        assert_eq!((shown.urls, shown.pending), (vec!["http://192.168.94.200:80".to_owned()], None));
    }

    #[test]
    fn an_http_service_has_a_name_where_names_are_served() {
        let ports = || vec![port("http", 8161, None)];
        let shown = describe(&service(ports()), &[node()], &[slice(true)], &[], Some(8090));
        assert!(shown.table.contains("http://activemq-service.default.localhost:8090"), "{}", shown.table);
        assert_eq!(shown.urls, ["http://10.96.4.7:8161"]);
        let stomp = describe(&service(vec![port("stomp", 61613, None)]), &[node()], &[slice(true)], &[], Some(8090));
        assert!(!stomp.table.contains("localhost"), "{}", stomp.table);
    }

    #[test]
    fn a_service_without_ready_endpoints_says_why() {
        let web = service(vec![port("http", 80, None)]);
        let none = describe(&web, &[node()], &[slice(false)], &[], None).trouble.unwrap();
        assert!(none.contains("no pod has the labels `app=activemq`"), "{none}");
        let metadata = ObjectMeta { name: Some("activemq-0".into()), ..ObjectMeta::default() };
        let pod = Pod { metadata, ..Pod::default() };
        let waits = describe(&web, &[node()], &[slice(false)], &[pod], None).trouble.unwrap();
        assert!(waits.contains("pod `activemq-0` is not ready (not started yet)"), "{waits}");
    }

    #[test]
    fn near_misses_are_named() {
        let known = [("default", "activemq-service"), ("prod", "web"), ("default", "kubernetes")];
        let near = |name| near_names("default", name, known.iter().map(|(ns, n)| ((*ns).to_owned(), (*n).to_owned())));
        assert_eq!(near("activemq-servcie"), ["`activemq-service`"]);
        assert_eq!(near("activemq"), ["`activemq-service`"]);
        assert_eq!(near("web"), ["`web -n prod`"]);
        assert!(near("zookeeper").is_empty());
    }
}
