//! The only way to the Kubernetes API: every component takes a [`kube::Client`] that was made here and nothing else.
//!
//! Two transports carry the same HTTP: TLS to any API server ([`from_kubeconfig`]), or a call into an API server in this process
//! ([`in_process`]). No component can tell which it has; neither brings `managedFields`. [`follow`] tells the changes of one kind, and [`Watched`]
//! keeps a copy of it that follows the server, with changes in order.
#![forbid(unsafe_code)]

pub mod drain;
pub mod election;
pub mod events;
mod follow;
mod lean;
mod link;
mod watched;

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
pub use follow::{Following, follow};
pub use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use lean::Lean;
use thiserror::Error;
use tokio::sync::watch;
use tower::{BoxError, Layer};
pub use watched::{Change, Key, Object, Watched};

/// Why no client could be made.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot read kubeconfig `{path}`")]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("no cluster is configured\n  hint: give --kubeconfig, or set KUBECONFIG")]
    Infer(#[source] kube::config::InferConfigError),
    #[error("the API server does not answer `{path}`")]
    Ask { path: String, source: kube::Error },
    #[error("the API server refuses `{path}` with code {code}")]
    Refused { path: String, code: u16 },
    #[error("cannot make a client for the API server")]
    Connect(#[source] kube::Error),
}

/// A client whose requests are calls of `service`, an API server in this process that already knows who calls.
pub fn in_process<S, B>(service: S) -> Client
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(Lean.layer(service), "default")
}

/// As [`in_process`], over a link: while `up` says `false`, nothing passes in either direction.
pub fn in_process_over<S, B>(service: S, up: watch::Receiver<bool>) -> Client
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    in_process(link::Linked::new(service, up))
}

/// The body of a plain answer, such as a file that the server gives.
///
/// # Errors
/// When the server cannot be reached, or says anything but 200.
pub async fn get_bytes(client: &Client, path: &str) -> Result<Bytes, Error> {
    let asked = |source| Error::Ask { path: path.to_owned(), source };
    let request = http::Request::get(path).body(Body::empty()).map_err(|error| asked(kube::Error::HttpError(error)))?;
    let response = client.send(request).await.map_err(asked)?;
    let code = response.status().as_u16();
    if code != 200 {
        return Err(Error::Refused { path: path.to_owned(), code });
    }
    response.into_body().collect_bytes().await.map_err(asked)
}

/// A client for the cluster that a kubeconfig file names, in its current context or in `context`.
///
/// Without a path the usual places are searched: `KUBECONFIG`, `~/.kube/config`, then the ServiceAccount of a pod.
///
/// # Errors
/// When the file cannot be read, names no such context, or holds credentials that cannot be used.
pub async fn from_kubeconfig(path: Option<&Path>, context: Option<&str>) -> Result<Client, Error> {
    let builder = ClientBuilder::try_from(config(path, context).await?).map_err(Error::Connect)?;
    Ok(builder.with_layer(&Lean).build())
}

/// The certificates (PEM) by which a kubeconfig file knows its cluster; none where it trusts what the machine trusts.
///
/// # Errors
/// As [`from_kubeconfig`].
pub async fn authority(path: Option<&Path>) -> Result<Option<String>, Error> {
    let certificates = config(path, None).await?.root_cert;
    Ok(certificates.map(|all| all.iter().map(|der| pem(der)).collect()))
}

/// A certificate as RFC 7468 writes it.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

async fn config(path: Option<&Path>, context: Option<&str>) -> Result<kube::Config, Error> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    match path {
        Some(path) => {
            let named = |source| Error::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(named)?;
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(named)
        }
        None => kube::Config::infer().await.map_err(Error::Infer),
    }
}
