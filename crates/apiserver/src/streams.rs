//! Streams to a Pod: `log`, `exec`, `attach` and `portforward`, passed on to the agent of its node.
//!
//! The server finds the node and the container, and speaks the kubelet's HTTP API to the agent. After an upgrade it copies bytes both
//! ways and knows nothing of what they mean, but for forwards that follow a Service ([`forward`]).

use std::sync::Arc;

use api::status::Status;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;
use streams::{portforward, spdy};

use crate::Server;
use crate::auth::User;
use crate::body::{ResponseBody, full};
use crate::fault::{Fault, Outcome};
use crate::handle::{Answer, AnswerBody};
use crate::kinds::{Kind, find};
use crate::query::{Query, encoded};
use crate::route::Target;
use crate::{forward, object};

/// Longest error text that is taken from an agent.
const LONGEST_ERROR: usize = 64 << 10;

/// A stream of a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Log,
    Exec,
    Attach,
    PortForward,
}

pub(crate) fn stream(kind: &Kind, target: &Target) -> Option<Stream> {
    if !(kind.group.is_empty() && kind.plural == "pods") {
        return None;
    }
    match target.subresource.as_deref()? {
        "log" => Some(Stream::Log),
        "exec" => Some(Stream::Exec),
        "attach" => Some(Stream::Attach),
        "portforward" => Some(Stream::PortForward),
        _ => None,
    }
}

/// Where a stream is answered: the node, and the path at its agent.
struct Place {
    node: Node,
    path: String,
}

pub(crate) async fn answer(
    server: &Arc<Server>,
    kind: &'static Kind,
    stream: Stream,
    target: &Target,
    mut parts: Parts,
    query: &Query,
    user: User,
) -> Outcome<Answer> {
    if !(parts.method == Method::GET || (parts.method == Method::POST && stream != Stream::Log)) {
        return Err(Fault::method_not_allowed());
    }
    let name = target.name.as_deref().unwrap_or_default();
    let entry =
        server.store.get(&object::key(kind, &target.namespace, name)).ok_or_else(|| Fault::not_found(kind, name))?;
    let pod = object::decode(kind, &entry.value)?;
    if stream == Stream::Log && pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        // A Pod that nobody runs yet has said nothing; who asks for a container that it has not is told so all the same.
        container(&pod, query)?;
        return Ok(Answer::text(StatusCode::NO_CONTENT, Bytes::new()));
    }
    let place = place(server, stream, &pod, query)?;
    if stream == Stream::PortForward
        && let Some(way) = forward::way(server, user, &parts.headers, &pod)?
    {
        return Ok(Answer::foreign(forward::answer(server.clone(), way, parts).await));
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let headers = parts.headers.iter().filter(|(name, _)| is_passed_on(name));
    let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
    let response = send(server, &place, parts.method.clone(), headers).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(upgraded(response, upgrade));
    }
    if stream == Stream::Log && !response.status().is_success() {
        return Err(refused(kind, name, response).await);
    }
    let code = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).cloned();
    Ok(Answer {
        code,
        content_type: content_type.unwrap_or(HeaderValue::from_static("text/plain")),
        body: AnswerBody::Stream(response.into_body().map_err(Into::into).boxed_unsync()),
        warnings: Vec::new(),
    })
}

fn place(server: &Server, stream: Stream, pod: &Value, query: &Query) -> Outcome<Place> {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let host = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let path = match stream {
        Stream::Log => {
            let container = container(pod, query)?;
            format!("/containerLogs/{namespace}/{name}/{container}?{}", passed_on(query, &[]))
        }
        Stream::Exec | Stream::Attach => {
            let verb = if stream == Stream::Exec { "exec" } else { "attach" };
            let renamed = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
            format!("/{verb}/{namespace}/{name}/{}?{}", container(pod, query)?, passed_on(query, &renamed))
        }
        Stream::PortForward => format!("/portForward/{namespace}/{name}?{}", passed_on(query, &[])),
    };
    if host.is_empty() {
        return Err(Fault::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let nodes = find("", "v1", "nodes").ok_or_else(|| Fault::internal("no such kind"))?;
    let entry = server.store.get(&object::key(nodes, "", host)).ok_or_else(|| Fault::not_found(nodes, host))?;
    let node = serde_json::from_value(object::decode(nodes, &entry.value)?).map_err(Fault::internal)?;
    Ok(Place { node, path })
}

/// The container that is asked for, or the only one.
fn container(pod: &Value, query: &Query) -> Outcome<String> {
    let name = object::name(pod);
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
    };
    let main = names("containers");
    let asked = query.text("container");
    if asked.is_empty() {
        return match main.as_slice() {
            [only] => Ok((*only).to_owned()),
            _ => {
                let mut text =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
                let init = names("initContainers");
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Fault::bad_request(text))
            }
        };
    }
    let known = ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| names(list).contains(&asked));
    if known {
        Ok(asked.to_owned())
    } else {
        Err(Fault::bad_request(format!("container {asked} is not valid for pod {name}")))
    }
}

