//! Tables: what each rule says in upstream's words, and that decisions never overfill a node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Cluster, PodState, Verdict, decide};

fn node(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": "ssd"}}, "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}});
    change(&mut node);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<PodState> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]}});
    change(&mut pod);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    Arc::new(PodState::new(Arc::new(pod)))
}

fn cluster(nodes: &[Arc<Node>]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|node| cluster.set_node(Arc::clone(node)));
    cluster
}

fn check(cluster: &Cluster, pod: &PodState, expected: &str) {
    assert_eq!(decide(pod, cluster).to_string(), expected);
}

fn requests(cpu: &str, memory: &str) -> impl FnOnce(&mut Value) {
    let requests = json!({"cpu": cpu, "memory": memory});
    move |pod| pod["spec"]["containers"][0]["resources"] = json!({"requests": requests})
}

#[test]
fn without_nodes_there_is_no_place() {
    check(&Cluster::default(), &pod("a", |_| {}), "no nodes available to schedule pods");
}

#[test]
fn each_reason_has_upstreams_words() {
    let plain = || node("n1", |_| {});
    let table: Vec<(Arc<Node>, Arc<PodState>, &str)> = vec![
        (plain(), pod("a", requests("3", "1Gi")), "1 Insufficient cpu"),
        (plain(), pod("a", requests("3", "8Gi")), "1 Insufficient cpu, 1 Insufficient memory"),
        (
            node("n1", |node| node["spec"]["unschedulable"] = json!(true)),
            pod("a", |_| {}),
            "1 node(s) were unschedulable",
        ),
        (
            node("n1", |node| node["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}])),
            pod("a", |_| {}),
            "1 node(s) had untolerated taint(s)",
        ),
        (
            plain(),
            pod("a", |pod| pod["spec"]["nodeSelector"] = json!({"disk": "tape"})),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (node("n1", |node| node["status"]["allocatable"]["pods"] = json!("0")), pod("a", |_| {}), "1 Too many pods"),
    ];
    for (node, pod, expected) in table {
        check(&cluster(&[node]), &pod, &format!("0/1 nodes are available: {expected}."));
    }
}

#[test]
fn reasons_are_counted_over_nodes() {
    let tainted = node("n1", |node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]));
    let cluster = cluster(&[tainted, node("n2", |_| {}), node("n3", |_| {})]);
    let expected = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.";
    check(&cluster, &pod("a", requests("9", "1Gi")), expected);
}

#[test]
fn taints_are_tolerated_by_key_value_and_effect() {
    let tainted =
        node("n1", |node| node["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]));
    let cluster = cluster(&[tainted]);
    let table = [
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"key": "k", "value": "v"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), false),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "j", "operator": "Exists"}), false),
    ];
    for (toleration, fits) in table {
        let pod = pod("a", |pod| pod["spec"]["tolerations"] = json!([toleration]));
        assert_eq!(matches!(decide(&pod, &cluster), Verdict::Node(_)), fits, "{toleration}");
    }
}

#[test]
fn node_affinity_has_operators() {
    let cluster = cluster(&[node("n1", |node| node["metadata"]["labels"]["gen"] = json!("7"))]);
    let table = [("In", json!(["ssd"]), "disk", true), ("NotIn", json!(["ssd"]), "disk", false)];
    let table = table.into_iter().chain([
        ("Exists", json!([]), "disk", true),
        ("DoesNotExist", json!([]), "disk", false),
        ("NotIn", json!(["x"]), "absent", true),
        ("Gt", json!(["6"]), "gen", true),
        ("Lt", json!(["7"]), "gen", false),
    ]);
    for (operator, values, key, fits) in table {
        let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
        let pod = pod("a", |pod| pod["spec"]["affinity"] = json!({"nodeAffinity": required}));
        assert_eq!(matches!(decide(&pod, &cluster), Verdict::Node(_)), fits, "{key} {operator} {values}");
    }
}

