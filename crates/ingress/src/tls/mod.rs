//! TLS towards clients: which certificate a name gets, read from Secrets and swapped on change; connections go on with what they have.

mod certificates;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

pub(crate) use certificates::{Cache, Certificates, read_certificates, self_signed};

use crate::Error;

/// How many clients that cannot use tickets may resume a session.
const SESSIONS: usize = 4096;

/// The certificates that answer now.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    current: Arc<ArcSwap<Certificates>>,
    /// For names that no Secret has.
    fallback: Arc<CertifiedKey>,
}

impl Resolver {
    pub fn new() -> Result<Self, Error> {
        Ok(Resolver { current: Arc::default(), fallback: Arc::new(self_signed()?) })
    }

    pub fn swap(&self, next: Certificates) {
        self.current.store(Arc::new(next));
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let found = match hello.server_name() {
            Some(name) => current.find(name),
            // A client that names nobody (an IP address in its URL) gets the certificate if there is but one.
            None => current.only(),
        };
        Some(found.map_or_else(|| Arc::clone(&self.fallback), Arc::clone))
    }
}

/// The server's side: HTTP/2 is offered first, sessions are resumed by ticket or from memory.
pub(crate) fn server_config(resolver: Resolver) -> Result<Arc<ServerConfig>, Error> {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let builder = builder.map_err(Error::Tls)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(Error::Tls)?;
    // One is enough to resume; each costs a write on every new connection.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Towards backends, without a look at their certificates, as ingress-nginx does by default: a pod's certificate names nothing that an
/// endpoint's address could be held against.
pub(crate) fn backend_config(protocol: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let verifier = Arc::new(certificates::AnyCertificate::new(&provider));
    let config = builder.map_err(Error::Tls)?.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}
