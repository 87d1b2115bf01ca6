//! The protobuf form of objects and of watch events.

use api::protobuf;
use serde_json::Value;

use crate::fault::{Fault, Outcome};

/// An object in the envelope that starts with `k8s\0`.
pub(crate) fn encode(value: &Value) -> Outcome<Vec<u8>> {
    protobuf::encode(value).map_err(Fault::internal)
}

/// A watch event, with its length in front.
pub(crate) fn frame(event: &Value) -> Outcome<Vec<u8>> {
    protobuf::watch_frame(event["type"].as_str().unwrap_or_default(), &event["object"]).map_err(Fault::internal)
}

/// The object in an envelope.
pub(crate) fn decode(bytes: &[u8]) -> Outcome<Value> {
    protobuf::decode(bytes).map_err(|error| Fault::bad_request(error.to_string()))
}
