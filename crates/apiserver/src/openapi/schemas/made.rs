//! Makes the packed definitions of `k8s-openapi`'s types, and holds the file to them.

use std::collections::BTreeSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::{
    apps, authentication, authorization, autoscaling, batch, coordination, core, discovery, events, networking, node,
    policy, rbac, scheduling, storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;

use super::*;

/// Set, the test writes the file before it compares.
const UPDATE: &str = "UPDATE_DEFINITIONS";

#[test]
fn the_packed_definitions_are_those_of_the_release() {
    let made = make();
    if std::env::var_os(UPDATE).is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/openapi/schemas/definitions.json.gz");
        let mut packed = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::best());
        packed.write_all(&serde_json::to_vec(&made).unwrap()).unwrap();
        packed.finish().unwrap();
        return;
    }
    assert!(unpack().unwrap() == made, "set {UPDATE}=1 and run this test to write the file anew");
}

fn make() -> Definitions {
    let stored = KINDS.iter().map(|kind| (kind.group, kind.version));
    let asked = crate::reviews::REVIEWS.iter().map(|review| (review.group, review.version));
    let groups: BTreeSet<(&str, &str)> = stored.chain(asked).collect();
    let mut all = Definitions::default();
    for (group, version) in groups {
        let settings = SchemaSettings::openapi3().with(|settings| settings.meta_schema = None);
        let mut generator = settings.into_generator();
        add_all(group, version, &mut generator);
        let schemas = generator.take_definitions(true);
        all.groups.insert(format!("{group}/{version}"), schemas.keys().cloned().collect());
        all.schemas.extend(schemas);
    }
    all
}

/// Adds types, and all that they are made of, to a generator.
macro_rules! add {
    ($generator:ident: $($of:ty),*) => {{
        $( drop($generator.subschema_for::<$of>()); )*
    }};
}

fn add_all(group: &str, version: &str, g: &mut SchemaGenerator) {
    add!(g: meta::Status, meta::DeleteOptions, meta::ListMeta, meta::Patch);
    match (group, version) {
        ("", "v1") => add!(g:
            core::v1::ConfigMap, core::v1::Endpoints, core::v1::Event, core::v1::LimitRange, core::v1::Namespace, core::v1::Node,
            core::v1::PersistentVolumeClaim, core::v1::PersistentVolume, core::v1::Pod, core::v1::PodTemplate,
            core::v1::ReplicationController, core::v1::ResourceQuota, core::v1::Secret, core::v1::ServiceAccount,
            core::v1::Service,
            core::v1::Binding, policy::v1::Eviction, autoscaling::v1::Scale, authentication::v1::TokenRequest),
        ("apps", "v1") => add!(g:
            apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment, apps::v1::ReplicaSet, apps::v1::StatefulSet,
            autoscaling::v1::Scale),
        ("authentication.k8s.io", "v1") => {
            add!(g: authentication::v1::SelfSubjectReview, authentication::v1::TokenReview)
        }
        ("authorization.k8s.io", "v1") => add!(g:
            authorization::v1::LocalSubjectAccessReview, authorization::v1::SelfSubjectAccessReview,
            authorization::v1::SelfSubjectRulesReview, authorization::v1::SubjectAccessReview),
        ("autoscaling", "v1") => add!(g: autoscaling::v1::HorizontalPodAutoscaler),
        ("autoscaling", "v2") => add!(g: autoscaling::v2::HorizontalPodAutoscaler),
        ("batch", "v1") => add!(g: batch::v1::CronJob, batch::v1::Job),
        ("coordination.k8s.io", "v1") => add!(g: coordination::v1::Lease),
        ("discovery.k8s.io", "v1") => add!(g: discovery::v1::EndpointSlice),
        ("events.k8s.io", "v1") => add!(g: events::v1::Event),
        ("networking.k8s.io", "v1") => add!(g:
            networking::v1::IngressClass, networking::v1::Ingress, networking::v1::IPAddress, networking::v1::NetworkPolicy,
            networking::v1::ServiceCIDR),
        ("node.k8s.io", "v1") => add!(g: node::v1::RuntimeClass),
        ("policy", "v1") => add!(g: policy::v1::PodDisruptionBudget, policy::v1::Eviction),
        ("rbac.authorization.k8s.io", "v1") => add!(g:
            rbac::v1::ClusterRoleBinding, rbac::v1::ClusterRole, rbac::v1::RoleBinding, rbac::v1::Role),
        ("scheduling.k8s.io", "v1") => add!(g: scheduling::v1::PriorityClass),
        ("storage.k8s.io", "v1") => add!(g: storage::v1::StorageClass),
        (_, _) => {}
    }
}
