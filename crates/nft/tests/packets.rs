//! Packets through typed rules: what the tracer says a small Service table does.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::Duration;

use nft::trace::{Event, Fate, Outcome, Packet, Translation, World, hook};
use nft::{
    AddrType, Base, Bytes, ChainKind, CtState, CtStatus, DynsetOp, Element, Family, Field, Hook, NatKind, Reject, Rule,
    Ruleset, SetSpec, Statement, Table, TableId, Value, Verdict,
};

const NUMBERED: [Field; 4] = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::NumgenRandom { modulus: 2 }];
const CLIENT: [Field; 4] = [Field::IpSaddr, Field::IpDaddr, Field::L4Proto, Field::ThDport];

/// Always the same number, and one local address.
struct Fixed(u32);

impl World for Fixed {
    fn number(&mut self, modulus: u32) -> u32 {
        self.0 % modulus
    }

    fn address_type(&self, address: IpAddr) -> AddrType {
        if address == ip("192.0.2.10") { AddrType::Local } else { AddrType::Unicast }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(text: &str) -> Bytes {
    Bytes::new().ip(ip(text))
}

fn service(text: &str) -> Bytes {
    v4(text).proto(6).port(80)
}

fn table() -> Ruleset {
    let mut table = Table::default();
    table.set("endpoints", SetSpec::map(NUMBERED, [Field::IpDaddr, Field::ThDport]));
    for (index, endpoint) in ["10.244.0.5", "10.244.1.5"].into_iter().enumerate() {
        let element = Element::value(v4(endpoint).port(8080)).comment("default/web:http");
        table.set_mut("endpoints").insert(service("10.96.0.1").number(index as u32), element);
    }
    table.set("two", SetSpec::set(Field::SERVICE4).counter()).insert(service("10.96.0.1"), Element::member());
    table.set("vips", SetSpec::set([Field::IpDaddr])).insert(v4("10.96.0.1"), Element::member());
    table
        .set("hairpin", SetSpec::set([Field::IpSaddr, Field::IpDaddr]))
        .insert(v4("10.244.0.5").ip(ip("10.244.0.5")), Element::member());
    table.set("allowed", SetSpec::set(Field::SERVICE4.into_iter().chain([Field::IpSaddr])).interval()).insert(
        service("10.96.0.9").ip(ip("198.51.100.0")),
        Element::member().to(service("10.96.0.9").ip(ip("198.51.100.255"))),
    );
    table.set("sticky", SetSpec::map(CLIENT, [Field::IpDaddr]).dynamic(Duration::from_secs(60)));
    table.chain("choose").rule([Statement::dnat_map(false, NUMBERED, "endpoints")]);
    let refuse = table.chain("refuse");
    refuse.rule([Statement::l4proto(6), Statement::Reject(Reject::TcpReset)]);
    refuse.rule([Statement::Reject(Reject::Icmpx(1))]);
    let chain = table.chain("prerouting");
    chain.base = Some(Base::new(ChainKind::Nat, Hook::Prerouting, -100));
    chain.rule([
        Statement::daddr(ip("10.96.0.9")),
        Statement::not_in(Field::SERVICE4.into_iter().chain([Field::IpSaddr]), "allowed"),
        Statement::drop(),
    ]);
    chain.rule([Statement::lookup(Field::SERVICE4, "two"), Statement::goto("choose")]);
    chain.rule([Statement::lookup([Field::IpDaddr], "vips"), Statement::goto("refuse")]);
    chain.rule([Statement::fib_daddr(AddrType::Local), Statement::jump("local")]);
    table.chain("local").rule([Statement::or_mark(0x10), Statement::ret()]);
    let update = Statement::Dynset {
        op: DynsetOp::Update,
        set: "sticky".into(),
        key: CLIENT.to_vec(),
        timeout: None,
        data: Some(Value::Fields(vec![Field::IpSaddr])),
    };
    table.chain("prerouting").rule([Statement::l4proto(17), update]);
    let chain = table.chain("postrouting");
    chain.base = Some(Base::new(ChainKind::Nat, Hook::Postrouting, 100));
    chain.rule([
        Statement::ct_status(CtStatus::DNAT),
        Statement::lookup([Field::IpSaddr, Field::IpDaddr], "hairpin"),
        Statement::masquerade(),
    ]);
    Ruleset { tables: [(TableId::new(Family::Inet, "portolan"), table)].into() }
}

trait SetMut {
    fn set_mut(&mut self, name: &str) -> &mut nft::Set;
}

impl SetMut for Table {
    fn set_mut(&mut self, name: &str) -> &mut nft::Set {
        self.sets.get_mut(name).unwrap()
    }
}

fn tcp(source: &str, destination: &str) -> Packet {
    Packet::new(6, (ip(source), 40_000), (ip(destination), 80))
}

fn prerouting(rules: &mut Ruleset, packet: &mut Packet, number: u32) -> Outcome {
    hook(rules, Hook::Prerouting, packet, &mut Fixed(number))
}

#[test]
fn the_number_chooses_the_endpoint() {
    let mut rules = table();
    for (number, endpoint) in [(0, "10.244.0.5"), (1, "10.244.1.5"), (2, "10.244.0.5")] {
        let mut packet = tcp("10.244.0.9", "10.96.0.1");
        let outcome = prerouting(&mut rules, &mut packet, number);
        let nat = Translation::Nat { kind: NatKind::Dnat, address: ip(endpoint), port: Some(8080) };
        assert_eq!((outcome.fate, &outcome.nat[..]), (Fate::Accepted, &[nat][..]));
        assert_eq!((packet.destination, packet.destination_port), (ip(endpoint), 8080));
        let found = outcome.steps.iter().find_map(|step| match &step.event {
            Event::Lookup { set, found: Some((_, element)), .. } if &**set == "endpoints" => element.comment.clone(),
            _ => None,
        });
        assert_eq!(found.as_deref(), Some("default/web:http"));
    }
    let table = rules.tables.values().next().unwrap();
    assert_eq!(table.sets["two"].elements[&service("10.96.0.1")].get_counter().unwrap().packets, 3);
}

#[test]
fn a_port_without_service_is_refused_by_protocol() {
    let mut rules = table();
    let mut packet = tcp("10.244.0.9", "10.96.0.1");
    packet.destination_port = 81;
    assert_eq!(prerouting(&mut rules, &mut packet, 0).fate, Fate::Rejected(Reject::TcpReset));
    packet.protocol = 17;
    assert_eq!(prerouting(&mut rules, &mut packet, 0).fate, Fate::Rejected(Reject::Icmpx(1)));
}

#[test]
fn only_the_first_packet_of_a_connection_meets_nat() {
    let mut rules = table();
    let mut packet = tcp("10.244.0.9", "10.96.0.1");
    packet.connection.state = CtState::ESTABLISHED;
    assert!(prerouting(&mut rules, &mut packet, 0).steps.is_empty());
}

#[test]
fn ranges_decide_by_component() {
    let mut rules = table();
    for (client, fate) in [("198.51.100.77", Fate::Accepted), ("203.0.113.1", Fate::Dropped)] {
        assert_eq!(prerouting(&mut rules, &mut tcp(client, "10.96.0.9"), 0).fate, fate);
    }
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let mut rules = table();
    let mut packet = tcp("10.244.0.5", "10.96.0.1");
    prerouting(&mut rules, &mut packet, 0);
    let outcome = hook(&mut rules, Hook::Postrouting, &mut packet, &mut Fixed(0));
    assert_eq!(outcome.nat, [Translation::Masquerade]);
    let mut other = tcp("10.244.0.9", "10.96.0.1");
    prerouting(&mut rules, &mut other, 0);
    assert!(hook(&mut rules, Hook::Postrouting, &mut other, &mut Fixed(0)).nat.is_empty());
}

#[test]
fn a_jump_comes_back_and_packets_write_to_sets() {
    let mut rules = table();
    let mut packet = Packet::new(17, (ip("198.51.100.1"), 5000), (ip("192.0.2.10"), 53));
    let outcome = prerouting(&mut rules, &mut packet, 0);
    assert_eq!((outcome.fate, packet.mark), (Fate::Accepted, 0x10));
    let returned = outcome.steps.iter().any(|step| step.event == Event::Verdict(Verdict::Return));
    assert!(returned);
    let key = v4("198.51.100.1").ip(ip("192.0.2.10")).proto(17).port(53);
    let table = rules.tables.values().next().unwrap();
    assert_eq!(table.sets["sticky"].elements[&key].data, nft::Data::Value(v4("198.51.100.1")));
}

#[test]
fn a_write_to_the_packet_leaves_the_connection() {
    let mut rules = table();
    let table = rules.tables.values_mut().next().unwrap();
    table.set("class", SetSpec::map(Field::SERVICE4, [Field::IpDaddr]));
    table.set_mut("class").insert(service("10.96.0.2"), Element::value(v4("0.0.0.2")));
    table.set("classes", SetSpec::verdict_map([Field::IpDaddr]));
    table.set_mut("classes").insert(v4("0.0.0.2"), Element::verdict(Verdict::Goto("by-class".into())));
    let original = [Field::CtOriginalIpDaddr, Field::L4Proto, Field::ThDport, Field::NumgenRandom { modulus: 1 }];
    table.chain("by-class").rule([Statement::dnat_map(false, original, "endpoints")]);
    table.set_mut("endpoints").insert(service("10.96.0.2").number(0), Element::value(v4("10.244.2.2").port(81)));
    let classify = Rule::new([
        Statement::set_field(Field::IpDaddr, Field::SERVICE4, "class"),
        Statement::vmap([Field::IpDaddr], "classes"),
    ]);
    table.chain("prerouting").rules.insert(0, classify);
    let mut packet = tcp("10.244.0.9", "10.96.0.2");
    prerouting(&mut rules, &mut packet, 5);
    assert_eq!((packet.destination, packet.destination_port), (ip("10.244.2.2"), 81));
}

#[test]
fn ipv6_packets_do_not_match_ipv4_rules() {
    let mut rules = table();
    let mut packet = Packet::new(6, (ip("fd00::9"), 40_000), (ip("fd00::1"), 80));
    let outcome = prerouting(&mut rules, &mut packet, 0);
    assert_eq!((outcome.fate, outcome.nat.len()), (Fate::Accepted, 0));
}
