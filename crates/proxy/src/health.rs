//! What the proxy answers over HTTP, in the node's namespace: `/healthz`, `/livez`, `/metrics` and the health check node ports.
//!
//! The documents are kube-proxy's, since load balancers and dashboards read them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use k8s_openapi::jiff::Timestamp;
use linux::NetNs;
use serde_json::{Map, Value, json};
use service_model::{Model, ObjectKey};
use telemetry::Registry;
use telemetry::prometheus_client::metrics::counter::Counter;
use telemetry::prometheus_client::metrics::family::Family;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::connections::Connections;
use crate::error::Error;
use crate::metrics::{Code, Metrics};
use crate::sync::Chain;

/// A proxy that has known of a change for so long without applying it is not healthy.
const OVERDUE: Duration = Duration::from_secs(60);
const LONGEST_BIND_WAIT: Duration = Duration::from_secs(2);

/// What the loop tells and the listeners read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    state: Arc<Mutex<HealthState>>,
}

#[derive(Debug, Default)]
struct HealthState {
    last_updated: Option<Timestamp>,
    behind_since: Option<Instant>,
    deleting: bool,
    /// Ready endpoints on this node, by Service.
    local: BTreeMap<ObjectKey, usize>,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel is as the model says.
    pub fn up_to_date(&self) {
        let mut state = self.lock();
        state.last_updated = Some(Timestamp::now());
        state.behind_since = None;
    }

    /// The kernel is not yet as the model says.
    pub fn behind(&self) {
        self.lock().behind_since.get_or_insert_with(Instant::now);
    }

    pub fn node_deleting(&self, deleting: bool) {
        self.lock().deleting = deleting;
    }

    fn healthy(&self) -> bool {
        let state = self.lock();
        state.last_updated.is_some() && state.behind_since.is_none_or(|since| since.elapsed() < OVERDUE)
    }

    fn document(&self, with_node: bool) -> (StatusCode, Value) {
        let healthy = self.healthy();
        let state = self.lock();
        let updated = state.last_updated.unwrap_or(Timestamp::UNIX_EPOCH).to_string();
        let eligible = !state.deleting;
        let family = json!({"lastUpdated": updated, "healthy": healthy});
        let mut document = Map::new();
        document.insert("lastUpdated".into(), json!(updated));
        document.insert("currentTime".into(), json!(Timestamp::now().to_string()));
        if with_node {
            document.insert("nodeEligible".into(), json!(eligible));
        }
        document.insert("healthy".into(), json!(healthy));
        document.insert("status".into(), json!({"IPv4": family, "IPv6": family}));
        let good = healthy && (eligible || !with_node);
        (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Value::Object(document))
    }

    /// `/healthz` and `/livez`.
    pub fn router(&self, metrics: &Metrics) -> Router {
        let serve = |with_node, counted: &Family<Code, Counter>| {
            let counted = counted.clone();
            move |State(health): State<Health>| async move {
                let response = answer(health.document(with_node));
                Metrics::answered(&counted, response.status().as_u16());
                response
            }
        };
        let (healthz, livez) = (serve(true, &metrics.healthz), serve(false, &metrics.livez));
        Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(self.clone())
    }

    /// What the health check node port of a Service answers, whatever the path.
    fn check_router(&self, service: &ObjectKey) -> Router {
        let serve = |State((health, service)): State<(Health, ObjectKey)>| async move { health.check(&service) };
        Router::new().route("/", any(serve)).route("/{*path}", any(serve)).with_state((self.clone(), service.clone()))
    }

    fn check(&self, service: &ObjectKey) -> Response {
        let healthy = self.healthy();
        let endpoints = self.lock().local.get(service).copied().unwrap_or_default();
        let document = json!({
            "service": {"namespace": &*service.namespace, "name": &*service.name},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        });
        let good = healthy && endpoints > 0;
        let mut response = answer((if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, document));
        response.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", HeaderValue::from(endpoints));
        response
    }
}

fn answer((status, document): (StatusCode, Value)) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    (status, headers, document.to_string()).into_response()
}

/// `/metrics`; what the kernel counts is read for each answer.
pub(crate) fn metrics_router(registry: Registry, connections: Option<Connections>) -> Router {
    let connections = connections.map(|connections| Arc::new(Mutex::new(connections)));
    let answer = move || {
        let (registry, connections) = (registry.clone(), connections.clone());
        let scrape = tokio::task::spawn_blocking(move || {
            let read = connections.map(|c| c.lock().unwrap_or_else(PoisonError::into_inner).read());
            if let Some(Err(error)) = read {
                warn!(error = %Chain(&error), "cannot read how many connections there were");
            }
            registry.scrape()
        });
        async move {
            match scrape.await {
                Ok(scrape) => ([(header::CONTENT_TYPE, scrape.content_type)], scrape.body).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(answer))
}

/// Serves `router` on an address inside `netns` until the guard is dropped. A port that is taken is tried again: its owner may be the
/// proxy that ran before.
pub(crate) fn listen(netns: &NetNs, address: SocketAddr, router: Router) -> DropGuard {
    let end = CancellationToken::new();
    let (netns, stop) = (netns.clone(), end.clone());
    tokio::spawn(async move {
        let Some(listener) = stop.run_until_cancelled(bind_patiently(&netns, address)).await else { return };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            warn!(%address, %error, "listener ended");
        }
    });
    end.drop_guard()
}

async fn bind_patiently(netns: &NetNs, address: SocketAddr) -> TcpListener {
    let mut wait = Duration::from_millis(20);
    loop {
        match bind(netns, address) {
            Ok(listener) => return listener,
            Err(error) if wait >= LONGEST_BIND_WAIT => {
                warn!(%address, error = %Chain(&error), "cannot listen, trying again")
            }
            Err(error) => debug!(%address, error = %Chain(&error), "cannot listen, trying again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_BIND_WAIT);
    }
}

fn bind(netns: &NetNs, address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |source| Error::Listen { address, source };
    let bind = || match std::net::TcpListener::bind(address) {
        // A kernel without IPv6: all addresses are all IPv4 addresses.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != ErrorKind::AddrInUse => {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    };
    let listener = netns.run(bind).map_err(Error::Enter)?.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(listener).map_err(failed)
}

/// The open health check node ports.
#[derive(Debug)]
pub(crate) struct CheckPorts {
    netns: NetNs,
    health: Health,
    open: BTreeMap<SocketAddr, (ObjectKey, DropGuard)>,
}

impl CheckPorts {
    pub fn new(netns: NetNs, health: Health) -> Self {
        CheckPorts { netns, health, open: BTreeMap::new() }
    }

    /// Opens, closes and updates so that every Service that wants one has its port on the node's addresses of its families.
    pub fn follow(&mut self, model: &Model) {
        let mut wanted: BTreeMap<SocketAddr, ObjectKey> = BTreeMap::new();
        let mut local = BTreeMap::new();
        for view in model.views() {
            let Some(check) = &view.health_check else { continue };
            local.insert(view.key.clone(), check.local_endpoints);
            let addresses: &[IpAddr] = &model.node().node_port_addresses;
            for address in addresses.iter().filter(|a| check.families.contains(&service_model::Family::of(**a))) {
                wanted.entry(SocketAddr::new(*address, check.port.get())).or_insert_with(|| view.key.clone());
            }
        }
        self.health.lock().local = local;
        self.open.retain(|address, (service, _)| wanted.get(address) == Some(service));
        for (address, service) in wanted {
            if self.open.contains_key(&address) {
                continue;
            }
            let guard = listen(&self.netns, address, self.health.check_router(&service));
            self.open.insert(address, (service, guard));
        }
    }
}
