//! Writes as values, so that a decision can be read and compared before anything happens, and the one place that carries them out.
//!
//! A write that finds the world already as it wanted (deleting what is gone) has succeeded. One that finds it otherwise (a conflict, a
//! name taken) fails the decision, which is taken again on newer facts.

use std::fmt;

use client::{Client, Key};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::{PartialObjectMeta, Request};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// How many writes of one decision are on their way at once.
const AT_ONCE: usize = 32;

/// What a write is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub kind: String,
    /// The collection's path, such as `/api/v1/namespaces/default/pods`.
    pub path: String,
    pub key: Key,
}

/// One request to the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub target: Target,
    pub verb: Verb,
    /// An object that must still be there, alive and the same, before this is done.
    guard: Option<Guard>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    Create(Object),
    /// The whole object, at the revision that it names.
    Replace(Object),
    ReplaceStatus(Object),
    /// A JSON merge patch.
    Patch(Value),
    PatchStatus(Value),
    /// Deletes this very object, not a namesake.
    Delete {
        uid: String,
        propagation: Propagation,
        grace: Option<u32>,
    },
    /// `PUT` of another subresource.
    ReplaceSubresource(&'static str, Value),
}

/// A whole object as it is sent. It is written down once: as a tree of values it would cost more than all else about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object(String);

impl Object {
    fn of<K: Serialize>(object: &K) -> Object {
        // k8s-openapi's types serialise themselves with apiVersion and kind; maps with string keys cannot fail.
        Object(serde_json::to_string(object).unwrap_or_default())
    }

    /// To look into it.
    #[cfg(test)]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap()
    }
}

/// What happens to an object's dependents when it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
}

#[derive(Debug, Clone, PartialEq)]
struct Guard {
    target: Target,
    uid: String,
}

/// What a view must show before the same key is decided again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    pub kind: String,
    pub key: Key,
    pub uid: String,
    pub revision: u64,
    /// The object was deleted: the view must show it gone or going.
    pub gone: bool,
}

impl Write {
    pub fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Write {
        Write::new(object, Verb::Create(Object::of(object)))
    }

    pub fn replace<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Write {
        Write::new(object, Verb::Replace(Object::of(object)))
    }

    pub fn replace_status<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Write {
        Write::new(object, Verb::ReplaceStatus(Object::of(object)))
    }

    pub fn patch<K: Resource<DynamicType = ()>>(object: &K, patch: Value) -> Write {
        Write::new(object, Verb::Patch(patch))
    }

    pub fn patch_status<K: Resource<DynamicType = ()>>(object: &K, patch: Value) -> Write {
        Write::new(object, Verb::PatchStatus(patch))
    }

    pub fn delete<K: Resource<DynamicType = ()>>(object: &K) -> Write {
        let uid = object.uid().unwrap_or_default();
        Write::new(object, Verb::Delete { uid, propagation: Propagation::Background, grace: None })
    }

    /// Deletes the object once all that it owns is gone.
    pub fn delete_last<K: Resource<DynamicType = ()>>(object: &K) -> Write {
        let uid = object.uid().unwrap_or_default();
        Write::new(object, Verb::Delete { uid, propagation: Propagation::Foreground, grace: None })
    }

    /// Deletes without the time that the object's containers would get to end.
    pub fn delete_now<K: Resource<DynamicType = ()>>(object: &K) -> Write {
        let uid = object.uid().unwrap_or_default();
        Write::new(object, Verb::Delete { uid, propagation: Propagation::Background, grace: Some(0) })
    }

    pub fn new<K: Resource<DynamicType = ()>>(object: &K, verb: Verb) -> Write {
        Write { target: Target::of(object), verb, guard: None }
    }

    /// A write to what is only known by its path.
    pub fn to(target: Target, verb: Verb) -> Write {
        Write { target, verb, guard: None }
    }

    /// Does this only while `object` exists, is not being deleted and is still the one that we saw.
    #[must_use]
    pub fn guarded_by<K: Resource<DynamicType = ()>>(mut self, object: &K) -> Write {
        self.guard = Some(Guard { target: Target::of(object), uid: object.uid().unwrap_or_default() });
        self
    }

    /// Whether two writes may be on their way together: the same act on the same kind.
    fn goes_with(&self, other: &Write) -> bool {
        std::mem::discriminant(&self.verb) == std::mem::discriminant(&other.verb)
            && self.target.kind == other.target.kind
    }
}

impl Target {
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Target {
        let key = Key::new(object.namespace().unwrap_or_default(), object.name_any());
        let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
        Target { kind: K::kind(&()).into_owned(), path: K::url_path(&(), namespace), key }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match &self.verb {
            Verb::Create(_) => "create",
            Verb::Replace(_) => "replace",
            Verb::ReplaceStatus(_) => "replace status of",
            Verb::Patch(_) => "patch",
            Verb::PatchStatus(_) => "patch status of",
            Verb::Delete { .. } => "delete",
            Verb::ReplaceSubresource(name, _) => name,
        };
        write!(f, "{verb} {} {}", self.target.kind, self.target.key)
    }
}

