//! Bodies that are refused, in the words that clients know, and what a good body becomes.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const SERVICE: Kind<'static> = Kind { group: "", version: "v1", kind: "Service" };

fn strict(body: &str) -> Result<Decoded, Status> {
    json(body.as_bytes(), SERVICE, FieldValidation::Strict)
}

#[track_caller]
fn refuse(body: &str, message: &str) {
    let status = strict(body).unwrap_err();
    assert_eq!((status.code, status.reason), (400, "BadRequest"));
    assert_eq!(status.message, message, "{body}");
}

#[test]
fn unknown_and_repeated_fields_are_named() {
    refuse(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"labelz": {}, "name": "a"}, "spec": {"ports": [{"port": 80, "porto": 1}]}}"#,
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"metadata.labelz\", unknown field \
         \"spec.ports[0].porto\"",
    );
    let body = br#"{"kind": "Service", "spec": {"type": "ClusterIP", "type": "NodePort", "selector": {"a": "1", "a": "2"}, "bogus": {"x": 1}}}"#;
    let decoded = json(body, SERVICE, FieldValidation::Warn).unwrap();
    let warnings =
        ["duplicate field \"spec.type\"", "duplicate field \"spec.selector.a\"", "unknown field \"spec.bogus\""];
    assert_eq!(decoded.warnings, warnings);
    assert_eq!(decoded.object["spec"], json!({"type": "NodePort", "selector": {"a": "2"}}));
    assert_eq!(json(body, SERVICE, FieldValidation::Ignore).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    let head = "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal";
    for (spec, fault) in [
        (r#"{"ports": [{"port": "80"}]}"#, "string into Go struct field ServicePort.spec.ports.port of type int32"),
        (
            r#"{"ports": [{"port": 80.5}]}"#,
            "number 80.5 into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            r#"{"ports": [{"port": 99999999999}]}"#,
            "number 99999999999 into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (r#"{"ports": {"port": 80}}"#, "object into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort"),
        (
            r#"{"ports": [{"port": 1, "protocol": 6}]}"#,
            "number into Go struct field ServicePort.spec.ports.protocol of type v1.Protocol",
        ),
        (
            r#"{"ports": [{"port": 1, "targetPort": true}]}"#,
            "bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        (r#"{"selector": {"a": 1}}"#, "number into Go struct field ServiceSpec.spec.selector of type string"),
        (r#"{"selector": ["a"]}"#, "array into Go struct field ServiceSpec.spec.selector of type map[string]string"),
        (r#""x""#, "string into Go struct field Service.spec of type v1.ServiceSpec"),
    ] {
        refuse(&format!(r#"{{"apiVersion": "v1", "kind": "Service", "spec": {spec}}}"#), &format!("{head} {fault}"));
    }
}

#[test]
fn lists_in_maps_have_types_of_their_own() {
    for (group, kind, field, of) in [
        ("authorization.k8s.io", "SubjectAccessReview", "extra", "ExtraValue"),
        ("authentication.k8s.io", "TokenRequest", "attestations", "AttestationValue"),
    ] {
        let body = format!(r#"{{"spec": {{"{field}": {{"a": "b"}}}}}}"#);
        let refused = json(body.as_bytes(), Kind { group, version: "v1", kind }, FieldValidation::Strict).unwrap_err();
        let fault = format!("string into Go struct field {kind}Spec.spec.{field} of type v1.{of}");
        assert!(refused.message.ends_with(&fault), "{}", refused.message);
    }
}

#[test]
fn quantities_and_times_have_their_own_sentences() {
    let pod = Kind { group: "", version: "v1", kind: "Pod" };
    let body = br#"{"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "1XB"}}}]}}"#;
    assert_eq!(
        json(body, pod, FieldValidation::Warn).unwrap_err().message,
        "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
    let body = br#"{"metadata": {"deletionTimestamp": "soon"}}"#;
    assert_eq!(
        json(body, pod, FieldValidation::Warn).unwrap_err().message,
        "Pod in version \"v1\" cannot be handled as a Pod: parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \
         \"2006\""
    );
}

#[test]
fn bodies_that_are_no_objects() {
    refuse(
        "",
        "the object provided is unrecognized (must be of type Service): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
    );
    refuse(
        "[]",
        "the object provided is unrecognized (must be of type Service): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)",
    );
    refuse(
        "{\"kind\": x}",
        "the object provided is unrecognized (must be of type Service): couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value ({\"kind\": x})",
    );
    let deep = format!("{{\"metadata\": {}", "[".repeat(100_000));
    assert!(strict(&deep).is_err());
}

#[test]
fn other_kinds_are_refused() {
    refuse(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}}"#,
        "Pod in version \"v1\" cannot be handled as a Service: converting (v1.Pod) to (core.Service): unknown conversion",
    );
    refuse(
        r#"{"apiVersion": "v2", "kind": "Service", "metadata": {"name": "a"}, "spec": {}}"#,
        "Service in version \"v2\" cannot be handled as a Service: no kind \"Service\" is registered for version \"v2\" in scheme \
         \"pkg/api/legacyscheme/scheme.go:30\"",
    );
}

#[test]
fn nulls_are_nothing_and_the_kind_is_filled_in() {
    let decoded = strict(r#"{"metadata": {"name": "a", "labels": null}, "spec": {"ports": [{"port": 80, "name": null}], "selector": {"a": null}}}"#).unwrap();
    let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 80}], "selector": {"a": ""}}, "status": {"loadBalancer": {}}});
    assert_eq!(decoded.object, expected);
}

#[test]
fn patched_objects_are_refused_as_invalid_patches() {
    let object = json!({"apiVersion": "v1", "kind": "Service", "spec": {"bogus": 1}});
    let status = patched(&object, SERVICE, FieldValidation::Strict).unwrap_err();
    assert_eq!(status.code, 422);
    let shown = r#""{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"spec\":{\"bogus\":1}}""#;
    let fault = "strict decoding error: unknown field \"spec.bogus\"";
    assert_eq!(status.message, format!(" \"\" is invalid: patch: Invalid value: {shown}: {fault}"));
    // A strategic merge patch is quoted itself, as Go prints a map.
    let patch = json!({"metadata": {"labels": "x"}});
    let status = merged(&patch, &patch, SERVICE, FieldValidation::Strict).unwrap_err();
    let expected = "patch: Invalid value: \"map[metadata:map[labels:x]]\": cannot restore map from string";
    assert_eq!(status.message, format!(" \"\" is invalid: {expected}"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(body in r#"[\[\]{}":,0-9a-z. -]{0,80}"#) {
        let _ = strict(&body);
        let _ = strict(&format!(r#"{{"spec": {{"ports": [{body}]}}}}"#));
    }
}
