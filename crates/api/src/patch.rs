//! The three patch formats that say what to change: JSON patch, JSON merge patch and strategic merge patch.
//!
//! Each takes the current object and the patch and gives the patched object, which the caller canonicalises, defaults and validates like
//! one sent whole. Faults are `Status`es as upstream answers them, but for strategic patches that upstream answers with 500: those are 400.
//! Server-side apply, which says what to own, is in [`crate::apply`].

mod strategic;

use json_patch::{AddOperation, CopyOperation, MoveOperation, PatchOperation, ReplaceOperation};
use serde_json::Value;

use crate::schema::Type;
use crate::status::Status;

/// More operations than this are refused, as upstream does: a few bytes can copy a large object over and over.
const MAX_OPERATIONS: usize = 10_000;
/// How many bytes of JSON the copies of one patch may add, which could double an object with each: upstream's `JSONPatchMaxCopyBytes`.
const MAX_COPIED: usize = 3 << 20;
/// How deep a patched object may be: as deep as serde_json reads one from a body. Moves and copies could nest it without an end, and whatever
/// goes through it, down to its release, takes stack for each level.
const MAX_LEVELS: usize = 128;
/// So many levels fit on a stack for sure, which is why not every operation makes us look how many there are.
const FEW_LEVELS: usize = 4 * MAX_LEVELS;

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
    apply(&mut patched, &operations).ok_or_else(Status::rejected_patch)?;
    Ok(patched)
}

/// Nothing if an operation cannot be done; `object` is spoilt then.
fn apply(object: &mut Value, operations: &[PatchOperation]) -> Option<()> {
    let mut copied = 0;
    // How deep the object may be by now; how deep it is takes a look at all of it.
    let mut deepest = depth(object);
    for operation in operations {
        let path = operation.path().count();
        deepest = match operation {
            PatchOperation::Add(AddOperation { value, .. })
            | PatchOperation::Replace(ReplaceOperation { value, .. }) => deepest.max(path + depth(value)),
            PatchOperation::Move(MoveOperation { from, .. }) | PatchOperation::Copy(CopyOperation { from, .. }) => {
                deepest + path.saturating_sub(from.count())
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => deepest,
        };
        if let PatchOperation::Copy(CopyOperation { from, .. }) = operation {
            copied += serde_json::to_vec(object.pointer(from.as_str())?).ok()?.len();
            if copied > MAX_COPIED {
                return None;
            }
        }
        // "Unsafe" means that a failure leaves what was done. The careful variant panics where a move that failed cannot be undone.
        json_patch::patch_unsafe(object, std::slice::from_ref(operation)).ok()?;
        if deepest > FEW_LEVELS {
            deepest = depth(object);
            if deepest > MAX_LEVELS {
                return None;
            }
        }
    }
    (depth(object) <= MAX_LEVELS).then_some(())
}

/// How many lists and objects are within one another.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
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

    fn refused(current: &Value, operations: &Value) -> bool {
        let refused = json(current, operations.to_string().as_bytes()).unwrap_err();
        (refused.code, refused.reason) == (422, "Invalid")
    }

    #[test]
    fn a_move_that_fails_half_way_is_refused() {
        let current = json!({"metadata": {"name": "a"}});
        let operations = json!([{"op": "replace", "path": "/metadata/name", "value": "b"}, {"op": "move", "from": "/metadata", "path": "/x/y"}]);
        assert!(refused(&current, &operations));
    }

    #[test]
    fn copies_double_an_object_only_so_often() {
        let current = json!({"data": {"text": "x".repeat(1 << 10)}});
        let double = |times: usize| {
            let copy = |number| json!({"op": "copy", "from": "/data", "path": format!("/data/c{number}")});
            Value::Array((0..times).map(copy).collect())
        };
        assert!(json(&current, double(5).to_string().as_bytes()).is_ok());
        assert!(refused(&current, &double(30)));
    }

    #[test]
    fn nothing_is_nested_deeper_than_a_body_can_be() {
        let chain = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        let path = |levels: usize| format!("/all{}", "/a".repeat(levels));
        // Each of them puts all that there was below a hundred levels more.
        let deeper = |times: usize| {
            let step = |_| {
                let below = chain(99);
                [
                    json!({"op": "move", "from": "/all", "path": "/before"}),
                    json!({"op": "add", "path": "/all", "value": below}),
                    json!({"op": "move", "from": "/before", "path": path(100)}),
                ]
            };
            Value::Array((0..times).flat_map(step).collect())
        };
        let current = json!({"all": {}});
        assert!(json(&current, deeper(1).to_string().as_bytes()).is_ok());
        assert!(refused(&current, &deeper(2)), "by 202 levels");
        // Deep enough to end a process.
        assert!(refused(&current, &deeper(1000)));
        let copies = json!([{"op": "copy", "from": "/all", "path": "/all/b"}]);
        assert_eq!(json(&current, copies.to_string().as_bytes()).unwrap(), json!({"all": {"b": {}}}));
    }

    #[test]
    fn merge_patches_replace_lists_and_remove_nulls() {
        let current = json!({"spec": {"ports": [{"port": 80}, {"port": 443}], "type": "ClusterIP"}});
        let patched = merge(&current, br#"{"spec": {"ports": [{"port": 81}], "type": null}}"#).unwrap();
        assert_eq!(patched, json!({"spec": {"ports": [{"port": 81}]}}));
        assert_eq!(merge(&current, b"[]").unwrap_err().code, 400);
    }
}
