//! Laws over random objects of every kind, and bytes as upstream writes them.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::schema::{Element, Shape};

/// A source of choices that proptest can shrink: the bytes of one random vector.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }
}

fn object(of: &'static Type, choices: &mut Choices<'_>, depth: usize) -> Value {
    let mut object = Map::new();
    for field in of.json_fields() {
        // Deep down objects are sparse, and out of choices they are empty.
        if field.number == 0 || usize::from(choices.next()) < 100 + 20 * depth {
            continue;
        }
        let value = match field.shape {
            Shape::One => element(field.element, choices, depth + 1),
            Shape::List => (0..=choices.next() % 3).map(|_| element(field.element, choices, depth + 1)).collect(),
            Shape::Map => {
                let count = choices.next() % 3;
                let entry = |i| (format!("k{i}"), element(field.element, choices, depth + 1));
                Value::Object((0..=count).map(entry).collect())
            }
        };
        object.insert(field.name.to_owned(), value);
    }
    Value::Object(object)
}

fn element(element: Element, choices: &mut Choices<'_>, depth: usize) -> Value {
    let choice = choices.next();
    match element {
        Element::String => ["", "a", "näme", "x y"][usize::from(choice % 4)].into(),
        Element::Int32 => [0, 1, -1, i32::MAX, i32::MIN][usize::from(choice % 5)].into(),
        Element::Int64 => [0, 300, -7, i64::MAX, i64::MIN][usize::from(choice % 5)].into(),
        Element::Bool => choice.is_multiple_of(2).into(),
        Element::Double => (f64::from(choice) / 4.0).into(),
        Element::Bytes => STANDARD.encode([choice, 0, 255]).into(),
        Element::Time => ["2026-11-23T13:29:00Z", "1969-12-31T23:59:59Z"][usize::from(choice % 2)].into(),
        Element::MicroTime => "2026-11-23T13:29:00.000250Z".into(),
        Element::Quantity => ["0", "100m", "1Gi", "2k"][usize::from(choice % 4)].into(),
        Element::IntOrString => [json!(80), json!("http"), json!(-1)][usize::from(choice % 3)].clone(),
        Element::Raw | Element::Fields => json!({"f:spec": {"x": choice}}),
        Element::Strings => json!(["a", "b"]),
        Element::Message(of) => object(of, choices, depth),
    }
}

#[test]
fn every_kind_survives_the_wire_and_is_canonical() {
    let law = |(bytes, at): (Vec<u8>, usize)| {
        // `LabelSelector` and `WatchEvent` are no objects.
        let kinds: Vec<_> = schema::kinds().filter(|row| row.3.field("kind").is_some()).collect();
        let (group, version, kind, of) = kinds[at % kinds.len()];
        let mut given = object(of, &mut Choices(bytes.iter()), 0);
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        given["apiVersion"] = api_version.into();
        given["kind"] = kind.into();
        canonicalize(of, &mut given);
        let bytes = encode(&given).unwrap();
        assert_eq!(decode(&bytes).unwrap(), given);
    };
    let strategy = (proptest::collection::vec(any::<u8>(), 0..600), 0usize..1000);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(600)
    });
    runner
        .run(&strategy, |input| {
            law(input);
            Ok(())
        })
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..1000) {
        let _ = decode(&[&MAGIC[..], &bytes].concat());
        let kinds: Vec<_> = schema::kinds().collect();
        let _ = read::message(kinds[at % kinds.len()].3, &bytes, 4);
        let _ = read_watch_frame(&bytes);
    }
}

#[test]
fn every_field_has_a_number_of_its_own() {
    fn look(of: &'static Type, seen: &mut BTreeSet<String>) {
        if !seen.insert(of.definition()) {
            return;
        }
        let mut numbers = BTreeSet::new();
        for field in of.fields {
            match (field.name, field.number) {
                // The envelope carries these.
                ("apiVersion" | "kind", 0) => {}
                (name, 0) => panic!("{} has no number for {name}", of.definition()),
                (name, number) => assert!(numbers.insert(number), "{}.{name}: {number} twice", of.definition()),
            }
            if let Some(inner) = field.message() {
                look(inner, seen);
            }
        }
    }
    let mut seen = BTreeSet::new();
    schema::kinds().for_each(|(_, _, _, of)| look(of, &mut seen));
    assert!(seen.len() > 300, "{}", seen.len());
}

