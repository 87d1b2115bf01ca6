//! TCP: connections are tasks. Questions of one connection are answered as they come in, those that need the outside whenever that has
//! answered (RFC 7766, 7).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::udp::kind_of;
use super::{Logged, Service};
use crate::metrics::{By, Tally};
use crate::respond::{Reply, Transport};
use crate::zone::Choice;

/// A client that is silent for so long is let go.
const IDLE: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 1024;
/// Questions of one connection that wait for the outside.
const WAITING: usize = 64;

pub(super) async fn serve(listener: TcpListener, service: Service) {
    let ipv6 = listener.local_addr().is_ok_and(|address| address.is_ipv6());
    let tally = service.metrics.tally(Transport::Tcp, ipv6);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = service.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, client)) = accepted else {
            // Out of files: room comes back with time only.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let connection = Connection { client, service: service.clone(), tally: Arc::clone(&tally) };
        let shutdown = service.shutdown.clone();
        tokio::spawn(async move {
            // How a connection ends is the client's affair.
            let _ = shutdown.run_until_cancelled(connection.serve(stream)).await;
            drop(permit);
        });
    }
}

#[derive(Clone)]
struct Connection {
    client: SocketAddr,
    service: Service,
    tally: Arc<Tally>,
}

impl Connection {
    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reader, writer) = stream.into_split();
        let writer = Arc::new(Mutex::new(writer));
        let waiting = Arc::new(Semaphore::new(WAITING));
        let mut out = Vec::new();
        loop {
            let length = timeout(IDLE, reader.read_u16()).await??;
            let mut question = vec![0; usize::from(length)];
            timeout(IDLE, reader.read_exact(&mut question)).await??;
            let started = Instant::now();
            let choice = Choice(rand::random::<u32>() as usize);
            let responder = &self.service.responder;
            match responder.respond(&question, self.client.ip(), Transport::Tcp, choice, &mut out) {
                // Nothing sensible will come on this connection.
                Reply::Silence => return Ok(()),
                Reply::Written(code) => {
                    let took = started.elapsed();
                    self.tally.count(kind_of(&out), (question.len(), out.len()), code, By::Zone, took);
                    self.log(&question, out.len(), code, took);
                    send(&writer, &out).await?;
                }
                Reply::Later(later) => {
                    let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else { return Ok(()) };
                    let (own, writer) = (self.clone(), Arc::clone(&writer));
                    tokio::spawn(async move {
                        let kind = later.kind;
                        if let Some((code, answer)) = own.service.responder.complete(*later, choice).await {
                            let took = started.elapsed();
                            own.tally.count(kind, (question.len(), answer.len()), code, By::Outside, took);
                            own.log(&question, answer.len(), code, took);
                            let _ = send(&writer, &answer).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    fn log(&self, question: &[u8], size: usize, code: crate::wire::Rcode, took: Duration) {
        if self.service.log_queries {
            Logged { client: self.client, question, proto: "tcp", size, code, took }.log();
        }
    }
}

async fn send(writer: &Mutex<OwnedWriteHalf>, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), answer].concat();
    timeout(IDLE, writer.lock().await.write_all(&framed)).await?
}
