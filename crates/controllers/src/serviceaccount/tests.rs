//! What is made, what is mended, what is left alone.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use serde_json::json;

use super::decide::{account, root};

fn namespace(going: bool) -> Namespace {
    let mut meta = json!({"name": "n"});
    if going {
        meta["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    }
    serde_json::from_value(json!({"metadata": meta})).unwrap()
}

#[test]
fn an_account_is_made_once_and_not_in_a_namespace_that_goes() {
    let made = account(&namespace(false), None).unwrap();
    assert_eq!(made.to_string(), "create ServiceAccount n/default");
    assert_eq!(account(&namespace(false), Some(&ServiceAccount::default())), None);
    assert_eq!(account(&namespace(true), None), None);
}

#[test]
fn root_certificates_are_made_and_mended() {
    let made = root(&namespace(false), None, "PEM").unwrap();
    assert_eq!(made.to_string(), "create ConfigMap n/kube-root-ca.crt");
    let map = |text: &str| {
        let meta = json!({"name": "kube-root-ca.crt", "namespace": "n"});
        serde_json::from_value::<ConfigMap>(json!({"metadata": meta, "data": {"ca.crt": text}})).unwrap()
    };
    assert_eq!(root(&namespace(false), Some(&map("PEM")), "PEM"), None);
    let mended = root(&namespace(false), Some(&map("edited")), "PEM").unwrap();
    assert_eq!(mended.to_string(), "replace ConfigMap n/kube-root-ca.crt");
}