#[test]
fn what_came_with_the_newest_release_is_carried() {
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": {"containers": []}},
        "scheduling": {"schedulingPolicy": {"gang": {"minCount": 3}}, "disruptionMode": {"all": {}}}}});
    let decoded = decode(&encode(&job).unwrap()).unwrap();
    assert_eq!(decoded["spec"]["scheduling"], job["spec"]["scheduling"]);
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["a"], "expirationSeconds": 600, "boundObjectRef": null, "attestations": {"k": ["a", "b"]}}});
    let decoded = decode(&encode(&token).unwrap()).unwrap();
    assert_eq!(decoded["spec"]["attestations"], token["spec"]["attestations"]);
}

#[test]
fn a_namespace_is_the_bytes_that_client_go_writes() {
    // Kind and version; metadata with its name and client-go's zeros (an empty time among them); empty spec and status with its phase.
    let sent = b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12\x19\n\x11\n\x01a\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\0\x1a\x02\n\0\x1a\0\"\0";
    let expected =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {}, "status": {}});
    assert_eq!(decode(sent).unwrap(), expected);
    let ours = encode(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})).unwrap();
    assert_eq!(ours, b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12\x05\n\x03\n\x01a\x1a\0\"\0");
}

#[test]
fn zeros_of_pointers_stay_and_zeros_of_values_go() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 0, "paused": false,
        "selector": {}, "template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": ""}]}]}}}});
    let decoded = decode(&encode(&deployment).unwrap()).unwrap();
    assert_eq!(decoded["spec"]["replicas"], 0);
    assert_eq!(decoded["spec"].get("paused"), None);
    assert_eq!(decoded["spec"]["template"]["spec"]["containers"][0]["env"][0], json!({"name": "A"}));
}

#[test]
fn lists_statuses_and_frames_pass() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]},
        "status": {"loadBalancer": {}}});
    let list =
        json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "5"}, "items": [service]});
    let decoded = decode(&encode(&list).unwrap()).unwrap();
    assert_eq!(decoded["items"][0]["spec"], service["spec"]);
    let status = crate::status::Status::not_found("", "services", "zz").to_value();
    assert_eq!(decode(&encode(&status).unwrap()).unwrap(), status);
    let mut stream = watch_frame("ADDED", &service).unwrap();
    let length = stream.len();
    stream.extend_from_slice(&[0, 0]);
    assert_eq!(read_watch_frame(&stream).unwrap(), Some(("ADDED".to_owned(), service, length)));
    assert_eq!(read_watch_frame(&stream[..length - 1]).unwrap(), None);
}

#[test]
fn faults_are_told() {
    assert_eq!(decode(b"{}"), Err(ProtobufError::NoEnvelope));
    assert_eq!(decode(b"k8s\0\x0a\x7f"), Err(ProtobufError::Truncated));
    let table = encode(&json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table"}));
    assert!(matches!(table, Err(ProtobufError::UnknownKind { .. })));
}

#[test]
fn nested_envelopes_have_an_end() {
    let mut bytes = encode(&json!({"apiVersion": "v1", "kind": "List", "items": []})).unwrap();
    for _ in 0..100 {
        let mut raw = Vec::new();
        wire::put_bytes(&mut raw, 1, &bytes);
        let mut list = Vec::new();
        wire::put_bytes(&mut list, 2, &raw);
        let mut next = b"k8s\0\n\x0a\n\x02v1\x12\x04List".to_vec();
        wire::put_bytes(&mut next, 2, &list);
        bytes = next;
    }
    assert_eq!(decode(&bytes), Err(ProtobufError::TooDeep));
}
