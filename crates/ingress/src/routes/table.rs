//! The routing table: host, then path. Immutable; a change makes the next one, which shares all that stayed the same.

use std::sync::Arc;

use fnv::FnvHashMap;

use super::host::{HostTable, Route};

/// Which route a request takes.
///
/// What is in it comes from the cluster and is only looked up by clients: no hash needs to withstand an attack.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub(super) hosts: Arc<FnvHashMap<Box<str>, Arc<HostTable>>>,
    /// By what follows the `*`: `.example.com`.
    pub(super) wildcards: Arc<FnvHashMap<Box<str>, Arc<HostTable>>>,
    /// Rules without a host, and the default backend of Ingresses without rules.
    pub(super) any: Option<Arc<HostTable>>,
    /// `service.namespace` → its route, for names on the machine.
    pub(super) names: Arc<FnvHashMap<Box<str>, Arc<Route>>>,
}

impl Table {
    /// The route for a host in lower case without port, and a path in normal form.
    ///
    /// An exact host counts before a wildcard and that before rules for any host; where a path matches none of the more precise, the
    /// next is asked, since a rule without a host "applies to all inbound HTTP traffic". Default backends come last, in the same order.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let exact = self.hosts.get(host);
        let wildcard =
            host.find('.').and_then(|dot| self.wildcards.get(&host[dot..])).filter(|_| !host.starts_with('.'));
        let tables = || exact.into_iter().chain(wildcard).chain(&self.any);
        let by_path = tables().find_map(|table| table.find(path));
        by_path.or_else(|| tables().find_map(|table| table.default.as_ref()))
    }

    /// The route of a Service by its name on the machine, such as `web.default.localhost`.
    pub fn find_name(&self, host: &str) -> Option<&Arc<Route>> {
        self.names.get(host.strip_suffix(".localhost")?)
    }

    /// All routes of Ingresses, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.hosts.values().chain(self.wildcards.values()).chain(&self.any).flat_map(|host| host.routes())
    }
}
