//! The three patch formats that say what to change: JSON patch, JSON merge patch and strategic merge patch.
//!
//! Each takes the current object and the patch and gives the patched object, which the caller canonicalises, defaults and validates like
//! one sent whole. Faults are `Status`es as upstream answers them, but for strategic patches that upstream answers with 500: those are 400.
//! Server-side apply, which says what to own, is in [`crate::apply`].

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::schema::Type;
use crate::status::Status;

/// More operations than this are refused, as upstream does: a few bytes can copy a large object over and over.
const MAX_OPERATIONS: usize = 10_000;

/// `application/json-patch+json` (RFC 6902): all operations or none.
pub fn json(current: &Value, patch: &[u8]) -> Result<Value, Status> {
    let operations: Vec<Value> =
        serde_json::from_slice(patch).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if operations.len() > MAX_OPERATIONS {
        let count = operations.len();
        let mut status = Status::entity_too_large(0);
        status.message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        );
        return Err(status);
    }
    let operations: Vec<PatchOperation> = operations
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()
        .map_err(|_| Status::rejected_patch())?;
    let mut patched = current.clone();
    json_patch::patch(&mut patched, &operations).map_err(|_| Status::rejected_patch())?;
    Ok(patched)
}

/// `application/merge-patch+json` (RFC 7386): null removes, objects merge, all else replaces.
pub fn merge(current: &Value, patch: &[u8]) -> Result<Value, Status> {
    let patch = object(patch)?;
    let mut patched = current.clone();
    json_patch::merge(&mut patched, &patch);
    Ok(patched)
}

/// `application/strategic-merge-patch+json`: as a merge patch, but lists with a merge key merge by it, and directives (`$patch`,
/// `$setElementOrder/…`, `$deleteFromPrimitiveList/…`, `$retainKeys`) say the rest.
pub fn strategic(of: &'static Type, current: &Value, patch: &[u8]) -> Result<Value, Status> {
    let (Value::Object(original), Value::Object(patch)) = (current.clone(), object(patch)?) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    strategic::merge(of, original, patch).map(Value::Object).map_err(Status::bad_request)
}

fn object(patch: &[u8]) -> Result<Value, Status> {
    let patch: Value =
        serde_json::from_slice(patch).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if patch.is_object() { Ok(patch) } else { Err(Status::bad_request("Invalid JSON Patch")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patches_are_all_or_nothing() {
        let current = json!({"spec": {"ports": [{"port": 80}, {"port": 443}]}, "metadata": {}});
        let patch = br#"[{"op": "test", "path": "/spec/ports/0/port", "value": 80}, {"op": "replace", "path": "/spec/ports/0/port", "value": 81},
            {"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}, {"op": "remove", "path": "/spec/ports/1"}]"#;
        let expected = json!({"spec": {"ports": [{"port": 81}]}, "metadata": {"labels": {"x": "y"}}});
        assert_eq!(json(&current, patch).unwrap(), expected);
        let refused = json(&current, br#"[{"op": "test", "path": "/spec/ports/0/port", "value": 1}]"#).unwrap_err();
        assert_eq!((refused.code, refused.reason), (422, "Invalid"));
        assert_eq!(json(&current, br#"[{"op": "jump", "path": "/a"}]"#).unwrap_err().code, 422);
        assert_eq!(json(&current, br#"{"spec": 1}"#).unwrap_err().code, 400);
    }

    #[test]
    fn merge_patches_replace_lists_and_remove_nulls() {
        let current = json!({"spec": {"ports": [{"port": 80}, {"port": 443}], "type": "ClusterIP"}});
        let patched = merge(&current, br#"{"spec": {"ports": [{"port": 81}], "type": null}}"#).unwrap();
        assert_eq!(patched, json!({"spec": {"ports": [{"port": 81}]}}));
        assert_eq!(merge(&current, b"[]").unwrap_err().code, 400);
    }
}
