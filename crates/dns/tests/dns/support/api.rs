//! An API server of a few lines: lists and watches what a test puts in, and can go away and come back.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{Request, Response, StatusCode};
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Frames = BoxStream<'static, Result<http_body::Frame<Bytes>, Infallible>>;

/// Objects by resource, namespace and name, and all that happened to them.
#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(String, String, String), Value>,
    /// resource, kind of event, object; the resource version is the index plus one
    log: Vec<(String, &'static str, Value)>,
    away: bool,
    /// Kinds whose list is held back.
    held: Vec<&'static str>,
}

#[derive(Debug, Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Api {
    pub fn new() -> Self {
        Api { state: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        client::in_process(tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(&request)) }
        }))
    }

    /// Creates or replaces.
    pub fn apply(&self, object: &Value) {
        self.record("ADDED", object);
    }

    pub fn delete(&self, object: &Value) {
        self.record("DELETED", object);
    }

    /// While it is away every request fails and every watch ends.
    pub fn set_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
        self.changed.send_modify(|_| {});
    }

    /// Lists of these resources fail until they are let go.
    pub fn hold(&self, resources: &[&'static str]) {
        self.state.lock().unwrap().held = resources.to_vec();
    }

    fn record(&self, what: &'static str, object: &Value) {
        let mut state = self.state.lock().unwrap();
        let mut object = object.clone();
        let revision = state.log.len() as u64 + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let text = |at: &str| object["metadata"][at].as_str().unwrap_or_default().to_owned();
        let key = (resource(object["kind"].as_str().unwrap()), text("namespace"), text("name"));
        let known = match what {
            "DELETED" => state.objects.remove(&key),
            _ => state.objects.insert(key.clone(), object.clone()),
        };
        let what = if what == "ADDED" && known.is_some() { "MODIFIED" } else { what };
        state.log.push((key.0, what, object));
        drop(state);
        self.changed.send_replace(revision);
    }

    fn answer(&self, request: &Request<Body>) -> Response<StreamBody<Frames>> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let state = self.state.lock().unwrap();
        if state.away || state.held.iter().any(|held| *held == resource) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503});
            return respond(StatusCode::SERVICE_UNAVAILABLE, whole(&status));
        }
        if query.contains("watch=true") {
            drop(state);
            let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap_or("0");
            return respond(StatusCode::OK, self.follow(resource, from.parse().unwrap_or(0)));
        }
        let items: Vec<&Value> = state.objects.iter().filter(|((r, ..), _)| *r == resource).map(|(_, o)| o).collect();
        let revision = state.log.len().to_string();
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items});
        respond(StatusCode::OK, whole(&list))
    }

    fn follow(&self, resource: String, from: usize) -> Frames {
        let (api, changed) = (self.clone(), self.changed.subscribe());
        stream::unfold((api, changed, from), move |(api, mut changed, mut at)| {
            let resource = resource.clone();
            async move {
                loop {
                    changed.borrow_and_update();
                    let (next, away) = {
                        let state = api.state.lock().unwrap();
                        (state.log.get(at).cloned(), state.away)
                    };
                    match next {
                        _ if away => return None,
                        Some((of, what, object)) => {
                            at += 1;
                            if of == resource {
                                let line = format!("{}\n", json!({"type": what, "object": object}));
                                return Some((Ok(http_body::Frame::data(line.into())), (api, changed, at)));
                            }
                        }
                        None => changed.changed().await.ok()?,
                    }
                }
            }
        })
        .boxed()
    }
}

fn resource(kind: &str) -> String {
    match kind {
        "Namespace" => "namespaces",
        "Service" => "services",
        "EndpointSlice" => "endpointslices",
        "Pod" => "pods",
        "ServiceAccount" => "serviceaccounts",
        other => panic!("{other}"),
    }
    .to_owned()
}

fn whole(value: &Value) -> Frames {
    stream::iter([Ok(http_body::Frame::data(value.to_string().into()))]).boxed()
}

fn respond(status: StatusCode, frames: Frames) -> Response<StreamBody<Frames>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(StreamBody::new(frames)).unwrap()
}
