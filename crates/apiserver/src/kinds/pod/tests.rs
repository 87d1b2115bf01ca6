//! Pods against upstream's answers.

use serde_json::{Value, json};

use super::KIND;

const RULES: &crate::kinds::Rules = &KIND.rules;

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    (RULES.default)(&mut pod);
    (RULES.prepare_create)(&mut pod);
    pod
}

fn check(name: &str, spec: Value, expected: &str) {
    let texts: Vec<String> = (RULES.validate_create)(&pod(spec)).iter().map(ToString::to_string).collect();
    assert_eq!(texts.join("\n"), expected, "{name}");
}

fn container(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "busybox"});
    for (key, value) in extra.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container]})
}

#[test]
fn faults_are_named_as_upstream_names_them() {
    check("plain", container(json!({})), "");
    check("none", json!({"containers": []}), "spec.containers: Required value");
    let mut spec = container(json!({}));
    spec["restartPolicy"] = json!("Maybe");
    check(
        "restart policy",
        spec,
        "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
    );
    check(
        "mount of nothing",
        container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
        "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
    );
    check(
        "more than the limit",
        container(json!({"resources": {"limits": {"memory": "1Mi"}, "requests": {"memory": "2Mi"}}})),
        "spec.containers[0].resources.requests: Invalid value: \"2Mi\": must be less than or equal to memory limit of 1Mi",
    );
    check(
        "probe without a handler",
        container(json!({"livenessProbe": {}})),
        "spec.containers[0].livenessProbe: Required value: must specify a handler type",
    );
    check(
        "two sources",
        container(
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
        ),
        "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
    );
}

#[test]
fn the_quality_of_service_follows_from_the_resources() {
    let class = |resources: Value| pod(container(json!({"resources": resources})))["status"]["qosClass"].clone();
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"limits": {"cpu": "100m", "memory": "1Mi"}})), "Guaranteed");
    assert_eq!(class(json!({"limits": {"cpu": "100m", "memory": "1Mi"}, "requests": {"cpu": "0.05"}})), "Burstable");
}

#[test]
fn only_little_may_change() {
    let old = pod(container(json!({})));
    let change = |pointer: &str, value: Value| {
        let mut new = old.clone();
        crate::kinds::common::get::set(&mut new, pointer, value);
        (RULES.prepare_update)(&mut new, &old);
        let texts: Vec<String> = (RULES.validate_update)(&new, &old).iter().map(ToString::to_string).collect();
        (texts.join("\n"), new["metadata"]["generation"].clone())
    };
    assert_eq!(change("/metadata/labels", json!({"a": "b"})), (String::new(), json!(1)));
    let mut containers = old["spec"]["containers"].clone();
    containers[0]["image"] = json!("other");
    assert_eq!(change("/spec/containers", containers), (String::new(), json!(2)));
    let (text, _) = change("/spec/hostname", json!("x"));
    assert!(text.starts_with("spec: Forbidden: pod updates may not change fields other than"), "{text}");
    assert!(
        text.ends_with(
            "+ \"Hostname\": \"x\",\n  \"Subdomain\": \"\",\n  \"SetHostnameAsFQDN\": null,\n  \"Affinity\": null,\n"
        ) || text.contains("hostname"),
        "{text}"
    );
}
