//! `soak-grpc`: unary gRPC over HTTP/2 without TLS, both sides of it, for `cargo xtask soak`.
//!
//! `serve ADDRESS` answers every call with what it was sent. `ask ADDRESS AUTHORITY PAUSE_MS` calls for ever, on a new connection each time and
//! on one that is kept, and prints a line for each call: client, microseconds, how it ended, why.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// A message of four bytes, as gRPC frames it: not compressed, its length, itself.
const MESSAGE: &[u8] = b"\0\0\0\0\x04soak";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address.parse()?).await,
        ["ask", address, authority, pause] => {
            let (address, pause) = (address.parse()?, Duration::from_millis(pause.parse()?));
            tokio::join!(ask_anew(address, authority, pause), ask_again(address, authority, pause));
            Ok(())
        }
        _ => bail!("usage: soak-grpc serve ADDRESS | ask ADDRESS AUTHORITY PAUSE_MS"),
    }
}

async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // A connection that breaks is its client's to tell.
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(
    call: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let sent = call.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(sent).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

type Connection = SendRequest<Full<Bytes>>;

/// A call that failed, and whether there was a connection.
struct Failed {
    connected: bool,
    why: String,
}

async fn ask_anew(address: SocketAddr, authority: &str, pause: Duration) {
    loop {
        let start = Instant::now();
        let ended = async {
            let mut connection = connect(address).await?;
            call(&mut connection, authority).await
        };
        tell("new", start, ended.await, "answered");
        tokio::time::sleep(pause).await;
    }
}

async fn ask_again(address: SocketAddr, authority: &str, pause: Duration) {
    let mut kept: Option<Connection> = None;
    loop {
        let start = Instant::now();
        let mut word = "answered";
        if let Some(connection) = &mut kept {
            match call(connection, authority).await {
                Ok(()) => {
                    tell("kept", start, Ok(()), word);
                    tokio::time::sleep(pause).await;
                    continue;
                }
                // An answer that is no success came over a connection that holds.
                Err(failed) if failed.why.starts_with("status") => {
                    tell("kept", start, Err(failed), word);
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(_) => word = "again",
            }
        }
        kept = None;
        let ended = async {
            let mut connection = connect(address).await?;
            call(&mut connection, authority).await?;
            Ok(connection)
        };
        match ended.await {
            Ok(connection) => {
                kept = Some(connection);
                tell("kept", start, Ok(()), word);
            }
            Err(failed) => tell("kept", start, Err(failed), word),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn connect(address: SocketAddr) -> Result<Connection, Failed> {
    let failed = |why: String| Failed { connected: false, why };
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = driver.await;
        });
        anyhow::Ok(connection)
    };
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(failed(format!("{error:#}"))),
        Err(_) => Err(failed("no connection in time".to_owned())),
    }
}

async fn call(connection: &mut Connection, authority: &str) -> Result<(), Failed> {
    let failed = |why: String| Failed { connected: true, why };
    let calling = async {
        let request = Request::post(format!("http://{authority}/soak.Soak/Echo"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(MESSAGE)))?;
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        ensure!(response.status().is_success(), "status {}", response.status());
        let early = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned().or(early);
        let status = status.context("status is missing: the answer was cut off")?;
        ensure!(status == "0", "status {status:?} of gRPC");
        ensure!(body.to_bytes() == MESSAGE, "status 0 with another's answer");
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, calling).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(format!("{error:#}"))),
        Err(_) => Err(failed("no answer in time".to_owned())),
    }
}

fn tell(client: &str, start: Instant, ended: Result<(), Failed>, answered: &str) {
    let took = start.elapsed().as_micros();
    match ended {
        Ok(()) => println!("{client} {took} {answered}"),
        Err(failed) => {
            let word = if failed.connected { "not-answered" } else { "not-connected" };
            println!("{client} {took} {word} {}", failed.why.replace('\n', " "));
        }
    }
}
