//! Services against upstream's answers: what is filled in, what is refused and in which words, what a change of type leaves.

use serde_json::{Value, json};

use super::{KIND, before_allocation};

const RULES: &crate::kinds::Rules = &KIND.rules;

/// The faults of a new Service with this spec on a cluster of these families, one a line.
fn faults(spec: Value, cluster: &[&str]) -> String {
    let mut service = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
    (RULES.default)(&mut service);
    let mut errors = before_allocation(&mut service, None, cluster);
    if errors.is_empty() {
        (RULES.prepare_create)(&mut service);
        errors = (RULES.validate_create)(&service);
    }
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn check_invalid(name: &str, spec: Value, expected: &str) {
    assert_eq!(faults(spec, &["IPv4"]), expected, "{name}");
}

#[test]
fn faults_are_named_as_upstream_names_them() {
    check_invalid("plain", json!({"ports": [{"port": 80}]}), "");
    check_invalid("ports absent", json!({}), "spec.ports: Required value");
    check_invalid(
        "port zero",
        json!({"ports": [{"port": 0}]}),
        "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive\n\
         spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
    );
    check_invalid(
        "same port twice",
        json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
        "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
    );
    check_invalid(
        "same port, two protocols",
        json!({"ports": [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]}),
        "",
    );
    check_invalid(
        "loopback outside",
        json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
        "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
    );
    check_invalid(
        "headless node port",
        json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
        "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
    );
}

#[test]
fn families_follow_the_policy_and_the_cluster() {
    let families = |spec: Value, cluster: &[&str]| {
        let mut service = json!({"metadata": {"name": "a"}, "spec": spec});
        (RULES.default)(&mut service);
        let errors = before_allocation(&mut service, None, cluster);
        assert!(errors.is_empty(), "{errors:?}");
        (service["spec"]["ipFamilyPolicy"].clone(), service["spec"]["ipFamilies"].clone())
    };
    let ports = json!([{"port": 80}]);
    assert_eq!(families(json!({"ports": ports}), &["IPv4", "IPv6"]), (json!("SingleStack"), json!(["IPv4"])));
    let prefer = json!({"ports": ports, "ipFamilyPolicy": "PreferDualStack"});
    assert_eq!(families(prefer.clone(), &["IPv6", "IPv4"]).1, json!(["IPv6", "IPv4"]));
    assert_eq!(families(prefer, &["IPv4"]).1, json!(["IPv4"]));
    let headless = json!({"clusterIP": "None"});
    assert_eq!(families(headless, &["IPv4"]), (json!("RequireDualStack"), json!(["IPv4", "IPv6"])));
    assert_eq!(
        faults(json!({"ports": ports, "ipFamilyPolicy": "RequireDualStack"}), &["IPv4"]),
        "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
    );
}

/// An update from one spec to another: what is stored, or the faults.
fn updated(before: Value, after: Value) -> Value {
    let old = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": before, "status": {"loadBalancer": {}}});
    let mut new = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": after});
    (RULES.default)(&mut new);
    let mut errors = before_allocation(&mut new, Some(&old), &["IPv4"]);
    if errors.is_empty() {
        (RULES.prepare_update)(&mut new, &old);
        errors = (RULES.validate_update)(&new, &old);
    }
    if errors.is_empty() {
        new["spec"].take()
    } else {
        json!(errors.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

fn node_port() -> Value {
    json!({
        "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
        "ports": [{"name": "a", "port": 80, "targetPort": 80, "protocol": "TCP", "nodePort": 30080}],
    })
}

#[test]
fn an_update_keeps_what_it_leaves_out() {
    let after = updated(
        node_port(),
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}, {"name": "b", "port": 82}]}),
    );
    assert_eq!(
        (&after["clusterIP"], &after["clusterIPs"], &after["ipFamilies"]),
        (&json!("10.96.0.9"), &json!(["10.96.0.9"]), &json!(["IPv4"]))
    );
    assert_eq!((&after["ports"][0]["nodePort"], after["ports"][1].get("nodePort")), (&json!(30080), None));
    let taken = updated(
        node_port(),
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 82, "nodePort": 30080}]}),
    );
    assert_eq!((taken["ports"][0].get("nodePort"), &taken["ports"][1]["nodePort"]), (None, &json!(30080)));
}

#[test]
fn a_change_of_type_clears_what_the_writer_did_not_touch() {
    let mut spec = node_port();
    spec["type"] = json!("ClusterIP");
    let after = updated(node_port(), spec.clone());
    assert_eq!((after["ports"][0].get("nodePort"), after.get("externalTrafficPolicy")), (None, None));
    spec["ports"][0]["nodePort"] = json!(30081);
    let faults = updated(node_port(), spec);
    assert_eq!(faults, json!(["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]));
    let mut spec = node_port();
    spec["type"] = json!("ExternalName");
    spec["externalName"] = json!("e.com");
    let after = updated(node_port(), spec);
    let left: Vec<&str> = after.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(left, ["externalName", "ports", "sessionAffinity", "type"]);
}

#[test]
fn addresses_stay_for_life() {
    let mut spec = node_port();
    spec["clusterIP"] = json!("10.96.0.10");
    spec["clusterIPs"] = json!(["10.96.0.10"]);
    assert_eq!(
        updated(node_port(), spec),
        json!(["spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set"])
    );
}
