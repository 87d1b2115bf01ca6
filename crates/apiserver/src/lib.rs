//! The API server, in place of kube-apiserver and etcd: the only user of the store.
//!
//! A request is routed by its path, its caller authenticated and authorized, its body decoded; then one verb reads or writes objects as
//! JSON values. What differs between kinds is in the table [`kinds::KINDS`]; the mechanism here is written once for all of them.
#![forbid(unsafe_code)]

pub mod auth;
pub mod backup;
mod config;
mod error;
pub mod kinds;
pub mod nodes;

mod body;
mod fault;
mod handle;
mod negotiate;
mod query;
mod route;

mod create;
mod delete;
mod forward;
mod merge;
mod pods;
mod proxy;
mod read;
mod reports;
mod reviews;
mod scale;
mod streams;
mod update;
mod verbs;
mod watching;
mod write;

mod admission;
mod allocate;
mod object;
mod ownership;
mod pretty;
mod render;
mod selection;
mod wire;

mod bootstrap;
mod discovery;
mod health;
mod metrics;
mod openapi;
mod parts;
mod pki;
mod policy;
mod service;
mod tls;
mod upkeep;

use std::sync::Arc;

use store::{Storage, Store};
use tokio_util::sync::CancellationToken;

pub use auth::User;
pub use body::{BoxError, ResponseBody};
pub use config::Config;
pub use error::Error;
pub use pki::Credentials;
pub use service::Service;

/// A running API server. Clones share it.
#[derive(Debug, Clone)]
pub struct ApiServer {
    server: Arc<Server>,
}

/// What every request sees.
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) store: Box<dyn Storage>,
    pub(crate) allocate: allocate::Allocator,
    pub(crate) access: auth::Access,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) pki: pki::Pki,
    pub(crate) signer: auth::token::Signer,
    /// Which Services forwards may follow.
    pub(crate) forwards: forward::Reads,
    /// A permit for each request that may be worked on.
    pub(crate) in_flight: tokio::sync::Semaphore,
    /// Ends all watches.
    pub(crate) shutdown: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Server {
    /// Where clients find this server, as `host:port`.
    pub(crate) fn address(&self) -> String {
        let address = self.config.advertise_addresses.first();
        address.map_or_else(String::new, |address| {
            std::net::SocketAddr::new(*address, self.config.advertise_port).to_string()
        })
    }
}

impl ApiServer {
    /// Opens the data directory, makes what every cluster has, and is ready to answer.
    ///
    /// # Errors
    /// When another process holds the directory, or it cannot be read or written.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let store = Store::open(config.data_dir.join("store"))?;
        let allocate = allocate::Allocator::new(&config);
        allocate.load(&store).await?;
        let pki = pki::Pki::open(&config)?;
        let server = Server {
            metrics: metrics::Metrics::register(&config.registry),
            in_flight: tokio::sync::Semaphore::new(config.max_in_flight),
            forwards: forward::Reads::default(),
            config,
            store: Box::new(store),
            allocate,
            access: auth::Access::new(),
            signer: auth::token::Signer::new(&pki.tokens)?,
            pki,
            shutdown: CancellationToken::new(),
        };
        bootstrap::bootstrap(&server).await?;
        let server = Arc::new(server);
        upkeep::start(&server);
        allocate::cidrs::follow(&server);
        auth::aggregate::follow(&server);
        auth::secrets::follow(&server);
        Ok(ApiServer { server })
    }

    /// A transport into this server for callers in the same process, who are `user`.
    pub fn service(&self, user: User) -> Service {
        Service::new(self.server.clone(), user)
    }

    /// What the administrator's kubeconfig holds.
    pub fn credentials(&self) -> Credentials {
        self.server.pki.admin.clone()
    }

    /// The certificate of the authority that signed the server's, as PEM.
    pub fn ca_pem(&self) -> String {
        self.server.pki.ca_pem.clone()
    }

    /// Ends all watches; requests under way are finished.
    pub fn shut_down(&self) {
        self.server.shutdown.cancel();
    }
}
