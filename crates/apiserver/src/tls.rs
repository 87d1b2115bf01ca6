//! Serving over TLS: HTTP/1.1 and HTTP/2 with upgrades, client certificates taken when offered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::auth::{User, user_of_certificate};
use crate::error::Error;
use crate::handle::respond;
use crate::nodes::NodeStream;
use crate::{ApiServer, Server};

/// A client that has not finished its handshake or its headers by then is let go.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests under way get so long to finish after a shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// The certificate as it is now: it may be renewed while we serve.
#[derive(Debug)]
struct Current(Arc<Server>);

impl rustls::server::ResolvesServerCert for Current {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.pki.server())
    }
}

impl ApiServer {
    /// Serves clients that come to `listener` until `shutdown`, then lets requests under way finish.
    ///
    /// # Errors
    /// When TLS cannot be set up. A client that fails is its own problem, and is only logged.
    pub async fn serve_tls(&self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Error> {
        let acceptor = TlsAcceptor::from(Arc::new(config(&self.server)?));
        let graceful = Arc::new(tokio::sync::Mutex::new(GracefulShutdown::new()));
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: waiting a moment is all that helps.
                        tracing::warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = shutdown.cancelled() => break,
            };
            let (server, acceptor, watcher) = (self.server.clone(), acceptor.clone(), graceful.lock().await.watcher());
            tokio::spawn(async move {
                if let Err(error) = connection(server, acceptor, stream, watcher).await {
                    tracing::debug!(error, "connection ended");
                }
            });
        }
        self.shut_down();
        let graceful = Arc::into_inner(graceful).map(tokio::sync::Mutex::into_inner);
        if let Some(graceful) = graceful
            && tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err()
        {
            tracing::warn!("some requests did not finish in time");
        }
        Ok(())
    }
}

fn config(server: &Arc<Server>) -> Result<ServerConfig, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Certificate(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(server.pki.ca_der.clone()).map_err(|error| failed(&error))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Current(server.clone())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS to a pod, whose certificate nobody can vouch for: upstream's proxy does not check it either.
pub(crate) async fn unverified(stream: Box<dyn NodeStream>, ip: IpAddr) -> std::io::Result<Box<dyn NodeStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::from(ip), stream).await?;
    Ok(Box::new(tls))
}

/// Takes every certificate, and checks that its holder has the key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    // Small answers must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = tokio::time::timeout(PATIENCE, acceptor.accept(stream))
        .await
        .map_err(|_| "handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let user: Option<User> = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|first| user_of_certificate(first));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let server = server.clone();
        if let Some(user) = &user {
            request.extensions_mut().insert(crate::auth::Certified(user.clone()));
        }
        async move { Ok::<_, std::convert::Infallible>(respond(server, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(PATIENCE)
        .max_concurrent_streams(1000)
        .max_header_list_size(64 << 10);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).into_owned();
    watcher.watch(connection).await.map_err(|error| error.to_string())
}
