//! HTTP probes and hooks: one request, its own connection, the kubelet's headers and words.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::ask::{Answer, Asker, at, dial_error};

const BODY_LIMIT: usize = 10 * 1024;

pub(super) async fn get(asker: &Asker, get: &HTTPGetAction, host: &str, port: u16, timeout: Duration) -> Answer {
    let tls = get.scheme.as_deref() == Some("HTTPS");
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("{}://{}{slash}{path}", if tls { "https" } else { "http" }, at(host, port));
    let request = match request(get, &format!("{slash}{path}"), &at(host, port)) {
        Ok(request) => request,
        Err(error) => return Answer::no(error.to_string()),
    };
    let exchange = async {
        let stream = asker.connect(host, port).await.map_err(|e| dial_error(host, port, &e))?;
        if tls {
            let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
            let stream = connector()?.connect(name, stream).await.map_err(|e| e.to_string())?;
            send(stream, request).await
        } else {
            send(stream, request).await
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(status)) if (200..400).contains(&status.as_u16()) => Answer::yes(""),
        Ok(Ok(status)) => Answer::no(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
        Ok(Err(error)) => Answer::no(format!("Get \"{url}\": {error}")),
        Err(_) => Answer::no(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

fn request(get: &HTTPGetAction, path: &str, host: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(path).body(Empty::new())?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.37"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::HOST, HeaderValue::from_str(host)?);
    let mut named: Vec<HeaderName> = Vec::new();
    for given in get.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(given.name.as_bytes())?;
        let value = HeaderValue::from_str(&given.value)?;
        // A header given twice is sent twice; one of ours that is given is replaced.
        if named.contains(&name) {
            headers.append(name, value);
        } else if value.is_empty() && name == header::ACCEPT {
            headers.remove(name);
        } else {
            headers.insert(name.clone(), value);
            named.push(name);
        }
    }
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    let status = match answer {
        Ok(response) => {
            let status = response.status();
            // Read a little, so that a server that is still writing is not cut off by a reset.
            let _ = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
            Ok(status)
        }
        Err(error) if error.is_incomplete_message() => Err("EOF".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    driver.abort();
    status
}

fn connector() -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Probes ask whether a server answers, not who it is: the API says that certificates are not verified.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
