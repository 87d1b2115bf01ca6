//! Bytes in, an answer out: no panic, and whatever is answered is a message that another parser takes and that fits the client.
#![no_main]

use std::sync::LazyLock;

use dns::zone::{Endpoints, ObjectKey, ServiceRecords, Zone};
use dns::wire::name::parse;
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut zone = Zone::new(parse("cluster.local").expect("a name"), 5, 1);
    zone.set_namespace("a", true);
    let key = |name: &str| ObjectKey { namespace: "a".to_owned(), name: name.to_owned() };
    let addresses = ["10.96.0.1", "fd00::1"].map(|address| address.parse().expect("an address"));
    let records = ServiceRecords::ClusterIp { addresses: addresses.into(), ports: [].into(), endpoints: Endpoints::default() };
    zone.set_service(&key("web"), Some(records));
    zone.set_service(&key("ext"), Some(ServiceRecords::External { target: parse("web.a.svc.cluster.local").expect("a name") }));
    zone.set_service(&key("loop"), Some(ServiceRecords::External { target: parse("loop.a.svc.cluster.local").expect("a name") }));
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
