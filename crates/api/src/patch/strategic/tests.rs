//! What each directive does to a Service, a nested list, and the laws that hold for every patch.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::kind;

fn patched(group: &str, name: &str, original: &Value, patch: &Value) -> Result<Value, String> {
    let (Value::Object(original), Value::Object(patch)) = (original.clone(), patch.clone()) else { unreachable!() };
    merge(kind(group, "v1", name).unwrap(), original, patch).map(Value::Object)
}

fn service() -> Value {
    json!({"metadata": {"name": "a", "finalizers": ["e.com/a", "e.com/b"]}, "spec": {"selector": {"a": "b", "c": "d"},
        "ports": [{"name": "http", "port": 80, "targetPort": 80}, {"name": "https", "port": 443, "targetPort": 443}]}})
}

#[track_caller]
fn check(patch: Value, pointer: &str, expected: Value) {
    let result = patched("", "Service", &service(), &patch).unwrap();
    assert_eq!(result.pointer(pointer).unwrap_or(&Value::Null), &expected);
}

#[track_caller]
fn check_ports(patch: Value, expected: &[(&str, i64, i64)]) {
    let result = patched("", "Service", &service(), &patch).unwrap();
    let ports: Vec<_> = result["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| {
            (
                port["name"].as_str().unwrap_or(""),
                port["port"].as_i64().unwrap(),
                port["targetPort"].as_i64().unwrap_or(0),
            )
        })
        .collect();
    assert_eq!(ports, expected);
}

#[test]
fn lists_merge_by_key_with_new_items_first() {
    check_ports(
        json!({"spec": {"ports": [{"name": "x", "port": 8080}]}}),
        &[("x", 8080, 0), ("http", 80, 80), ("https", 443, 443)],
    );
    check_ports(json!({"spec": {"ports": [{"port": 443, "targetPort": 1}]}}), &[("http", 80, 80), ("https", 443, 1)]);
}

#[test]
fn directives_delete_replace_and_order() {
    check_ports(json!({"spec": {"ports": [{"$patch": "delete", "port": 80}]}}), &[("https", 443, 443)]);
    check_ports(json!({"spec": {"ports": [{"$patch": "replace"}, {"name": "n", "port": 9}]}}), &[("n", 9, 0)]);
    check_ports(
        json!({"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 80}], "ports": [{"port": 80, "targetPort": 8080}]}}),
        &[("https", 443, 443), ("http", 80, 8080)],
    );
    check_ports(
        json!({"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 80}]}}),
        &[("https", 443, 443), ("http", 80, 80)],
    );
}

#[test]
fn maps_merge_and_scalars_leave_lists() {
    check(json!({"spec": {"selector": {"a": null, "e": "f"}}}), "/spec/selector", json!({"c": "d", "e": "f"}));
    check(json!({"spec": {"selector": {"$patch": "replace", "e": "f"}}}), "/spec/selector", json!({"e": "f"}));
    check(json!({"spec": {"selector": {"$patch": "delete"}}}), "/spec/selector", json!({}));
    let finalizers = "/metadata/finalizers";
    check(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["e.com/a"]}}), finalizers, json!(["e.com/b"]));
    check(
        json!({"metadata": {"finalizers": ["e.com/c", "e.com/a"]}}),
        finalizers,
        json!(["e.com/c", "e.com/a", "e.com/b"]),
    );
    check(json!({"metadata": {"annotations": {"x": "y", "z": null}}}), "/metadata/annotations", json!({"x": "y"}));
}

#[test]
fn nested_lists_merge_too() {
    let original = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "busybox", "env": [{"name": "A", "value": "1"}]}]}}}});
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}]}}}});
    let expected =
        json!([{"name": "c", "image": "busybox", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}]);
    assert_eq!(
        patched("apps", "Deployment", &original, &patch).unwrap()["spec"]["template"]["spec"]["containers"],
        expected
    );
}

#[test]
fn retained_keys_clear_the_others() {
    let original = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        patched("apps", "Deployment", &original, &patch).unwrap(),
        json!({"spec": {"strategy": {"type": "Recreate"}}})
    );
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert_eq!(patched("apps", "Deployment", &original, &patch).unwrap_err(), "invalid patch format of retainKeys");
}

#[test]
fn faults_are_told() {
    let fault = |patch: Value| patched("", "Service", &service(), &patch).unwrap_err();
    assert_eq!(
        fault(json!({"spec": {"ports": [{"$patch": "explode", "port": 80}]}})),
        "unknown patch type: explode in map: map[$patch:explode port:80]"
    );
    assert_eq!(
        fault(json!({"spec": {"ports": [{"name": "x"}]}})),
        "map: map[name:x] does not contain declared merge key: port"
    );
    assert!(
        fault(json!({"spec": {"$setElementOrder/ports": [{"port": 80}], "ports": [{"port": 9}]}}))
            .starts_with("The order in patch list")
    );
    assert!(fault(json!({"spec": {"ports": [5]}})).starts_with("list element types are not identical"));
}

fn ports() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(1u16..6, 0u16..3, 0..5)
        .prop_map(|ports| ports.into_iter().map(|(port, target)| json!({"port": port, "targetPort": target})).collect())
        .prop_shuffle_items()
}

/// Shuffles the items of a list value.
trait ShuffleItems: Strategy<Value = Value> + Sized {
    fn prop_shuffle_items(self) -> BoxedStrategy<Value>
    where
        Self: 'static,
    {
        self.prop_flat_map(|list| {
            Just(list.as_array().cloned().unwrap_or_default()).prop_shuffle().prop_map(Value::Array)
        })
        .boxed()
    }
}

impl<S: Strategy<Value = Value>> ShuffleItems for S {}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_applied_twice_is_applied_once(live in ports(), new in ports(), order in ports()) {
        let original = json!({"spec": {"ports": live}});
        let patch = json!({"spec": {"ports": new}});
        let once = patched("", "Service", &original, &patch).unwrap();
        prop_assert_eq!(&patched("", "Service", &once, &patch).unwrap(), &once);
        let patch = json!({"spec": {"$setElementOrder/ports": order}});
        let once = patched("", "Service", &original, &patch).unwrap();
        prop_assert_eq!(&patched("", "Service", &once, &patch).unwrap(), &once);
    }

    #[test]
    fn no_item_is_lost_or_doubled(live in ports(), new in ports()) {
        let original = json!({"spec": {"ports": live}});
        let result = patched("", "Service", &original, &json!({"spec": {"ports": new}})).unwrap();
        let keys = |list: &Value| -> Vec<i64> { list.as_array().into_iter().flatten().filter_map(|port| port["port"].as_i64()).collect() };
        let mut expected = keys(&live);
        expected.extend(keys(&new));
        expected.sort_unstable();
        expected.dedup();
        let mut got = keys(&result["spec"]["ports"]);
        got.sort_unstable();
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn replaced_lists_keep_the_patchs_order_and_freed_places_are_taken() {
    check_ports(
        json!({"spec": {"ports": [{"port": 9, "name": "n"}, {"port": 443, "name": "https"}, {"$patch": "replace"}]}}),
        &[("n", 9, 0), ("https", 443, 0)],
    );
    check_ports(
        json!({"spec": {"$setElementOrder/ports": [{"port": 9}], "ports": [{"name": "n", "port": 9}, {"$patch": "delete", "port": 443}]}}),
        &[("http", 80, 80), ("n", 9, 0)],
    );
    check(
        json!({"spec": {"sessionAffinityConfig": {"$patch": "replace", "clientIP": {}}}}),
        "/spec/sessionAffinityConfig",
        Value::Null,
    );
}
