//! Bodies of any bytes: read as JSON of a kind and as protobuf. What was read is written and read again, and is the same.
#![no_main]

use api::decode::{self, FieldValidation, Kind};
use api::protobuf;
use libfuzzer_sys::fuzz_target;

const KINDS: &[Kind<'static>] = &[
    Kind { group: "", version: "v1", kind: "Service" },
    Kind { group: "", version: "v1", kind: "Pod" },
    Kind { group: "", version: "v1", kind: "Secret" },
    Kind { group: "apps", version: "v1", kind: "Deployment" },
    Kind { group: "discovery.k8s.io", version: "v1", kind: "EndpointSlice" },
    Kind { group: "networking.k8s.io", version: "v1", kind: "Ingress" },
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, body)) = bytes.split_first() else { return };
    let wanted = KINDS[usize::from(*choice) % KINDS.len()];
    for validation in [FieldValidation::Ignore, FieldValidation::Warn, FieldValidation::Strict] {
        let Ok(decoded) = decode::json(body, wanted, validation) else { continue };
        let again = decode::value(&decoded.object, wanted, FieldValidation::Strict);
        assert_eq!(again.map(|again| again.object), Ok(decoded.object.clone()));
        if let Ok(written) = protobuf::encode(&decoded.object) {
            protobuf::decode(&written).expect("reads what it wrote");
        }
    }
    let mut envelope = protobuf::MAGIC.to_vec();
    envelope.extend_from_slice(body);
    for message in [body, &envelope] {
        if let Ok(object) = protobuf::decode(message) {
            protobuf::encode(&object).expect("writes what it read");
        }
        let _ = protobuf::read_watch_frame(message);
    }
});