#[test]
fn host_ports_are_taken_once_a_node() {
    let ports =
        |pod: &mut Value| pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    let mut cluster = cluster(&[node("n1", |_| {})]);
    cluster.place(pod("a", ports), "n1");
    let expected = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    check(&cluster, &pod("b", ports), expected);
}

fn anti(pod: &mut Value) {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    pod["spec"]["affinity"]["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
}

fn near(pod: &mut Value) {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    pod["spec"]["affinity"]["podAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
}

#[test]
fn anti_affinity_holds_both_ways() {
    let mut cluster = cluster(&[node("n1", |_| {}), node("n2", |_| {})]);
    cluster.place(pod("a", anti), "n1");
    check(&cluster, &pod("b", |_| {}), "n2");
    cluster.place(pod("b", |_| {}), "n2");
    let expected = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    check(&cluster, &pod("c", anti), expected);
    let expected = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
    cluster.remove_node("n2");
    check(&cluster, &pod("c", |_| {}), expected);
}

#[test]
fn affinity_seeks_its_like_and_may_start_alone() {
    let mut cluster = cluster(&[node("n1", |_| {}), node("n2", |_| {})]);
    assert!(matches!(decide(&pod("a", near), &cluster), Verdict::Node(_)), "the first of its kind starts anywhere");
    cluster.place(pod("a", near), "n2");
    check(&cluster, &pod("b", near), "n2");
    let stranger = pod("c", |pod| {
        near(pod);
        pod["metadata"]["namespace"] = json!("elsewhere");
        pod["metadata"]["labels"] = json!({});
    });
    check(&cluster, &stranger, "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
}

#[test]
fn pods_in_place_have_wishes_about_newcomers() {
    let wish = |kind: &'static str| {
        move |pod: &mut Value| {
            let selector = json!({"matchLabels": {"app": "web"}});
            let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": selector});
            let weighted = json!([{"weight": 7, "podAffinityTerm": term}]);
            pod["spec"]["affinity"][kind] = json!({"preferredDuringSchedulingIgnoredDuringExecution": weighted});
        }
    };
    let stranger = |name: &str| pod(name, |pod| pod["metadata"]["labels"] = json!({"app": "other"}));
    let nodes = [node("n1", |_| {}), node("n2", |_| {})];
    // It is with whom it may not be alone, or wants to be, though the other node is emptier.
    for liking in [pod("a", wish("podAffinity")), pod("a", near)] {
        let mut cluster = cluster(&nodes);
        cluster.place(liking, "n1");
        check(&cluster, &pod("b", |_| {}), "n1");
        check(&cluster, &stranger("c"), "n2");
        cluster.remove("a");
        cluster.place(stranger("d"), "n1");
        check(&cluster, &pod("b", |_| {}), "n2");
    }
    let mut cluster = cluster(&nodes);
    cluster.place(pod("a", wish("podAntiAffinity")), "n1");
    cluster.place(stranger("d"), "n2");
    cluster.place(stranger("e"), "n2");
    check(&cluster, &stranger("f"), "n1");
    check(&cluster, &pod("b", |_| {}), "n2");
}

#[test]
fn topology_spread_keeps_the_skew() {
    let zone = |name: &str, zone: &str| {
        let zone = zone.to_owned();
        node(name, move |node| node["metadata"]["labels"]["zone"] = json!(zone))
    };
    let spread = |pod: &mut Value| {
        pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    };
    let mut cluster = cluster(&[zone("n1", "a"), zone("n2", "b"), node("n3", |_| {})]);
    cluster.place(pod("a", spread), "n1");
    check(&cluster, &pod("b", spread), "n2");
    cluster.remove_node("n2");
    cluster.set_node(zone("n2", "b"));
    cluster.set_node(node("n2", |node| {
        node["metadata"]["labels"]["zone"] = json!("b");
        node["spec"]["unschedulable"] = json!(true);
    }));
    let expected = "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
        1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable.";
    check(&cluster, &pod("b", spread), expected);
}

#[test]
fn init_containers_and_sidecars_count_as_they_run() {
    let pod = pod("a", |pod| {
        let ask = |cpu: &str| json!({"requests": {"cpu": cpu}});
        pod["spec"]["containers"] = json!([{"name": "c", "resources": ask("500m")}]);
        pod["spec"]["initContainers"] = json!([{"name": "s", "restartPolicy": "Always", "resources": ask("200m")},
            {"name": "i", "resources": ask("1")}]);
        pod["spec"]["overhead"] = json!({"cpu": "10m"});
    });
    assert_eq!(pod.requests.get("cpu"), 1210);
}

#[test]
fn the_emptier_node_is_better_and_siblings_spread() {
    let mut cluster = cluster(&[node("n1", |_| {}), node("n2", |_| {})]);
    check(&cluster, &pod("a", requests("1", "1Gi")), "n1");
    cluster.place(pod("a", requests("1", "1Gi")), "n1");
    check(&cluster, &pod("b", requests("100m", "1Gi")), "n2");
    let owned = |pod: &mut Value| {
        let owner = json!({"apiVersion": "v1", "kind": "R", "name": "r", "uid": "r", "controller": true});
        pod["metadata"]["ownerReferences"] = json!([owner]);
    };
    cluster.place(pod("c", owned), "n2");
    cluster.place(pod("d", |_| {}), "n1");
    check(&cluster, &pod("e", owned), "n1");
}

#[test]
fn a_nominated_node_is_taken_if_it_can_take_the_pod() {
    let mut cluster = cluster(&[node("n1", |_| {}), node("n2", |_| {})]);
    let nominated = |pod: &mut Value| pod["status"] = json!({"nominatedNodeName": "n2"});
    check(&cluster, &pod("a", nominated), "n2");
    cluster.place(pod("b", requests("2", "1Gi")), "n2");
    let asking = pod("a", |pod| {
        nominated(pod);
        requests("1", "1Gi")(pod);
    });
    check(&cluster, &asking, "n1");
}

#[test]
fn spreading_is_a_wish_where_it_is_not_a_must() {
    let zoned = |name: &str, zone: &'static str| {
        node(name, move |node| {
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
        })
    };
    let mut cluster = cluster(&[
        zoned("n1", "a"),
        zoned("n2", "a"),
        zoned("n3", "b"),
        node("n4", |node| node["spec"]["unschedulable"] = json!(true)),
    ]);
    let owner = json!([{"apiVersion": "v1", "kind": "R", "name": "r", "uid": "r", "controller": true}]);
    let owned = |pod: &mut Value| pod["metadata"]["ownerReferences"] = owner.clone();
    cluster.place(pod("a", owned), "n1");
    // A node of the other zone is better than another node of this one, though the latter is as empty.
    check(&cluster, &pod("b", owned), "n3");
    let wish = |key: &'static str| {
        move |pod: &mut Value| {
            pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        }
    };
    check(&cluster, &pod("c", wish("topology.kubernetes.io/zone")), "n3");
    cluster.place(pod("d", |_| {}), "n3");
    cluster.place(pod("e", |_| {}), "n3");
    check(&cluster, &pod("c", wish("topology.kubernetes.io/zone")), "n2");
}

proptest! {
    #[test]
    fn no_node_is_ever_overfilled(asks in prop::collection::vec(1..1500_i64, 1..40), nodes in 1..4_usize) {
        let all: Vec<Arc<Node>> = (0..nodes).map(|number| node(&format!("n{number}"), |_| {})).collect();
        let mut cluster = cluster(&all);
        for (number, ask) in asks.iter().enumerate() {
            let pod = pod(&format!("p{number}"), requests(&format!("{ask}m"), "1Mi"));
            match decide(&pod, &cluster) {
                Verdict::Node(name) => cluster.place(pod, &name),
                Verdict::Nowhere { .. } => {
                    let free = cluster.nodes().map(|node| 2000 - node.requested.get("cpu")).max().unwrap();
                    prop_assert!(free < *ask, "there was room: {free} for {ask}");
                }
            }
        }
        for node in cluster.nodes() {
            prop_assert!(node.requested.get("cpu") <= 2000);
        }
    }
}