/// Carries writes out in their order, runs of alike ones together. Stops after the first run in which one failed.
///
/// # Errors
/// The first failure, and before it all that was written, which is to be awaited in either case.
pub async fn execute(client: &Client, writes: Vec<Write>) -> (Vec<Awaited>, Result<(), Error>) {
    let mut awaited = Vec::new();
    let mut rest = writes.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut run = vec![first];
        while run.len() < AT_ONCE
            && let Some(next) = rest.next_if(|next| next.goes_with(&run[0]))
        {
            run.push(next);
        }
        let mut answers: FuturesOrdered<_> = run.iter().map(|write| send(client, write)).collect();
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(shown) => awaited.extend(shown),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            return (awaited, Err(error));
        }
    }
    (awaited, Ok(()))
}

async fn send(client: &Client, write: &Write) -> Result<Option<Awaited>, Error> {
    if let Some(guard) = &write.guard
        && !stands(client, guard).await?
    {
        return Ok(None);
    }
    let fail = |source: kube::Error| Error::Write { what: write.to_string(), source: Box::new(source) };
    let request = request(write).map_err(|source| fail(kube::Error::BuildRequest(source)))?;
    let gone = matches!(write.verb, Verb::Delete { .. });
    match client.request::<Answer>(request).await {
        Ok(answer) => Ok(Some(awaited(write, answer, gone))),
        Err(kube::Error::Api(status)) if gone && status.code == 404 => Ok(None),
        // The name now belongs to another object: the one we meant is gone.
        Err(kube::Error::Api(status)) if gone && status.code == 409 => Ok(None),
        Err(source) => Err(fail(source)),
    }
}

/// What is read of an answer; the object itself comes by the views.
#[derive(Debug, Deserialize)]
struct Answer {
    metadata: Option<AnswerMeta>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AnswerMeta {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

fn awaited(write: &Write, answer: Answer, gone: bool) -> Awaited {
    let AnswerMeta { name, uid, resource_version } = answer.metadata.unwrap_or_default();
    let uid = match &write.verb {
        Verb::Delete { uid, .. } => uid.clone(),
        Verb::Create(_)
        | Verb::Replace(_)
        | Verb::ReplaceStatus(_)
        | Verb::Patch(_)
        | Verb::PatchStatus(_)
        | Verb::ReplaceSubresource(..) => uid.unwrap_or_default(),
    };
    Awaited {
        kind: write.target.kind.clone(),
        key: Key::new(write.target.key.namespace.clone(), name.unwrap_or_else(|| write.target.key.name.clone())),
        uid,
        revision: resource_version.and_then(|text| text.parse().ok()).unwrap_or(0),
        gone,
    }
}

async fn stands(client: &Client, guard: &Guard) -> Result<bool, Error> {
    let what = || format!("get {} {}", guard.target.kind, guard.target.key);
    let fail = |source: kube::Error| Error::Write { what: what(), source: Box::new(source) };
    let request = Request::new(&guard.target.path).get(&guard.target.key.name, &GetParams::default());
    let request = request.map_err(|source| fail(kube::Error::BuildRequest(source)))?;
    match client.request::<PartialObjectMeta>(request).await {
        Ok(owner) => {
            Ok(owner.metadata.deletion_timestamp.is_none() && owner.metadata.uid.as_deref() == Some(&guard.uid))
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(source) => Err(fail(source)),
    }
}

fn request(write: &Write) -> Result<http::Request<Vec<u8>>, kube::core::request::Error> {
    let to = Request::new(&write.target.path);
    let name = write.target.key.name.as_str();
    let post = PostParams::default();
    let bytes = |object: &Object| object.0.clone().into_bytes();
    match &write.verb {
        Verb::Create(object) => to.create(&post, bytes(object)),
        Verb::Replace(object) => to.replace(name, &post, bytes(object)),
        Verb::ReplaceStatus(object) => to.replace_subresource("status", name, &post, bytes(object)),
        Verb::ReplaceSubresource(subresource, object) => {
            to.replace_subresource(subresource, name, &post, object.to_string().into_bytes())
        }
        Verb::Patch(patch) => to.patch(name, &PatchParams::default(), &Patch::Merge(patch)),
        Verb::PatchStatus(patch) => to.patch_subresource("status", name, &PatchParams::default(), &Patch::Merge(patch)),
        Verb::Delete { uid, propagation, grace } => {
            let propagation = match propagation {
                Propagation::Background => PropagationPolicy::Background,
                Propagation::Foreground => PropagationPolicy::Foreground,
            };
            let mut how = DeleteParams { propagation_policy: Some(propagation), ..DeleteParams::default() };
            how.grace_period_seconds = *grace;
            how.preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
            to.delete(name, &how)
        }
    }
}
