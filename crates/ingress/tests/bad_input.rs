//! What a hostile or broken client or backend does, and the right answer to it.
#![allow(clippy::unwrap_used)]

mod lab;

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lab::{Backend, Lab, run, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn with_web() -> (Lab, Backend) {
    let lab = Lab::with(|config| {
        config.head_timeout = Duration::from_millis(400);
        config.client_timeout = Duration::from_millis(400);
    })
    .await;
    let web = Backend::echo("web").await;
    lab.service("web", &[web.address]).await;
    lab.ingress("web", "web.example", "web", &[]).await;
    lab.until("web.example", "/", 200).await;
    (lab, web)
}

/// Sends bytes and reads to the end of the connection.
async fn raw(lab: &Lab, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(lab.http).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut all)).await;
    // A reset after the answer is as good as an end.
    let _ = read.expect("the connection was left open");
    String::from_utf8_lossy(&all).into_owned()
}

fn statuses(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("HTTP/1.1 ")).filter_map(|line| line.split(' ').nth(1)).collect()
}

#[test]
fn requests_that_mean_two_things_are_refused() {
    run(async || {
        let (lab, web) = with_web().await;
        let before = web.asked();
        let long = "x".repeat(70_000);
        for (what, request, status) in [
            (
                "two lengths",
                "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
                    .to_owned(),
                "400",
            ),
            (
                "an unknown encoding",
                "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
                "400",
            ),
            (
                "chunked not last",
                "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
                    .to_owned(),
                "400",
            ),
            (
                "a length that is none",
                "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: +5\r\n\r\nabcde".to_owned(),
                "400",
            ),
            (
                "one length twice",
                "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde".to_owned(),
                "400",
            ),
            (
                "chunked twice",
                "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                    .to_owned(),
                "400",
            ),
            (
                "chunked twice in a line",
                "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n".to_owned(),
                "400",
            ),
            (
                "an encoding within chunks",
                "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
                "400",
            ),
            (
                "an encoding in HTTP/1.0",
                "POST / HTTP/1.0\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
                "400",
            ),
            ("lines without CR", "GET / HTTP/1.1\nHost: web.example\n\n".to_owned(), "400"),
            ("a line without CR", "GET / HTTP/1.1\r\nHost: web.example\nX: y\r\n\r\n".to_owned(), "400"),
            ("two hosts", "GET / HTTP/1.1\r\nHost: web.example\r\nHost: other.example\r\n\r\n".to_owned(), "400"),
            ("no host", "GET / HTTP/1.1\r\nX: y\r\n\r\n".to_owned(), "400"),
            ("a space before the colon", "GET / HTTP/1.1\r\nHost : web.example\r\n\r\n".to_owned(), "400"),
            ("a folded header", "GET / HTTP/1.1\r\nHost: web.example\r\nX: a\r\n b\r\n\r\n".to_owned(), "400"),
            ("a null", "GET / HTTP/1.1\r\nHost: web.example\r\nX: a\0b\r\n\r\n".to_owned(), "400"),
            ("no HTTP", "hello\r\n\r\n".to_owned(), "400"),
            (
                "a path above the root",
                "GET /../etc HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n".to_owned(),
                "400",
            ),
            ("huge headers", format!("GET / HTTP/1.1\r\nHost: web.example\r\nX: {long}\r\n\r\n"), "431"),
            ("many headers", format!("GET / HTTP/1.1\r\nHost: web.example\r\n{}\r\n", "X: y\r\n".repeat(200)), "431"),
            (
                "a tunnel",
                "CONNECT web.example:443 HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n".to_owned(),
                "405",
            ),
        ] {
            let said = raw(&lab, request.as_bytes()).await;
            assert_eq!(statuses(&said).first(), Some(&status), "{what}: {said}");
        }
        assert_eq!(web.asked(), before, "none of it reached the backend");
        lab.stop().await;
    });
}

/// RFC 9112, 6.3 and 11.2: refused, and the connection is closed, so that nothing behind it is a request.
#[test]
fn a_length_beside_an_encoding_smuggles_nothing() {
    run(async || {
        let (lab, web) = with_web().await;
        let before = web.asked();
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: web.example\r\n\r\n";
        let fine = "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
        for headers in
            ["Transfer-Encoding: chunked\r\nContent-Length: 60", "Content-Length: 60\r\nTransfer-Encoding: chunked"]
        {
            let request = format!("POST / HTTP/1.1\r\nHost: web.example\r\n{headers}\r\n\r\n0\r\n\r\n{smuggled}");
            assert_eq!(statuses(&raw(&lab, request.as_bytes()).await), ["400"], "{headers}");
            // As the second request of a connection, and in pieces.
            let mut stream = TcpStream::connect(lab.http).await.unwrap();
            stream.write_all(fine.as_bytes()).await.unwrap();
            let mut answer = vec![0; 4096];
            let read = stream.read(&mut answer).await.unwrap();
            assert_eq!(statuses(&String::from_utf8_lossy(&answer[..read])), ["200"]);
            for piece in request.as_bytes().chunks(25) {
                let _ = stream.write_all(piece).await;
                let _ = stream.flush().await;
                tokio::task::yield_now().await;
            }
            assert_eq!(statuses(&read_all(&mut stream).await), ["400"], "{headers}");
            // Behind a request in the same bytes: read in the safe way, once and never again.
            let said = raw(&lab, format!("{fine}{request}").as_bytes()).await;
            assert!(statuses(&said).len() <= 2 && !said.contains("/smuggled"), "{said}");
        }
        assert!(web.asked() <= before + 6);
        lab.stop().await;
    });
}

