//! The server's metrics, with CoreDNS' names, so that dashboards and alerts made for it go on.
//!
//! What every question touches is counted by each serving thread for itself and added up when someone looks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use telemetry::prometheus_client::collector::Collector;
use telemetry::prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use telemetry::prometheus_client::metrics::MetricType;

use crate::respond::Transport;
use crate::wire::{Rcode, kind};

const TYPES: [(u16, &str); 11] = [
    (kind::A, "A"),
    (kind::AAAA, "AAAA"),
    (kind::SRV, "SRV"),
    (kind::PTR, "PTR"),
    (kind::CNAME, "CNAME"),
    (kind::TXT, "TXT"),
    (kind::NS, "NS"),
    (kind::SOA, "SOA"),
    (15, "MX"),
    (65, "HTTPS"),
    (0, "other"),
];
const RCODES: [Rcode; 7] =
    [Rcode::NoError, Rcode::FormErr, Rcode::ServFail, Rcode::NxDomain, Rcode::NotImp, Rcode::Refused, Rcode::BadVers];
const SIZES: [f64; 14] =
    [0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];
const DURATIONS: usize = 16;
const SHORTEST: f64 = 0.000_25;

/// What one serving thread has counted.
#[derive(Debug)]
pub(crate) struct Tally {
    transport: Transport,
    ipv6: bool,
    types: [AtomicU64; TYPES.len()],
    rcodes: [[AtomicU64; RCODES.len()]; 2],
    request_sizes: Histogram<{ SIZES.len() + 1 }>,
    response_sizes: Histogram<{ SIZES.len() + 1 }>,
    durations: Durations,
}

type Durations = Histogram<{ DURATIONS + 1 }>;

#[derive(Debug)]
struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    /// In bytes, or in nanoseconds.
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bucket: usize, value: u64) {
        self.buckets[bucket.min(N - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }
}

impl Durations {
    fn observe_time(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Bounds double: 250 µs, 500 µs, …
        let bucket = 64 - (nanos.saturating_sub(1) / 250_000).leading_zeros();
        self.observe(bucket as usize, nanos);
    }
}

fn duration_bounds() -> Vec<f64> {
    (0..DURATIONS).map(|n| SHORTEST * f64::from(1u32 << n)).collect()
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Zone,
    Outside,
}

impl Tally {
    pub(crate) fn count(&self, asked: u16, sizes: (usize, usize), code: Rcode, by: By, took: Duration) {
        let kind = TYPES.iter().position(|(known, _)| *known == asked).unwrap_or(TYPES.len() - 1);
        self.types[kind].fetch_add(1, Ordering::Relaxed);
        let code = RCODES.iter().position(|known| *known == code).unwrap_or(0);
        self.rcodes[by as usize][code].fetch_add(1, Ordering::Relaxed);
        let size = |size: usize| SIZES.iter().position(|bound| size as f64 <= *bound).unwrap_or(SIZES.len());
        self.request_sizes.observe(size(sizes.0), sizes.0 as u64);
        self.response_sizes.observe(size(sizes.1), sizes.1 as u64);
        self.durations.observe_time(took);
    }
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    server: String,
    tallies: Mutex<Vec<Arc<Tally>>>,
    counters: Counters,
    upstreams: Mutex<BTreeMap<(String, String), Arc<Durations>>>,
    silences: Mutex<BTreeMap<String, u64>>,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    denial_hits: AtomicU64,
    misses: AtomicU64,
    walks: AtomicU64,
    swaps: AtomicU64,
    services: AtomicU64,
    cache_good: AtomicU64,
    cache_denials: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    pub(crate) fn new(server: String) -> Self {
        Metrics {
            server,
            tallies: Mutex::default(),
            counters: Counters::default(),
            upstreams: Mutex::default(),
            silences: Mutex::default(),
        }
    }

    /// A tally for one serving thread.
    pub(crate) fn tally(&self, transport: Transport, ipv6: bool) -> Arc<Tally> {
        let tally = Arc::new(Tally {
            transport,
            ipv6,
            types: std::array::from_fn(|_| AtomicU64::new(0)),
            rcodes: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            request_sizes: Histogram::default(),
            response_sizes: Histogram::default(),
            durations: Histogram::default(),
        });
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&tally));
        tally
    }

    pub(crate) fn cache_hit(&self, success: bool) {
        add(if success { &self.counters.hits } else { &self.counters.denial_hits });
    }

    pub(crate) fn cache_miss(&self) {
        add(&self.counters.misses);
    }

    pub(crate) fn walked(&self) {
        add(&self.counters.walks);
    }

    pub(crate) fn swapped(&self, services: usize) {
        add(&self.counters.swaps);
        self.counters.services.store(services as u64, Ordering::Relaxed);
    }

    pub(crate) fn cache_holds(&self, (good, denials): (usize, usize)) {
        self.counters.cache_good.store(good as u64, Ordering::Relaxed);
        self.counters.cache_denials.store(denials as u64, Ordering::Relaxed);
    }

    pub(crate) fn upstream_answered(&self, upstream: SocketAddr, rcode: &str, took: Duration) {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let known = upstreams.entry((upstream.to_string(), rcode.to_owned())).or_default();
        known.observe_time(took);
    }

    pub(crate) fn upstream_silent(&self, upstream: SocketAddr) {
        let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        *silences.entry(upstream.to_string()).or_default() += 1;
    }
}

