//! Who takes a pod's claims along: the set when it is deleted, the pod when it is one too many, or nobody
//! (`persistentVolumeClaimRetentionPolicy`). The garbage collector does the rest, by owner references.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::json;

use super::decide::Places;
use super::identity;
use crate::mechanism::{Write, owner_reference};

/// Makes the owners of existing claims those that the policy wants; owners that are none of ours stay.
pub fn writes(places: &Places<'_>, claims: &BTreeMap<String, Arc<PersistentVolumeClaim>>) -> Vec<Write> {
    let pods = places.kept.iter().map(|one| (one, false)).chain(places.surplus.iter().map(|one| (one, true)));
    let mut writes = Vec::new();
    for ((ordinal, pod), surplus) in pods {
        for claim in identity::claims(places.set, *ordinal).iter().filter_map(|claim| claims.get(&claim.name_any())) {
            let owners = owners(places, pod, surplus, claim);
            if claim.owner_references() != owners && claim.metadata.deletion_timestamp.is_none() {
                let revision = claim.resource_version();
                let meta = json!({"uid": claim.uid(), "resourceVersion": revision, "ownerReferences": owners});
                writes.push(Write::patch(claim.as_ref(), json!({"metadata": meta})));
            }
        }
    }
    writes
}

fn owners(places: &Places<'_>, pod: &Pod, surplus: bool, claim: &PersistentVolumeClaim) -> Vec<OwnerReference> {
    let set = places.set;
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|what| what == "Delete");
    let (with_set, with_pod) =
        policy.map_or((false, false), |p| (deletes(p.when_deleted.as_ref()), deletes(p.when_scaled.as_ref())));
    // An earlier pod of the name, and the set before it was deleted and made anew, are ours too.
    let ours = |owner: &OwnerReference| {
        owner.kind == "StatefulSet" && owner.name == set.name_any()
            || owner.kind == "Pod" && owner.name == pod.name_any()
    };
    let mut owners: Vec<OwnerReference> = claim.owner_references().iter().filter(|o| !ours(o)).cloned().collect();
    if surplus && with_pod {
        owners.push(owner_reference(pod));
    } else if with_set {
        owners.push(owner_reference(set));
    }
    owners
}
