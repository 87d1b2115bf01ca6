//! `exec` and `attach`: a process's streams over WebSocket or SPDY, and at the end how it went.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use containers::runtime::{Exec, ExecConfig, Input, Output, Streams};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use streams::spdy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::channels::{PROTOCOLS, Said, Stream};
use super::conversation::{self, Receiver, Sender};
use super::{Located, Node, Parameters};

type Names = Path<(String, String, String)>;
type Refused = (StatusCode, String);
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// What SPDY's upgrade may ask for; the newest version that is in use, which ends with a `Status`.
const SPDY_PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];

/// Runs a command in a container.
pub(super) async fn exec(
    State(node): State<Node>,
    Path((namespace, pod, container)): Names,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
    request: Request,
) -> Response {
    let parameters = Parameters::parse(query.as_deref());
    let located = match running(&node, &namespace, &pod, &container) {
        Ok(located) => located,
        Err(refused) => return refused.into_response(),
    };
    let asked = Asked::read(&parameters);
    let config = ExecConfig {
        command: parameters.all("command"),
        tty: asked.tty,
        stdin: asked.stdin,
        stdout: asked.stdout,
        stderr: asked.stderr,
    };
    if config.command.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least 1 command").into_response();
    }
    asked.converse(upgrade, request, move |sender, receiver| async move {
        match node.runtime.exec(&located.sandbox, &located.container, config.clone()).await {
            Ok(Exec { streams, exit }) => {
                // Nobody waits for a command any more whose client has gone: with the wait for it, it is ended.
                let Some(sender) = talk(sender, receiver, streams).await else { return };
                let status = match exit.await {
                    Ok(code) => ended(code, &config.command),
                    Err(error) => failure(&error.to_string()),
                };
                sender.end(&status).await;
            }
            Err(error) => sender.end(&failure(&error.to_string())).await,
        }
    })
}

/// Joins the streams of a container's first process.
pub(super) async fn attach(
    State(node): State<Node>,
    Path((namespace, pod, container)): Names,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
    request: Request,
) -> Response {
    let located = match running(&node, &namespace, &pod, &container) {
        Ok(located) => located,
        Err(refused) => return refused.into_response(),
    };
    let asked = Asked::read(&Parameters::parse(query.as_deref()));
    let stdin = located.stdin && asked.stdin;
    asked.converse(upgrade, request, move |sender, receiver| async move {
        match node.runtime.attach(&located.sandbox, &located.container, stdin).await {
            Ok(streams) => {
                if let Some(sender) = talk(sender, receiver, streams).await {
                    sender.end(&success()).await;
                }
            }
            Err(error) => sender.end(&failure(&error.to_string())).await,
        }
    })
}

/// The streams that a client wants.
#[derive(Debug, Clone, Copy)]
struct Asked {
    tty: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Asked {
    fn read(parameters: &Parameters) -> Asked {
        let tty = parameters.is_set(["tty", "tty"]);
        Asked {
            tty,
            stdin: parameters.is_set(["input", "stdin"]),
            stdout: parameters.is_set(["output", "stdout"]),
            stderr: parameters.is_set(["error", "stderr"]) && !tty,
        }
    }

    /// The types of the streams that a SPDY client opens for that.
    fn streams(self) -> Vec<&'static str> {
        let all = [(self.stdin, "stdin"), (self.stdout, "stdout"), (self.stderr, "stderr"), (self.tty, "resize")];
        all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name).collect()
    }

    /// Changes the protocol to the one that the client asks for, and has `act` speak it.
    fn converse<F, Done>(self, upgrade: Upgrade, mut request: Request, act: F) -> Response
    where
        F: FnOnce(Sender, Receiver) -> Done + Send + 'static,
        Done: Future<Output = ()> + Send,
    {
        if let Ok(upgrade) = upgrade {
            return upgrade.protocols(PROTOCOLS).on_upgrade(async move |socket| {
                let (sender, receiver) = conversation::by_channels(socket);
                act(sender, receiver).await;
            });
        }
        let (response, upgraded) = spdy::upgrade(&mut request, &SPDY_PROTOCOLS);
        let Some(upgraded) = upgraded else { return response };
        tokio::spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            if let Some((sender, receiver)) = conversation::by_spdy(TokioIo::new(upgraded), &self.streams()).await {
                act(sender, receiver).await;
            }
        });
        response
    }
}

fn running(node: &Node, namespace: &str, pod: &str, container: &str) -> Result<Located, Refused> {
    let located =
        node.pods.locate(namespace, pod, container).map_err(|missing| (missing.code(), missing.to_string()))?;
    if located.running {
        return Ok(located);
    }
    let said = format!("container not found (\"{container}\")");
    Err((StatusCode::NOT_FOUND, said))
}

/// Copies both ways until the process has closed its outputs, or until the client has gone: then there is nobody to answer.
async fn talk(mut sender: Sender, receiver: Receiver, streams: Streams) -> Option<Sender> {
    let (chunks, mut produced) = mpsc::channel::<(Stream, Vec<u8>)>(16);
    let outputs = [(Stream::Stdout, streams.stdout), (Stream::Stderr, streams.stderr)];
    for (stream, output) in outputs {
        if let Some(output) = output {
            tokio::spawn(read(stream, output, chunks.clone()));
        }
    }
    drop(chunks);
    let mut listening = AbortOnDropHandle::new(tokio::spawn(listen(receiver, streams.stdin, streams.terminal)));
    loop {
        tokio::select! {
            // What has been written is passed on first.
            biased;
            chunk = produced.recv() => match chunk {
                Some((stream, bytes)) => {
                    if !sender.output(stream, &bytes).await {
                        return None;
                    }
                }
                None => return Some(sender),
            },
            _ = &mut listening => return None,
        }
    }
}

async fn read(stream: Stream, mut output: Output, chunks: mpsc::Sender<(Stream, Vec<u8>)>) {
    let mut buffer = vec![0; 32 * 1024];
    // A terminal's master fails to read (EIO) when the last program on it has gone: that is its end.
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        if chunks.send((stream, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn listen(mut receiver: Receiver, mut stdin: Option<Input>, terminal: Option<containers::runtime::Terminal>) {
    while let Some(said) = receiver.next().await {
        match said {
            Said::Stdin(bytes) => {
                if let Some(input) = stdin.as_mut()
                    && (input.write_all(&bytes).await.is_err() || input.flush().await.is_err())
                {
                    stdin = None;
                }
            }
            Said::StdinClosed => stdin = None,
            Said::Resize { columns, rows } => {
                if let Some(terminal) = &terminal {
                    // A terminal that has just gone cannot be resized, and need not be.
                    let _ = terminal.resize(columns, rows);
                }
            }
        }
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500})
}

/// kubectl takes the exit code from the cause; the message is for people.
fn ended(code: i32, command: &[String]) -> Value {
    if code == 0 {
        return success();
    }
    let command = command.join(" ");
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: error executing command [{command}], exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
    })
}
