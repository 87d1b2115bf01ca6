//! The ingress's metrics: how many connections and requests, how they ended, how long they took.
//!
//! Counters for each Ingress are read from the routing table when they are scraped; nothing is locked or looked up for a request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use telemetry::Registry;
use telemetry::prometheus_client::collector::Collector;
use telemetry::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use telemetry::prometheus_client::metrics::MetricType;
use telemetry::prometheus_client::metrics::counter::{ConstCounter, Counter};
use telemetry::prometheus_client::metrics::gauge::Gauge;

use crate::routes::{Stats, Table};

/// Shared by all workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub connections: Counter,
    pub open: Gauge,
    pub handshake_failures: Counter,
    pub retries: Counter,
    pub connect_failures: Counter,
    pub tunnels: Gauge,
    pub unrouted: Counter,
    pub tables: Counter,
    pub log_lines_lost: Counter,
}

impl Metrics {
    pub fn register(registry: &Registry, table: &Arc<ArcSwap<Table>>) -> Self {
        let metrics = Metrics::default();
        let table = Arc::clone(table);
        registry.register(|r| {
            let m = &metrics;
            r.register("portolan_ingress_connections", "Connections accepted", m.connections.clone());
            r.register("portolan_ingress_connections_open", "Connections that are open", m.open.clone());
            r.register(
                "portolan_ingress_handshake_failures",
                "TLS handshakes that failed",
                m.handshake_failures.clone(),
            );
            r.register(
                "portolan_ingress_retries",
                "Requests sent to another endpoint or connection",
                m.retries.clone(),
            );
            r.register(
                "portolan_ingress_connect_failures",
                "Connections to endpoints that failed",
                m.connect_failures.clone(),
            );
            r.register("portolan_ingress_tunnels_open", "Upgraded connections that are open", m.tunnels.clone());
            r.register("portolan_ingress_unrouted_requests", "Requests that no Ingress takes", m.unrouted.clone());
            r.register("portolan_ingress_table_swaps", "Routing tables taken into use", m.tables.clone());
            r.register(
                "portolan_ingress_access_log_lines_lost",
                "Lines that the log could not take",
                m.log_lines_lost.clone(),
            );
            r.register_collector(Box::new(PerIngress { table }));
        });
        metrics
    }
}

struct PerIngress {
    table: Arc<ArcSwap<Table>>,
}

impl fmt::Debug for PerIngress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerIngress").finish_non_exhaustive()
    }
}

impl Collector for PerIngress {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let table = self.table.load();
        let ingresses: BTreeMap<_, &Arc<Stats>> = table.routes().map(|route| (&route.ingress, &route.stats)).collect();
        let name = "portolan_ingress_requests";
        let mut family = encoder.encode_descriptor(
            name,
            "Responses by Ingress and hundreds of the status",
            None,
            MetricType::Counter,
        )?;
        for (key, stats) in &ingresses {
            for class in 1..=5_usize {
                let status = format!("{class}xx");
                let labels = [("namespace", &*key.namespace), ("ingress", &*key.name), ("status", status.as_str())];
                ConstCounter::new(stats.responses(class)).encode(family.encode_family(&labels)?)?;
            }
        }
        let name = "portolan_ingress_request_duration_seconds";
        let mut family =
            encoder.encode_descriptor(name, "Time to the head of the response", None, MetricType::Histogram)?;
        for (key, stats) in &ingresses {
            let (sum, buckets) = stats.durations();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = [("namespace", &*key.namespace), ("ingress", &*key.name)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
