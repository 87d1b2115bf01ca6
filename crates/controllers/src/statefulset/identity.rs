//! What makes a StatefulSet's pod itself: its ordinal, its name in DNS, its claims.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

use crate::mechanism::owner_reference;
use crate::revisions::HASH_LABEL;
use crate::workload;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The ordinal in a pod's name, if it is a name that this set gives.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.name_any();
    let number = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    let ordinal: i32 = number.parse().ok()?;
    // `web-007` is no name of ours.
    (ordinal >= 0 && ordinal.to_string() == number).then_some(ordinal)
}

/// The pod of an ordinal, as a template and the name of its revision say.
pub fn pod(set: &StatefulSet, ordinal: i32, template: &PodTemplateSpec, revision: &str) -> Pod {
    let name = pod_name(set, ordinal);
    let mut pod = workload::pod_from(template, owner_reference(set), set.namespace(), name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    if !templates.is_empty() {
        let volumes = spec.volumes.get_or_insert_default();
        for claim in templates {
            // A claim takes the place of a volume of the same name.
            volumes.retain(|volume| volume.name != claim.name_any());
            let source = PersistentVolumeClaimVolumeSource { claim_name: claim_name(claim, &name), read_only: None };
            volumes.push(Volume { name: claim.name_any(), persistent_volume_claim: Some(source), ..Volume::default() });
        }
    }
    pod
}

/// The claims that the pod of an ordinal needs.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let pod = pod_name(set, ordinal);
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(template, &pod));
            claim.metadata.namespace = set.namespace();
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            claim
        })
        .collect()
}

/// Whether the set may give a claim that name.
pub fn may_be_of(set: &StatefulSet, claim: &str) -> bool {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates.into_iter().any(|template| claim.starts_with(&claim_name(template, &format!("{}-", set.name_any()))))
}

fn claim_name(template: &PersistentVolumeClaim, pod: &str) -> String {
    format!("{}-{pod}", template.name_any())
}