/// The query for the agent: flags under the kubelet's names, all else as it came.
fn passed_on(query: &Query, flags: &[(&str, &str)]) -> String {
    let mut out = Vec::new();
    for (name, value) in query.pairs() {
        match flags.iter().find(|(ours, _)| *ours == name) {
            Some((_, theirs)) if query.flag(name) => out.push(format!("{theirs}=1")),
            Some(_) => {}
            None if name == "container" => {}
            None => out.push(format!("{}={}", encoded(name), encoded(value))),
        }
    }
    out.join("&")
}

async fn send(server: &Server, place: &Place, method: Method, headers: HeaderMap) -> Outcome<Response<Incoming>> {
    let node = place.node.metadata.name.clone().unwrap_or_default();
    let unreachable = |error: &dyn std::fmt::Display| Fault::internal(format!("error dialing node {node}: {error}"));
    let stream = server.config.nodes.dial(&place.node).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node ended");
        }
    });
    let request = Request::builder().method(method).uri(&place.path).header(HOST, node.as_str());
    let mut request = request.body(Full::new(Bytes::new())).map_err(Fault::internal)?;
    request.headers_mut().extend(headers);
    sender.send_request(request).await.map_err(|error| unreachable(&error))
}

/// Opens a forward to a Pod by SPDY; what comes back speaks it, or says why not.
pub(crate) async fn forwarding(server: &Server, pod: &Value) -> Result<TokioIo<Upgraded>, String> {
    let message = |fault: Fault| fault.0.message;
    let place = place(server, Stream::PortForward, pod, &Query::default()).map_err(message)?;
    let headers = [
        (CONNECTION, "Upgrade"),
        (UPGRADE, spdy::SPDY),
        (HeaderName::from_static(spdy::PROTOCOL_HEADER), portforward::PROTOCOL),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
    let response = send(server, &place, Method::POST, headers).await.map_err(message)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let kind = find("", "v1", "pods").ok_or("no such kind")?;
        return Err(message(refused(kind, object::name(pod), response).await));
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(|error| error.to_string())
}

/// Headers that make an upgrade; never the caller's credentials.
fn is_passed_on(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "connection" | "upgrade" | "x-stream-protocol-version") || name.starts_with("sec-websocket-")
}

/// Tells the client that the protocol changes, and joins both connections when it has.
pub(crate) fn upgraded(mut response: Response<Incoming>, client: Option<OnUpgrade>) -> Answer {
    let mut switched: Response<ResponseBody> = Response::new(full(Bytes::new()));
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        if name == CONNECTION || name == UPGRADE || is_passed_on(name) {
            switched.headers_mut().append(name, value.clone());
        }
    }
    let node = hyper::upgrade::on(&mut response);
    if let Some(client) = client {
        tokio::spawn(async move {
            match tokio::try_join!(client, node) {
                Ok((client, node)) => {
                    let copied =
                        tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await;
                    if let Err(error) = copied {
                        tracing::debug!(%error, "stream to a pod ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "the protocol did not change"),
            }
        });
    }
    Answer::foreign(switched)
}

/// What an agent says against it, as a `Status`.
async fn refused(kind: &Kind, name: &str, response: Response<Incoming>) -> Fault {
    let code = response.status();
    let text = match Limited::new(response.into_body(), LONGEST_ERROR).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned(),
        Err(error) => error.to_string(),
    };
    match code {
        StatusCode::BAD_REQUEST => Fault::bad_request(text),
        StatusCode::NOT_FOUND => {
            let mut status = Status::not_found(kind.group, kind.plural, name);
            status.message = format!("the server could not find the requested resource ( {} {name})", kind.plural);
            if !text.is_empty() {
                status.message = text;
            }
            status.into()
        }
        _ => Fault::internal(text),
    }
}