/// Lets the registry read the metrics.
#[derive(Debug)]
pub(crate) struct Scraped(pub(crate) Arc<Metrics>);

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let tallies = self.0.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.encode_build(&mut encoder)?;
        self.0.encode_questions(&tallies, &mut encoder)?;
        self.0.encode_histograms(&tallies, &mut encoder)?;
        self.0.encode_outside(&mut encoder)?;
        self.0.encode_zone(&mut encoder)
    }
}

type Label<'a> = (&'static str, &'a str);

impl Metrics {
    fn place(&self) -> [Label<'_>; 3] {
        [("server", &self.server), ("zone", "."), ("view", "")]
    }

    fn encode_build(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("program", "portolan")];
        let mut family =
            encoder.encode_descriptor("coredns_build_info", "What answers here", None, MetricType::Gauge)?;
        family.encode_family(&labels)?.encode_gauge(&1)
    }

    fn encode_questions(&self, tallies: &[Arc<Tally>], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut requests: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
        let mut responses: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for tally in tallies {
            let family = if tally.ipv6 { "2" } else { "1" };
            for ((_, name), count) in TYPES.iter().zip(&tally.types) {
                *requests.entry((family, proto(tally.transport), name)).or_default() += count.load(Ordering::Relaxed);
            }
            for (plugin, counts) in ["kubernetes", "forward"].into_iter().zip(&tally.rcodes) {
                for (code, count) in RCODES.iter().zip(counts) {
                    *responses.entry((plugin, code.text())).or_default() += count.load(Ordering::Relaxed);
                }
            }
        }
        let help = "Questions by type, transport and address family";
        let mut metric = encoder.encode_descriptor("coredns_dns_requests", help, None, MetricType::Counter)?;
        for ((family, proto, kind), count) in requests.into_iter().filter(|(_, count)| *count > 0) {
            let own = [("family", family), ("proto", proto), ("type", kind)];
            let labels: Vec<Label<'_>> = self.place().into_iter().chain(own).collect();
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "Answers by response code and by who gave them";
        let mut metric = encoder.encode_descriptor("coredns_dns_responses", help, None, MetricType::Counter)?;
        for ((plugin, rcode), count) in responses.into_iter().filter(|(_, count)| *count > 0) {
            let labels: Vec<Label<'_>> =
                self.place().into_iter().chain([("plugin", plugin), ("rcode", rcode)]).collect();
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_histograms(&self, tallies: &[Arc<Tally>], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all: Vec<_> = tallies.iter().map(|tally| &tally.durations).collect();
        let help = "From a question's arrival to its answer";
        let mut metric =
            encoder.encode_descriptor("coredns_dns_request_duration_seconds", help, None, MetricType::Histogram)?;
        encode_histogram(&mut metric, &self.place(), &duration_bounds(), &all, 1e9)?;
        for (name, help, response) in [
            ("coredns_dns_request_size_bytes", "Sizes of questions", false),
            ("coredns_dns_response_size_bytes", "Sizes of answers", true),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for transport in [Transport::Udp, Transport::Tcp] {
                let of = tallies.iter().filter(|tally| tally.transport == transport);
                let all: Vec<_> =
                    of.map(|tally| if response { &tally.response_sizes } else { &tally.request_sizes }).collect();
                let labels: Vec<Label<'_>> = self.place().into_iter().chain([("proto", proto(transport))]).collect();
                encode_histogram(&mut metric, &labels, &SIZES, &all, 1.0)?;
            }
        }
        Ok(())
    }

    fn encode_outside(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Answers of resolvers outside, and the time that they took";
        let name = "coredns_proxy_request_duration_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for ((to, rcode), durations) in &upstreams {
            let labels = [("proxy_name", "forward"), ("to", to.as_str()), ("rcode", rcode.as_str())];
            encode_histogram(&mut metric, &labels, &duration_bounds(), &[&**durations], 1e9)?;
        }
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Questions that a resolver outside did not answer within a second";
        let name = "coredns_proxy_healthcheck_failures";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (to, count) in &silences {
            let labels = [("proxy_name", "forward"), ("to", to.as_str())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let hits = [("success", of(&counters.hits)), ("denial", of(&counters.denial_hits))];
        let mut metric = encoder.encode_descriptor(
            "coredns_cache_hits",
            "Questions answered from the cache",
            None,
            MetricType::Counter,
        )?;
        for (kind, count) in hits {
            let labels = [("server", self.server.as_str()), ("type", kind), ("zones", "."), ("view", "")];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let labels = [("server", self.server.as_str()), ("zones", "."), ("view", "")];
        let misses = of(&counters.misses);
        let total = misses + hits.iter().map(|(_, count)| count).sum::<u64>();
        for (name, help, count) in [
            ("coredns_cache_misses", "Questions that had to be asked outside", misses),
            ("coredns_cache_requests", "Questions for names outside", total),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let mut metric = encoder.encode_descriptor("coredns_cache_entries", "Answers kept", None, MetricType::Gauge)?;
        for (kind, count) in [("success", &counters.cache_good), ("denial", &counters.cache_denials)] {
            let labels = [("server", self.server.as_str()), ("type", kind), ("zones", "."), ("view", "")];
            metric.encode_family(&labels)?.encode_gauge(&of(count))?;
        }
        Ok(())
    }

    fn encode_zone(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.counters;
        for (name, help, counter) in [
            ("coredns_autopath_success", "Searches walked on a client's behalf", &counters.walks),
            ("portolan_dns_zone_swaps", "Changes of the zone", &counters.swaps),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            let mut metric = metric;
            metric.encode_counter::<NoLabelSet, _, u64>(&counter.load(Ordering::Relaxed), None)?;
        }
        let name = "portolan_dns_zone_services";
        let mut metric = encoder.encode_descriptor(name, "Services that have names", None, MetricType::Gauge)?;
        metric.encode_gauge(&counters.services.load(Ordering::Relaxed))
    }
}

fn proto(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

fn encode_histogram<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: &[Label<'_>],
    bounds: &[f64],
    all: &[&Histogram<N>],
    unit: f64,
) -> fmt::Result {
    let of = |n: usize| all.iter().map(|h| h.buckets[n].load(Ordering::Relaxed)).sum::<u64>();
    let buckets: Vec<(f64, u64)> =
        bounds.iter().copied().chain([f64::INFINITY]).enumerate().map(|(n, b)| (b, of(n))).collect();
    let sum = all.iter().map(|h| h.sum.load(Ordering::Relaxed) as f64).sum::<f64>() / unit;
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}
