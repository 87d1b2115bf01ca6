//! The proxy's metrics: kube-proxy's names where it has one, `portolan_proxy_` for the others.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use telemetry::Registry;
use telemetry::prometheus_client::metrics::counter::Counter;
use telemetry::prometheus_client::metrics::family::Family;
use telemetry::prometheus_client::metrics::gauge::Gauge;
use telemetry::prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use telemetry::prometheus_client::registry::Unit;

use crate::connections::Labels;

/// Shared by all that the proxy does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub sync_failures: Counter,
    pub faults: Counter,
    pub older: Counter,
    pub repairs: Counter,
    pub commit: Seconds,
    /// From the change of a pod, as its slice tells it, to the kernel.
    pub programming: Seconds,
    /// From the arrival of a change here to the kernel.
    pub latency: Seconds,
    pub service_changes: Counter,
    pub slice_changes: Counter,
    pub last_queued: Gauge<f64, AtomicU64>,
    pub healthz: Family<Code, Counter>,
    pub livez: Family<Code, Counter>,
    /// By endpoint, where the kernel counts them.
    pub connections: Family<Labels, Counter>,
    sync_duration: Seconds,
    full_duration: Seconds,
    partial_duration: Seconds,
    last_sync: Gauge<f64, AtomicU64>,
    services: Gauge,
    added: Counter,
    removed: Counter,
    flows: Counter,
}

/// The status of an answer, as a label.
pub(crate) type Code = [(&'static str, u16); 1];

/// A histogram from a tenth of a millisecond to 26 seconds.
#[derive(Debug, Clone)]
pub(crate) struct Seconds(Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Seconds(Histogram::new(exponential_buckets(0.0001, 2.0, 18)))
    }
}

impl Seconds {
    pub fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        let metrics = Metrics::default();
        registry.register(|r| {
            metrics.register_upstream(r);
            metrics.register_own(r);
        });
        metrics
    }

    /// Those that kube-proxy has too.
    fn register_upstream(&self, r: &mut telemetry::prometheus_client::registry::Registry) {
        let r = r.sub_registry_with_prefix("kubeproxy");
        for (name, help, seconds) in [
            ("sync_proxy_rules_duration", "From taking changes in to having them in the kernel", &self.sync_duration),
            ("sync_full_proxy_rules_duration", "The same, when the whole table was looked at", &self.full_duration),
            ("sync_partial_proxy_rules_duration", "The same, when only changes were written", &self.partial_duration),
            ("network_programming_duration", "From the change of a pod to having it in the kernel", &self.programming),
        ] {
            r.register_with_unit(name, help, Unit::Seconds, seconds.0.clone());
        }
        let last = "sync_proxy_rules_last_timestamp";
        r.register_with_unit(last, "When the kernel was last up to date", Unit::Seconds, self.last_sync.clone());
        let queued = "sync_proxy_rules_last_queued_timestamp";
        r.register_with_unit(queued, "When the last change arrived", Unit::Seconds, self.last_queued.clone());
        for (name, help, counter) in [
            ("sync_proxy_rules_nftables_sync_failures", "Transactions that the kernel refused", &self.sync_failures),
            ("sync_proxy_rules_service_changes", "Changes of Services that arrived", &self.service_changes),
            ("sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices that arrived", &self.slice_changes),
            (
                "conntrack_reconciler_deleted_entries",
                "UDP flows deleted because their endpoint or Service left",
                &self.flows,
            ),
        ] {
            r.register(name, help, counter.clone());
        }
        r.register("proxy_healthz", "Answers of /healthz by status", self.healthz.clone());
        r.register("proxy_livez", "Answers of /livez by status", self.livez.clone());
    }

    fn register_own(&self, r: &mut telemetry::prometheus_client::registry::Registry) {
        let r = r.sub_registry_with_prefix("portolan_proxy");
        r.register_with_unit("commit", "The kernel's part of a transaction", Unit::Seconds, self.commit.0.clone());
        let latency = "change_to_kernel";
        r.register_with_unit(latency, "From a change's arrival to the kernel", Unit::Seconds, self.latency.0.clone());
        for (name, help, counter) in [
            ("elements_added", "Elements written", &self.added),
            ("elements_removed", "Elements deleted", &self.removed),
            ("repairs", "Times our table was edited by others and repaired", &self.repairs),
            ("watch_older_events", "Events of watches that told of a state older than the one known", &self.older),
            ("faults", "Faults in Services and slices that were left out", &self.faults),
        ] {
            r.register(name, help, counter.clone());
        }
        r.register("connections", "Connections that an endpoint was given", self.connections.clone());
        r.register("services", "Services that stand in the table", self.services.clone());
    }

    pub fn synced(&self, took: Duration, partial: bool) {
        let seconds = took.as_secs_f64();
        self.sync_duration.observe(seconds);
        if partial {
            self.partial_duration.observe(seconds)
        } else {
            self.full_duration.observe(seconds)
        }
        self.last_sync.set(now());
    }

    pub fn standing(&self, services: usize) {
        self.services.set(services as i64);
    }

    pub fn elements(&self, added: usize, removed: usize) {
        self.added.inc_by(added as u64);
        self.removed.inc_by(removed as u64);
    }

    pub fn stale_flows(&self, count: usize) {
        self.flows.inc_by(count as u64);
    }

    pub fn answered(counted: &Family<Code, Counter>, code: u16) {
        counted.get_or_create(&[("code", code)]).inc();
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
