//! Sequences of applies and updates with the managed fields that upstream answers, and the laws of apply.

use proptest::prelude::*;

use super::*;
use crate::schema::kind;

fn writer<'a>(group: &str, name: &str, manager: &'a str, now: &'a str) -> Writer<'a> {
    let api_version = if group.is_empty() { "v1" } else { "apps/v1" };
    Writer { of: kind(group, "v1", name).unwrap(), api_version, manager, subresource: "", now, reset: &["status"] }
}

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";

fn service(manager: &str, now: &'static str, live: Option<&Value>, spec: Value, force: bool) -> Result<Value, Status> {
    let config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
    apply(&writer("", "Service", manager, now), live, &config, force)
}

/// What upstream's defaults add to a Service.
fn defaulted(mut object: Value) -> Value {
    let spec = object["spec"].as_object_mut().unwrap();
    for (name, value) in [("type", "ClusterIP"), ("sessionAffinity", "None"), ("internalTrafficPolicy", "Cluster")] {
        spec.entry(name).or_insert_with(|| value.into());
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let number = port["port"].clone();
        let port = port.as_object_mut().unwrap();
        port.entry("protocol").or_insert_with(|| "TCP".into());
        port.entry("targetPort").or_insert(number);
    }
    object
}

/// Manager, operation, time and fields of every entry.
fn entries(object: &Value) -> Vec<(String, String, Option<String>, Value)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().map(str::to_owned);
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            (
                text(entry, "manager").unwrap(),
                text(entry, "operation").unwrap(),
                text(entry, "time"),
                entry["fieldsV1"].clone(),
            )
        })
        .collect()
}

fn applied(manager: &str, time: Option<&str>, fields: Value) -> (String, String, Option<String>, Value) {
    (manager.to_owned(), "Apply".to_owned(), time.map(str::to_owned), fields)
}

fn port_fields() -> Value {
    json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}})
}

