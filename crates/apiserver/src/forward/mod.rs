//! Forwards that follow a Service: `kubectl port-forward service/X` outlives the pod that kubectl chose for it.
//!
//! The server ends such a tunnel itself, and continues each connection through the agent of the pod that it goes to: the chosen one while
//! it is behind the Service, then another. So neither the end of a pod nor that of its node ends the tunnel. All other forwards pass
//! through [`crate::streams`] untouched.

mod ports;
mod reads;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use api::selector::LabelSelector;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use http::header::UPGRADE;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use rand::seq::SliceRandom;
use serde_json::Value;
use store::RangeOptions;
use streams::portforward::{self, Client, Pair, Pairs};
use streams::spdy::{Reader, SPDY, Stream, Writer};

use crate::Server;
use crate::auth::{Attributes, User, permit};
use crate::body::ResponseBody;
use crate::fault::{Fault, Outcome};
use crate::kinds::find;
use crate::object;
use ports::Pod;

pub(crate) use reads::Reads;

/// Longest error text that is taken from an agent.
const LONGEST_ERROR: usize = 64 << 10;

/// A forward by way of a Service.
#[derive(Debug)]
pub(crate) struct Way {
    user: User,
    /// As it was when kubectl turned its port into the pod's.
    service: Value,
    /// The pod that kubectl chose.
    first: Value,
    /// Where the last connection went.
    current: Mutex<Pod>,
}

/// A connection to a pod through its agent.
struct Opened {
    pod: Pod,
    pair: Pair,
    /// The connection ends with it.
    client: Client,
}

/// Why a connection goes nowhere.
#[derive(Debug)]
enum Failure {
    /// For the user to read; kubectl ends after it.
    Told(String),
    /// May be over in a moment.
    Nowhere(String),
}

/// The Service that a forward to `pod` is by way of; none when it is a forward to that pod.
pub(crate) fn way(server: &Server, user: User, headers: &HeaderMap, pod: &Value) -> Outcome<Option<Way>> {
    let spdy = headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(SPDY.as_bytes()));
    if !(spdy || portforward::is_tunnel(headers)) {
        return Ok(None);
    }
    let kind = find("", "v1", "services").ok_or_else(|| Fault::internal("no such kind"))?;
    let namespace = object::namespace(pod);
    for name in server.forwards.of(&user, headers, namespace, Instant::now()) {
        let Some(entry) = server.store.get(&object::key(kind, namespace, &name)) else { continue };
        let service = object::decode(kind, &entry.value)?;
        if selects(&service, pod) {
            let current = Mutex::new(Pod::of(pod));
            return Ok(Some(Way { user, service, first: pod.clone(), current }));
        }
    }
    Ok(None)
}

fn selects(service: &Value, pod: &Value) -> bool {
    let selector = service["spec"]["selector"].as_object().into_iter().flatten();
    let selector = LabelSelector::from_map(selector.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))));
    !selector.is_everything() && selector.matches_value(Some(&pod["metadata"]["labels"]))
}

/// Takes the upgrade, and serves the tunnel.
pub(crate) async fn answer(server: Arc<Server>, way: Way, mut parts: Parts) -> Response<ResponseBody> {
    let serve = |pairs| serve(server, Arc::new(way), pairs);
    let response = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => portforward::by_websocket(upgrade, serve),
        Err(_) => portforward::by_spdy(Request::from_parts(parts, Body::empty()), serve),
    };
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

async fn serve(server: Arc<Server>, way: Arc<Way>, mut pairs: Pairs) {
    while let Some(pair) = pairs.next().await {
        let (server, way) = (server.clone(), way.clone());
        tokio::spawn(async move { way.connect(&server, pair).await });
    }
}

impl Way {
    fn namespace(&self) -> &str {
        object::namespace(&self.service)
    }

    async fn connect(&self, server: &Server, Pair { port, mut data, mut error }: Pair) {
        let opened = match port.parse() {
            Ok(number @ 1..) => self.open(server, number).await,
            Ok(0) | Err(_) => Err(Failure::Told(format!("\"{port}\" is not a port"))),
        };
        match opened {
            Ok(opened) => return self.carry(server, opened, data, error.writer).await,
            Err(Failure::Told(message)) => {
                // A client that has gone need not know.
                let _ = error.writer.write(message.as_bytes()).await;
                data.writer.close().await;
            }
            // Words would end kubectl. A refused stream makes it tell of this one connection, and go on.
            Err(Failure::Nowhere(message)) => {
                let (namespace, service) = (self.namespace(), object::name(&self.service));
                tracing::info!(namespace, service, user = self.user.name, message, "a forwarded connection is refused");
                data.writer.reset().await;
            }
        }
        error.writer.close().await;
    }

