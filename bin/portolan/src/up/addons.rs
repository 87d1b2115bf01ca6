//! What a cluster has from the start besides the API server's own objects: the DNS Service and its endpoints.
//!
//! DNS stands behind an ordinary Service on the tenth address, with the node's own server as its only local endpoint, so that pods, the
//! machine and the proxy find it in the usual way.

use std::net::IpAddr;

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use crate::instance::NodeRecord;

const NAMESPACE: &str = "kube-system";
const DNS: &str = "kube-dns";
const DNS_IPV6: &str = "kube-dns-ipv6";

/// Makes or renews the objects; `dns` are the Service's addresses, IPv4 first.
pub async fn ensure(client: &kube::Client, dns: &[IpAddr], nodes: &[NodeRecord]) -> Result<()> {
    put(client, "", "v1", "Service", dns_service(dns)).await?;
    let v4 = nodes.iter().map(|node| (node, Some(IpAddr::V4(node.address))));
    put(client, "discovery.k8s.io", "v1", "EndpointSlice", dns_slice(DNS, "IPv4", v4)).await?;
    if dns.iter().any(IpAddr::is_ipv6) {
        let v6 = nodes.iter().map(|node| (node, node.address6.map(IpAddr::V6)));
        put(client, "discovery.k8s.io", "v1", "EndpointSlice", dns_slice(DNS_IPV6, "IPv6", v6)).await?;
    }
    Ok(())
}

fn dns_service(addresses: &[IpAddr]) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": DNS,
            "namespace": NAMESPACE,
            "labels": {"k8s-app": DNS, "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"}
        },
        "spec": {
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilies": addresses.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect::<Vec<_>>(),
            "ipFamilyPolicy": "PreferDualStack",
            "internalTrafficPolicy": "Local",
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]
        }
    })
}

/// The slice has no selector behind it: the servers are part of the nodes, not pods.
fn dns_slice<'a>(name: &str, family: &str, nodes: impl Iterator<Item = (&'a NodeRecord, Option<IpAddr>)>) -> Value {
    let endpoint = |(node, address): (&NodeRecord, Option<IpAddr>)| {
        Some(json!({
            "addresses": [address?],
            "nodeName": node.name,
            "conditions": {"ready": true, "serving": true, "terminating": false}
        }))
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": DNS, "endpointslice.kubernetes.io/managed-by": "portolan"}
        },
        "addressType": family,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"}
        ],
        "endpoints": nodes.filter_map(endpoint).collect::<Vec<_>>()
    })
}

/// Creates the object, or merges it into the one that is there.
async fn put(client: &kube::Client, group: &str, version: &str, kind: &str, object: Value) -> Result<()> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let name = object["metadata"]["name"].as_str().unwrap_or(DNS).to_owned();
    let failed = || format!("cannot make {kind} {NAMESPACE}/{name}");
    if api.get_opt(&name).await.with_context(failed)?.is_some() {
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await.with_context(failed)?;
    } else {
        let object = serde_json::from_value(object).with_context(failed)?;
        api.create(&PostParams::default(), &object).await.with_context(failed)?;
    }
    Ok(())
}
