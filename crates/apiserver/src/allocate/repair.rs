//! What is taken, read from the stored Services; and the IPAddress objects made to agree with them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use store::{Body, RangeOptions, Storage, Transaction};

use super::{Allocator, address_kind, address_object, address_of_key, lock};
use crate::kinds::find;
use crate::object;

/// The part of a Service that allocation is about; the rest is not even parsed.
#[derive(Deserialize)]
struct Stored {
    metadata: Names,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Names {
    name: String,
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<Port>,
    health_check_node_port: i64,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default, rename = "nodePort")]
    node_port: i64,
}

impl Allocator {
    /// Takes what the stored Services hold, and mends IPAddress objects that a Service lacks or that outlived theirs.
    pub(crate) async fn load(&self, store: &dyn Storage) -> Result<(), store::Error> {
        let (Some(services), Some(kind)) = (find("", "v1", "services"), address_kind()) else { return Ok(()) };
        let mut held: BTreeMap<IpAddr, (String, String)> = BTreeMap::new();
        for entry in store.range(&object::prefix(services, ""), RangeOptions::default())?.entries {
            let Ok(service) = serde_json::from_slice::<Stored>(&entry.value) else {
                tracing::error!(key = %entry.key, "stored Service cannot be read");
                continue;
            };
            self.take_stored(&service, &mut held);
        }
        let mut transaction = Transaction::new();
        for entry in store.range(&object::prefix(kind, ""), RangeOptions::default())?.entries {
            let Some(address) = address_of_key(&entry.key) else { continue };
            let known = held.remove(&address).is_some();
            let managed = entry.value.windows(OURS.len()).any(|part| part == OURS.as_bytes());
            if !known && managed {
                transaction = transaction.delete(entry.key.clone(), Body::Plain(entry.value.to_vec()));
            } else if !known {
                self.note_taken(&entry.key);
            }
        }
        for (address, owner) in &held {
            let body = object::encode(kind, &address_object(*address, owner));
            transaction = transaction.put(object::key(kind, "", &address.to_string()), body);
        }
        if !transaction.writes.is_empty() {
            tracing::warn!(objects = transaction.writes.len(), "mended IPAddress objects");
            store.commit(transaction).await?;
        }
        Ok(())
    }

    fn take_stored(&self, service: &Stored, held: &mut BTreeMap<IpAddr, (String, String)>) {
        let mut ranges = lock(&self.ranges);
        for address in service.spec.cluster_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            let owner = (service.metadata.namespace.clone(), service.metadata.name.clone());
            if let Some(other) = held.insert(address, owner) {
                tracing::error!(%address, first = %other.1, second = %service.metadata.name, "two Services have one address");
            }
            for range in ranges.addresses.iter_mut().filter(|range| range.net.contains(&address)) {
                // A second holder was reported above, and both keep it.
                drop(range.take(address));
            }
        }
        let ports = service.spec.ports.iter().map(|port| port.node_port).chain([service.spec.health_check_node_port]);
        for port in ports.filter(|port| *port != 0) {
            // Two protocols may share a number, and a port from before the range was changed stays outside it.
            drop(ranges.ports.take(port));
        }
    }
}

/// What our own IPAddress objects carry.
const OURS: &str = "ipallocator.k8s.io";
