//! What people get: everything, a namespace's administration, work in it, a look at it; and what everyone may ask. A flat table.

use super::Subject::Group;
use super::{Binding, Grant, Role, grant, paths, role};

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

pub(super) const ROLES: &[Role] = &[
    role("cluster-admin", &[grant("*", "*", "*"), Grant { verbs: "*", ..paths("*") }]),
    Role { name: "admin", part_of: "", made_of: "admin", grants: &[] },
    Role { name: "edit", part_of: "admin", made_of: "edit", grants: &[] },
    Role { name: "view", part_of: "edit", made_of: "view", grants: &[] },
    Role { name: "system:aggregate-to-admin", part_of: "admin", made_of: "", grants: ADMIN },
    Role { name: "system:aggregate-to-edit", part_of: "edit", made_of: "", grants: EDIT },
    Role { name: "system:aggregate-to-view", part_of: "view", made_of: "", grants: VIEW },
    role(
        "system:discovery",
        &[paths("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    role(
        "system:basic-user",
        &[
            grant("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            grant("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    role("system:public-info-viewer", &[paths("/healthz /livez /readyz /version /version/")]),
    role("system:service-account-issuer-discovery", &[paths("/.well-known/openid-configuration /openid/v1/jwks")]),
    role("system:monitoring", &[paths("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")]),
];

pub(super) const BINDINGS: &[Binding] = &[
    ("cluster-admin", "cluster-admin", Group("system:masters")),
    ("system:monitoring", "system:monitoring", Group("system:monitoring")),
    ("system:discovery", "system:discovery", Group("system:authenticated")),
    ("system:basic-user", "system:basic-user", Group("system:authenticated")),
    ("system:public-info-viewer", "system:public-info-viewer", Group("system:authenticated")),
    ("system:public-info-viewer", "system:public-info-viewer", Group("system:unauthenticated")),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        Group("system:serviceaccounts"),
    ),
];

const ADMIN: &[Grant] = &[
    grant("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    grant(ALL, "rbac.authorization.k8s.io", "rolebindings roles"),
];

/// Secrets are among what one may read who may start pods that mount them.
const EDIT: &[Grant] = &[
    grant(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    grant("impersonate", "core", "serviceaccounts"),
    grant(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    grant("create", "core", "pods/eviction"),
    grant(
        WRITE,
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
    ),
    grant("create", "core", "serviceaccounts/token"),
    grant(
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
    ),
    grant(WRITE, "autoscaling", "horizontalpodautoscalers"),
    grant(WRITE, "batch", "cronjobs jobs"),
    grant(WRITE, "policy", "poddisruptionbudgets"),
    grant(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    grant(ALL, "coordination.k8s.io", "leases"),
];

const VIEW: &[Grant] = &[
    grant(
        READ,
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
    ),
    grant(
        READ,
        "core",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas \
         resourcequotas/status",
    ),
    grant(READ, "core", "namespaces"),
    grant(READ, "discovery.k8s.io", "endpointslices"),
    grant(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    grant(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    grant(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    grant(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    grant(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
];
