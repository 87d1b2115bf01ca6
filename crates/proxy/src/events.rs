//! Events: what a user of `kubectl describe service` should know.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use service_model::{Fault, ObjectKey, ObjectRef, Reason};
use tokio::sync::mpsc;
use tracing::debug;

/// How many may wait; more are dropped, since each was logged as well.
const WAITING: usize = 256;

/// The API refuses notes of more than 1,024 bytes.
const LONGEST_NOTE: usize = 1000;

/// One thing to tell.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Something of an object was left out, for these reasons.
    Faults { culprit: ObjectRef, reasons: Vec<Reason> },
    /// Our table was edited and is as it should be again.
    Repaired { node: String },
}

/// Tells notices in the background, so that a slow API server does not keep the kernel waiting.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    sender: mpsc::Sender<Notice>,
}

impl Notices {
    pub fn start(client: Client, node: &str) -> Self {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let reporter = Reporter { controller: "kube-proxy".into(), instance: Some(node.into()) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some(notice) = receiver.recv().await {
                let (event, about) = describe(&notice);
                if let Err(error) = recorder.publish(&event, &about).await {
                    debug!(%error, "event not recorded");
                }
            }
        });
        Notices { sender }
    }

    pub fn tell(&self, notice: Notice) {
        let _ = self.sender.try_send(notice);
    }
}

fn describe(notice: &Notice) -> (Event, ObjectReference) {
    let warning = |reason: &str, note: String, action: &str| Event {
        type_: EventType::Warning,
        reason: reason.into(),
        note: Some(note),
        action: action.into(),
        secondary: None,
    };
    match notice {
        Notice::Faults { culprit, reasons } => (warning("LeftOut", joined(reasons), "Plan"), reference(culprit)),
        Notice::Repaired { node } => {
            let note = "another program edited the nftables table `portolan`; it is as it should be again".to_owned();
            (warning("TableRepaired", note, "Repair"), reference(&ObjectRef::Node(ObjectKey::new("", node.as_str()))))
        }
    }
}

/// One notice for each object: events of one object that differ in their notes alone are counted as one by those who record them.
pub(crate) fn by_culprit(faults: &[Fault]) -> Vec<Notice> {
    let mut by_culprit: BTreeMap<&ObjectRef, Vec<Reason>> = BTreeMap::new();
    for fault in faults {
        by_culprit.entry(&fault.culprit).or_default().push(fault.reason.clone());
    }
    let notice = |(culprit, reasons): (&ObjectRef, Vec<Reason>)| Notice::Faults { culprit: culprit.clone(), reasons };
    by_culprit.into_iter().map(notice).collect()
}

/// As much as a note may hold.
fn joined(reasons: &[Reason]) -> String {
    let mut note = String::new();
    for reason in reasons {
        let more = format!("{}{reason}", if note.is_empty() { "" } else { "; " });
        if note.len() + more.len() > LONGEST_NOTE {
            note.push_str(" …");
            break;
        }
        note.push_str(&more);
    }
    note
}

fn reference(object: &ObjectRef) -> ObjectReference {
    let (api_version, kind, key) = match object {
        ObjectRef::Service(key) => ("v1", "Service", key),
        ObjectRef::EndpointSlice(key) => ("discovery.k8s.io/v1", "EndpointSlice", key),
        ObjectRef::Node(key) => ("v1", "Node", key),
    };
    ObjectReference {
        api_version: Some(api_version.into()),
        kind: Some(kind.into()),
        name: Some(key.name.to_string()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.to_string()),
        ..ObjectReference::default()
    }
}
