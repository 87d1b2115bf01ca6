//! Which claims and volumes may go, and which have to be held.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Resource, ResourceExt};
use serde::Serialize;

use crate::mechanism::Write;

pub const CLAIM: &str = "kubernetes.io/pvc-protection";
pub const VOLUME: &str = "kubernetes.io/pv-protection";

/// Whether an object waits for nothing but that its users are gone, so that they have to be looked for.
pub fn waits<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.meta().deletion_timestamp.is_some() && has(object, finalizer)
}

/// Lets an object go that nobody uses, and holds one that nobody deletes.
pub fn decide<K>(object: &K, finalizer: &str, in_use: bool) -> Vec<Write>
where
    K: Resource<DynamicType = ()> + Clone + Serialize,
{
    let deleting = object.meta().deletion_timestamp.is_some();
    let mut changed = object.clone();
    match (deleting, has(object, finalizer)) {
        (true, true) if !in_use => changed.finalizers_mut().retain(|one| one != finalizer),
        (false, false) => changed.finalizers_mut().push(finalizer.to_owned()),
        (true, _) | (false, true) => return Vec::new(),
    }
    // Whole and at its revision: a pod's or a binder's write in between wins, and this is decided again.
    vec![Write::replace(&changed)]
}

fn has<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|one| one == finalizer)
}

/// Names of the claims that a pod mentions, those that are made for it included.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(move |volume| named(volume).or_else(|| made(pod, volume)))
}

/// Whether a pod keeps a claim. One without a node does not: it will not be started with a claim that is going.
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()))
    else {
        return false;
    };
    let name = claim.name_any();
    let of_pod = || {
        claim
            .owner_references()
            .iter()
            .any(|one| one.controller == Some(true) && Some(&one.uid) == pod.meta().uid.as_ref())
    };
    spec.volumes.iter().flatten().any(|volume| {
        named(volume).as_deref() == Some(&name) || (made(pod, volume).as_deref() == Some(&name) && of_pod())
    })
}

fn named(volume: &Volume) -> Option<String> {
    volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone())
}

/// A generic ephemeral volume's claim, which is called after pod and volume.
fn made(pod: &Pod, volume: &Volume) -> Option<String> {
    volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name_any(), volume.name))
}

pub fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::mechanism::Verb;

    fn claim(metadata: Value) -> PersistentVolumeClaim {
        let mut object = json!({"metadata": {"name": "data", "namespace": "n", "uid": "c"}, "spec": {}});
        object["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn pod(node: &str, volume: Value) -> Pod {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"},
            "spec": {"nodeName": node, "containers": [], "volumes": [volume]}});
        serde_json::from_value(pod).unwrap()
    }

    /// The finalizers that are written, if any are.
    fn written(claim: &PersistentVolumeClaim, in_use: bool) -> Option<Value> {
        let writes = decide(claim, CLAIM, in_use);
        writes.first().map(|write| match &write.verb {
            Verb::Replace(object) => object.value()["metadata"]["finalizers"].clone(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn what_is_deleted_goes_once_it_is_not_used() {
        let going = claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLAIM, "mine/too"]}));
        assert_eq!(written(&going, true), None);
        assert_eq!(written(&going, false), Some(json!(["mine/too"])));
        let gone = claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["mine/too"]}));
        assert_eq!(written(&gone, false), None, "nothing is put on what is going");
        assert_eq!(written(&claim(json!({"finalizers": [CLAIM]})), false), None);
        assert_eq!(written(&claim(json!({"finalizers": ["mine/too"]})), true), Some(json!(["mine/too", CLAIM])));
    }

    #[test]
    fn a_pod_uses_claims_that_it_names_and_those_made_for_it() {
        let by_name = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        assert!(uses(&pod("node", by_name.clone()), &claim(json!({}))));
        assert!(!uses(&pod("", by_name), &claim(json!({}))), "without a node it will not start");
        let other = json!({"name": "v", "persistentVolumeClaim": {"claimName": "other"}});
        assert!(!uses(&pod("node", other), &claim(json!({}))));
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
        let made = claim(json!({"name": "p-v", "ownerReferences": owner}));
        let ephemeral = pod("node", json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}));
        assert!(uses(&ephemeral, &made));
        assert!(!uses(&ephemeral, &claim(json!({"name": "p-v"}))), "it is somebody else's");
        assert_eq!(claims_of(&ephemeral).collect::<Vec<_>>(), ["p-v"]);
    }

    #[test]
    fn a_volume_is_used_as_long_as_it_is_bound() {
        let volume = |phase: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "status": {"phase": phase}})).unwrap()
        };
        assert!(is_bound(&volume("Bound")) && !is_bound(&volume("Released")) && !is_bound(&volume("Pending")));
    }
}
