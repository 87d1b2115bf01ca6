//! Which ReplicaSet is of the present template, what revision each is, and what a new one looks like.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::decide::{Rollout, guarded};
use super::rolling;
use crate::mechanism::{Decision, Write, owner_reference};
use crate::names;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub const HASH_LABEL: &str = "pod-template-hash";

/// Annotations that belong to the Deployment itself and are not handed on.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The ReplicaSet of the present template (the oldest, should there be several), and all others, oldest first.
pub fn split(spec: &DeploymentSpec, mut sets: Vec<Arc<ReplicaSet>>) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    sets.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.name_any()));
    let template = without_hash(&spec.template);
    let of_template = |set: &Arc<ReplicaSet>| {
        let theirs = set.spec.template.as_ref();
        theirs.is_some_and(|theirs| without_hash(theirs) == template)
    };
    let index = sets.iter().position(of_template);
    let new = index.map(|index| sets.remove(index));
    (new, sets)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        // The server may or may not keep empty fields; they mean the same.
        meta.creation_timestamp = None;
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    }
    if template.metadata.is_none() {
        template.metadata = Some(ObjectMeta::default());
    }
    template
}

pub fn of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The hash of a Deployment's template: the same template has the same hash, but for collisions that were counted.
pub fn hash(deployment: &Deployment) -> String {
    let template = without_hash(&deployment.spec.template);
    let text = serde_json::to_string(&template).unwrap_or_default();
    let mut hasher = names::Fnv::default();
    hasher.write(text.as_bytes());
    if let Some(collisions) = deployment.status.as_ref().and_then(|status| status.collision_count) {
        hasher.write(&collisions.to_le_bytes());
    }
    names::safe_encode(hasher.finish())
}

/// The name of the ReplicaSet of the present template.
pub fn name(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.name_any(), hash(deployment))
}

pub fn make(rollout: &Rollout<'_>, count: i32) -> ReplicaSet {
    let hash = hash(rollout.deployment);
    let labelled = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        labels
    };
    let mut template = rollout.spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = Some(labelled(meta.labels.take()));
    let labels = meta.labels.clone();
    let mut selector = rollout.spec.selector.clone();
    selector.match_labels = Some(labelled(selector.match_labels));
    let metadata = ObjectMeta {
        name: Some(name(rollout.deployment)),
        namespace: rollout.deployment.namespace(),
        labels,
        annotations: Some(annotations(rollout, None)),
        owner_references: Some(vec![owner_reference(rollout.deployment)]),
        ..ObjectMeta::default()
    };
    let spec = ReplicaSetSpec {
        replicas: Some(count),
        min_ready_seconds: rollout.spec.min_ready_seconds,
        selector,
        template: Some(template),
    };
    ReplicaSet { metadata, spec, status: None }
}

/// What the annotations of the new ReplicaSet should be: the Deployment's, and the marks that we read back later.
fn annotations(rollout: &Rollout<'_>, existing: Option<&ReplicaSet>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = existing.map(|set| set.annotations().clone()).unwrap_or_default();
    let handed_on = rollout.deployment.annotations().iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    all.extend(handed_on.map(|(key, value)| (key.clone(), value.clone())));
    let next = rollout.old.iter().map(|set| of(set)).max().unwrap_or(0) + 1;
    let present = existing.map_or(0, of);
    if present < next {
        if present > 0 {
            let history = all.entry(REVISION_HISTORY.to_owned()).or_default();
            let comma = if history.is_empty() { "" } else { "," };
            *history = format!("{history}{comma}{present}");
        }
        all.insert(REVISION.to_owned(), next.to_string());
    }
    if existing.is_none() {
        all.insert(DESIRED.to_owned(), rollout.desired().to_string());
        all.insert(MAX.to_owned(), (rollout.desired() + rolling::max_surge(rollout)).to_string());
    }
    all
}

/// Brings revisions and annotations in line, before anything is scaled by them.
pub fn settle(rollout: &Rollout<'_>) -> Option<Decision> {
    let new = rollout.new.as_ref()?;
    let wanted = annotations(rollout, Some(new));
    let min_ready = rollout.spec.min_ready_seconds;
    let same_min_ready = new.spec.min_ready_seconds.unwrap_or(0) == min_ready.unwrap_or(0);
    if *new.annotations() != wanted || !same_min_ready {
        let spec = if same_min_ready { Value::Null } else { json!({"minReadySeconds": min_ready}) };
        let mut patch = json!({"metadata": {"annotations": wanted}});
        if !spec.is_null() {
            patch["spec"] = spec;
        }
        return Some(vec![guarded(new, patch)].into());
    }
    let revision = wanted.get(REVISION)?;
    if rollout.deployment.annotations().get(REVISION) == Some(revision) {
        return None;
    }
    let meta = json!({"uid": rollout.deployment.metadata.uid, "annotations": {REVISION: revision}});
    Some(vec![Write::patch(rollout.deployment, json!({"metadata": meta}))].into())
}
