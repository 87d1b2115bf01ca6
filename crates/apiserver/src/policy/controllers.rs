//! What each controller may do, under upstream's names: a role for a controller, held by its ServiceAccount in `kube-system`. A flat table.
//!
//! Portolan's controllers share one client, `system:kube-controller-manager`; it holds the roles of those controllers that it runs.

use super::Subject::{Account, User};
use super::{Binding, EVENTS, Role, grant, named, role};

const READ: &str = "get list watch";
const FOLLOW: &str = "list watch";
/// All but by collection.
const KEEP: &str = "create delete get list patch update watch";
const PREFIX: &str = "system:controller:";

/// The controllers that Portolan runs itself.
const OWN: &[&str] = &[
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemon-set-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoint-controller",
    "endpointslice-controller",
    "endpointslicemirroring-controller",
    "generic-garbage-collector",
    "job-controller",
    "namespace-controller",
    "node-controller",
    "pod-garbage-collector",
    "pv-protection-controller",
    "pvc-protection-controller",
    "replicaset-controller",
    "replication-controller",
    "root-ca-cert-publisher",
    "service-account-controller",
    "service-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
    "ttl-controller",
];

/// Each role's holder, and for those of ours the client that they share.
pub(super) fn bindings() -> impl Iterator<Item = Binding> {
    let accounts = ROLES.iter().map(|role| {
        let account = role.name.strip_prefix(PREFIX).unwrap_or(role.name);
        (role.name, role.name, Account(account))
    });
    let shared = ROLES.iter().zip(SHARED).filter(|(role, _)| {
        let name = role.name.strip_prefix(PREFIX).unwrap_or(role.name);
        OWN.contains(&name)
    });
    accounts.chain(shared.map(|(role, name)| (*name, role.name, User("system:kube-controller-manager"))))
}

/// Names of the bindings to the shared client, in the order of [`ROLES`].
const SHARED: &[&str] = &[
    "portolan:attachdetach-controller",
    "portolan:certificate-controller",
    "portolan:clusterrole-aggregation-controller",
    "portolan:cronjob-controller",
    "portolan:daemon-set-controller",
    "portolan:deployment-controller",
    "portolan:disruption-controller",
    "portolan:endpoint-controller",
    "portolan:endpointslice-controller",
    "portolan:endpointslicemirroring-controller",
    "portolan:ephemeral-volume-controller",
    "portolan:expand-controller",
    "portolan:generic-garbage-collector",
    "portolan:horizontal-pod-autoscaler",
    "portolan:job-controller",
    "portolan:legacy-service-account-token-cleaner",
    "portolan:namespace-controller",
    "portolan:node-controller",
    "portolan:persistent-volume-binder",
    "portolan:pod-garbage-collector",
    "portolan:pv-protection-controller",
    "portolan:pvc-protection-controller",
    "portolan:replicaset-controller",
    "portolan:replication-controller",
    "portolan:resourcequota-controller",
    "portolan:root-ca-cert-publisher",
    "portolan:route-controller",
    "portolan:service-account-controller",
    "portolan:service-cidrs-controller",
    "portolan:service-controller",
    "portolan:statefulset-controller",
    "portolan:ttl-after-finished-controller",
    "portolan:ttl-controller",
];

