//! create: from a body to a stored object.

use rand::RngExt;
use serde_json::Value;
use store::Transaction;

use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, NameRule, Scope};
use crate::object;
use crate::write::{WriteOptions, Written, address};

/// A generated name that is taken is tried again so often.
const NAME_TRIES: usize = 8;
/// Letters and digits of generated names: no vowels and nothing that looks like another, so that no words come out.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// The longest prefix of a generated name that is kept.
const LONGEST_PREFIX: usize = 63 - SUFFIX;

/// Stores a new object. `managed` says that its managed fields are settled already.
pub(crate) async fn create(
    server: &Server,
    kind: &'static Kind,
    (namespace, name): (&str, Option<&str>),
    mut object: Value,
    managed: bool,
    options: &WriteOptions,
) -> Outcome<Written> {
    address(kind, namespace, name, &mut object)?;
    crate::admission::namespace_accepts(server, kind, namespace, object::name(&object))?;
    crate::admission::account_is_there(server, kind, namespace, &object).await;
    let generated = object::name(&object).is_empty() && !object::meta(&object, "generateName").is_empty();
    let mut tries = if generated { NAME_TRIES } else { 1 };
    loop {
        let mut attempt = object.clone();
        if generated {
            let name = generate(object::meta(&object, "generateName"));
            object::set_meta(&mut attempt, "name", name);
        }
        match store_new(server, kind, namespace, attempt, managed, options).await {
            Err(fault) if fault.is("AlreadyExists") && tries > 1 => tries -= 1,
            Ok(None) => {}
            Ok(Some(written)) => return Ok(written),
            Err(fault) => return Err(fault),
        }
    }
}

/// One attempt; nothing when an address that we thought free was not, which is known now.
async fn store_new(
    server: &Server,
    kind: &'static Kind,
    namespace: &str,
    mut object: Value,
    managed: bool,
    options: &WriteOptions,
) -> Outcome<Option<Written>> {
    begin(kind, &mut object);
    (kind.rules.default)(&mut object);
    if !managed {
        object::remove_meta(&mut object, "managedFields");
        crate::ownership::track(kind, &mut object, None, options, "")?;
    }
    crate::admission::create(server, kind, &mut object)?;
    let claim = server.allocate.create(kind, &mut object)?;
    (kind.rules.prepare_create)(&mut object);
    let mut errors = (kind.rules.validate_create)(&object);
    // Kinds without rules of their own are judged by those of a namespaced kind with an ordinary name.
    errors.retain(|error| match error.path.to_string().as_str() {
        "metadata.namespace" => kind.scope == Scope::Namespaced,
        "metadata.name" => kind.rules.name != NameRule::PathSegment || error.detail.contains("may not"),
        _ => true,
    });
    if !errors.is_empty() {
        return Err(Fault::invalid(kind, object::name(&object), &errors));
    }
    crate::auth::escalation::check(server, kind, options, &object, None)?;
    let warnings = (kind.rules.warnings)(&object, None);
    if options.dry_run {
        return Ok(Some(Written { object, warnings, created: true }));
    }
    let key = object::key(kind, namespace, object::name(&object));
    let transaction = Transaction::new().absent(key.as_str()).put(key.as_str(), object::encode(kind, &object));
    match server.store.commit(claim.add_to(transaction)).await {
        Ok(revision) => {
            claim.keep();
            object::set_meta(&mut object, "resourceVersion", revision.to_string());
            Ok(Some(Written { object, warnings, created: true }))
        }
        Err(store::Error::Conflict { key: taken, .. }) if *taken == *key => {
            Err(Fault::already_exists(kind, object::name(&object)))
        }
        Err(store::Error::Conflict { key: taken, .. }) => {
            // The claim is given back first, then what someone else holds is marked.
            drop(claim);
            server.allocate.note_taken(&taken);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The metadata that only the server sets.
fn begin(kind: &Kind, object: &mut Value) {
    for field in ["selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        object::remove_meta(object, field);
    }
    object::set_meta(object, "uid", uuid::Uuid::new_v4().to_string());
    object::set_meta(object, "creationTimestamp", object::now());
    object::name_kind(kind, object);
}

pub(crate) fn generate(prefix: &str) -> String {
    let mut random = rand::rng();
    let mut name: String = prefix.chars().take(LONGEST_PREFIX).collect();
    for _ in 0..SUFFIX {
        name.push(char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    }
    name
}
