//! For people: what a name is answered with, and which object, in which revision, each record comes from.
//!
//! Pure: the zone is built from the objects that are given, by the same code that serves, so it can be asked of any cluster and no
//! server has to remember where its records come from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

use crate::observe::search_list_of;
use crate::outside::exchange;
use crate::respond::message_name;
use crate::search::SearchList;
use crate::wire::name::{self, WireName, address_label, labels, parse};
use crate::wire::request::Request;
use crate::wire::writer::Writer;
use crate::wire::{Rcode, kind};
use crate::zone::{Answered, Choice, ObjectKey, ServiceRecords, ServiceSpec, SliceRecords, Zone};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects that names are made of.
#[derive(Debug, Default)]
pub struct World {
    pub domain: String,
    pub ttl: u32,
    pub namespaces: Vec<Namespace>,
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
}

/// What one name is answered with.
#[derive(Debug)]
pub struct Explained {
    pub name: WireName,
    pub code: &'static str,
    pub records: Vec<Explanation>,
    /// The rest is to be asked outside, of this name.
    pub outside: Option<WireName>,
}

/// One record.
#[derive(Debug)]
pub struct Explanation {
    pub record: Record,
    pub origin: Origin,
}

/// Where a record comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The server itself.
    Server,
    /// The name spells it out.
    Name,
    Service {
        key: ObjectKey,
        revision: String,
        field: &'static str,
    },
    Endpoint {
        key: ObjectKey,
        revision: String,
        address: IpAddr,
        pod: Option<String>,
        state: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Server => f.write_str("the server itself"),
            Origin::Name => f.write_str("the name says it"),
            Origin::Service { key, revision, field } => {
                write!(f, "Service {}/{} (revision {revision}), {field}", key.namespace, key.name)
            }
            Origin::Endpoint { key, revision, address, pod, state } => {
                let slice = (&key.namespace, &key.name);
                write!(f, "EndpointSlice {}/{} (revision {revision}), endpoint {address}, {state}", slice.0, slice.1)?;
                pod.as_ref().map_or(Ok(()), |pod| write!(f, ", Pod {pod}"))
            }
        }
    }
}

/// The names that a pod's resolver tries for `name`, in order; only the name itself if it ends in a dot. None if it is no name.
pub fn names_tried(name: &str, pod: Option<&Pod>, domain: &str, host: &[WireName]) -> Option<Vec<WireName>> {
    let whole = parse(name)?;
    let (Some(pod), false) = (pod, name.ends_with('.')) else { return Some(vec![whole]) };
    let list: SearchList = search_list_of(pod, &parse(domain)?, host);
    let own = &whole[..whole.len() - 1];
    let searched = list.domains.iter().filter_map(|domain| name::join(own, domain));
    let mut names: Vec<WireName> = searched.collect();
    if labels(&whole).count() > list.ndots {
        names.insert(0, whole);
    } else {
        names.push(whole);
    }
    Some(names)
}

impl World {
    fn zone(&self) -> Option<Zone> {
        let mut zone = Zone::new(parse(&self.domain)?, self.ttl, 1);
        self.namespaces.iter().for_each(|namespace| zone.set_namespace(&namespace.name_any(), true));
        for service in &self.services {
            let key = key_of(service);
            let slices: Vec<SliceRecords> = self.slices_of(&key).map(SliceRecords::read).collect();
            zone.set_service(&key, ServiceRecords::read(&ServiceSpec::read(service), &slices));
        }
        zone.set_complete();
        Some(zone)
    }

    /// Where the cluster's own server is asked.
    pub fn server_address(&self) -> Option<SocketAddr> {
        let service = self.services.iter().find(|service| key_of(*service) == key("kube-system", "kube-dns"))?;
        let address: IpAddr = service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()?;
        Some((address, 53).into())
    }

    /// The answers to one question for each of `names`.
    pub fn explain(&self, names: &[WireName], asked: u16) -> Vec<Explained> {
        let Some(zone) = self.zone() else { return Vec::new() };
        names.iter().filter_map(|name| self.explain_one(&zone, name, asked)).collect()
    }

