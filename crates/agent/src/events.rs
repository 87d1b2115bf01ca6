//! Events as the kubelet words them, one object for each thing that happens again and again, with its count.
//!
//! Sending never holds a pod up: a task of its own writes them, and drops what it cannot write, since an event is a help and no record.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::status::time;

/// So many different events are remembered for counting.
const REMEMBERED: usize = 4096;

/// Whether something went as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Normal,
    Warning,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        }
    }
}

#[derive(Debug)]
struct Said {
    about: ObjectReference,
    kind: Kind,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Takes events from anywhere on the node.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: mpsc::UnboundedSender<Said>,
}

impl Recorder {
    /// Starts the task that writes; it ends with `shutdown`.
    pub fn start(client: Client, node_name: String, shutdown: CancellationToken) -> Recorder {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(shutdown.run_until_cancelled_owned(write(client, node_name, receiver)));
        Recorder { sender }
    }

    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &str, message: impl Into<String>) {
        self.say(pod.object_ref(&()), kind, reason, message.into());
    }

    /// About a container of a pod, in the list `containers`, `initContainers` or `ephemeralContainers`.
    pub fn container(&self, pod: &Pod, path: &str, kind: Kind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference { field_path: Some(path.to_owned()), ..pod.object_ref(&()) };
        self.say(about, kind, reason, message.into());
    }

    pub fn node(&self, name: &str, kind: Kind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            // The kubelet names a node by its name here, and kubectl describe looks for that too.
            uid: Some(name.to_owned()),
            api_version: Some(Node::api_version(&()).into_owned()),
            ..ObjectReference::default()
        };
        self.say(about, kind, reason, message.into());
    }

    fn say(&self, about: ObjectReference, kind: Kind, reason: &str, message: String) {
        // Fails only after shutdown, when nobody listens.
        let _ = self.sender.send(Said { about, kind, reason: reason.to_owned(), message, at: Timestamp::now() });
    }
}

type Sameness = (Option<String>, Option<String>, Kind, String, String);

struct Known {
    name: String,
    count: i32,
}

async fn write(client: Client, node_name: String, mut said: mpsc::UnboundedReceiver<Said>) {
    let mut known: BTreeMap<Sameness, Known> = BTreeMap::new();
    while let Some(event) = said.recv().await {
        let about = &event.about;
        let same: Sameness =
            (about.uid.clone(), about.field_path.clone(), event.kind, event.reason.clone(), event.message.clone());
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Some(before) = known.get_mut(&same) {
            before.count = before.count.saturating_add(1);
            let patch = serde_json::json!({"count": before.count, "lastTimestamp": time(event.at)});
            if api.patch(&before.name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
                continue;
            }
        }
        let count = known.get(&same).map_or(1, |before| before.count);
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or("node"), event.at.as_nanosecond());
        let object = object(&event, &name, &namespace, &node_name, count);
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(same, Known { name, count });
            }
            Err(error) => debug!(reason = %event.reason, %error, "event not written"),
        }
    }
}

fn object(said: &Said, name: &str, namespace: &str, node_name: &str, count: i32) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: said.about.clone(),
        type_: Some(said.kind.as_str().to_owned()),
        reason: Some(said.reason.clone()),
        message: Some(said.message.chars().take(1024).collect()),
        first_timestamp: Some(time(said.at)),
        last_timestamp: Some(time(said.at)),
        count: Some(count),
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node_name.to_owned()) }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node_name.to_owned()),
        ..Event::default()
    }
}
