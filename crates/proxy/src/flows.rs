//! Which UDP flows a change leaves behind.
//!
//! Conntrack keeps a UDP flow going to where its first packet went. When that endpoint has left, the flow must be forgotten, so that its
//! next packet is a first packet again. Flows to endpoints that live, also those that drain, are never named here. TCP needs none of
//! this: its peers notice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use service_model::{Backend, FrontendKey, Model, PortView, Protocol, ServiceView};

/// UDP flows that must be forgotten, by what clients sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// Those that go to this endpoint.
    Departed { frontend: FrontendKey, backend: Backend },
    /// All that were translated: the frontend is gone.
    Gone { frontend: FrontendKey },
    /// All that were not translated: they began before there was a frontend.
    Untranslated { frontend: FrontendKey },
}

type UdpFrontends<'a> = BTreeMap<FrontendKey, &'a PortView>;

/// What the change from `old` to `new` leaves behind.
pub fn stale(old: Option<&ServiceView>, new: Option<&ServiceView>) -> Vec<Stale> {
    let (old, new) = (udp(old), udp(new));
    let mut stale = Vec::new();
    for (frontend, port) in &old {
        let Some(now) = new.get(frontend) else {
            stale.push(Stale::Gone { frontend: *frontend });
            continue;
        };
        let departed = port.alive.iter().filter(|backend| now.alive.binary_search(backend).is_err());
        stale.extend(departed.map(|backend| Stale::Departed { frontend: *frontend, backend: *backend }));
    }
    let came = new.keys().filter(|frontend| !old.contains_key(frontend));
    stale.extend(came.map(|frontend| Stale::Untranslated { frontend: *frontend }));
    stale
}

fn udp(view: Option<&ServiceView>) -> UdpFrontends<'_> {
    let ports = view.into_iter().flat_map(|view| &view.ports).filter(|port| port.key.protocol == Protocol::Udp);
    ports.flat_map(|port| port.frontends.iter().map(move |frontend| (frontend.at, port))).collect()
}

/// One tracked UDP flow: what the client sent to, and where it was sent if it was translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpFlow {
    pub to: SocketAddr,
    pub sent_to: Option<SocketAddr>,
}

impl UdpFlow {
    fn frontend(self) -> FrontendKey {
        FrontendKey { address: self.to.ip(), protocol: Protocol::Udp, port: self.to.port() }
    }

    fn backend(self) -> Option<Backend> {
        self.sent_to.map(|to| Backend { address: to.ip(), port: to.port() })
    }
}

/// Whether a flow is among the stale ones.
#[derive(Debug)]
pub struct StaleFlows {
    departed: HashSet<(FrontendKey, Backend)>,
    gone: HashSet<FrontendKey>,
    untranslated: HashSet<FrontendKey>,
}

impl StaleFlows {
    pub fn new(stale: &[Stale]) -> Self {
        let mut flows = StaleFlows { departed: HashSet::new(), gone: HashSet::new(), untranslated: HashSet::new() };
        for stale in stale {
            match *stale {
                Stale::Departed { frontend, backend } => drop(flows.departed.insert((frontend, backend))),
                Stale::Gone { frontend } => drop(flows.gone.insert(frontend)),
                Stale::Untranslated { frontend } => drop(flows.untranslated.insert(frontend)),
            }
        }
        flows
    }

    pub fn contain(&self, flow: UdpFlow) -> bool {
        let frontend = flow.frontend();
        match flow.backend() {
            Some(backend) => self.gone.contains(&frontend) || self.departed.contains(&(frontend, backend)),
            None => self.untranslated.contains(&frontend),
        }
    }
}

/// What flows may be, after a start: nobody watched what left meanwhile.
#[derive(Debug)]
pub struct Expected {
    alive: HashMap<FrontendKey, Arc<[Backend]>>,
    before: HashSet<FrontendKey>,
}

impl Expected {
    /// `before` are the frontends that the table had; flows to other addresses are none of our business.
    pub fn new(model: &Model, before: HashSet<FrontendKey>) -> Self {
        let mut alive = HashMap::new();
        for view in model.views() {
            alive.extend(udp(Some(view)).into_iter().map(|(frontend, port)| (frontend, port.alive.clone())));
        }
        Expected { alive, before }
    }

    pub fn refuse(&self, flow: UdpFlow) -> bool {
        let frontend = flow.frontend();
        match (self.alive.get(&frontend), flow.backend()) {
            // Sorted, as all lists of a view are.
            (Some(alive), Some(backend)) => alive.binary_search(&backend).is_err(),
            (Some(_), None) => true,
            (None, Some(_)) => self.before.contains(&frontend),
            (None, None) => false,
        }
    }
}
