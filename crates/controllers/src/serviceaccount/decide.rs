//! What a namespace lacks of what every namespace has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::mechanism::Write;

pub const ACCOUNT: &str = "default";
pub const ROOT_CA: &str = "kube-root-ca.crt";
const CERTIFICATE: &str = "ca.crt";

/// The namespace's ServiceAccount, if it is missing.
pub fn account(namespace: &Namespace, present: Option<&ServiceAccount>) -> Option<Write> {
    if present.is_some() || is_going(namespace) {
        return None;
    }
    let metadata = meta(namespace, ACCOUNT);
    Some(Write::create(&ServiceAccount { metadata, ..ServiceAccount::default() }))
}

/// The namespace's root certificates, if they are missing or not `certificate`.
pub fn root(namespace: &Namespace, present: Option<&ConfigMap>, certificate: &str) -> Option<Write> {
    if is_going(namespace) {
        return None;
    }
    let data = BTreeMap::from([(CERTIFICATE.to_owned(), certificate.to_owned())]);
    match present {
        None => {
            let mut metadata = meta(namespace, ROOT_CA);
            let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
                Kubernetes clusters.";
            metadata.annotations =
                Some(BTreeMap::from([("kubernetes.io/description".to_owned(), description.to_owned())]));
            Some(Write::create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }))
        }
        Some(old) if old.data.as_ref() == Some(&data) => None,
        Some(old) => Some(Write::replace(&ConfigMap { data: Some(data), ..old.clone() })),
    }
}

fn is_going(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

fn meta(namespace: &Namespace, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.name_any()), ..ObjectMeta::default() }
}