    fn explain_one(&self, zone: &Zone, name: &[u8], asked: u16) -> Option<Explained> {
        let question = [b"\0\0\0\0\0\x01\0\0\0\0\0\0".as_slice(), name, &asked.to_be_bytes(), &[0, 1]].concat();
        let request = Request::read(&question).ok()?;
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(&request, usize::from(u16::MAX), &mut bytes);
        let answered = zone.answer(name, asked, None, Choice(0), &mut writer);
        writer.finish(Rcode::NoError, true);
        let message = Message::from_vec(&bytes).ok()?;
        let (code, outside) = match answered {
            Answered::Done(code) => (code.text(), None),
            Answered::NotYet => (Rcode::ServFail.text(), None),
            Answered::Outside(aliases) => ("", Some(aliases.last().cloned().unwrap_or_else(|| name.into()))),
        };
        let records = message.answers.into_iter();
        let records = records.map(|record| Explanation { origin: self.origin(zone, &record), record }).collect();
        Some(Explained { name: name.into(), code, records, outside })
    }

    fn origin(&self, zone: &Zone, record: &Record) -> Origin {
        let owner = parse(&record.name.to_lowercase().to_ascii());
        let about = match &record.data {
            // What a reverse name or a port leads to is where it comes from.
            RData::PTR(target) => parse(&target.0.to_lowercase().to_ascii()),
            RData::SRV(srv) => parse(&srv.target.to_lowercase().to_ascii()),
            _ => owner,
        };
        let own = about.as_deref().and_then(|name| name::before(name, zone.domain()));
        let mut below: Vec<String> =
            own.into_iter().flat_map(labels).map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        below.reverse();
        let address = record.data.ip_addr();
        match below.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["pod", ..] => Origin::Name,
            ["dns", "ns"] => self.of_service(&key("kube-system", "kube-dns"), address),
            ["svc", namespace, service] => self.of_service(&key(namespace, service), address),
            ["svc", namespace, service, label] => self.of_endpoint(&key(namespace, service), address, Some(label)),
            _ => Origin::Server,
        }
    }

    fn of_service(&self, key: &ObjectKey, address: Option<IpAddr>) -> Origin {
        let Some(service) = self.services.iter().find(|service| key_of(*service) == *key) else {
            return Origin::Server;
        };
        let of = |field| Origin::Service { key: key.clone(), revision: revision(service), field };
        match ServiceSpec::read(service) {
            ServiceSpec::ClusterIp { addresses, .. } => of(if address.is_some_and(|a| addresses.first() != Some(&a)) {
                "spec.clusterIPs"
            } else {
                "spec.clusterIP"
            }),
            ServiceSpec::External { .. } => of("spec.externalName"),
            ServiceSpec::Headless { .. } => self.of_endpoint(key, address, None),
            ServiceSpec::Nothing => of("spec"),
        }
    }

    fn of_endpoint(&self, service: &ObjectKey, address: Option<IpAddr>, label: Option<&str>) -> Origin {
        for slice in self.slices_of(service) {
            for endpoint in slice.endpoints.iter().flatten() {
                for found in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                    let named = endpoint.hostname.as_deref().map_or_else(|| address_label(found), str::to_lowercase);
                    if address.is_none_or(|address| address == found) && label.is_none_or(|label| label == named) {
                        return Origin::Endpoint {
                            key: key_of(slice),
                            revision: revision(slice),
                            address: found,
                            pod: endpoint.target_ref.as_ref().and_then(|target| target.name.clone()),
                            state: state(endpoint),
                        };
                    }
                }
            }
        }
        Origin::Server
    }

    fn slices_of<'a>(&'a self, service: &'a ObjectKey) -> impl Iterator<Item = &'a EndpointSlice> {
        self.slices.iter().filter(|slice| {
            slice.namespace().as_deref() == Some(&service.namespace)
                && slice.labels().get(SERVICE_NAME) == Some(&service.name)
        })
    }
}

fn state(endpoint: &Endpoint) -> &'static str {
    let conditions = endpoint.conditions.as_ref();
    match (conditions.and_then(|c| c.ready), conditions.and_then(|c| c.terminating)) {
        (_, Some(true)) => "terminating",
        (Some(false), _) => "not ready",
        (Some(true) | None, _) => "ready",
    }
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn key_of(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn revision(object: &impl ResourceExt) -> String {
    object.resource_version().unwrap_or_default()
}

/// Asks a server; none if it does not answer.
pub async fn ask(server: SocketAddr, name: &[u8], kind: u16) -> Option<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(message_name(name)?, RecordType::from(kind)));
    let asking = exchange(server, &question);
    tokio::time::timeout(Duration::from_secs(5), asking).await.ok().flatten()
}

