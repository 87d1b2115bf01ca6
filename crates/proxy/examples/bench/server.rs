//! The endpoints of all Services: addresses of one network namespace, with a listener that does what the load at hand needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use linux::NetNs;
use netlink::links::{Links, Route, RouteKind, Via};

pub const PORT: u16 = 8080;

/// What clients want of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Load {
    /// Its existence: the server closes at once.
    Connections,
    /// An answer of one byte to each byte.
    Requests,
    /// That the server takes what it can.
    Bytes,
}

impl Load {
    pub const ALL: [Load; 3] = [Load::Connections, Load::Requests, Load::Bytes];

    /// How its figure is called.
    pub fn key(self) -> &'static str {
        match self {
            Load::Connections => "connect",
            Load::Requests => "request",
            Load::Bytes => "byte",
        }
    }
}

/// Tells the server what the next connections are for.
#[derive(Debug, Clone, Default)]
pub struct Server(Arc<AtomicU8>);

impl Server {
    /// Makes every endpoint an address of the namespace, and answers there.
    pub async fn start(netns: &NetNs) -> Server {
        let links = Links::open(netns).unwrap();
        let loopback = links.link("lo").await.unwrap().index;
        links.set_up(loopback).await.unwrap();
        let range = "10.128.0.0/12".parse().unwrap();
        let local = Route { via: Via::Kind(RouteKind::Local { index: loopback }), ..Route::link(range, loopback) };
        links.add_route(&local).await.unwrap();
        // A way out for what is not translated yet: DNAT comes after the route.
        links.add_route(&Route::link("10.96.0.0/16".parse().unwrap(), loopback)).await.unwrap();
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap()).unwrap();
        let server = Server::default();
        let load = server.clone();
        std::thread::spawn(move || listener.incoming().for_each(|stream| load.serve(stream.unwrap())));
        server
    }

    pub fn expect(&self, load: Load) {
        self.0.store(load as u8, Ordering::SeqCst);
    }

    /// One connection after the other, as the client makes them.
    fn serve(&self, mut stream: TcpStream) {
        let load = self.0.load(Ordering::SeqCst);
        if load == Load::Connections as u8 {
            return;
        }
        stream.set_nodelay(true).unwrap();
        let mut buffer = vec![0; 1 << 18];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if load == Load::Requests as u8 && stream.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    }
}

pub fn until_answers(address: Ipv4Addr) {
    let began = Instant::now();
    let to = SocketAddr::from((address, 80));
    while TcpStream::connect_timeout(&to, Duration::from_millis(5)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "{address} never answers");
    }
}
