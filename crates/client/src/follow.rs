//! The changes of one kind, as a follower hears of them.
//!
//! kube-rs keeps the watch alive (back-off, relist after 410). The watch carries texts and knows nothing of their kind, so that it is built once
//! for all of them (before, it was an eighth of the program); what a text says is read beside it: at once where few have come, and where many
//! have, in parts on other cores, while the next ones are fetched.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::Object;

/// What serde_json calls a value that is to be left as it is written (its `RawValue`, feature `raw_value`).
const AS_WRITTEN: &str = "$serde_json::private::RawValue";

/// Follows what `api` and `config` select: faults are told and ridden out. An object that cannot be read is a fault, and is left out.
pub fn follow<K: Object>(api: Api<K>, config: watcher::Config) -> Following<K> {
    Following { events: objects(texts(&api, config), read::<K>), kind: PhantomData }
}

/// The events of a kind.
pub struct Following<K> {
    events: Objects,
    kind: PhantomData<fn() -> K>,
}

type Texts = BoxStream<'static, watcher::Result<Event<Document>>>;
type Objects = BoxStream<'static, watcher::Result<Event<Whole>>>;
/// An object of the kind that is followed.
type Whole = Arc<dyn Any + Send + Sync>;

impl<K> Debug for Following<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}

impl<K: Object> Stream for Following<K> {
    type Item = watcher::Result<Event<Arc<K>>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.poll_next_unpin(cx));
        Poll::Ready(event.map(|event| {
            each(event?, |object| match object.downcast() {
                Ok(object) => Ok(object),
                Err(_) => unreachable!("`read` made it for this kind"),
            })
        }))
    }
}

/// Many texts are read together by one task, but not so many that the rest of the cores wait for it.
const TOGETHER: usize = 128;
/// How many such tasks are at work at once for one kind.
const TASKS: usize = 4;
/// So few are read sooner than a task is begun.
const FEW: usize = 8;

fn read<K: Object>(text: &str) -> serde_json::Result<Whole> {
    Ok(Arc::new(serde_json::from_str::<K>(text)?))
}

/// In the order of the texts. Apart from [`follow`], because it is the same for every kind.
fn objects(texts: Texts, read: fn(&str) -> serde_json::Result<Whole>) -> Objects {
    let read = move |event: watcher::Result<Event<Document>>| {
        each(event?, |document| {
            read(&document.text).map_err(|fault| watcher::Error::WatchFailed(kube::Error::SerdeError(fault)))
        })
    };
    let parts = texts.ready_chunks(TOGETHER).map(move |part| {
        let many = part.len() > FEW;
        let read = async move { part.into_iter().map(read).collect::<Vec<_>>() };
        async move {
            if !many {
                return read.await;
            }
            // A task that was ended is one of a runtime that ends.
            let failed = |ended| vec![Err(watcher::Error::WatchFailed(kube::Error::Service(Box::new(ended))))];
            tokio::spawn(read).await.unwrap_or_else(failed)
        }
    });
    parts.buffered(TASKS).flat_map(stream::iter).boxed()
}

/// The same event, of what `change` makes of its object.
fn each<A, B>(event: Event<A>, change: impl FnOnce(A) -> watcher::Result<B>) -> watcher::Result<Event<B>> {
    Ok(match event {
        Event::Apply(object) => Event::Apply(change(object)?),
        Event::Delete(object) => Event::Delete(change(object)?),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(change(object)?),
        Event::InitDone => Event::InitDone,
    })
}

fn texts<K: Object>(api: &Api<K>, config: watcher::Config) -> Texts {
    let kind = ApiResource::erase::<K>(&());
    let client = api.clone().into_client();
    let api = match api.namespace() {
        Some(namespace) => Api::namespaced_with(client, namespace, &kind),
        None => Api::all_with(client, &kind),
    };
    watched(api, config)
}

/// Apart from [`texts`], because it is the same for every kind.
fn watched(api: Api<Document>, config: watcher::Config) -> Texts {
    watcher::watcher(api, config).default_backoff().boxed()
}

/// An object of any kind, as it came.
#[derive(Debug, Clone)]
struct Document {
    text: String,
    /// The watch asks for the revision of what changed, and of nothing that was listed.
    version: OnceLock<ObjectMeta>,
}

#[derive(Default, Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Version,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Version {
    resource_version: Option<String>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_newtype_struct(AS_WRITTEN, Text)?;
        Ok(Document { text, version: OnceLock::new() })
    }
}

/// A text from one of the two forms in which an object comes.
struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// As serde_json gives what is left as it is written: one field with the text.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        map.next_key::<String>()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        map.next_value()
    }

    /// An event whose type comes after its object was read before anyone could say how. Kubernetes writes the type first.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, read: D) -> Result<String, D::Error> {
        Value::deserialize(read).map(|value| value.to_string())
    }
}

impl Resource for Document {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(kind: &ApiResource) -> Cow<'_, str> {
        kind.kind.as_str().into()
    }

    fn group(kind: &ApiResource) -> Cow<'_, str> {
        kind.group.as_str().into()
    }

    fn version(kind: &ApiResource) -> Cow<'_, str> {
        kind.version.as_str().into()
    }

    fn api_version(kind: &ApiResource) -> Cow<'_, str> {
        kind.api_version.as_str().into()
    }

    fn plural(kind: &ApiResource) -> Cow<'_, str> {
        kind.plural.as_str().into()
    }

    /// The revision and nothing else.
    fn meta(&self) -> &ObjectMeta {
        self.version.get_or_init(|| {
            // One without a revision is refused by the watch.
            let head: Head = serde_json::from_str(&self.text).unwrap_or_default();
            ObjectMeta { resource_version: head.metadata.resource_version, ..ObjectMeta::default() }
        })
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.meta();
        match self.version.get_mut() {
            Some(meta) => meta,
            None => unreachable!("it has been read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    const TEXT: &str =
        r#"{"spec":{"resourceVersion":"1"},"metadata":{"name":"web","resourceVersion":"7"},"more":[{}]}"#;

    fn told(event: &str) -> Document {
        let event = serde_json::from_str(event).unwrap();
        let WatchEvent::<Document>::Modified(document) = event else { panic!("{event:?}") };
        document
    }

    #[test]
    fn an_object_is_its_text_and_its_revision_in_events_and_in_lists() {
        let event = told(&format!(r#"{{"type":"MODIFIED","object":{TEXT}}}"#));
        let list = format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{TEXT}]}}"#);
        let list: ObjectList<Document> = serde_json::from_str(&list).unwrap();
        for mut document in [event, list.items[0].clone()] {
            assert_eq!((document.text.as_str(), document.resource_version().as_deref()), (TEXT, Some("7")));
            document.meta_mut().resource_version = Some("8".to_owned());
            assert_eq!(document.resource_version().as_deref(), Some("8"));
        }
    }

    #[test]
    fn an_event_may_tell_its_type_last() {
        let document = told(&format!(r#"{{"object":{TEXT},"type":"MODIFIED"}}"#));
        let (read, meant): (Value, Value) =
            (serde_json::from_str(&document.text).unwrap(), serde_json::from_str(TEXT).unwrap());
        assert_eq!((read, document.resource_version().as_deref()), (meant, Some("7")));
    }

    #[test]
    fn what_is_no_object_has_no_revision() {
        for text in ["3", "null", "{}", r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":7}}"#] {
            let document: Document = serde_json::from_str(text).unwrap();
            assert_eq!(document.resource_version(), None, "{text}");
        }
    }
}
