//! Every metric of the load balancer, with MetalLB's names where it has one. Read from what is known when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use service_model::Family;
use telemetry::Registry;
use telemetry::prometheus_client::collector::Collector;
use telemetry::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use telemetry::prometheus_client::metrics::MetricType;
use telemetry::prometheus_client::metrics::gauge::ConstGauge;

use crate::lease::Fact;
use crate::observe::{Shared, World};

pub(crate) fn register(registry: &Registry, shared: &Shared) {
    let scraped = Scraped(shared.clone());
    registry.register(|registry| registry.register_collector(Box::new(scraped)));
}

/// The world, for the eyes of a scraper.
struct Scraped(Shared);

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

type Gauge = (Vec<(&'static str, String)>, i64);

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let world = self.0.read();
        let (total, used) = pools(&world);
        for (name, help, gauges) in [
            ("metallb_allocator_addresses_total", "Addresses of each pool", total),
            ("metallb_allocator_addresses_in_use_total", "Addresses of each pool that Services have", used),
            ("metallb_speaker_announced", "Which node answers for each address", announced(&world)),
            (
                "portolan_loadbalancer_services_pending",
                "Services that wait for an address",
                vec![(Vec::new(), pending(&world))],
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in gauges {
                let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                ConstGauge::new(value).encode(family.encode_family(&labels.as_slice())?)?;
            }
        }
        Ok(())
    }
}

fn pools(world: &World) -> (Vec<Gauge>, Vec<Gauge>) {
    let (pools, _) = world.current_pools();
    let mut used: BTreeMap<&str, i64> = BTreeMap::new();
    let given: std::collections::BTreeSet<IpAddr> =
        world.services.values().flat_map(|ours| ours.request.current.iter().copied()).collect();
    for pool in given.into_iter().filter_map(|address| pools.holding(address)) {
        *used.entry(&pool.name).or_default() += 1;
    }
    let label = |name: &str| vec![("pool", name.to_owned())];
    let count = |pool: &crate::pools::Pool| {
        let all: u128 = Family::ALL.into_iter().map(|family| pool.count(family)).fold(0, u128::saturating_add);
        i64::try_from(all).unwrap_or(i64::MAX)
    };
    let total = pools.iter().map(|pool| (label(&pool.name), count(pool))).collect();
    let used = pools.iter().map(|pool| (label(&pool.name), used.get(&*pool.name).copied().unwrap_or(0))).collect();
    (total, used)
}

fn announced(world: &World) -> Vec<Gauge> {
    let mut services: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (key, ours) in world.services.iter() {
        for address in &ours.request.current {
            services.entry(*address).or_default().push(key.to_string());
        }
    }
    let held = world.leases.values().filter_map(|fact| match fact {
        Fact::Address { address, holder: Some(holder), .. } => Some((*address, holder.clone())),
        Fact::Address { .. } | Fact::Speaker { .. } => None,
    });
    held.flat_map(|(address, node)| {
        let of = services.get(&address).cloned().unwrap_or_default();
        of.into_iter().map(move |service| {
            let labels = [("service", service), ("protocol", "layer2".to_owned()), ("node", node.clone())];
            (labels.into_iter().chain([("ip", address.to_string())]).collect(), 1)
        })
    })
    .collect()
}

fn pending(world: &World) -> i64 {
    let waiting = world.services.values().filter(|ours| ours.request.current.is_empty()).count();
    i64::try_from(waiting).unwrap_or(i64::MAX)
}