#[test]
fn the_applier_owns_what_it_applied() {
    let object = service("m1", T1, None, json!({"ports": [{"port": 80}], "selector": {"x": "1"}}), false).unwrap();
    let fields = json!({"f:spec": {"f:ports": port_fields(), "f:selector": {}}});
    assert_eq!(entries(&object), [applied("m1", Some(T1), fields.clone())]);
    let live = defaulted(object);
    let object =
        service("m1", T2, Some(&live), json!({"ports": [{"port": 80}], "selector": {"x": "2"}}), false).unwrap();
    assert_eq!(entries(&object), [applied("m1", Some(T2), fields)]);
    assert_eq!(object["spec"]["selector"], json!({"x": "2"}));
    assert_eq!(object["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
}

#[test]
fn what_is_applied_no_longer_goes() {
    let live =
        defaulted(service("m1", T1, None, json!({"ports": [{"port": 80}], "selector": {"x": "1"}}), false).unwrap());
    let object = service("m1", T2, Some(&live), json!({"ports": [{"port": 80}]}), false).unwrap();
    assert_eq!(object["spec"].get("selector"), None);
    assert_eq!(entries(&object), [applied("m1", Some(T2), json!({"f:spec": {"f:ports": port_fields()}}))]);
}

#[test]
fn force_takes_fields_from_others() {
    let spec = |x: &str| json!({"ports": [{"port": 80}], "selector": {"x": x}});
    let live = defaulted(service("m1", T1, None, spec("1"), false).unwrap());
    let refused = service("m2", T2, Some(&live), spec("2"), false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"m1\": .spec.selector");
    let object = service("m2", T2, Some(&live), spec("2"), true).unwrap();
    let mine = json!({"f:spec": {"f:ports": port_fields(), "f:selector": {}}});
    let theirs = json!({"f:spec": {"f:ports": port_fields()}});
    assert_eq!(entries(&object), [applied("m1", Some(T1), theirs), applied("m2", Some(T2), mine)]);
}

#[test]
fn shared_fields_stay_until_the_last_owner_leaves_them() {
    let spec = json!({"ports": [{"port": 80}], "selector": {"x": "1"}});
    let both = json!({"f:spec": {"f:ports": port_fields(), "f:selector": {}}});
    let live = defaulted(service("m1", T1, None, spec.clone(), false).unwrap());
    let live = defaulted(service("m2", T2, Some(&live), spec, false).unwrap());
    assert_eq!(
        entries(&live),
        [applied("m2", None, both.clone()), applied("m1", Some(T1), both.clone())],
        "no change, no time"
    );
    let live = service("m1", T2, Some(&live), json!({"ports": [{"port": 80}]}), false).unwrap();
    assert_eq!(live["spec"]["selector"], json!({"x": "1"}));
    let rest = json!({"f:spec": {"f:ports": port_fields()}});
    assert_eq!(entries(&live), [applied("m2", None, both), applied("m1", Some(T1), rest)]);
}

#[test]
fn items_of_keyed_lists_have_owners_of_their_own() {
    let port = |name: &str, port: u16| json!({"ports": [{"name": name, "port": port, "protocol": "TCP"}]});
    let live = defaulted(service("m1", T1, None, port("a", 80), false).unwrap());
    let object = service("m2", T2, Some(&live), port("b", 81), false).unwrap();
    assert_eq!(
        object["spec"]["ports"],
        json!([{"name": "a", "port": 80, "protocol": "TCP", "targetPort": 80}, {"name": "b", "port": 81, "protocol": "TCP"}])
    );
    let fields = |port: u16| {
        let key = format!("k:{{\"port\":{port},\"protocol\":\"TCP\"}}");
        json!({"f:spec": {"f:ports": {key: {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}}}})
    };
    assert_eq!(entries(&object), [applied("m1", Some(T1), fields(80)), applied("m2", Some(T2), fields(81))]);
    let object = service("m1", T2, Some(&object), json!({}), false).unwrap();
    assert_eq!(object["spec"]["ports"], json!([{"name": "b", "port": 81, "protocol": "TCP"}]));
}

#[test]
fn updaters_own_what_they_change() {
    let mut object =
        defaulted(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
        "spec": {"ports": [{"port": 80}], "selector": {"x": "1"}}, "status": {"loadBalancer": {}}}));
    track(&writer("", "Service", "u", T1), None, &mut object);
    let expected = json!([{"apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "u", "operation": "Update", "time": T1, "fieldsV1": {"f:spec": {
        "f:internalTrafficPolicy": {}, "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
        "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}}}]);
    assert_eq!(object["metadata"]["managedFields"], expected);
    let refused =
        service("m1", T2, Some(&object), json!({"ports": [{"port": 80}], "selector": {"x": "2"}}), false).unwrap_err();
    assert_eq!(
        refused.to_value(),
        json!({"apiVersion": "v1", "code": 409, "details": {"causes": [{"field": ".spec.selector", "message": "conflict with \"u\" using v1",
            "reason": "FieldManagerConflict"}]}, "kind": "Status", "message": "Apply failed with 1 conflict: conflict with \"u\" using v1: .spec.selector",
            "metadata": {}, "reason": "Conflict", "status": "Failure"})
    );
    let mut same = object.clone();
    track(&writer("", "Service", "v", T2), Some(&object), &mut same);
    assert_eq!(same, object, "no change, no owner");
    let mut changed = object.clone();
    changed["spec"]["selector"] = json!({"x": "3"});
    changed["metadata"].as_object_mut().unwrap().remove("managedFields");
    track(&writer("", "Service", "v", T2), Some(&object), &mut changed);
    let owned = entries(&changed);
    assert_eq!(
        owned[1],
        ("v".to_owned(), "Update".to_owned(), Some(T2.to_owned()), json!({"f:spec": {"f:selector": {}}}))
    );
    assert_eq!(owned[0].3["f:spec"].get("f:selector"), None);
}

#[test]
fn a_deployments_lists_are_owned_item_by_item() {
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"env": [{"name": "A", "value": "1"}], "image": "busybox", "name": "c"}]}}}});
    let object = apply(&writer("apps", "Deployment", "m1", T1), None, &config, false).unwrap();
    let expected = json!({"f:spec": {"f:selector": {}, "f:template": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:containers":
        {"k:{\"name\":\"c\"}": {".": {}, "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}, "f:image": {}, "f:name": {}}}}}}});
    assert_eq!(entries(&object), [applied("m1", Some(T1), expected)]);
}

#[test]
fn faulty_configurations_are_the_callers_fault() {
    let refused = service("m1", T1, None, json!({"ports": [{"port": "x"}]}), false).unwrap_err();
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message,
        "failed to create typed patch object (/a; /v1, Kind=Service): .spec.ports[port=\"x\",protocol=\"TCP\"].port: expected numeric \
         (int or float), got string"
    );
    let refused = service("m1", T1, None, json!({"bogus": 1}), false).unwrap_err();
    assert_eq!(
        refused.message,
        "failed to create typed patch object (/a; /v1, Kind=Service): .spec.bogus: field not declared in schema"
    );
    let refused = service("m1", T1, None, json!({"ports": [{"name": "x"}]}), false).unwrap_err();
    assert!(refused.message.ends_with(
        ".spec.ports: element 0: associative list with keys has an element that omits key field \"port\" (and doesn't have default value)"
    ));
}

#[test]
fn client_side_apply_is_taken_over() {
    let last = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}],"selector":{"x":"1"}}}"#;
    let mut object = defaulted(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": {LAST_APPLIED: last}},
        "spec": {"ports": [{"port": 80}], "selector": {"x": "1"}}}),
    );
    track(&writer("", "Service", "kubectl-client-side-apply", T1), None, &mut object);
    let spec = json!({"ports": [{"port": 80}], "selector": {"x": "2"}});
    assert!(service("other", T2, Some(&object), spec.clone(), false).is_err());
    let object = service("kubectl", T2, Some(&object), spec, false).unwrap();
    assert_eq!(object["spec"]["selector"], json!({"x": "2"}));
    let last = object["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert!(last.contains(r#""selector":{"x":"2"}"#));
}

