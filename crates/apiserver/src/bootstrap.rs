//! What every cluster has: made at the start when absent, left alone otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::allocate::cidrs::OWN;
use crate::error::Error;
use crate::kinds::find;
use crate::update::{Part, Replace, update};
use crate::write::WriteOptions;
use crate::{Server, create, object, policy};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(crate) async fn bootstrap(server: &Server) -> Result<(), Error> {
    let namespaces = NAMESPACES.map(|name| (("", "v1", "namespaces"), json!({"metadata": {"name": name}})));
    let classes = [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ]
    .map(|(name, value, description)| {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        (("scheduling.k8s.io", "v1", "priorityclasses"), class)
    });
    let range = [(("networking.k8s.io", "v1", "servicecidrs"), service_cidr(server))];
    // All at once, so that the first start pays for few commits.
    let all = namespaces.into_iter().chain(classes).chain(range);
    futures::future::try_join_all(all.map(|(kind, object)| ensure(server, kind, "", object))).await?;
    let account = json!({"metadata": {"name": "default"}});
    let accounts =
        NAMESPACES.map(|namespace| ensure(server, ("", "v1", "serviceaccounts"), namespace, account.clone()));
    let policy = policy::objects().map(|(kind, namespace, object)| policy(server, kind, namespace, object));
    futures::try_join!(
        futures::future::try_join_all(accounts),
        futures::future::try_join_all(policy),
        put(server, ("", "v1", "configmaps"), "kube-system", authentication(server)),
    )?;
    crate::auth::aggregate::settle(server).await.map_err(|fault| Error::Bootstrap(fault.0.message))?;
    kubernetes_service(server).await
}

/// What a server that stands behind this one must know to trust its callers: the authority of client certificates.
fn authentication(server: &Server) -> Value {
    json!({
        "metadata": {"name": "extension-apiserver-authentication"},
        "data": {"client-ca-file": server.pki.ca_pem},
    })
}

/// Makes a role or binding of the policy, or completes the one of its name.
async fn policy(
    server: &Server,
    resource: policy::Resource,
    namespace: &'static str,
    wanted: Value,
) -> Result<(), Error> {
    let (group, version, plural) = resource;
    let Some(kind) = find(group, version, plural) else { return Ok(()) };
    let name = object::name(&wanted).to_owned();
    if server.store.get(&object::key(kind, namespace, &name)).is_none() {
        return ensure(server, resource, namespace, wanted).await;
    }
    let edit = |old: &Value| Ok(policy::completed(old, &wanted).unwrap_or_else(|| old.clone()));
    match update(server, kind, (namespace, &name), Part::Whole, &edit, &WriteOptions::own()).await {
        Ok(_) => Ok(()),
        Err(fault) => Err(Error::Bootstrap(fault.0.message)),
    }
}

fn service_cidr(server: &Server) -> Value {
    let cidrs: Vec<String> = server.config.service_cidrs.iter().map(ToString::to_string).collect();
    json!({
        "metadata": {"name": OWN},
        "spec": {"cidrs": cidrs},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "lastTransitionTime": object::now(),
            "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
        }]},
    })
}

/// What the server puts back when someone took it away.
pub(crate) async fn keep(server: &Server) -> Result<(), Error> {
    ensure(server, ("networking.k8s.io", "v1", "servicecidrs"), "", service_cidr(server)).await?;
    kubernetes_service(server).await
}

/// Service `default/kubernetes` at the first address, with its Endpoints and EndpointSlice: this server itself.
async fn kubernetes_service(server: &Server) -> Result<(), Error> {
    let Some(first) = server.config.service_cidrs.first().and_then(first_address) else { return Ok(()) };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first.to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.advertise_port}],
        },
    });
    ensure(server, ("", "v1", "services"), "default", service).await?;
    let addresses: Vec<String> = server
        .config
        .advertise_addresses
        .iter()
        // No pod reaches a loopback address, and Endpoints refuse one.
        .filter(|a| a.is_ipv4() == first.is_ipv4() && !a.is_loopback())
        .map(ToString::to_string)
        .collect();
    if addresses.is_empty() {
        return Ok(());
    }
    let port = server.config.advertise_port;
    let subset = json!({
        "addresses": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<Value>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [subset],
    });
    put(server, ("", "v1", "endpoints"), "default", endpoints).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if first.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect::<Vec<Value>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put(server, ("discovery.k8s.io", "v1", "endpointslices"), "default", slice).await
}

pub(crate) fn first_address(net: &IpNet) -> Option<IpAddr> {
    match net.network() {
        IpAddr::V4(base) => Some(IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(1)?))),
        IpAddr::V6(base) => Some(IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(1)?))),
    }
}

/// Creates an object, or makes the one of its name the same.
async fn put(
    server: &Server,
    (group, version, plural): (&str, &str, &str),
    namespace: &str,
    object: Value,
) -> Result<(), Error> {
    let Some(kind) = find(group, version, plural) else { return Ok(()) };
    let name = object::name(&object).to_owned();
    let edit = Replace { kind, object, may_create: true };
    match update(server, kind, (namespace, &name), Part::Whole, &edit, &WriteOptions::own()).await {
        Ok(_) => Ok(()),
        Err(fault) => Err(Error::Bootstrap(fault.0.message)),
    }
}

/// Creates an object unless there is one of its name.
pub(crate) async fn ensure(
    server: &Server,
    (group, version, plural): (&str, &str, &str),
    namespace: &str,
    object: Value,
) -> Result<(), Error> {
    let Some(kind) = find(group, version, plural) else { return Ok(()) };
    if server.store.get(&object::key(kind, namespace, object::name(&object))).is_some() {
        return Ok(());
    }
    match create::create(server, kind, (namespace, None), object, false, &WriteOptions::own()).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.is("AlreadyExists") => Ok(()),
        Err(fault) => Err(Error::Bootstrap(fault.0.message)),
    }
}