pub(super) const ROLES: &[Role] = &[
    role(
        "system:controller:attachdetach-controller",
        &[
            grant(FOLLOW, "core", "persistentvolumeclaims persistentvolumes"),
            grant(READ, "core", "nodes"),
            grant("patch update", "core", "nodes/status"),
            grant(FOLLOW, "core", "pods"),
            EVENTS,
            grant("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            grant(READ, "storage.k8s.io", "csidrivers"),
            grant(READ, "storage.k8s.io", "csinodes"),
        ],
    ),
    role(
        "system:controller:certificate-controller",
        &[
            grant("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            grant(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            grant("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:clusterrole-aggregation-controller",
        &[grant("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    role(
        "system:controller:cronjob-controller",
        &[
            grant("get list update watch", "batch", "cronjobs"),
            grant(KEEP, "batch", "jobs"),
            grant("update", "batch", "cronjobs/status"),
            grant("update", "batch", "cronjobs/finalizers"),
            grant("delete list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:daemon-set-controller",
        &[
            grant(READ, "apps", "daemonsets"),
            grant("update", "apps", "daemonsets/status"),
            grant("update", "apps", "daemonsets/finalizers"),
            grant(FOLLOW, "core", "nodes"),
            grant("create delete list patch watch", "core", "pods"),
            grant("create", "core", "pods/binding"),
            grant(KEEP, "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:deployment-controller",
        &[
            grant("get list update watch", "apps", "deployments"),
            grant("update", "apps", "deployments/status"),
            grant("update", "apps", "deployments/finalizers"),
            grant(KEEP, "apps", "replicasets"),
            grant("get list update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:disruption-controller",
        &[
            grant(READ, "apps", "deployments"),
            grant(READ, "apps", "replicasets"),
            grant(READ, "core", "replicationcontrollers"),
            grant(READ, "policy", "poddisruptionbudgets"),
            grant(READ, "apps", "statefulsets"),
            grant("update", "policy", "poddisruptionbudgets/status"),
            grant("patch update", "core", "pods/status"),
            grant("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:endpoint-controller",
        &[
            grant(READ, "core", "pods services"),
            grant("create delete get list update watch", "core", "endpoints"),
            grant("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:endpointslice-controller",
        &[
            grant(READ, "core", "nodes pods services"),
            grant("update", "core", "services/finalizers"),
            grant("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:endpointslicemirroring-controller",
        &[
            grant(READ, "core", "endpoints services"),
            grant("update", "core", "services/finalizers"),
            grant("update", "core", "endpoints/finalizers"),
            grant("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:ephemeral-volume-controller",
        &[
            grant(READ, "core", "pods"),
            grant("update", "core", "pods/finalizers"),
            grant("create get list watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:expand-controller",
        &[
            grant("get list patch update watch", "core", "persistentvolumes"),
            grant("patch update", "core", "persistentvolumeclaims/status"),
            grant(READ, "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:generic-garbage-collector",
        &[grant("delete get list patch update watch", "*", "*"), EVENTS],
    ),
    role(
        "system:controller:horizontal-pod-autoscaler",
        &[
            grant(READ, "autoscaling", "horizontalpodautoscalers"),
            grant("update", "autoscaling", "horizontalpodautoscalers/status"),
            grant("get update", "*", "*/scale"),
            grant(FOLLOW, "core", "pods"),
            grant(FOLLOW, "metrics.k8s.io", "pods"),
            grant(READ, "custom.metrics.k8s.io", "*"),
            grant(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:job-controller",
        &[
            grant("get list patch update watch", "batch", "jobs"),
            grant("update", "batch", "jobs/status"),
            grant("update", "batch", "jobs/finalizers"),
            grant("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:legacy-service-account-token-cleaner",
        &[
            named("get", "core", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            grant("delete patch", "core", "secrets"),
        ],
    ),
    role(
        "system:controller:namespace-controller",
        &[
            grant("delete get list watch", "core", "namespaces"),
            grant("update", "core", "namespaces/finalize namespaces/status"),
            grant("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    role(
        "system:controller:node-controller",
        &[
            grant("delete get list patch update watch", "core", "nodes"),
            grant("patch update", "core", "nodes/status"),
            grant("patch update", "core", "pods/status"),
            grant("delete get list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:persistent-volume-binder",
        &[
            grant("create delete get list update watch", "core", "persistentvolumes"),
            grant("update", "core", "persistentvolumes/status"),
            grant("get list update watch", "core", "persistentvolumeclaims"),
            grant("update", "core", "persistentvolumeclaims/status"),
            grant("create delete get list watch", "core", "pods"),
            grant(READ, "storage.k8s.io", "storageclasses"),
            grant(FOLLOW, "core", "nodes"),
            EVENTS,
            grant("watch", "core", "events"),
        ],
    ),
    role(
        "system:controller:pod-garbage-collector",
        &[
            grant("delete list watch", "core", "pods"),
            grant(READ, "core", "nodes"),
            grant("patch", "core", "pods/status"),
        ],
    ),
    role(
        "system:controller:pv-protection-controller",
        &[grant("get list update watch", "core", "persistentvolumes"), EVENTS],
    ),
    role(
        "system:controller:pvc-protection-controller",
        &[grant("get list update watch", "core", "persistentvolumeclaims"), grant(READ, "core", "pods"), EVENTS],
    ),
    role(
        "system:controller:replicaset-controller",
        &[
            grant("get list update watch", "apps", "replicasets"),
            grant("update", "apps", "replicasets/status"),
            grant("update", "apps", "replicasets/finalizers"),
            grant("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:replication-controller",
        &[
            grant("get list update watch", "core", "replicationcontrollers"),
            grant("update", "core", "replicationcontrollers/status"),
            grant("update", "core", "replicationcontrollers/finalizers"),
            grant("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:resourcequota-controller",
        &[grant(FOLLOW, "*", "*"), grant("update", "core", "resourcequotas/status"), EVENTS],
    ),
    role("system:controller:root-ca-cert-publisher", &[grant("create update", "core", "configmaps"), EVENTS]),
    role(
        "system:controller:route-controller",
        &[grant(FOLLOW, "core", "nodes"), grant("patch", "core", "nodes/status"), EVENTS],
    ),
    role("system:controller:service-account-controller", &[grant("create", "core", "serviceaccounts"), EVENTS]),
    role(
        "system:controller:service-cidrs-controller",
        &[
            grant("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            grant("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
            grant("patch update", "networking.k8s.io", "servicecidrs/status"),
            grant(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:service-controller",
        &[
            grant(READ, "core", "services"),
            grant("patch update", "core", "services/status"),
            grant(FOLLOW, "core", "nodes"),
            EVENTS,
        ],
    ),
    role(
        "system:controller:statefulset-controller",
        &[
            grant(FOLLOW, "core", "pods"),
            grant(READ, "apps", "statefulsets"),
            grant("update", "apps", "statefulsets/status"),
            grant("update", "apps", "statefulsets/finalizers"),
            grant("create delete get patch update", "core", "pods"),
            grant(KEEP, "apps", "controllerrevisions"),
            grant("create get list watch", "core", "persistentvolumeclaims"),
            grant("delete update", "core", "persistentvolumeclaims"),
            grant("update", "core", "pods/finalizers"),
            EVENTS,
        ],
    ),
    role("system:controller:ttl-after-finished-controller", &[grant("delete get list watch", "batch", "jobs"), EVENTS]),
    role("system:controller:ttl-controller", &[grant("list patch update watch", "core", "nodes"), EVENTS]),
];
