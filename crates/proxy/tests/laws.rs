//! The laws of the planner: deltas lead where a new plan leads, a kernel takes each of them, and a restart finds nothing to do.
#![allow(clippy::unwrap_used)]

#[path = "../../service-model/tests/history/mod.rs"]
mod history;

use history::{World, steps};
use nft::kernel::Memory;
use nft::trace::{Fate, Packet, Translation, World as Chance, hook};
use nft::{Hook, Ruleset, Table, diff};
use proptest::prelude::*;
use proxy::{Delta, Planner, Question, Ranges, SetId, plan, split, table_id, trace};
use serde_json::json;
use service_model::{Change, Family, FrontendKey, Model, Protocol};

fn ruleset(table: Table) -> Ruleset {
    Ruleset { tables: [(table_id(), table)].into() }
}

fn ranges() -> Ranges {
    let (cluster, service) = (vec!["10.244.0.0/16".parse().unwrap()], vec!["10.96.0.0/16".parse().unwrap()]);
    Ranges { cluster, service, ..Ranges::default() }
}

/// A kernel that was brought along a history by deltas, its planner and its model.
struct Followed {
    kernel: Memory,
    planner: Planner,
    model: Model,
}

fn follow(steps: &[history::Step], world: &mut World, pause: usize) -> Followed {
    let mut kernel = Memory::new();
    let mut planner = Planner::new(&ranges());
    let empty = planner.table();
    kernel.commit(&diff(&Ruleset::default(), &ruleset(empty.clone()))).unwrap();
    let mut model = Model::new(world.view());
    for chunk in steps.chunks(pause) {
        chunk.iter().for_each(|step| world.step(step, &mut model));
        let mut delta = Delta::default();
        for change in model.take_changes() {
            planner.apply(&change, &mut delta);
        }
        kernel.commit(&delta.batch(&empty)).unwrap();
    }
    retire(&mut planner, &mut kernel);
    Followed { kernel, planner, model }
}

/// Lets what nobody needs any more go.
fn retire(planner: &mut Planner, kernel: &mut Memory) {
    while planner.has_retired() {
        let mut delta = Delta::default();
        planner.retire(&mut delta);
        kernel.commit(&delta.batch(&Planner::new(&ranges()).table())).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn deltas_lead_to_the_table(steps in steps(), pause in 1..4usize) {
        let followed = follow(&steps, &mut World::new(), pause);
        prop_assert!(diff(followed.kernel.ruleset(), &ruleset(followed.planner.table())).is_empty());
    }

    #[test]
    fn a_restart_with_nothing_changed_writes_nothing(steps in steps(), pause in 1..4usize) {
        let mut world = World::new();
        let followed = follow(&steps, &mut world, pause);
        let mut restarted = Planner::adopting(&ranges(), &followed.kernel.ruleset().tables[&table_id()], &followed.model);
        for view in world.scratch().views() {
            let change = Change { key: view.key.clone(), old: None, new: Some(view.clone()) };
            restarted.apply(&change, &mut Delta::default());
        }
        let batch = diff(followed.kernel.ruleset(), &ruleset(restarted.table()));
        prop_assert!(batch.is_empty(), "{batch:?}");
    }

    #[test]
    fn when_all_is_gone_nothing_is_left(steps in steps(), pause in 1..4usize) {
        let mut followed = follow(&steps, &mut World::new(), pause);
        let mut delta = Delta::default();
        let keys: Vec<_> = followed.model.views().map(|view| view.key.clone()).collect();
        keys.iter().for_each(|key| followed.model.remove_service(key));
        for change in followed.model.take_changes() {
            followed.planner.apply(&change, &mut delta);
        }
        let empty = Planner::new(&ranges()).table();
        followed.kernel.commit(&delta.batch(&empty)).unwrap();
        prop_assert!(diff(followed.kernel.ruleset(), &ruleset(followed.planner.table())).is_empty());
        retire(&mut followed.planner, &mut followed.kernel);
        prop_assert!(diff(followed.kernel.ruleset(), &ruleset(empty)).is_empty());
    }
}

/// `services` Services of ten endpoints.
fn many(services: u32) -> Model {
    let objects = (0..services).map(|n| {
        let name = format!("svc{n}");
        let address = |first: u8, n: u32| std::net::Ipv4Addr::from_bits(u32::from(first) << 24 | n);
        let endpoints: Vec<_> = (0..10).map(|at| json!({"addresses": [address(11, n * 10 + at)]})).collect();
        let service = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"clusterIP": address(10, n + 1), "ports": [{"port": 80}]}});
        let slice = json!({"metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints});
        (serde_json::from_value(service).unwrap(), serde_json::from_value(slice).unwrap())
    });
    let (services, slices): (Vec<_>, Vec<_>) = objects.unzip();
    Model::build(&services, &slices, service_model::NodeView::default())
}

