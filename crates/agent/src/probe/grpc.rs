//! gRPC probes: `grpc.health.v1.Health/Check` over cleartext HTTP/2. One message each way, so the frames are written by hand.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use tokio::io::{AsyncRead, AsyncWrite};

use super::ask::{Answer, Asker};

/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u8 = 1;
/// `UNIMPLEMENTED`: the server has no health service.
const UNIMPLEMENTED: &str = "12";

pub(super) async fn check(asker: &Asker, address: SocketAddr, service: &str, timeout: Duration) -> Answer {
    let seconds = timeout.as_secs();
    match tokio::time::timeout(timeout, call(asker, address, service)).await {
        Ok(Ok(SERVING)) => Answer::yes("service healthy"),
        Ok(Ok(status)) => Answer::no(format!("service unhealthy (responded with \"{}\")", status_name(status))),
        Ok(Err(message)) => Answer::no(message),
        Err(_) => Answer::no(format!("timeout: failed to connect service \"{address}\" within {seconds}s")),
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        0 => "UNKNOWN",
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "an unknown status",
    }
}

async fn call(asker: &Asker, address: SocketAddr, service: &str) -> Result<u8, String> {
    let connected = asker.connect(&address.ip().to_string(), address.port()).await;
    let stream = connected.map_err(|e| format!("error: failed to connect service \"{address}\": {e}"))?;
    exchange(stream, address, service).await
}

async fn exchange<S>(stream: S, address: SocketAddr, service: &str) -> Result<u8, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let unreachable = |error: String| format!("error: failed to connect service \"{address}\": {error}");
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| unreachable(e.to_string()))?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(message(service)))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| unreachable(e.to_string()))?;
        let early = refusal(response.headers());
        let body = response.into_body().collect().await.map_err(|e| unreachable(e.to_string()))?;
        if let Some(refused) = early.or_else(|| body.trailers().and_then(refusal)) {
            return Err(refused);
        }
        Ok(serving_status(&body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

fn refusal(headers: &HeaderMap) -> Option<String> {
    let code = headers.get("grpc-status")?.to_str().ok().filter(|code| *code != "0")?;
    let text = headers.get("grpc-message").and_then(|m| m.to_str().ok()).unwrap_or_default();
    Some(if code == UNIMPLEMENTED {
        format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}")
    } else {
        format!("error: health rpc probe failed: rpc error: code = {code} desc = {text}")
    })
}

/// A length-prefixed `HealthCheckRequest { service }`.
fn message(service: &str) -> Bytes {
    let mut body = Vec::new();
    if !service.is_empty() {
        body.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            body.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        body.push(length as u8);
        body.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(body.len() as u32).to_be_bytes());
    framed.extend(body);
    framed.into()
}

/// The `status` of a `HealthCheckResponse`: field 1, a varint; absent means 0.
fn serving_status(framed: &[u8]) -> u8 {
    match framed.get(5..) {
        Some([0x08, status, ..]) => *status,
        Some(_) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    /// Answers `Check` by the name of the service: a status, or a refusal in the trailers or in the headers.
    async fn serve(stream: tokio::io::DuplexStream) {
        let answer = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            let service = String::from_utf8_lossy(asked.get(7..).unwrap_or_default()).into_owned();
            let frames: Vec<Result<Frame<Bytes>, std::convert::Infallible>> = match service.as_str() {
                "" => vec![Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]))), Ok(trailers("0", ""))],
                "down" => vec![Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 2]))), Ok(trailers("0", ""))],
                "unknown" => vec![Ok(trailers("5", "unknown service"))],
                _ => Vec::new(),
            };
            let mut response = http::Response::new(StreamBody::new(futures::stream::iter(frames)));
            if service == "old" {
                response.headers_mut().insert("grpc-status", UNIMPLEMENTED.parse().unwrap());
            }
            Ok::<_, std::convert::Infallible>(response)
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // The client leaves when it has its answer.
        let _ = http.serve_connection(TokioIo::new(stream), answer).await;
    }

    fn trailers(status: &str, message: &str) -> Frame<Bytes> {
        let pairs = [("grpc-status", status), ("grpc-message", message)];
        Frame::trailers(pairs.into_iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect())
    }

    #[tokio::test]
    async fn a_health_service_is_asked_as_grpc_has_it() {
        let refused = "error: health rpc probe failed: rpc error: code = 5 desc = unknown service";
        let old = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
        for (service, expected) in [("", Ok(SERVING)), ("down", Ok(2)), ("unknown", Err(refused)), ("old", Err(old))] {
            let (client, server) = tokio::io::duplex(1 << 16);
            tokio::spawn(serve(server));
            let answer = exchange(client, "192.0.2.1:80".parse().unwrap(), service).await;
            assert_eq!(answer.as_ref().map(|s| *s).map_err(String::as_str), expected, "{service}");
        }
    }

    #[test]
    fn messages_are_framed_as_grpc_has_them() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(message(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), SERVING);
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), 0);
    }
}
