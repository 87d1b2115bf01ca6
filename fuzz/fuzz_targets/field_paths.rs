//! Server-side apply of any configuration to any object with any `managedFields`: no panic, and applying twice changes nothing more.
#![no_main]

use api::apply::{self, Writer};
use api::schema;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let (live, config) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (serde_json::from_slice::<Value>(&bytes[..end]).ok(), &bytes[end + 1..]),
        None => (None, bytes),
    };
    let Ok(config) = serde_json::from_slice::<Value>(config) else { return };
    let live = live.or_else(|| {
        let fields = config.get("fields").cloned().unwrap_or_default();
        let entry = json!({"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
        Some(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "managedFields": [entry]}, "spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}))
    });
    let writer = Writer {
        of: schema::kind("", "v1", "Service").expect("the table has services"),
        api_version: "v1",
        manager: "fuzz",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &["status"],
    };
    for force in [false, true] {
        let Ok(once) = apply::apply(&writer, live.as_ref(), &config, force) else { continue };
        let twice = apply::apply(&writer, Some(&once), &config, force).expect("what was applied can be applied again");
        assert_eq!(once, twice);
    }
    let mut tracked = config.clone();
    apply::track(&writer, live.as_ref(), &mut tracked);
});
