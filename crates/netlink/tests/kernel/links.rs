//! Links, addresses and routes in network namespaces of the test's own: a pod on a node, as the agent builds it.

use std::net::UdpSocket;
use std::path::PathBuf;

use linux::NetNs;
use netlink::links::{Links, Route, Via};

/// A namespace that goes away with the test.
struct Scratch(NetNs, PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("portolan-links-{}-{name}", std::process::id()));
        Scratch(NetNs::create(&path).unwrap(), path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        NetNs::delete_at(&self.1).unwrap();
    }
}

#[tokio::test]
async fn a_pod_is_reached_by_its_host_route() {
    let (node, pod) = (Scratch::new("node"), Scratch::new("pod"));
    let (on_node, in_pod) = (Links::open(&node.0).unwrap(), Links::open(&pod.0).unwrap());
    let gateway = "10.244.0.1/32".parse().unwrap();
    let address: ipnet::IpNet = "10.244.0.5/32".parse().unwrap();

    let host = on_node.add_veth_with("veth-a", "eth0", &pod.0, Some(1400)).await.unwrap();
    assert_eq!((host.kind.as_str(), host.mtu, host.up), ("veth", 1400, false));
    on_node.set_up(host.index).await.unwrap();
    on_node.ensure_address(host.index, gateway).await.unwrap();
    on_node.ensure_address(host.index, gateway).await.unwrap();
    on_node.add_route(&Route::link(address, host.index)).await.unwrap();
    on_node.set_alias(host.index, "pod default/web").await.unwrap();

    let eth0 = in_pod.link("eth0").await.unwrap();
    in_pod.set_up(eth0.index).await.unwrap();
    in_pod.add_address(eth0.index, address).await.unwrap();
    in_pod.add_route(&Route::link(gateway, eth0.index)).await.unwrap();
    in_pod.add_route(&Route::gateway("0.0.0.0/0".parse().unwrap(), gateway.addr())).await.unwrap();

    let server = pod.0.run(|| UdpSocket::bind("10.244.0.5:7")).unwrap().unwrap();
    let client = node.0.run(|| UdpSocket::bind("10.244.0.1:0")).unwrap().unwrap();
    client.send_to(b"hello", "10.244.0.5:7").unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(server.recv_from(&mut buffer).unwrap().0, 5);

    let routes = in_pod.routes(false).await.unwrap();
    assert!(routes.iter().any(|r| matches!(r.via, Via::Gateway { address, .. } if address == gateway.addr())));
    let host = on_node.link("veth-a").await.unwrap();
    assert_eq!((host.peer, host.alias.as_deref(), host.up), (Some(eth0.index), Some("pod default/web"), true));
    assert!(on_node.addresses().await.unwrap().iter().any(|a| a.address == gateway && a.index == host.index));
    assert!(on_node.delete_route(&Route::link(address, host.index)).await.unwrap());
    assert!(!on_node.delete_route(&Route::link(address, host.index)).await.unwrap());
    assert!(on_node.delete_link_named("veth-a").await.unwrap());
    assert!(!on_node.delete_link_named("veth-a").await.unwrap());
    assert!(in_pod.find_link("eth0").await.unwrap().is_none());
}

#[tokio::test]
async fn two_nodes_meet_on_a_bridge() {
    let (machine, one, two) = (Scratch::new("machine"), Scratch::new("one"), Scratch::new("two"));
    let links = Links::open(&machine.0).unwrap();
    let bridge = links.add_bridge("lan0").await.unwrap();
    links.set_up(bridge.index).await.unwrap();
    for (number, ns) in [(1, &one.0), (2, &two.0)] {
        let veth = links.add_veth(&format!("node{number}"), "uplink", ns).await.unwrap();
        links.set_bridge(veth.index, Some(bridge.index)).await.unwrap();
        links.set_up(veth.index).await.unwrap();
        let inside = Links::open(ns).unwrap();
        let uplink = inside.link("uplink").await.unwrap();
        inside.set_up(uplink.index).await.unwrap();
        inside.add_address(uplink.index, format!("172.30.0.{number}/24").parse().unwrap()).await.unwrap();
        let far = Route::onlink("10.9.0.0/16".parse().unwrap(), "192.0.2.1".parse().unwrap(), uplink.index);
        inside.add_route(&far).await.unwrap();
        assert!(inside.routes(false).await.unwrap().contains(&far));
        assert!(inside.add_route(&far).await.unwrap_err().already_exists());
        inside.replace_route(&far).await.unwrap();
    }
    assert_eq!(links.link("node1").await.unwrap().bridge, Some(bridge.index));
    let server = two.0.run(|| UdpSocket::bind("172.30.0.2:7")).unwrap().unwrap();
    let client = one.0.run(|| UdpSocket::bind("172.30.0.1:0")).unwrap().unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    client.send_to(b"hi", "172.30.0.2:7").unwrap();
    assert_eq!(server.recv_from(&mut [0; 16]).unwrap().0, 2);
}
