//! Which manager owns which field: `metadata.managedFields` of every write, and server-side apply.

use api::apply::{self, Writer};
use api::schema::{self, Type};
use bytes::Bytes;
use serde_json::Value;

use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, Subresource};
use crate::object;
use crate::update::{Edit, Edited};
use crate::write::WriteOptions;

fn type_of(kind: &Kind) -> Outcome<&'static Type> {
    schema::kind(kind.group, kind.version, kind.kind)
        .ok_or_else(|| Fault::internal(format!("no schema of {}", kind.kind)))
}

/// Fields that an endpoint does not write: status on the object itself, spec on its status.
fn reset(kind: &Kind, subresource: &str) -> &'static [&'static str] {
    match subresource {
        "status" => &["spec"],
        _ if kind.subresources.contains(&Subresource::Status) => &["status"],
        _ => &[],
    }
}

/// The writer owns what it set or changed. `live` is what is stored.
pub(crate) fn track(
    kind: &Kind,
    new: &mut Value,
    live: Option<&Value>,
    options: &WriteOptions,
    subresource: &str,
) -> Outcome<()> {
    let (api_version, now) = (object::api_version(kind), object::now());
    let writer = Writer {
        of: type_of(kind)?,
        api_version: &api_version,
        manager: &options.manager,
        subresource,
        now: &now,
        reset: reset(kind, subresource),
    };
    apply::track(&writer, live, new);
    Ok(())
}

/// A write that changes nothing but the times in `managedFields` changes nothing.
pub(crate) fn keep_times(new: &mut Value, old: &Value) {
    let (ours, theirs) = (&new["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    if ours == theirs || !same_but_times(ours, theirs) {
        return;
    }
    let kept = std::mem::replace(&mut new["metadata"]["managedFields"], theirs.clone());
    if new != old {
        new["metadata"]["managedFields"] = kept;
    }
}

fn same_but_times(ours: &Value, theirs: &Value) -> bool {
    let (Some(ours), Some(theirs)) = (ours.as_array(), theirs.as_array()) else { return false };
    fn timeless(entry: &Value) -> impl Iterator<Item = (&String, &Value)> {
        entry.as_object().into_iter().flatten().filter(|(name, _)| *name != "time")
    }
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| timeless(ours).eq(timeless(theirs)))
}

/// Server-side apply: a configuration of which its manager owns every field.
pub(crate) struct Apply {
    kind: &'static Kind,
    config: Value,
    subresource: &'static str,
    options: WriteOptions,
}

impl Apply {
    pub(crate) fn parse(
        kind: &'static Kind,
        body: &Bytes,
        subresource: &'static str,
        options: &WriteOptions,
    ) -> Outcome<Apply> {
        let config = crate::body::yaml(body)?;
        if let Some(other) = config["kind"].as_str().filter(|given| *given != kind.kind) {
            let version = object::api_version(kind);
            let why = format!("{other} in version {version:?} cannot be applied to a {}", kind.kind);
            return Err(Fault::bad_request(why));
        }
        Ok(Apply { kind, config, subresource, options: options.clone() })
    }

    fn applied(&self, live: Option<&Value>) -> Outcome<Value> {
        let (api_version, now) = (object::api_version(self.kind), object::now());
        let writer = Writer {
            of: type_of(self.kind)?,
            api_version: &api_version,
            manager: &self.options.manager,
            subresource: self.subresource,
            now: &now,
            reset: reset(self.kind, self.subresource),
        };
        Ok(apply::apply(&writer, live, &self.config, self.options.force)?)
    }
}

impl Edit for Apply {
    fn edit(&self, old: &Value) -> Outcome<Edited> {
        self.applied(Some(old)).map(Edited::from)
    }

    fn absent(&self) -> Outcome<Option<Value>> {
        if !self.subresource.is_empty() {
            return Ok(None);
        }
        if let Some(uid) = self.config["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
            let name = object::name(&self.config);
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Fault::conflict(self.kind, name, why));
        }
        self.applied(None).map(Some)
    }

    fn owns_fields(&self) -> bool {
        true
    }
}
