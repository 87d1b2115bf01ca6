//! The real kernel takes the table, gives it back unchanged, and the distribution's nft can list it.
#![allow(clippy::unwrap_used)]

#[path = "cluster/data.rs"]
#[allow(dead_code)]
mod data;

use std::process::Command;

use data::{Objects, scenarios};
use linux::NetNs;
use netlink::NfTables;
use nft::{Ruleset, diff};
use proxy::{Ranges, plan, table_id};
use serde_json::json;
use service_model::{Model, NodeView};

fn ranges() -> Ranges {
    Ranges {
        cluster: ["10.244.0.0/16", "fd00:10:244::/56"].map(|r| r.parse().unwrap()).into(),
        service: ["10.96.0.0/16", "fd00:10:96::/112"].map(|r| r.parse().unwrap()).into(),
        ..Ranges::default()
    }
}

/// All Services of all scenarios at once.
fn everything() -> Model {
    let mut objects = Objects::new();
    scenarios().iter().flat_map(|scenario| &scenario.objects).for_each(|object| objects.apply(object));
    let services: Vec<_> = objects.services.keys().map(|name| objects.service(name)).collect();
    let slices: Vec<_> = objects.slices.keys().map(|name| objects.slice(name)).collect();
    Model::build(&services, &slices, NodeView::parse(&objects.node("node1")))
}

#[test]
fn the_kernel_keeps_what_was_planned_and_nft_lists_it() {
    let place = tempfile::tempdir().unwrap();
    let netns = NetNs::create(place.path().join("ns")).unwrap();
    let mut kernel = NfTables::open(&netns).unwrap();
    let wanted = Ruleset { tables: [(table_id(), plan(&everything(), &ranges()))].into() };
    kernel.commit(&diff(&Ruleset::default(), &wanted)).unwrap();
    let actual = kernel.dump(&table_id()).unwrap().into_ruleset(table_id());
    let again = diff(&actual, &wanted);
    assert!(again.is_empty(), "{:#?}", again.ops.first());
    // Without nft on the machine there is nobody whose reading could break.
    if let Ok(listed) = netns.run(|| Command::new("nft").args(["list", "ruleset"]).output()).unwrap() {
        let text = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        assert!(text.contains("packets/clusterip-tcp-v4"), "{text}");
    }
    // What a person sees of the kernel's table is what was planned, and a cleanup leaves nothing.
    assert_eq!(proxy::dump(&netns).unwrap(), wanted.to_string());
    proxy::cleanup(&netns).unwrap();
    proxy::cleanup(&netns).unwrap();
    assert_eq!(proxy::dump(&netns).unwrap(), "");
    netns.delete().unwrap();
}

/// Larger than any socket buffer that the machine would give: the commit asks for room itself.
#[test]
fn fifty_thousand_services_are_one_transaction() {
    let address = |first: u8, n: u32| std::net::Ipv4Addr::from_bits(u32::from(first) << 24 | n);
    let objects = (0..50_000).map(|n| {
        let metadata = json!({"name": format!("web-{n}"), "namespace": "ns", "labels": {"kubernetes.io/service-name": format!("web-{n}")}});
        let endpoints = json!([{"addresses": [address(11, n * 2)]}, {"addresses": [address(11, n * 2 + 1)]}]);
        let service = json!({"metadata": metadata, "spec": {"clusterIP": address(10, n + 1), "ports": [{"port": 80}]}});
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints});
        (serde_json::from_value(service).unwrap(), serde_json::from_value(slice).unwrap())
    });
    let (services, slices): (Vec<_>, Vec<_>) = objects.unzip();
    let table = plan(&Model::build(&services, &slices, NodeView::default()), &ranges());
    let wanted = Ruleset { tables: [(table_id(), table)].into() };
    let batch = diff(&Ruleset::default(), &wanted);
    assert!(batch.elements() > 200_000, "{}", batch.elements());
    let place = tempfile::tempdir().unwrap();
    let netns = NetNs::create(place.path().join("ns")).unwrap();
    let mut kernel = NfTables::open(&netns).unwrap();
    kernel.commit(&batch).unwrap();
    let actual = kernel.dump(&table_id()).unwrap().into_ruleset(table_id());
    assert!(diff(&actual, &wanted).is_empty());
    netns.delete().unwrap();
}
