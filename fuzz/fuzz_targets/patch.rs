//! Patches of any bytes, of all three formats, to objects of any shape.
#![no_main]

use api::{patch, schema};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fn object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "1"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}],
        },
    })
}

fuzz_target!(|bytes: &[u8]| {
    let of = schema::kind("", "v1", "Pod").expect("the table has pods");
    // Up to a zero byte an object of the fuzzer's own, behind it the patch.
    let (current, patched) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (serde_json::from_slice(&bytes[..end]).unwrap_or_else(|_| object()), &bytes[end + 1..]),
        None => (object(), bytes),
    };
    let _ = patch::json(&current, patched);
    if let Ok(once) = patch::merge(&current, patched) {
        // A merge patch says what shall be: said twice it changes nothing more.
        assert_eq!(patch::merge(&once, patched), Ok(once.clone()));
    }
    let _ = patch::strategic(of, &current, patched);
});
