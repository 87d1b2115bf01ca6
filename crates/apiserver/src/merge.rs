//! Patches: what each of the four formats makes of an object, decoded as strictly as a whole body would be.

use api::decode::{self, FieldValidation};
use api::patch;
use api::schema::{self, Type};
use bytes::Bytes;
use serde_json::Value;

use crate::fault::{Fault, Outcome};
use crate::kinds::Kind;
use crate::object;
use crate::update::{Edit, Edited};

/// The format of a patch, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    pub(crate) fn of(media_type: &str) -> Option<PatchType> {
        match media_type {
            "application/json-patch+json" => Some(PatchType::Json),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/strategic-merge-patch+json" => Some(PatchType::Strategic),
            "application/apply-patch+yaml" => Some(PatchType::Apply),
            _ => None,
        }
    }
}

/// A patch of one of the three formats that say what to change.
#[derive(Debug)]
pub(crate) struct Patch {
    pub(crate) kind: &'static Kind,
    pub(crate) r#type: PatchType,
    pub(crate) body: Bytes,
    pub(crate) validation: FieldValidation,
}

impl Edit for Patch {
    fn edit(&self, old: &Value) -> Outcome<Edited> {
        let of = schema::kind(self.kind.group, self.kind.version, self.kind.kind)
            .ok_or_else(|| Fault::internal(format!("no schema of {}", self.kind.kind)))?;
        let patched = patched(of, old, &self.body, self.r#type)?;
        let wanted = object::wanted(self.kind);
        let decoded = match self.r#type {
            PatchType::Strategic => {
                let patch = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
                decode::merged(&patched, &patch, wanted, self.validation)?
            }
            PatchType::Json | PatchType::Merge | PatchType::Apply => {
                decode::patched(&patched, wanted, self.validation)?
            }
        };
        Ok(Edited { object: decoded.object, warnings: decoded.warnings })
    }
}

/// A value after a patch.
pub(crate) fn patched(of: &'static Type, value: &Value, body: &[u8], r#type: PatchType) -> Outcome<Value> {
    Ok(match r#type {
        PatchType::Json => patch::json(value, body)?,
        PatchType::Merge => patch::merge(value, body)?,
        PatchType::Strategic => patch::strategic(of, value, body)?,
        // Apply says what to own rather than what to change; of a view like `Scale` only the values count.
        PatchType::Apply => patch::merge(value, &object::json_bytes(&crate::body::yaml(body)?))?,
    })
}
