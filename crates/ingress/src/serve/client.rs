//! What is known of a client's connection for as long as it lives: who, over what, and how many requests are on their way.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::downstream::Phase;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Ingresses.
    Routes,
    /// Services by their names on the machine.
    Names,
}

/// One listening socket.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub serves: Serves,
    pub tls: bool,
    pub port: u16,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub peer: SocketAddr,
    pub door: Arc<Door>,
    /// Its address as a header.
    pub address: HeaderValue,
    /// The door's port as a header.
    pub port: HeaderValue,
    /// The last Host with the `Forwarded` that was made for it: mostly the next request has the same.
    pub forwarded: RefCell<Option<(HeaderValue, HeaderValue)>>,
    pub phase: Arc<Phase>,
    active: Cell<u32>,
    quiet_since: Cell<Instant>,
    /// It was silent for too long.
    quiet: Cell<bool>,
}

impl Client {
    pub fn new(peer: SocketAddr, door: Arc<Door>) -> Self {
        let ip = peer.ip().to_canonical();
        // Digits, dots, colons: always a header value.
        let address = HeaderValue::from_str(&ip.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let port = HeaderValue::from(door.port);
        Client {
            peer,
            door,
            address,
            port,
            forwarded: RefCell::default(),
            phase: Arc::default(),
            active: Cell::new(0),
            quiet_since: Cell::new(Instant::now()),
            quiet: Cell::new(false),
        }
    }

    pub fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        self.phase.busy();
        Active(Rc::clone(self))
    }

    /// Since when nothing is on its way, if so.
    pub fn quiet_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.quiet_since.get())
    }

    pub fn call_quiet(&self) {
        self.quiet.set(true);
    }

    pub fn was_quiet(&self) -> bool {
        self.quiet.get()
    }
}

/// A request on its way, until its response has gone.
#[derive(Debug)]
pub(crate) struct Active(Rc<Client>);

impl Active {
    /// The connection is given to a tunnel.
    pub fn tunnel(&self) {
        self.0.phase.tunnel();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let left = self.0.active.get().saturating_sub(1);
        self.0.active.set(left);
        if left == 0 {
            self.0.quiet_since.set(Instant::now());
            self.0.phase.idle();
        }
    }
}
