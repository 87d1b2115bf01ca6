//! A network namespace that goes away with the test, and a table with one of everything.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use linux::NetNs;
use nft::{
    AddrType, Base, Bytes, ChainKind, CtState, CtStatus, DynsetOp, Element, Family, Field, Hook, Limit, NatKind,
    NatTarget, Reject, Rule, Ruleset, SetSpec, Statement, Table, TableId, Value, Verdict,
};

pub struct Scratch {
    pub ns: NetNs,
    pub path: PathBuf,
}

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portolan-netlink-{}-{number}", std::process::id()));
        Scratch { ns: NetNs::create(&path).unwrap(), path }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        NetNs::delete_at(&self.path).unwrap();
    }
}

pub fn id() -> TableId {
    TableId::new(Family::Inet, "portolan")
}

pub fn ruleset(table: Table) -> Ruleset {
    Ruleset { tables: [(id(), table)].into() }
}

pub fn service(n: u8) -> Bytes {
    Bytes::new().ipv4([10, 96, 0, n].into()).proto(6).port(80)
}

const CHOOSE: [Field; 4] = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::NumgenRandom { modulus: 2 }];
const CHOOSE6: [Field; 4] = [Field::Ip6Daddr, Field::L4Proto, Field::ThDport, Field::NumgenRandom { modulus: 2 }];

/// Sets of every shape that we use.
fn sets(table: &mut Table) {
    let endpoints = table.set(
        "endpoints4",
        SetSpec::map(CHOOSE, [Field::IpDaddr, Field::ThDport]).size(65536).comment("endpoints of Services"),
    );
    for service_number in 1..4 {
        for index in 0..2 {
            let to = Bytes::new().ipv4([10, 244, service_number, index as u8].into()).port(8080);
            let comment = format!("default/web-{service_number}:http");
            endpoints.insert(service(service_number).number(index), Element::value(to).comment(comment));
        }
    }
    let key6 = Bytes::new().ipv6("fd00::1".parse().unwrap()).proto(17).port(53).number(0);
    let to6 = Bytes::new().ipv6("fd01::5".parse().unwrap()).port(53);
    table
        .set("endpoints6", SetSpec::map(CHOOSE6, [Field::Ip6Daddr, Field::ThDport]))
        .insert(key6, Element::value(to6).comment("kube-system/dns:dns"));
    table
        .set("k2", SetSpec::set(Field::SERVICE4).counter())
        .insert(service(1), Element::member().comment("default/web-1:http"))
        .insert(service(2), Element::member());
    let range = |from: [u8; 4], to: [u8; 4]| (Bytes::new().ipv4(from.into()), Bytes::new().ipv4(to.into()));
    let (first, last) = range([10, 96, 0, 0], [10, 96, 255, 255]);
    let (odd, odd_last) = range([10, 100, 0, 3], [10, 100, 0, 9]);
    let (top, top_last) = range([255, 255, 255, 0], [255, 255, 255, 255]);
    table
        .set("cluster-ips", SetSpec::set([Field::IpDaddr]).interval())
        .insert(first, Element::member().to(last).comment("services"))
        .insert(odd, Element::member().to(odd_last))
        .insert(Bytes::new().ipv4([10, 100, 0, 10].into()), Element::member())
        .insert(top, Element::member().to(top_last));
    let allowed = table.set("allowed", SetSpec::set(Field::SERVICE4.into_iter().chain([Field::IpSaddr])).interval());
    allowed.insert(
        service(1).ipv4([10, 0, 0, 0].into()),
        Element::member().to(service(1).ipv4([10, 255, 255, 255].into())),
    );
    allowed.insert(service(2).ipv4([192, 0, 2, 1].into()), Element::member());
    table
        .set("node-ports", SetSpec::map([Field::L4Proto, Field::ThDport], [Field::IpDaddr]))
        .insert(Bytes::new().proto(6).port(30080), Element::value(Bytes::new().ipv4([10, 96, 0, 1].into())));
    table
        .set("classes", SetSpec::verdict_map([Field::IpDaddr]))
        .insert(Bytes::new().ipv4([0, 0, 0, 2].into()), Element::verdict(Verdict::Goto("choose2".into())));
    table
        .set("frontends", SetSpec::map(Field::SERVICE4, [Field::IpDaddr]))
        .insert(service(1), Element::value(Bytes::new().ipv4([0, 0, 0, 2].into())));
    table.set("marks", SetSpec::map([Field::ThDport], [Field::Mark]));
    table.set("hairpin", SetSpec::set([Field::IpSaddr, Field::IpDaddr]));
    table.set(
        "affinity",
        SetSpec::map(
            [Field::IpSaddr, Field::IpDaddr, Field::L4Proto, Field::ThDport],
            [Field::IpDaddr, Field::ThDport],
        )
        .dynamic(Duration::from_secs(10800))
        .size(65535),
    );
    table.set(
        "pools",
        SetSpec::map([Field::IpSaddr, Field::IpDaddr], [Field::IpDaddr]).dynamic(Duration::from_secs(60)),
    );
}