#[test]
fn many_endpoints_are_spread_over_maps_and_a_restart_finds_them_there() {
    let (few, model) = (many(100), many(7_000));
    let table = plan(&model, &ranges());
    let sizes: Vec<usize> =
        (0..16).map(|shard| table.sets[SetId::Endpoints(shard).name(Family::V4)].elements.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 70_000);
    assert!(sizes.iter().all(|size| (3_000..6_000).contains(size)), "{sizes:?}");
    let adopt = |actual: &Table, model: &Model| {
        let mut planner = Planner::adopting(&ranges(), actual, model);
        for view in model.views() {
            let change = Change { key: view.key.clone(), old: None, new: Some(view.clone()) };
            planner.apply(&change, &mut Delta::default());
        }
        ruleset(planner.table())
    };
    assert!(diff(&ruleset(table.clone()), &adopt(&table, &model)).is_empty());
    // A cluster that grew over the limit, and one that shrank below it, move all endpoints at the next start.
    let small = plan(&few, &ranges());
    for (before, after) in [(&small, &model), (&table, &few)] {
        let mut kernel = Memory::new();
        kernel.commit(&diff(&Ruleset::default(), &ruleset(before.clone()))).unwrap();
        let wanted = adopt(before, after);
        kernel.commit(&diff(kernel.ruleset(), &wanted)).unwrap();
        assert!(diff(kernel.ruleset(), &wanted).is_empty());
    }
    // And every Service leads to its own endpoints.
    for n in [1, 77, 6_999] {
        let to = format!("10.0.{}.{}:80", (n + 1) / 256, (n + 1) % 256).parse().unwrap();
        let question = Question { from: "10.244.0.1".parse().unwrap(), to, protocol: Protocol::Tcp, from_node: false };
        let first = std::net::Ipv4Addr::from_bits(11 << 24 | (n * 10));
        let told = trace(&table, &question);
        assert!(told.contains(&format!("one of 10 endpoints with equal chance, for example {first}:8080")), "{told}");
    }
}

/// What becomes of a client's first packet, in and out, by the number that is drawn.
fn decision(table: &Table, from: &str, frontend: &FrontendKey, dice: u32) -> (Fate, Vec<Translation>, bool) {
    struct Dice(u32);
    impl Chance for Dice {
        fn number(&mut self, modulus: u32) -> u32 {
            self.0 % modulus
        }
        fn address_type(&self, _: std::net::IpAddr) -> nft::AddrType {
            nft::AddrType::Unicast
        }
    }
    let mut ruleset = ruleset(table.clone());
    let mut packet =
        Packet::new(frontend.protocol.number(), (from.parse().unwrap(), 40_000), (frontend.address, frontend.port));
    let outcome = hook(&mut ruleset, Hook::Prerouting, &mut packet, &mut Dice(dice));
    let out = hook(&mut ruleset, Hook::Postrouting, &mut packet, &mut Dice(dice));
    (outcome.fate, outcome.nat, out.nat.contains(&Translation::Masquerade))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_transaction_in_parts_never_shows_half_a_service(steps in steps(), at in 0..12usize, most in 1..30usize) {
        let at = at.min(steps.len());
        let mut world = World::new();
        let before = follow(&steps[..at], &mut world, 3);
        let old = before.kernel.ruleset().tables[&table_id()].clone();
        let mut model = before.model;
        steps[at..].iter().for_each(|step| world.step(step, &mut model));
        let mut planner = Planner::adopting(&ranges(), &old, &model);
        let change = |view: &std::sync::Arc<service_model::ServiceView>| Change { key: view.key.clone(), old: None, new: Some(view.clone()) };
        model.views().for_each(|view| planner.apply(&change(view), &mut Delta::default()));
        let new = planner.table();
        let batch = diff(before.kernel.ruleset(), &ruleset(new.clone()));
        let parts = split(&batch, most).expect("a history makes no set anew");
        let mut kernel = before.kernel;
        let views = world.scratch();
        let frontends: Vec<FrontendKey> = views.views().flat_map(|v| &v.ports).flat_map(|p| &p.frontends).map(|f| f.at).collect();
        for part in &parts {
            kernel.commit(part).unwrap();
            let now = &kernel.ruleset().tables[&table_id()];
            for (frontend, dice) in frontends.iter().flat_map(|f| (0..3).map(move |dice| (f, dice))) {
                let clients = if frontend.address.is_ipv4() { ["10.244.0.1", "192.0.2.101"] } else { ["fd00:244::1", "2001:db8::101"] };
                for from in clients {
                    let decide = |table| decision(table, from, frontend, dice);
                    let found = decide(now);
                    prop_assert!([&old, &new].into_iter().any(|table| decide(table) == found), "{from} -> {frontend}: {found:?}");
                }
            }
        }
        prop_assert!(diff(kernel.ruleset(), &ruleset(new)).is_empty());
    }
}
