//! How many pods a keeper of a custom kind is for: what its `scale` subresource says. Asked for at each decision, since nobody tells of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Client;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt, discovery};

use crate::Error;
use crate::mechanism::controller_of;

/// Groups whose kinds are watched, or have no number of pods of their own.
const OURS: [&str; 3] = ["", "apps", "batch"];

/// The keepers of `pods` that are of custom kinds and have a number, by their UIDs.
///
/// # Errors
/// When the server cannot be asked; that there is no such kind, object or subresource is an answer.
pub async fn of_custom_kinds(client: &Client, pods: &[Arc<Pod>]) -> Result<BTreeMap<String, i32>, Error> {
    let keepers = pods.iter().filter_map(|pod| Some((pod.namespace()?, controller_of(pod.as_ref())?.clone())));
    let keepers: BTreeMap<String, (String, OwnerReference)> =
        keepers.map(|(namespace, owner)| (owner.uid.clone(), (namespace, owner))).collect();
    let mut found = BTreeMap::new();
    for (uid, (namespace, owner)) in keepers {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        if OURS.contains(&group) {
            continue;
        }
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        if let Some(replicas) = ask(client, &namespace, &owner, &kind).await? {
            found.insert(uid, replicas);
        }
    }
    Ok(found)
}

async fn ask(
    client: &Client,
    namespace: &str,
    owner: &OwnerReference,
    kind: &GroupVersionKind,
) -> Result<Option<i32>, Error> {
    let absent = |error: &kube::Error| match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    };
    let what = || format!("scale of {} {namespace}/{}", owner.kind, owner.name);
    let answer = |error: kube::Error| match absent(&error) {
        true => Ok(None),
        false => Err(Error::Read { what: what(), source: Box::new(error) }),
    };
    let resource = match discovery::pinned_kind(client, kind).await {
        Ok((resource, _)) => resource,
        Err(error) => return answer(error),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match api.get_scale(&owner.name).await {
        // One that was made anew under the name is not the pod's keeper.
        Ok(scale) if scale.metadata.uid.as_ref() != Some(&owner.uid) => Ok(None),
        Ok(scale) => Ok(Some(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))),
        Err(error) => answer(error),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A server that has widgets, of which one has a scale.
    fn answers(path: &str) -> (u16, Value) {
        let scale = "/apis/example.org/v1/namespaces/default/widgets/w/scale";
        match path {
            "/apis/example.org/v1" => {
                let widgets = json!({"name": "widgets", "singularName": "widget", "kind": "Widget", "namespaced": true,
                    "verbs": ["get"]});
                (200, json!({"kind": "APIResourceList", "groupVersion": "example.org/v1", "resources": [widgets]}))
            }
            path if path == scale => {
                let meta = json!({"name": "w", "namespace": "default", "uid": "w1"});
                (
                    200,
                    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": {"replicas": 3}}),
                )
            }
            _ => {
                (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""}))
            }
        }
    }

    fn client() -> Client {
        let serve = |request: http::Request<Body>| {
            let (code, body) = answers(request.uri().path());
            let response = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }.boxed()
        };
        Client::new(tower::service_fn(serve), "default")
    }

    fn pod(api: &str, kind: &str, name: &str, uid: &str) -> Arc<Pod> {
        let owner = json!({"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true});
        let meta = json!({"name": "p", "namespace": "default", "ownerReferences": [owner]});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
    }

    #[tokio::test]
    async fn a_custom_keeper_is_asked_for_its_number() {
        let pods = [
            pod("example.org/v1", "Widget", "w", "w1"),
            pod("example.org/v1", "Widget", "w", "before"),
            pod("example.org/v1", "Widget", "none", "w2"),
            pod("example.org/v1", "Gadget", "g", "g1"),
            pod("example.net/v1", "Gadget", "g", "g2"),
            pod("batch/v1", "Job", "j", "j1"),
        ];
        let found = of_custom_kinds(&client(), &pods).await.unwrap();
        assert_eq!(found, BTreeMap::from([("w1".to_owned(), 3)]));
    }
}