#[test]
fn slow_clients_are_given_up() {
    run(async || {
        let (lab, _web) = with_web().await;
        for (what, part) in [
            ("half a head", "GET / HTTP/1.1\r\nHost: web"),
            ("half a preface", "PRI * HT"),
            ("half a body", "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 10\r\n\r\nabc"),
            ("half a chunk", "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        ] {
            let said = raw(&lab, part.as_bytes()).await;
            assert_eq!(statuses(&said), ["408"], "{what}: {said}");
        }
        // A drop at a time does not make the head longer lasting.
        let mut stream = TcpStream::connect(lab.http).await.unwrap();
        let mut all = Vec::new();
        for byte in b"GET / HTTP/1.1\r\nHost: web.example\r\nX: ".iter().chain(std::iter::repeat_n(&b'y', 200)) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = stream.read_to_end(&mut all).await;
        assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&all));
        // The others are served meanwhile.
        assert_eq!(lab.curl("web.example", "/", &[]).await.status(), 200);
        lab.stop().await;
    });
}

#[test]
fn clients_that_close_early() {
    run(async || {
        let (lab, web) = with_web().await;
        // Its side closed, the client still gets its answer.
        let mut stream = TcpStream::connect(lab.http).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(statuses(&read_all(&mut stream).await), ["200"]);
        // Half a request, then the end: nothing whole reaches the backend, nothing is left behind.
        for part in ["GET / HT", "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 10\r\n\r\nabc"] {
            let mut stream = TcpStream::connect(lab.http).await.unwrap();
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let said = read_all(&mut stream).await;
            assert!(statuses(&said).iter().all(|status| *status == "400"), "{part}: {said}");
        }
        for _ in 0..20 {
            let mut stream = TcpStream::connect(lab.http).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await.unwrap();
            stream.set_zero_linger().unwrap();
            drop(stream);
        }
        until("no connection left", async || {
            let text = lab.registry.scrape().body;
            if text.contains("portolan_ingress_connections_open 0\n") { Ok(()) } else { Err(text) }
        })
        .await;
        assert_eq!(lab.curl("web.example", "/", &[]).await.status(), 200);
        drop(web);
        lab.stop().await;
    });
}

#[test]
fn backends_that_break_their_word() {
    run(async || {
        let (lab, _web) = with_web().await;
        let listener = TcpListener::bind((lab::local_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let answer: &[u8] = match asked.split(' ').nth(1) {
                        Some("/nothing") => b"",
                        Some("/noise") => b"what?\r\n\r\n",
                        Some("/half") => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
                        Some("/both") => {
                            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                        }
                        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                    };
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        lab.service("broken", &[address]).await;
        lab.ingress("broken", "broken.example", "broken", &[]).await;
        lab.until("broken.example", "/", 200).await;
        for path in ["/nothing", "/noise"] {
            assert_eq!(lab.curl("broken.example", path, &["-d", "x"]).await.status(), 502, "{path}");
            assert_eq!(lab.curl("broken.example", path, &[]).await.status(), 502, "{path}");
        }
        // What was promised and not sent is no complete answer.
        let half = lab.curl("broken.example", "/half", &[]).await;
        assert!(half.code != Some(0), "{half:?}");
        let both = lab.curl("broken.example", "/both", &[]).await;
        assert!(both.header("content-length").is_none() || both.header("transfer-encoding").is_none(), "{both:?}");
        lab.stop().await;
    });
}

#[test]
fn http2_is_bounded_too() {
    run(async || {
        let (lab, web) = with_web().await;
        let long = "x".repeat(70_000);
        let said = lab.curl("web.example", "/", &["--http2-prior-knowledge", "-H", &format!("x: {long}")]).await;
        assert!(said.status() == 431 || said.code != Some(0), "{said:?}");
        let before = web.asked();
        // A preface and then noise.
        let said = raw(&lab, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnoise noise noise noise").await;
        assert!(statuses(&said).is_empty());
        assert_eq!(web.asked(), before);
        assert_eq!(lab.curl("web.example", "/", &["--http2-prior-knowledge"]).await.status(), 200);
        lab.stop().await;
    });
}

/// Pings come while nothing is asked: they are no head of a request that is late.
#[test]
fn an_idle_http2_connection_is_kept() {
    run(async || {
        let (lab, _web) = with_web().await;
        let stream = TcpStream::connect(lab.http).await.unwrap();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(Duration::from_millis(100)).keep_alive_while_idle(true);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..2 {
            let request = http::Request::get("http://web.example/").body(String::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            drop(response);
            // Longer than a head may take.
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
        lab.stop().await;
    });
}

#[test]
fn a_port_that_is_taken_is_told_and_the_others_are_served() {
    run(async || {
        let here = linux::NetNs::current().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let free = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config =
            ingress::Config { http: vec![(here.clone(), free)], names: vec![(here, at)], ..ingress::Config::default() };
        let ingress = ingress::Ingress::open(config).unwrap();
        assert_eq!(ingress.addresses().len(), 1);
        assert!(ingress.refused()[0].to_string().contains(&at.to_string()));
    });
}
