//! What each component of the control plane and of a node may do: upstream's roles under upstream's names, and one for what only
//! Portolan's components need, under ours. A flat table.

use super::Subject::{Account, Group, User};
use super::{Binding, EVENTS, Grant, Role, grant, named, role};

const READ: &str = "get list watch";
const FOLLOW: &str = "list watch";

pub(super) const ROLES: &[Role] = &[
    role(
        "system:auth-delegator",
        &[
            grant("create", "authentication.k8s.io", "tokenreviews"),
            grant("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    role("system:heapster", &[grant(READ, "core", "events namespaces nodes pods")]),
    role("system:kube-aggregator", &[grant(READ, "core", "endpoints services")]),
    role("system:kube-controller-manager", CONTROLLER_MANAGER),
    role("system:kube-scheduler", SCHEDULER),
    role(
        "system:volume-scheduler",
        &[
            grant("get list patch update watch", "core", "persistentvolumes"),
            grant(READ, "storage.k8s.io", "storageclasses"),
            grant("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    ),
    role(
        "system:kube-dns",
        &[
            grant(FOLLOW, "core", "endpoints services"),
            // Names of pods, zones of nodes, and which namespaces there are: what CoreDNS is given beside upstream's role.
            grant(READ, "core", "namespaces nodes pods"),
            grant(FOLLOW, "discovery.k8s.io", "endpointslices"),
            EVENTS,
            LEASES,
        ],
    ),
    role("portolan:loadbalancer", BALANCER),
    role("portolan:ingress", INGRESS),
    role(
        "system:kubelet-api-admin",
        &[
            grant(READ, "core", "nodes"),
            grant("proxy", "core", "nodes"),
            grant("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
        ],
    ),
    role("system:node", NODE),
    role(
        "system:node-bootstrapper",
        &[grant("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    role(
        "system:node-problem-detector",
        &[grant("get", "core", "nodes"), grant("patch", "core", "nodes/status"), EVENTS],
    ),
    role("system:node-proxier", PROXIER),
    role(
        "system:persistent-volume-provisioner",
        &[
            grant("create delete get list watch", "core", "persistentvolumes"),
            grant("get list update watch", "core", "persistentvolumeclaims"),
            grant(READ, "storage.k8s.io", "storageclasses"),
            grant("watch", "core", "events"),
            EVENTS,
        ],
    ),
];

pub(super) const BINDINGS: &[Binding] = &[
    ("system:kube-controller-manager", "system:kube-controller-manager", User("system:kube-controller-manager")),
    ("system:kube-scheduler", "system:kube-scheduler", User("system:kube-scheduler")),
    ("system:volume-scheduler", "system:volume-scheduler", User("system:kube-scheduler")),
    ("system:kube-dns", "system:kube-dns", Account("kube-dns")),
    ("portolan:dns", "system:kube-dns", User("system:kube-dns")),
    ("portolan:loadbalancer", "portolan:loadbalancer", User("portolan:loadbalancer")),
    ("portolan:ingress", "portolan:ingress", User("portolan:ingress")),
    ("system:node-proxier", "system:node-proxier", User("system:kube-proxy")),
    ("system:node", "system:node", Group("system:nodes")),
];

const LEASES: Grant = grant("create delete get list patch update watch", "coordination.k8s.io", "leases");

const BALANCER: &[Grant] = &[
    grant(READ, "core", "configmaps namespaces nodes services"),
    grant("patch update", "core", "services services/status"),
    grant(READ, "discovery.k8s.io", "endpointslices"),
    EVENTS,
    LEASES,
];

const INGRESS: &[Grant] = &[
    grant(READ, "core", "configmaps endpoints namespaces nodes pods secrets services"),
    grant(READ, "discovery.k8s.io", "endpointslices"),
    grant(READ, "networking.k8s.io", "ingressclasses ingresses"),
    grant("create patch update", "networking.k8s.io", "ingressclasses"),
    grant("patch update", "networking.k8s.io", "ingresses/status"),
    EVENTS,
    LEASES,
];

const CONTROLLER_MANAGER: &[Grant] = &[
    EVENTS,
    grant("create", "coordination.k8s.io", "leases"),
    named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
    grant("create", "core", "secrets serviceaccounts"),
    grant("delete", "core", "secrets"),
    grant("get", "core", "configmaps namespaces secrets serviceaccounts"),
    grant("update", "core", "secrets serviceaccounts"),
    grant("create", "authentication.k8s.io", "tokenreviews"),
    grant("create", "authorization.k8s.io", "subjectaccessreviews"),
    grant(FOLLOW, "*", "*"),
    grant("create", "core", "serviceaccounts/token"),
];

const SCHEDULER: &[Grant] = &[
    EVENTS,
    grant("create", "coordination.k8s.io", "leases"),
    named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
    grant(READ, "core", "nodes"),
    grant("delete get list watch", "core", "pods"),
    grant("create", "core", "bindings pods/binding"),
    grant("patch update", "core", "pods/status"),
    grant(READ, "core", "replicationcontrollers services"),
    grant(READ, "apps", "replicasets"),
    grant(READ, "apps", "statefulsets"),
    grant(READ, "policy", "poddisruptionbudgets"),
    grant(READ, "core", "persistentvolumeclaims persistentvolumes"),
    grant("create", "authentication.k8s.io", "tokenreviews"),
    grant("create", "authorization.k8s.io", "subjectaccessreviews"),
    grant(READ, "storage.k8s.io", "csinodes"),
    grant(READ, "core", "namespaces"),
    grant(READ, "storage.k8s.io", "csidrivers"),
    grant(READ, "storage.k8s.io", "csistoragecapacities"),
    grant(READ, "storage.k8s.io", "volumeattachments"),
    grant(READ, "scheduling.k8s.io", "priorityclasses"),
];

const PROXIER: &[Grant] = &[
    grant(FOLLOW, "core", "endpoints services"),
    grant(READ, "core", "nodes"),
    EVENTS,
    grant(FOLLOW, "discovery.k8s.io", "endpointslices"),
    grant(FOLLOW, "networking.k8s.io", "servicecidrs"),
    // What has been applied is told in a Lease.
    LEASES,
];

/// Which of the Secrets and ConfigMaps a node may read depends on its pods: the node authorizer's business where there is one.
const NODE: &[Grant] = &[
    grant("create", "authentication.k8s.io", "tokenreviews"),
    grant("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    grant(READ, "core", "services"),
    grant("create get list watch", "core", "nodes"),
    grant("patch update", "core", "nodes/status"),
    grant("patch update", "core", "nodes"),
    grant("create patch update", "core", "events"),
    grant(READ, "core", "pods"),
    grant("create delete", "core", "pods"),
    grant("patch update", "core", "pods/status"),
    grant("create", "core", "pods/eviction"),
    grant(READ, "core", "configmaps secrets"),
    grant("get", "core", "persistentvolumeclaims persistentvolumes"),
    grant("get", "core", "endpoints"),
    grant("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    // A node learns from the others' Leases which revisions they have applied.
    LEASES,
    grant("get", "storage.k8s.io", "volumeattachments"),
    grant("create", "core", "serviceaccounts/token"),
    grant("get patch update", "core", "persistentvolumeclaims/status"),
    grant(READ, "storage.k8s.io", "csidrivers"),
    grant("create delete get patch update", "storage.k8s.io", "csinodes"),
    grant(READ, "node.k8s.io", "runtimeclasses"),
    // The agent reads the account that a pod's token is made for, and the slices that a pod must have left before it ends.
    grant("get", "core", "serviceaccounts"),
    grant(READ, "discovery.k8s.io", "endpointslices"),
];

/// By namespace.
pub(super) const LOCAL_ROLES: &[(&str, Role)] = &[
    (
        "kube-system",
        role(
            "extension-apiserver-authentication-reader",
            &[named(READ, "core", "configmaps", "extension-apiserver-authentication")],
        ),
    ),
    (
        "kube-system",
        role(
            "system::leader-locking-kube-controller-manager",
            &[
                grant("watch", "core", "configmaps"),
                named("get update", "core", "configmaps", "kube-controller-manager"),
            ],
        ),
    ),
    (
        "kube-system",
        role(
            "system::leader-locking-kube-scheduler",
            &[grant("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-scheduler")],
        ),
    ),
    (
        "kube-system",
        role("system:controller:token-cleaner", &[grant("delete get list watch", "core", "secrets"), EVENTS]),
    ),
    ("kube-system", role("system:controller:bootstrap-signer", &[grant(READ, "core", "secrets")])),
    (
        "kube-public",
        role(
            "system:controller:bootstrap-signer",
            &[grant(READ, "core", "configmaps"), named("update", "core", "configmaps", "cluster-info"), EVENTS],
        ),
    ),
    // Who sends to endpoints says by its Lease what it has applied.
    (
        "kube-system",
        role("portolan:drain", &[grant("create get list patch update watch", "coordination.k8s.io", "leases")]),
    ),
];

pub(super) const LOCAL_BINDINGS: &[(&str, Binding)] = &[
    (
        "kube-system",
        (
            "system::extension-apiserver-authentication-reader",
            "extension-apiserver-authentication-reader",
            User("system:kube-controller-manager"),
        ),
    ),
    (
        "kube-system",
        (
            "portolan::extension-apiserver-authentication-reader",
            "extension-apiserver-authentication-reader",
            User("system:kube-scheduler"),
        ),
    ),
    (
        "kube-system",
        (
            "system::leader-locking-kube-controller-manager",
            "system::leader-locking-kube-controller-manager",
            User("system:kube-controller-manager"),
        ),
    ),
    (
        "kube-system",
        (
            "system::leader-locking-kube-scheduler",
            "system::leader-locking-kube-scheduler",
            User("system:kube-scheduler"),
        ),
    ),
    ("kube-system", ("system:controller:token-cleaner", "system:controller:token-cleaner", Account("token-cleaner"))),
    (
        "kube-system",
        ("system:controller:bootstrap-signer", "system:controller:bootstrap-signer", Account("bootstrap-signer")),
    ),
    (
        "kube-public",
        ("system:controller:bootstrap-signer", "system:controller:bootstrap-signer", Account("bootstrap-signer")),
    ),
    ("kube-system", ("portolan:drain-proxy", "portolan:drain", User("system:kube-proxy"))),
    ("kube-system", ("portolan:drain-dns", "portolan:drain", User("system:kube-dns"))),
];
