//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, so that pods can say which they are of and kubectl can
//! roll back.

use std::hash::Hasher;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::mechanism::{Write, owner_reference};
use crate::names;

pub const HASH_LABEL: &str = "controller-revision-hash";

/// What is to be done before pods are looked at, or the revision of the present template.
#[derive(Debug)]
pub enum Present {
    /// The revision is being made or renumbered.
    Writing(Box<Write>),
    Is(Arc<ControllerRevision>),
    /// Another template's revision has the name: the hash must be another.
    Collides,
}

/// Finds the revision of a template among those of its owner, oldest first.
pub fn present<O>(
    owner: &O,
    template: &PodTemplateSpec,
    collisions: i32,
    revisions: &[Arc<ControllerRevision>],
) -> Present
where
    O: Resource<DynamicType = ()>,
{
    let data = data(template);
    let newest = revisions.iter().filter_map(|one| one.revision).max().unwrap_or(0);
    let found = revisions.iter().rev().find(|one| one.data.0 == data);
    if let Some(found) = found {
        if found.revision == Some(newest) {
            return Present::Is(Arc::clone(found));
        }
        // Rolled back: what was old is the newest now.
        let meta = json!({"uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version});
        let renumbered = json!({"metadata": meta, "revision": newest + 1});
        return Present::Writing(Box::new(Write::patch(found.as_ref(), renumbered)));
    }
    let hash = hash(&data, collisions);
    let name = format!("{}-{hash}", owner.name_any());
    if revisions.iter().any(|one| one.name_any() == name) {
        return Present::Collides;
    }
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash);
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: owner.namespace(),
        labels: Some(labels),
        // `kubectl rollout history` reads there why a revision was made.
        annotations: owner.meta().annotations.clone(),
        owner_references: Some(vec![owner_reference(owner)]),
        ..ObjectMeta::default()
    };
    let made = ControllerRevision { metadata, data: RawExtension(data), revision: Some(newest + 1) };
    Present::Writing(Box::new(Write::create(&made)))
}

/// The template that a revision holds.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// As upstream stores it: a patch that `kubectl rollout undo` applies as it is.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

fn hash(data: &Value, collisions: i32) -> String {
    let mut hasher = names::Fnv::default();
    hasher.write(data.to_string().as_bytes());
    if collisions > 0 {
        hasher.write(&collisions.to_le_bytes());
    }
    names::safe_encode(hasher.finish())
}

/// Deletes the oldest revisions beyond `limit` that no pod is of.
pub fn surplus(
    revisions: &[Arc<ControllerRevision>],
    limit: i32,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Write> {
    let idle: Vec<_> = revisions.iter().filter(|one| !in_use(one)).collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.into_iter().take(surplus).map(|one| Write::delete(one.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;
    use crate::mechanism::Verb;

    #[test]
    fn a_revision_says_why_it_was_made() {
        let set = json!({"metadata": {"name": "a", "namespace": "b", "uid": "c", "annotations": {"kubernetes.io/change-cause": "set image"}},
            "spec": {"selector": {}, "template": {}}});
        let set: DaemonSet = serde_json::from_value(set).unwrap();
        let Present::Writing(write) = present(&set, &PodTemplateSpec::default(), 0, &[]) else {
            panic!("nothing is made")
        };
        let Verb::Create(made) = &write.verb else { panic!("{write}") };
        assert_eq!(made.value()["metadata"]["annotations"]["kubernetes.io/change-cause"], "set image");
    }
}
