//! Writing a pod's status to the API: the newest one at once, and again until it has arrived.
//!
//! A task of its own, so that an API server that is away holds no pod up. Statuses in between may be skipped; the last one never is.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::context::Context;
use crate::model::PodState;
use crate::status::{PASSING, status};

const RETRY: Duration = Duration::from_millis(500);

/// The way of one pod's status to the API.
pub(super) struct Reporter {
    /// What we last said: the base of transition times, since the watch brings our own words back late.
    said: Option<PodStatus>,
    newest: watch::Sender<Option<PodStatus>>,
    writer: Option<AbortOnDropHandle<()>>,
}

impl Reporter {
    pub fn start(node: Arc<Context>, pod: &Pod) -> Reporter {
        let (newest, changes) = watch::channel(None);
        let writer = write_all(node.client.clone(), Named::of(pod), changes);
        Reporter { said: None, newest, writer: Some(AbortOnDropHandle::new(tokio::spawn(writer))) }
    }

    /// Says how the pod is, if that is news.
    pub fn report(&mut self, pod: &Pod, state: &PodState, host_ips: &[String]) {
        let status = self.status(pod, state, host_ips);
        let known = self.said.as_ref().or(pod.status.as_ref());
        // While we were silent another may have said that the pod is not ready. Said again where it was said already, it changes nothing.
        let overruled = pod.status.as_ref().is_some_and(|shown| is_ready(shown) != is_ready(&status));
        if known != Some(&status) || overruled {
            self.said = Some(status.clone());
            self.newest.send_replace(Some(status));
        }
    }

    fn status(&self, pod: &Pod, state: &PodState, host_ips: &[String]) -> PodStatus {
        let mut base = pod.clone();
        if let Some(said) = &self.said {
            let current = base.status.get_or_insert_default();
            let ours = said.conditions.iter().flatten().filter(|c| OURS.contains(&c.type_.as_str()));
            let foreign = current.conditions.take().into_iter().flatten().filter(|c| !OURS.contains(&c.type_.as_str()));
            current.conditions = Some(foreign.chain(ours.cloned()).collect());
            current.start_time = said.start_time.clone();
            current.pod_ips = said.pod_ips.clone();
        }
        status(&base, state, host_ips, Timestamp::now())
    }

    /// Stops writing and gives the last word, for the pod's end.
    pub fn finish(&mut self, pod: &Pod, state: &PodState, host_ips: &[String]) -> PodStatus {
        self.writer = None;
        self.status(pod, state, host_ips)
    }
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

const OURS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// A pod by name and uid.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Named {
    pub fn of(pod: &Pod) -> Named {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let meta = &pod.metadata;
        Named { namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
    }
}

async fn write_all(client: Client, pod: Named, mut changes: watch::Receiver<Option<PodStatus>>) {
    while changes.changed().await.is_ok() {
        loop {
            let Some(status) = changes.borrow_and_update().clone() else { break };
            match write(&client, &pod, &status).await {
                Ok(()) => break,
                Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => {
                    debug!(pod = %pod.name, %refused, "status of a pod that is gone");
                    break;
                }
                Err(error) => {
                    warn!(pod = %pod.name, %error, "status not written, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Writes a status; a pod of that name with another uid is not touched.
pub(super) async fn write(client: &Client, pod: &Named, status: &PodStatus) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let patch = Patch::Strategic(patch(pod, status));
    api.patch_status(&pod.name, &PatchParams::default(), &patch).await.map(drop)
}

/// A strategic merge: conditions are merged by type, so that others keep theirs; what we no longer say is taken back by a null.
fn patch(pod: &Named, status: &PodStatus) -> Value {
    let mut body = json!(status);
    let fields = ["reason", "message", "podIP", "podIPs", "initContainerStatuses", "ephemeralContainerStatuses"];
    if let Some(map) = body.as_object_mut() {
        for field in fields {
            map.entry(field).or_insert(Value::Null);
        }
        for field in ["conditions"] {
            for condition in map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(condition) = condition.as_object_mut() {
                    for part in ["reason", "message"] {
                        condition.entry(part).or_insert(Value::Null);
                    }
                }
            }
        }
        // What holds no more is taken away; the others are merged by their types.
        if let Some(conditions) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            let said = |name: &str| conditions.iter().any(|condition| condition["type"] == name);
            let gone: Vec<&str> = PASSING.into_iter().filter(|name| !said(name)).collect();
            conditions.extend(gone.iter().map(|name| json!({"type": name, "$patch": "delete"})));
        }
        // Lists that merge by key would keep an address that is gone.
        for field in ["podIPs", "hostIPs"] {
            if let Some(list) = map.get_mut(field).and_then(Value::as_array_mut) {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
    }
    json!({"metadata": {"uid": pod.uid}, "status": body})
}
