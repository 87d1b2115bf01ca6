//! An API server of a few lines: lists and watches what a test puts in, and remembers the events that it is sent.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Frames = BoxStream<'static, Result<http_body::Frame<Bytes>, Infallible>>;

/// Objects by resource and name, and all that happened to them.
#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    /// resource, kind of event, object; the resource version is the index plus one
    log: Vec<(String, &'static str, Value)>,
    events: Vec<Value>,
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
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        }))
    }

    /// Creates or replaces.
    pub fn apply(&self, object: &Value) {
        self.put(object);
    }

    /// As [`Api::apply`]; gives the revision.
    pub fn put(&self, object: &Value) -> u64 {
        self.record("ADDED", object)
    }

    pub fn delete(&self, kind: &str, name: &str) {
        let object = self.state.lock().unwrap().objects.get(&(resource(kind), name.to_owned())).cloned();
        if let Some(object) = object {
            self.record("DELETED", &object);
        }
    }

    /// The reasons of the events that were recorded so far.
    pub fn event_reasons(&self) -> Vec<String> {
        self.events().into_iter().map(|(reason, _)| reason).collect()
    }

    /// Reasons and notes of the events that were recorded so far.
    pub fn events(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        state.events.iter().map(|event| (text(event, "reason"), text(event, "note"))).collect()
    }

    fn record(&self, what: &'static str, object: &Value) -> u64 {
        let mut state = self.state.lock().unwrap();
        let mut object = object.clone();
        if object["kind"] != "Node" {
            object["metadata"]["namespace"] = json!("packets");
        }
        let revision = state.log.len() as u64 + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        object["metadata"]["uid"] = json!(object["metadata"]["name"]);
        let key = (resource(object["kind"].as_str().unwrap()), object["metadata"]["name"].as_str().unwrap().to_owned());
        // A status that is not given stays, as it has a path of its own.
        if let Some(status) = state.objects.get(&key).and_then(|old| old.get("status")).cloned()
            && object.get("status").is_none()
        {
            object["status"] = status;
        }
        let known = match what {
            "DELETED" => state.objects.remove(&key),
            _ => state.objects.insert(key.clone(), object.clone()),
        };
        let what = if what == "ADDED" && known.is_some() { "MODIFIED" } else { what };
        state.log.push((key.0, what, object));
        self.changed.send_replace(revision);
        revision
    }

    async fn answer(&self, request: Request<Body>) -> Response<StreamBody<Frames>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        if request.method() != http::Method::GET {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let event: Value = serde_json::from_slice(&body).unwrap();
            self.state.lock().unwrap().events.push(event.clone());
            return respond(whole(&event));
        }
        if query.contains("watch=true") {
            let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap_or("0");
            return respond(self.follow(resource, from.parse().unwrap_or(0)));
        }
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> = state.objects.iter().filter(|((r, _), _)| *r == resource).map(|(_, o)| o).collect();
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.log.len().to_string()}, "items": items});
        respond(whole(&list))
    }

    fn follow(&self, resource: String, from: usize) -> Frames {
        let (api, changed) = (self.clone(), self.changed.subscribe());
        stream::unfold((api, changed, from), move |(api, mut changed, mut at)| {
            let resource = resource.clone();
            async move {
                loop {
                    let next = api.state.lock().unwrap().log.get(at).cloned();
                    match next {
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
        "Service" => "services",
        "EndpointSlice" => "endpointslices",
        "Node" => "nodes",
        other => panic!("{other}"),
    }
    .to_owned()
}

fn whole(value: &Value) -> Frames {
    stream::iter([Ok(http_body::Frame::data(value.to_string().into()))]).boxed()
}

fn respond(frames: Frames) -> Response<StreamBody<Frames>> {
    Response::builder().header("content-type", "application/json").body(StreamBody::new(frames)).unwrap()
}
