//! How many connections each endpoint was given, from the counters that the kernel keeps beside the elements of our maps.
//!
//! An element is a number in a pool: a change may give it to another endpoint, and then the kernel counts from nothing. So what was read is
//! added up here. What an element counted between the last read and its end is not seen.

use std::collections::HashMap;
use std::sync::Arc;

use linux::NetNs;
use netlink::NfTables;
use nft::{Bytes, Data, Table};
use service_model::{Backend, Family, FrontendKey};
use telemetry::prometheus_client::metrics::counter::Counter;
use telemetry::prometheus_client::metrics::family;

use crate::error::Error;
use crate::layout::{MOST_SHARDS, SetId, parse_slot, table_id};
use crate::plan::{read_address, read_backend, read_frontend};

/// Service port and endpoint.
pub(crate) type Labels = [(&'static str, String); 2];

/// The counted connections, and what they were counted from.
pub(crate) struct Connections {
    kernel: NfTables,
    counted: family::Family<Labels, Counter>,
    last: HashMap<(SetId, Family, Bytes), Reading>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    labels: Labels,
    packets: u64,
}

impl Connections {
    pub fn open(netns: &NetNs, counted: family::Family<Labels, Counter>) -> Result<Self, Error> {
        Ok(Connections { kernel: NfTables::open(netns).map_err(Error::Open)?, counted, last: HashMap::new() })
    }

    /// Reads the counters and adds what they grew by. Takes as long as a dump of the table.
    pub fn read(&mut self) -> Result<(), Error> {
        let table = self.kernel.dump(&table_id()).map_err(Error::Read)?.table.unwrap_or_default();
        let now = readings(&table);
        for (place, reading) in &now {
            let before =
                self.last.get(place).filter(|last| last.labels == reading.labels && last.packets <= reading.packets);
            let grown = reading.packets - before.map_or(0, |last| last.packets);
            self.counted.get_or_create(&reading.labels).inc_by(grown);
        }
        // Endpoints that left are told no more, or there would be ever more of them.
        let present: std::collections::HashSet<&Labels> = now.values().map(|reading| &reading.labels).collect();
        for gone in self.last.values().map(|last| &last.labels).filter(|labels| !present.contains(labels)) {
            self.counted.remove(gone);
        }
        self.last = now;
        Ok(())
    }
}

/// Each counting element, whose Service and endpoint it is for, and its count.
fn readings(table: &Table) -> HashMap<(SetId, Family, Bytes), Reading> {
    let mut readings = HashMap::new();
    for family in Family::ALL {
        let owners = Owners::of(table, family);
        let maps = (0..MOST_SHARDS).map(SetId::Endpoints).chain([SetId::InsideEndpoints, SetId::Slots]);
        for (id, (key, element)) in maps.flat_map(|id| elements(table, id, family).map(move |element| (id, element))) {
            let owner = if id == SetId::Slots { owners.of_slot(key) } else { owners.of_frontend(key) };
            let (Data::Value(value), Some(owner)) = (&element.data, owner) else { continue };
            let Some(Backend { address, port }) = read_backend(family, value.as_slice()) else { continue };
            let endpoint = std::net::SocketAddr::new(address, port).to_string();
            let labels = [("service_port", owner.to_string()), ("endpoint", endpoint)];
            let packets = element.get_counter().unwrap_or_default().packets;
            readings.insert((id, family, key.clone()), Reading { labels, packets });
        }
    }
    readings
}

fn elements(table: &Table, id: SetId, family: Family) -> impl Iterator<Item = (&Bytes, &nft::Element)> {
    table.sets.get(id.name(family)).into_iter().flat_map(|set| &set.elements)
}

/// Service ports by what leads to them; their names are the comments of those elements.
struct Owners {
    family: Family,
    frontends: HashMap<FrontendKey, Arc<str>>,
    pools: HashMap<u16, Arc<str>>,
}

impl Owners {
    fn of(table: &Table, family: Family) -> Self {
        let commented = |id| elements(table, id, family).filter_map(|(key, e)| Some((key, e.comment.clone()?)));
        let leading = [SetId::Frontends, SetId::Guarded, SetId::Inside].into_iter().flat_map(commented);
        let frontends = leading.filter_map(|(key, name)| Some((read_frontend(family, key.as_slice())?, name)));
        let pools = commented(SetId::StickyClasses).filter_map(|(key, name)| Some((pool(family, key)?, name)));
        Owners { family, frontends: frontends.collect(), pools: pools.collect() }
    }

    fn of_frontend(&self, key: &Bytes) -> Option<&Arc<str>> {
        self.frontends.get(&read_frontend(self.family, key.as_slice())?)
    }

    fn of_slot(&self, key: &Bytes) -> Option<&Arc<str>> {
        self.pools.get(&pool(self.family, key)?)
    }
}

fn pool(family: Family, key: &Bytes) -> Option<u16> {
    Some(parse_slot(read_address(family, key.as_slice())?.0)?.0)
}
