//! Bytes in, an answer out: no panic, and whatever is answered is a message that another parser takes and that fits the client.
#![no_main]

use std::sync::LazyLock;

use dns::wire::name::parse;
use dns::zone::{ObjectKey, ServiceRecords, ServiceSpec, SliceRecords, Zone};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, from_value, json};

/// A Service of each sort, read from objects as the server reads them: with ports, with named endpoints, with more than a packet holds.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut zone = Zone::new(parse("cluster.local").expect("a name"), 5, 1);
    zone.set_namespace("a", true);
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    let named = json!([{"addresses": ["10.244.0.9"], "hostname": "db-0"}, {"addresses": ["10.244.0.10"]}]);
    let many: Value = (0..200).map(|last| json!({"addresses": [format!("10.244.1.{last}")], "hostname": format!("host-{last}")})).collect();
    let services = [
        ("web", json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ports": ports}), named.clone()),
        ("db", json!({"clusterIP": "None", "ports": ports}), named),
        ("big", json!({"clusterIP": "None", "ports": ports}), many),
        ("ext", json!({"type": "ExternalName", "externalName": "web.a.svc.cluster.local"}), json!([])),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.a.svc.cluster.local"}), json!([])),
        ("away", json!({"type": "ExternalName", "externalName": "example.com"}), json!([])),
    ];
    for (name, spec, endpoints) in services {
        let service = ServiceSpec::read(&from_value(json!({"spec": spec})).expect("a service"));
        let sql = json!([{"name": "sql", "protocol": "TCP", "port": 5432}]);
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": sql});
        let slice = SliceRecords::read(&from_value(slice).expect("a slice"));
        let key = ObjectKey { namespace: "a".to_owned(), name: name.to_owned() };
        zone.set_service(&key, ServiceRecords::read(&service, [&slice]));
    }
    zone.set_complete();
    zone
});

fuzz_target!(|bytes: &[u8]| {
    let mut out = Vec::new();
    if dns::answer_message(&ZONE, bytes, &mut out) {
        assert!(out.len() >= 12 && out[2] & 0x80 != 0 && out[..2] == bytes[..2]);
        // Opcodes that nobody knows are refused in kind, which the other parser does not take.
        if out[2] >> 3 & 0x0f == 0 {
            Message::from_vec(&out).expect("an answer of ours is a message");
        }
    }
});
