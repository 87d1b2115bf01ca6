//! update, and everything that is one: patch, status, scale, finalize.

use api::field::{FieldError, Path};
use serde_json::Value;
use store::Transaction;

use crate::Server;
use crate::create::create;
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, ObjectPart};
use crate::object;
use crate::write::{WriteOptions, Written, address};

/// Which part of the object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Status,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// A part with rules of its kind's own.
    Object(ObjectPart),
    /// A part that the server itself writes, such as a Pod's binding: no rule of the kind is asked.
    Own(&'static str),
}

impl Part {
    /// The subresource as `managedFields` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Whole => "",
            Part::Status => "status",
            Part::Finalize => "finalize",
            Part::Object(part) => part.name,
            Part::Own(name) => name,
        }
    }
}

/// How the new object comes out of the old.
pub(crate) trait Edit: Send + Sync {
    fn edit(&self, old: &Value) -> Outcome<Edited>;

    /// The object to create when there is none; nothing when that is not meant.
    fn absent(&self) -> Outcome<Option<Value>> {
        Ok(None)
    }

    /// Whether the edit sets managed fields itself.
    fn owns_fields(&self) -> bool {
        false
    }

    /// Whether the new object is what the writer sent, so that what it leaves out was not taken out.
    fn is_sent(&self) -> bool {
        false
    }

    /// The subresource that managed fields name.
    fn subresource(&self, part: Part) -> &'static str {
        part.name()
    }
}

impl<F: Fn(&Value) -> Outcome<Value> + Send + Sync> Edit for F {
    fn edit(&self, old: &Value) -> Outcome<Edited> {
        self(old).map(Edited::from)
    }
}

/// The new object, and what there is to warn about.
#[derive(Debug)]
pub(crate) struct Edited {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

impl From<Value> for Edited {
    fn from(object: Value) -> Self {
        Edited { object, warnings: Vec::new() }
    }
}

/// A `PUT`: the body replaces the object, and creates it where the kind allows that.
pub(crate) struct Replace {
    pub(crate) kind: &'static Kind,
    pub(crate) object: Value,
    pub(crate) may_create: bool,
}

impl Edit for Replace {
    /// A `PUT` that names an identity means that very object.
    fn edit(&self, old: &Value) -> Outcome<Edited> {
        let (given, found) = (object::meta(&self.object, "uid"), object::meta(old, "uid"));
        if given.is_empty() || given == found {
            return Ok(self.object.clone().into());
        }
        let key = object::upstream_key(self.kind, object::namespace(old), object::name(old));
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in \
             precondition: {given}, UID in object meta: {found}"
        );
        Err(Fault::conflict(self.kind, object::name(old), why))
    }

    fn absent(&self) -> Outcome<Option<Value>> {
        Ok(self.may_create.then(|| self.object.clone()))
    }

    fn is_sent(&self) -> bool {
        true
    }
}

