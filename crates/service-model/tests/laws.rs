//! The law of the model: whatever happened before, it is as a new model of the same objects.

mod history;

use history::{Step, World, steps};
use proptest::prelude::*;
use serde_json::json;
use service_model::Model;

/// Three Services ask for one address; the eldest has it, and each of the others is told which one that is.
#[test]
fn all_claimants_are_told_who_has_a_contested_address() {
    let claimant = |name: &str, day: u8, ip: &str| {
        Step::Service(json!({
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": format!("2026-01-0{day}T00:00:00Z")},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "externalIPs": ["203.0.113.1"], "ports": [{"port": 80}]},
        }))
    };
    let (young, middle) = (claimant("young", 3, "10.96.0.3"), claimant("middle", 2, "10.96.0.2"));
    let old = claimant("old", 1, "10.96.0.1");
    let mut world = World::new();
    let mut model = Model::new(world.view());
    for step in [young, middle, old, Step::NoService("old".into())] {
        world.step(&step, &mut model);
        model.take_changes();
        assert!(model.views().eq(world.scratch().views()), "after {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn incremental_equals_from_scratch(steps in steps(), pause in 1..4usize) {
        let mut world = World::new();
        let mut model = Model::new(world.view());
        for (n, step) in steps.iter().enumerate() {
            world.step(step, &mut model);
            if n % pause == 0 {
                model.take_changes();
            }
        }
        model.take_changes();
        let scratch = world.scratch();
        let (views, expected): (Vec<_>, Vec<_>) = (model.views().collect(), scratch.views().collect());
        prop_assert_eq!(views, expected);
    }

    #[test]
    fn each_frontend_has_one_service(steps in steps()) {
        let mut world = World::new();
        let mut model = Model::new(world.view());
        steps.iter().for_each(|step| world.step(step, &mut model));
        model.take_changes();
        let mut seen = std::collections::BTreeSet::new();
        for frontend in model.views().flat_map(|view| &view.ports).flat_map(|port| &port.frontends) {
            prop_assert!(seen.insert(frontend.at), "{} twice", frontend.at);
        }
    }

    #[test]
    fn a_second_take_is_empty_and_the_same_objects_change_nothing(steps in steps()) {
        let mut world = World::new();
        let mut model = Model::new(world.view());
        steps.iter().for_each(|step| world.step(step, &mut model));
        model.take_changes();
        for service in world.services.values() {
            model.apply_service(service);
        }
        for slice in world.slices.values() {
            model.apply_slice(slice);
        }
        prop_assert!(model.take_changes().is_empty());
    }
}