    /// A connection to the port that is `number` on the first pod.
    async fn open(&self, server: &Server, number: u16) -> Result<Opened, Failure> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let order = self.order(server, &current, number).map_err(|fault| Failure::Nowhere(fault.0.message))?;
        let service = object::name(&self.service);
        let mut failure = Failure::Nowhere(format!("no endpoint of service {service:?} is ready"));
        for (pod, number) in order {
            let Some(object) = self.lives(server, &pod) else { continue };
            let moves = pod != current;
            if moves && let Err(fault) = permit(server, &self.user, &self.asked(&pod)) {
                failure = Failure::Told(fault.0.message);
                continue;
            }
            match self.reach(server, &object, number).await {
                Ok((client, pair)) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = pod.clone();
                    return Ok(Opened { pod, pair, client });
                }
                Err(message) if moves => failure = Failure::Nowhere(message),
                // As without a Service.
                Err(message) => failure = Failure::Told(message),
            }
        }
        Err(failure)
    }

    /// Where to try, in this order: the pod of the last connection while it is ready, then others by chance. At the very last the pod
    /// of the last connection all the same, as without a Service.
    fn order(&self, server: &Server, current: &Pod, number: u16) -> Outcome<Vec<(Pod, u16)>> {
        let first = Pod::of(&self.first);
        // What is no port of the Service is the first pod's own affair.
        let Some(port) = ports::service_port(&self.service, &self.first, number) else {
            return Ok(vec![(first, number)]);
        };
        let kind = find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(|| Fault::internal("no such kind"))?;
        let entries = server.store.range(&object::prefix(kind, self.namespace()), RangeOptions::default())?.entries;
        let slices: Outcome<Vec<Value>> = entries.iter().map(|entry| object::decode(kind, &entry.value)).collect();
        let mut behind = ports::behind(&slices?, object::name(&self.service), &port);
        let own = behind.remove(current);
        let number = own.filter(|_| *current != first).map_or(number, |one| one.port);
        let mut order: Vec<(Pod, u16)> =
            behind.into_iter().filter(|(_, one)| one.ready).map(|(pod, one)| (pod, one.port)).collect();
        order.shuffle(&mut rand::rng());
        let place = if own.is_some_and(|one| one.ready) { 0 } else { order.len() };
        order.insert(place, (current.clone(), number));
        Ok(order)
    }

    /// The pod, unless it has gone or is going.
    fn lives(&self, server: &Server, pod: &Pod) -> Option<Value> {
        let kind = find("", "v1", "pods")?;
        let entry = server.store.get(&object::key(kind, self.namespace(), &pod.name))?;
        let object = object::decode(kind, &entry.value).ok()?;
        (Pod::of(&object) == *pod && !object::is_deleting(&object)).then_some(object)
    }

    fn asked(&self, pod: &Pod) -> Attributes {
        Attributes {
            verb: "create".to_owned(),
            resource: "pods".to_owned(),
            subresource: "portforward".to_owned(),
            namespace: self.namespace().to_owned(),
            name: pod.name.clone(),
            ..Attributes::default()
        }
    }

    async fn reach(&self, server: &Server, pod: &Value, port: u16) -> Result<(Client, Pair), String> {
        let mut client = Client::new(crate::streams::forwarding(server, pod).await?);
        let pair = client.connect(port).await.map_err(|error| error.to_string())?;
        Ok((client, pair))
    }

    /// Copies both ways until both ends have said all.
    async fn carry(&self, server: &Server, Opened { pod, pair, client }: Opened, data: Stream, error: Writer) {
        let Stream { reader, mut writer, .. } = data;
        writer.accept().await;
        let outward = copy(pair.data.reader, writer);
        tokio::join!(copy(reader, pair.data.writer), outward, self.tell(server, &pod, pair.error.reader, error));
        drop(client);
    }

    /// Passes on what the agent says against a pod. Of one that is going the client shall not hear: its next connection goes elsewhere.
    async fn tell(&self, server: &Server, pod: &Pod, mut said: Reader, mut error: Writer) {
        let mut message = Vec::new();
        while let Some(bytes) = said.next().await
            && message.len() < LONGEST_ERROR
        {
            message.extend_from_slice(&bytes);
        }
        if !message.is_empty() && self.lives(server, pod).is_some() {
            let _ = error.write(&message).await;
        }
        error.close().await;
    }
}

async fn copy(mut from: Reader, mut to: Writer) {
    while let Some(bytes) = from.next().await {
        if to.write(&bytes).await.is_err() {
            return;
        }
    }
    to.close().await;
}