/// One of everything.
pub fn everything() -> Table {
    let mut table = Table { comment: Some("what a test needs".into()), ..Table::default() };
    sets(&mut table);
    let client = || vec![Field::IpSaddr, Field::IpDaddr, Field::L4Proto, Field::ThDport];
    table.chain("choose2").rule([Statement::dnat_map(false, CHOOSE, "endpoints4")]);
    table.chain("choose6").rule([Statement::dnat_map(true, CHOOSE6, "endpoints6")]);
    let refuse = table.chain("refuse");
    refuse.rule([Statement::l4proto(6), Statement::Reject(Reject::TcpReset)]);
    refuse.rule([Statement::Reject(Reject::Icmpx(1))]);
    refuse.rule([Statement::Reject(Reject::Icmpv6(4))]);
    let chain = table.chain("prerouting");
    chain.base = Some(Base::new(ChainKind::Nat, Hook::Prerouting, -100));
    chain.rule(
        Rule::new([Statement::lookup(Field::SERVICE4, "k2"), Statement::counter(), Statement::goto("choose2")])
            .comment("two endpoints"),
    );
    chain.rule([
        Statement::set_field(Field::IpDaddr, Field::SERVICE4, "frontends"),
        Statement::vmap([Field::IpDaddr], "classes"),
    ]);
    chain.rule([Statement::fib_daddr(AddrType::Local), Statement::jump("node-ports")]);
    chain.rule([
        Statement::ct_state(&[CtState::NEW]),
        Statement::lookup([Field::IpDaddr], "cluster-ips"),
        Statement::goto("refuse"),
    ]);
    chain.rule([Statement::is(Field::Iifname, Bytes::new().interface("eth0")), Statement::ret()]);
    chain.rule([Statement::is_not(Field::Iifname, Bytes::interfaces("veth")), Statement::ret()]);
    chain.rule([Statement::is(Field::Oifname, Bytes::interfaces("lxc12")), Statement::ret()]);
    chain.rule([
        Statement::Limit(Limit { rate: 5, per_seconds: 60, burst: 10, over: false }),
        Statement::Log { prefix: "portolan ".into(), level: Some(6) },
    ]);
    chain.rule([Statement::mark(0x4000, 0x4000), Statement::or_mark(0x8000), Statement::accept()]);
    chain.rule([Statement::SetMark(Value::map([Field::ThDport], "marks"))]);
    chain.rule([
        Statement::Match {
            field: Field::IpSaddr,
            mask: Some(Bytes::new().ipv4([255, 240, 0, 0].into())),
            op: nft::Compare::Eq,
            value: Bytes::new().ipv4([10, 240, 0, 0].into()),
        },
        Statement::drop(),
    ]);
    chain.rule([
        Statement::Dynset {
            op: DynsetOp::Update,
            set: "affinity".into(),
            key: client(),
            timeout: Some(Duration::from_secs(7200)),
            data: Some(Value::Fields(vec![Field::IpDaddr, Field::ThDport])),
        },
        Statement::dnat_map(false, client(), "affinity"),
    ]);
    chain.rule([Statement::Dynset {
        op: DynsetOp::Delete,
        set: "pools".into(),
        key: vec![Field::IpSaddr, Field::IpDaddrHigh],
        timeout: None,
        data: Some(Value::Fields(vec![Field::IpDaddr])),
    }]);
    chain.rule([
        Statement::l4proto(17),
        Statement::Range {
            field: Field::ThDport,
            first: Bytes::new().port(30000),
            last: Bytes::new().port(32767),
            negate: false,
        },
        Statement::drop(),
    ]);
    chain.rule([Statement::l4proto(6), nat(NatTarget::V4([10, 0, 0, 1].into(), Some(80)))]);
    chain.rule([Statement::l4proto(6), nat(NatTarget::V6("fd00::1".parse().unwrap(), Some(80)))]);
    chain.rule([nat(NatTarget::V4([10, 0, 0, 1].into(), None))]);
    chain.rule([nat(NatTarget::Map {
        v6: false,
        key: vec![Field::L4Proto, Field::ThDport],
        map: "node-ports".into(),
        port: false,
    })]);
    table.chain("node-ports");
    postrouting(&mut table);
    table
}

fn nat(to: NatTarget) -> Statement {
    Statement::Nat { kind: NatKind::Dnat, to }
}

fn postrouting(table: &mut Table) {
    let raw = table.chain("raw");
    raw.base = Some(Base::new(ChainKind::Filter, Hook::Prerouting, -300));
    raw.rule([Statement::is(Field::ThSport, Bytes::new().port(53)), Statement::l4proto(17), Statement::Notrack]);
    let chain = table.chain("postrouting");
    chain.base = Some(Base::new(ChainKind::Nat, Hook::Postrouting, 100));
    chain.rule([
        Statement::ct_status(CtStatus::DNAT),
        Statement::lookup([Field::IpSaddr, Field::IpDaddr], "hairpin"),
        Statement::masquerade(),
    ]);
    let original = [Field::CtOriginalIpDaddr, Field::L4Proto, Field::CtOriginalProtoDst];
    chain.rule([Statement::lookup(original, "k2"), Statement::masquerade()]);
    chain.rule([Statement::not_in([Field::IpSaddr], "cluster-ips"), Statement::Masquerade { fully_random: false }]);
    chain.rule([
        Statement::Match {
            field: Field::CtExpiration,
            mask: None,
            op: nft::Compare::Gt,
            value: Bytes::new().number(10_000),
        },
        Statement::is(Field::CtDirection, Bytes::new().push(&[0])),
        Statement::accept(),
    ]);
}
