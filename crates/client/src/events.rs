//! Events: what a component tells people about an object, as `kubectl describe` shows it.
//!
//! Recording never waits and never fails: events are told on the side, in order, and one that cannot be written is dropped with a log
//! line. The same event again raises the count of the first instead of making another.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many different events are remembered to be counted when they come again.
const REMEMBERED: usize = 1024;

/// Whether people should worry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Normal,
    Warning,
}

/// An event before it has a time and a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub about: ObjectReference,
    pub severity: Severity,
    pub reason: String,
    pub message: String,
}

impl Draft {
    pub fn normal<K: Resource<DynamicType = ()>>(about: &K, reason: &str, message: impl Into<String>) -> Draft {
        Draft::new(about, Severity::Normal, reason, message.into())
    }

    pub fn warning<K: Resource<DynamicType = ()>>(about: &K, reason: &str, message: impl Into<String>) -> Draft {
        Draft::new(about, Severity::Warning, reason, message.into())
    }

    fn new<K: Resource<DynamicType = ()>>(about: &K, severity: Severity, reason: &str, message: String) -> Draft {
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            namespace: about.namespace(),
            name: Some(about.name_any()),
            uid: about.uid(),
            resource_version: about.resource_version(),
            field_path: None,
        };
        Draft { about, severity, reason: reason.to_owned(), message }
    }

    fn namespace(&self) -> &str {
        self.about.namespace.as_deref().unwrap_or("default")
    }
}

/// Writes events in the name of one component. Clones share it.
#[derive(Debug, Clone)]
pub struct Recorder {
    drafts: mpsc::UnboundedSender<Draft>,
}

impl Recorder {
    /// Starts to write for `component`, such as `deployment-controller`; ends with `shutdown`.
    pub fn start(client: Client, component: &str, shutdown: CancellationToken) -> Recorder {
        let (drafts, mut received) = mpsc::unbounded_channel();
        let mut writer = Writer { client, component: Arc::from(component), known: BTreeMap::new() };
        tokio::spawn(shutdown.run_until_cancelled_owned(async move {
            while let Some(draft) = received.recv().await {
                writer.write(draft).await;
            }
        }));
        Recorder { drafts }
    }

    pub fn record(&self, draft: Draft) {
        // Refused only after shutdown, when nobody reads events any more.
        let _ = self.drafts.send(draft);
    }
}

type Sameness = (Option<String>, Severity, String, String);

struct Writer {
    client: Client,
    component: Arc<str>,
    known: BTreeMap<Sameness, (String, i32)>,
}

impl Writer {
    async fn write(&mut self, draft: Draft) {
        let now = Timestamp::now();
        let same = (draft.about.uid.clone(), draft.severity, draft.reason.clone(), draft.message.clone());
        let api: Api<Event> = Api::namespaced(self.client.clone(), draft.namespace());
        if let Some((name, count)) = self.known.get_mut(&same) {
            *count += 1;
            let patch = json!({"count": count, "lastTimestamp": Time(now)});
            if api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
                return;
            }
            self.known.remove(&same);
        }
        let event = self.event(&draft, now);
        match api.create(&PostParams::default(), &event).await {
            Ok(event) => {
                if self.known.len() >= REMEMBERED {
                    self.known.clear();
                }
                self.known.insert(same, (event.name_any(), 1));
            }
            Err(error) => debug!(reason = %draft.reason, %error, "event is lost"),
        }
    }

    fn event(&self, draft: &Draft, now: Timestamp) -> Event {
        let about = draft.about.name.as_deref().unwrap_or_default();
        let severity = match draft.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{about}.{:x}", now.as_nanosecond())),
                namespace: Some(draft.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: draft.about.clone(),
            type_: Some(severity.to_owned()),
            reason: Some(draft.reason.clone()),
            message: Some(draft.message.clone()),
            source: Some(EventSource { component: Some(self.component.to_string()), host: None }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            reporting_component: Some(self.component.to_string()),
            ..Event::default()
        }
    }
}