#[test]
fn the_oldest_of_many_updaters_are_put_together() {
    let mut object =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    track(&writer("", "Service", "u", T1), None, &mut object);
    for i in 0..20 {
        let live = object.clone();
        object["metadata"]["annotations"][format!("a{i}")] = "x".into();
        let now = format!("2026-01-01T00:01:{i:02}Z");
        let manager = format!("m{i:02}");
        let writer = Writer { manager: &manager, now: &now, ..writer("", "Service", "", "") };
        track(&writer, Some(&live), &mut object);
    }
    let owned = entries(&object);
    assert_eq!(owned.len(), 10);
    assert_eq!(owned[0].0, "ancient-changes");
    let annotations = |fields: &Value| {
        fields["f:metadata"]["f:annotations"]
            .as_object()
            .map_or(0, |fields| fields.keys().filter(|key| *key != ".").count())
    };
    assert_eq!(owned.iter().map(|entry| annotations(&entry.3)).sum::<usize>(), 20, "nothing is lost");
}

#[test]
fn a_key_that_says_nothing_means_its_default() {
    for nothing in [json!(""), json!(null)] {
        let spec = json!({"ports": [{"port": 80, "protocol": nothing}]});
        let once = defaulted(service("m", T1, None, spec.clone(), false).unwrap());
        let twice = service("m", T2, Some(&once), spec, false).unwrap();
        assert_eq!(twice["spec"]["ports"].as_array().unwrap().len(), 1, "{twice}");
        let (_, _, _, fields) = entries(&twice).remove(0);
        assert!(fields["f:spec"]["f:ports"].get(r#"k:{"port":80,"protocol":"TCP"}"#).is_some(), "{fields}");
    }
}

fn spec() -> impl Strategy<Value = Value> {
    let port = (1u16..4, proptest::option::of(0u16..3)).prop_map(|(port, target)| match target {
        Some(target) => json!({"port": port, "targetPort": target}),
        None => json!({"port": port}),
    });
    let ports = proptest::collection::vec(port, 0..3).prop_map(|ports| {
        let mut seen = Vec::new();
        ports
            .into_iter()
            .filter(|port| {
                !seen.contains(&port["port"]) && {
                    seen.push(port["port"].clone());
                    true
                }
            })
            .collect::<Value>()
    });
    let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
    (ports, labels, proptest::option::of("[xy]")).prop_map(|(ports, labels, affinity)| {
        let mut config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": labels}, "spec": {"ports": ports}});
        if let Some(affinity) = affinity {
            config["spec"]["sessionAffinity"] = affinity.into();
        }
        config
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_again_changes_nothing(first in spec(), second in spec()) {
        let one = apply(&writer("", "Service", "m1", T1), None, &first, false).unwrap();
        let two = apply(&writer("", "Service", "m2", T1), Some(&one), &second, true).unwrap();
        let again = apply(&writer("", "Service", "m2", T2), Some(&two), &second, false).unwrap();
        prop_assert_eq!(again, two);
    }

    #[test]
    fn alone_the_result_is_the_last_configuration(first in spec(), second in spec()) {
        let me = writer("", "Service", "m1", T1);
        let live = apply(&me, None, &first, false).unwrap();
        let changed = apply(&me, Some(&live), &second, false).unwrap();
        let fresh = apply(&me, None, &second, false).unwrap();
        prop_assert_eq!(changed, fresh);
    }

    #[test]
    fn conflicts_come_exactly_where_another_owns_a_changed_field(first in spec(), second in spec()) {
        let live = apply(&writer("", "Service", "m1", T1), None, &first, false).unwrap();
        let clean = |object: &Value| without_entries(object);
        let forced = apply(&writer("", "Service", "m2", T2), Some(&live), &second, true).unwrap();
        let owned = managers::read(entries_of(&live)).unwrap().into_values().fold(Set::default(), |all, owned| all.union(&owned.fields));
        let change = typed::compare(kind("", "v1", "Service").unwrap(), &clean(&live), &clean(&forced));
        let touched = !owned.intersection(&change.modified.union(&change.added)).is_empty();
        let tried = apply(&writer("", "Service", "m2", T2), Some(&live), &second, false);
        prop_assert_eq!(tried.is_err(), touched);
        if let Ok(tried) = tried {
            prop_assert_eq!(tried, forced);
        }
    }

    #[test]
    fn appliers_of_different_fields_meet_in_any_order(labels in proptest::collection::btree_map("[ab]", "[xy]", 0..3), annotations in proptest::collection::btree_map("[ab]", "[xy]", 0..3)) {
        let one = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": labels}});
        let two = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": annotations}});
        let run = |order: [(&'static str, &Value); 2]| {
            let [(m, first), (n, second)] = order;
            let live = apply(&writer("", "Service", m, T1), None, first, false).unwrap();
            apply(&writer("", "Service", n, T1), Some(&live), second, false).unwrap()
        };
        prop_assert_eq!(without_entries(&run([("m1", &one), ("m2", &two)])), without_entries(&run([("m2", &two), ("m1", &one)])));
    }
}
