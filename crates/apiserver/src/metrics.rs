//! The server's metrics, under kube-apiserver's names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use telemetry::Registry;
use telemetry::prometheus_client::metrics::counter::Counter;
use telemetry::prometheus_client::metrics::family::Family;
use telemetry::prometheus_client::metrics::gauge::Gauge;
use telemetry::prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::route::Route;

/// What a request was for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    verb: String,
    group: &'static str,
    resource: &'static str,
}

/// Names and values, as the scrape prints them.
type Labels<const N: usize> = [(&'static str, String); N];

/// Shared by all requests.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<Labels<4>, Counter>,
    durations: Family<Labels<3>, Histogram, fn() -> Histogram>,
    pub(crate) watches: Gauge,
    revision: Gauge<u64, AtomicU64>,
}

impl Asked {
    pub(crate) fn of(verb: &str, route: &Route) -> Asked {
        let (group, resource) = match route {
            Route::Target(target) => (target.resource.group(), target.resource.plural()),
            _ => ("", ""),
        };
        Asked { verb: verb.to_owned(), group, resource }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Metrics {
        let metrics = Metrics {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16))),
            watches: Gauge::default(),
            revision: Gauge::default(),
        };
        registry.register(|r| {
            r.register("apiserver_request", "Requests answered", metrics.requests.clone());
            r.register(
                "apiserver_request_duration_seconds",
                "Time from a request to its answer, in seconds; watches are not counted",
                metrics.durations.clone(),
            );
            r.register("apiserver_longrunning_requests", "Watches under way", metrics.watches.clone());
            r.register("portolan_store_revision", "Revision of the latest write", metrics.revision.clone());
        });
        metrics
    }

    pub(crate) fn answered(&self, asked: Asked, code: u16, took: Duration) {
        let Asked { verb, group, resource } = asked;
        let of = |code: Option<u16>| {
            let code = code.map_or_else(String::new, |code| code.to_string());
            [("verb", verb.clone()), ("group", group.to_owned()), ("resource", resource.to_owned()), ("code", code)]
        };
        self.requests.get_or_create(&of(Some(code))).inc();
        if verb != "watch" {
            let [verb, group, resource, _] = of(None);
            self.durations.get_or_create(&[verb, group, resource]).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn at(&self, revision: u64) {
        self.revision.set(revision);
    }
}