/// Changes an object, again from the start when another writer was quicker and this one did not insist on a version.
pub(crate) async fn update(
    server: &Server,
    kind: &'static Kind,
    (namespace, name): (&str, &str),
    part: Part,
    edit: &dyn Edit,
    options: &WriteOptions,
) -> Outcome<Written> {
    let key = object::key(kind, namespace, name);
    loop {
        let Some(entry) = server.store.get(&key) else {
            return match edit.absent()? {
                Some(object) => {
                    let managed = edit.owns_fields();
                    create(server, kind, (namespace, Some(name)), object, managed, options).await
                }
                None => Err(Fault::not_found(kind, name)),
            };
        };
        let old = object::decode(kind, &entry.value)?;
        let Edited { object: mut new, warnings } = edit.edit(&old)?;
        address(kind, namespace, Some(name), &mut new)?;
        check_version(kind, name, &new, &old, part)?;
        settle(kind, part, &mut new, &old, edit, options)?;
        let claim = match part {
            Part::Whole => server.allocate.update(kind, &mut new, &old)?,
            Part::Status | Part::Finalize | Part::Object(_) | Part::Own(_) => crate::allocate::Claim::none(),
        };
        let warnings = judge(kind, part, &mut new, &old, warnings)?;
        crate::auth::escalation::check(server, kind, options, &new, Some(&old))?;
        crate::ownership::keep_times(&mut new, &old);
        if options.dry_run || new == old {
            return Ok(Written { object: new, warnings, created: false });
        }
        let gone = is_done(kind, &new);
        let body = object::encode(kind, &new);
        let transaction = Transaction::new().unchanged(key.as_str(), entry.modified);
        let (transaction, claim) = if gone {
            let released = server.allocate.delete(kind, &new);
            (released.add_to(transaction.delete(key.as_str(), body)), released)
        } else {
            (claim.add_to(transaction.put(key.as_str(), body)), claim)
        };
        match server.store.commit(transaction).await {
            Ok(revision) => {
                claim.keep();
                object::set_meta(&mut new, "resourceVersion", revision.to_string());
                return Ok(Written { object: new, warnings, created: false });
            }
            // Another writer was quicker. A writer that named a version sees next time that it is not this one.
            Err(store::Error::Conflict { key: taken, .. }) => {
                drop(claim);
                server.allocate.note_taken(&taken);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A version that the writer names must be the one that is stored.
fn check_version(kind: &Kind, name: &str, new: &Value, old: &Value, part: Part) -> Outcome<()> {
    let given = object::meta(new, "resourceVersion");
    if given.is_empty() || given == "0" {
        if kind.unconditional_update || part != Part::Whole {
            return Ok(());
        }
        let path = Path::new("metadata").child("resourceVersion");
        return Err(Fault::invalid(kind, name, &[FieldError::invalid(path, 0, "must be specified for an update")]));
    }
    if given == object::meta(old, "resourceVersion") { Ok(()) } else { Err(Fault::modified(kind, name)) }
}

/// Defaults, what only the server sets, managed fields.
fn settle(
    kind: &'static Kind,
    part: Part,
    new: &mut Value,
    old: &Value,
    edit: &dyn Edit,
    options: &WriteOptions,
) -> Outcome<()> {
    object::name_kind(kind, new);
    carry_over(new, old);
    if part == Part::Whole {
        crate::admission::update(kind, new, old, edit.is_sent());
    }
    (kind.rules.default)(new);
    if !edit.owns_fields() {
        crate::ownership::track(kind, new, Some(old), options, edit.subresource(part))?;
    }
    Ok(())
}

/// The metadata that a writer may leave out, or may not change at all.
fn carry_over(new: &mut Value, old: &Value) {
    for field in ["uid", "creationTimestamp", "generateName"] {
        if object::meta(new, field).is_empty() && !object::meta(old, field).is_empty() {
            object::set_meta(new, field, old["metadata"][field].clone());
        }
    }
    object::remove_meta(new, "selfLink");
    for field in ["resourceVersion", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        match &old["metadata"][field] {
            Value::Null => object::remove_meta(new, field),
            value => object::set_meta(new, field, value.clone()),
        }
    }
}

/// The kind's rules for this part.
fn judge(
    kind: &'static Kind,
    part: Part,
    new: &mut Value,
    old: &Value,
    mut warnings: Vec<String>,
) -> Outcome<Vec<String>> {
    let errors = match part {
        Part::Whole => {
            (kind.rules.prepare_update)(new, old);
            warnings.extend((kind.rules.warnings)(new, Some(old)));
            (kind.rules.validate_update)(new, old)
        }
        Part::Status => {
            (kind.rules.prepare_status)(new, old);
            (kind.rules.validate_status)(new, old)
        }
        Part::Finalize => {
            // Only the finalizers of the namespace itself are written here.
            let finalizers = new["spec"]["finalizers"].take();
            let version = new["metadata"]["resourceVersion"].clone();
            new.clone_from(old);
            new["metadata"]["resourceVersion"] = version;
            new["spec"]["finalizers"] = finalizers;
            Vec::new()
        }
        Part::Object(part) => {
            (part.prepare)(new, old);
            (part.validate)(new, old)
        }
        Part::Own(_) => Vec::new(),
    };
    if errors.is_empty() { Ok(warnings) } else { Err(Fault::invalid(kind, object::name(old), &errors)) }
}

/// Whether this update takes away the last thing that kept a deleted object.
fn is_done(kind: &Kind, object: &Value) -> bool {
    let waits = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    object::is_deleting(object) && !waits && !object::has_finalizers(object) && !crate::delete::keeps(kind, object)
}
