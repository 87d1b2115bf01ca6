//! Addresses on a link of nodes and a host: given, announced, moved when a node goes, taken back; the host's kernel is the witness.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::IpAddr;

use lab::{Lab, current, until};
use serde_json::json;

const POOL: &str = "192.0.2.200-192.0.2.201,fd00:2::200-fd00:2::201";

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_given_and_answered_by_one_node_of_each_family() {
    let mut lab = Lab::new().await;
    lab.speak_all(&[POOL]);
    lab.service("web", json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}})).await;
    let addresses = lab.addresses("web", 2).await;
    assert_eq!(addresses, ["192.0.2.200".parse::<IpAddr>().unwrap(), "fd00:2::200".parse().unwrap()]);
    let service = lab.get("web").await;
    let ingress = service.status.unwrap().load_balancer.unwrap().ingress.unwrap();
    assert!(ingress.iter().all(|ingress| ingress.ip_mode.as_deref() == Some("VIP")));
    for address in addresses {
        let owner = lab.answered_by(address, "a b c").await;
        let held = lab
            .leases("address")
            .await
            .into_iter()
            .find(|(name, _)| name.contains("200") && name.contains("fd00") == address.is_ipv6());
        assert_eq!(held.unwrap().1, owner, "the Lease of {address} says who answers");
    }
    lab.delete("web").await;
    for address in ["192.0.2.200", "fd00:2::200"] {
        lab.silent(address.parse().unwrap()).await;
    }
    until("no Lease left", async || lab.leases("address").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_moves_when_its_node_goes_and_neighbours_learn_it_unasked() {
    let mut lab = Lab::new().await;
    lab.speak_all(&[POOL]);
    lab.service("web", json!({})).await;
    let address = lab.addresses("web", 1).await[0];
    let first = lab.answered_by(address, "a b c").await;
    // The cable is pulled: the node itself notices.
    lab.pull_cable(&first).await;
    let others = ["a", "b", "c"].into_iter().filter(|node| **node != first).collect::<Vec<_>>().join(" ");
    let second = lab.answered_by(address, &others).await;
    // It comes back and takes nothing back.
    lab.plug_in(&first).await;
    until("the first speaks again", async || (lab.leases("speaker").await.len() == 3).then_some(())).await;
    assert_eq!(lab.answered_by(address, "a b c").await, second);
    // Ended politely: the rest take over, and the host's kernel is told without asking.
    lab.stop(&second).await;
    let third = until("a new owner is remembered", async || {
        for node in ["a", "b", "c"].into_iter().filter(|node| *node != second) {
            let mac = lab.mac(node).await;
            if lab.remembered(address).contains(&mac) {
                return Some(node);
            }
        }
        None
    })
    .await;
    assert_eq!(lab.answered_by(address, "a b c").await, third);
    // Its Node is lost to the control plane while its speaker lives.
    lab.node(third, false).await;
    let left =
        ["a", "b", "c"].into_iter().filter(|node| *node != second && *node != third).collect::<Vec<_>>().join(" ");
    lab.answered_by(address, &left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_policy_local_only_a_node_with_an_endpoint_answers() {
    let mut lab = Lab::new().await;
    lab.endpoints("web", &[("b", true)]).await;
    lab.speak_all(&[POOL]);
    lab.service("web", json!({"spec": {"externalTrafficPolicy": "Local"}})).await;
    let address = lab.addresses("web", 1).await[0];
    assert_eq!(lab.answered_by(address, "a b c").await, "b");
    lab.endpoints("web", &[("b", false), ("c", true)]).await;
    lab.answered_by(address, "c").await;
    lab.endpoints("web", &[("b", false)]).await;
    lab.answered_by(address, "b").await;
    lab.endpoints("web", &[]).await;
    lab.silent(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_said_and_served_when_there_is_room() {
    let mut lab = Lab::new().await;
    lab.speak("a", &["192.0.2.200"]);
    lab.service("first", json!({})).await;
    let address = lab.addresses("first", 1).await[0];
    lab.service("second", json!({})).await;
    let condition = until("a condition", async || {
        let conditions = lab.get("second").await.status.unwrap().conditions.unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == "portolan.dev/AddressAssigned")
    })
    .await;
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "PoolExhausted"));
    assert!(condition.message.contains("hint: enlarge the pool"), "{}", condition.message);
    assert!(current(&lab.get("second").await).is_empty());
    lab.delete("first").await;
    assert_eq!(lab.addresses("second", 1).await, [address]);
    let conditions = lab.get("second").await.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].status, "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_no_address_and_a_changed_type_gives_it_back() {
    let mut lab = Lab::new().await;
    lab.speak("a", &[POOL]);
    lab.service("one", json!({})).await;
    lab.addresses("one", 1).await;
    lab.service("two", json!({})).await;
    let two = lab.addresses("two", 1).await;
    lab.delete("one").await;
    lab.stop("a").await;
    lab.speak("a", &[POOL]);
    // What is new is served beside what was there: the first free address is not the one that `two` has.
    lab.service("three", json!({})).await;
    let three = lab.addresses("three", 1).await;
    assert_eq!(lab.addresses("two", 1).await, two);
    assert_ne!(three, two);
    lab.service("two", json!({"spec": {"type": "ClusterIP"}})).await;
    lab.addresses("two", 0).await;
    lab.service("four", json!({})).await;
    assert_eq!(lab.addresses("four", 1).await, two);
}