/// The number of a record type by its name, such as `AAAA`.
pub fn record_type(text: &str) -> Option<u16> {
    let kind = text.to_ascii_uppercase().parse::<RecordType>().ok().map(u16::from);
    kind.filter(|kind| !matches!(*kind, kind::OPT | kind::AXFR | kind::IXFR))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn world() -> World {
        let read = |value| serde_json::from_value(value);
        World {
            domain: "cluster.local".into(),
            ttl: 5,
            namespaces: vec![read(json!({"metadata": {"name": "shop"}})).unwrap()],
            services: [
                json!({"metadata": {"namespace": "shop", "name": "web", "resourceVersion": "12"}, "spec": {"clusterIP": "10.96.0.7"}}),
                json!({"metadata": {"namespace": "shop", "name": "db", "resourceVersion": "13"}, "spec": {"clusterIP": "None"}}),
                json!({"metadata": {"namespace": "shop", "name": "ext", "resourceVersion": "14"},
                    "spec": {"type": "ExternalName", "externalName": "www.example.com"}}),
            ]
            .map(|value| serde_json::from_value(value).unwrap())
            .into(),
            slices: vec![
                read_slice(json!({"metadata": {"namespace": "shop", "name": "db-x", "resourceVersion": "20",
                        "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4", "endpoints": [
                        {"addresses": ["10.244.0.9"], "conditions": {"ready": true}, "hostname": "db-0",
                            "targetRef": {"kind": "Pod", "name": "db-0"}}]})),
            ],
        }
    }

    fn read_slice(value: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(value).unwrap()
    }

    #[track_caller]
    fn check(name: &str, kind: &str, expected: &str) {
        let explained = world().explain(&[parse(name).unwrap()], record_type(kind).unwrap());
        let lines = explained[0].records.iter().map(|e| format!("{} ← {}", e.record.data, e.origin));
        let rest = explained[0].outside.iter().map(|name| format!("outside: {}", name::to_text(name)));
        let all: Vec<String> =
            lines.chain(rest).chain([explained[0].code.to_owned()]).filter(|l| !l.is_empty()).collect();
        assert_eq!(all.join("\n"), expected);
    }

    #[test]
    fn every_record_names_its_object_and_revision() {
        check("web.shop.svc.cluster.local", "A", "10.96.0.7 ← Service shop/web (revision 12), spec.clusterIP\nNOERROR");
        let endpoint = "EndpointSlice shop/db-x (revision 20), endpoint 10.244.0.9, ready, Pod db-0";
        check("db.shop.svc.cluster.local", "a", &format!("10.244.0.9 ← {endpoint}\nNOERROR"));
        check("db-0.db.shop.svc.cluster.local", "A", &format!("10.244.0.9 ← {endpoint}\nNOERROR"));
        let ptr = format!("db-0.db.shop.svc.cluster.local. ← {endpoint}\nNOERROR");
        check("9.0.244.10.in-addr.arpa", "PTR", &ptr);
        let alias = "www.example.com. ← Service shop/ext (revision 14), spec.externalName\noutside: www.example.com.";
        check("ext.shop.svc.cluster.local", "A", alias);
        check("1-2-3-4.shop.pod.cluster.local", "A", "1.2.3.4 ← the name says it\nNOERROR");
        check("no.shop.svc.cluster.local", "A", "NXDOMAIN");
    }

    #[test]
    fn a_pods_names_are_those_of_its_resolver() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": {"containers": []}}))
                .unwrap();
        let tried = |name: &str| {
            let names = names_tried(name, Some(&pod), "cluster.local", &[parse("lan").unwrap()]).unwrap();
            names.iter().map(|name| name::to_text(name)).collect::<Vec<_>>()
        };
        let searched =
            ["web.shop.svc.cluster.local.", "web.svc.cluster.local.", "web.cluster.local.", "web.lan.", "web."];
        assert_eq!(tried("web"), searched);
        assert_eq!(tried("web."), ["web."]);
        assert_eq!(tried("a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
    }
}
