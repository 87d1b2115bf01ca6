//! Real packets through rules that we wrote: DNAT by a map, and flows forgotten.

use std::net::UdpSocket;
use std::time::Duration;

use crate::common::{Scratch, id, ruleset};
use netlink::{Conntrack, Monitor, NfTables, Notice};
use nft::{
    Base, Bytes, ChainKind, CtStatus, Element, Field, Hook, Op, Ruleset, SetRef, SetSpec, Statement, Table, diff,
};

const UDP: u8 = 17;

/// Everything sent to 10.96.0.1:53 goes to one address and port of the machine itself.
fn table(port: u16) -> Table {
    let mut table = Table::default();
    let key = [Field::IpDaddr, Field::L4Proto, Field::ThDport];
    table.set("endpoints", SetSpec::map(key, [Field::IpDaddr, Field::ThDport])).insert(
        Bytes::new().ipv4([10, 96, 0, 1].into()).proto(UDP).port(53),
        Element::value(Bytes::new().ipv4([127, 0, 0, 1].into()).port(port)).comment("kube-system/dns:dns"),
    );
    let output = table.chain("output");
    output.base = Some(Base::new(ChainKind::Nat, Hook::Output, -100));
    output.rule([Statement::dnat_map(false, key, "endpoints")]);
    table
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (len, _) = socket.recv_from(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

#[test]
fn a_forgotten_flow_chooses_anew() {
    let scratch = Scratch::new();
    let route = || std::process::Command::new("ip").args("route add 10.96.0.0/16 dev lo".split(' ')).status().unwrap();
    assert!(scratch.ns.run(route).unwrap().success());
    let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (one, two, client) = scratch.ns.run(|| (bind(), bind(), bind())).unwrap();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    let first = ruleset(table(one.local_addr().unwrap().port()));
    let second = ruleset(table(two.local_addr().unwrap().port()));
    nft.commit(&diff(&Ruleset::default(), &first)).unwrap();
    client.send_to(b"a", "10.96.0.1:53").unwrap();
    assert_eq!(receive(&one), b"a");

    // The rules have changed, but the flow is remembered.
    nft.commit(&diff(&first, &second)).unwrap();
    client.send_to(b"b", "10.96.0.1:53").unwrap();
    assert_eq!(receive(&one), b"b");

    let mut conntrack = Conntrack::open(&scratch.ns).unwrap();
    let vip = "10.96.0.1:53".parse().unwrap();
    let flows = conntrack.list(UDP, |flow| flow.original.destination == vip).unwrap();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].original.source, client.local_addr().unwrap());
    assert_eq!(flows[0].reply.source, one.local_addr().unwrap());
    assert_ne!(flows[0].status & CtStatus::DNAT.0, 0);
    assert!(!flows[0].is_answered());
    one.send_to(b"back", flows[0].reply.destination).unwrap();
    assert_eq!(receive(&client), b"back");
    let flows = conntrack.list(UDP, |flow| flow.original.destination == vip).unwrap();
    assert!(flows[0].is_answered());
    assert!(conntrack.list(6, |_| true).unwrap().is_empty());
    assert_eq!(conntrack.count(|flow| flow.original.destination == vip).unwrap(), 1);
    assert_eq!(conntrack.count(|flow| flow.protocol == 6).unwrap(), 0);
    assert_eq!(conntrack.delete_where(UDP, |flow| flow.original.destination == vip).unwrap(), 1);
    assert!(!conntrack.delete(&flows[0]).unwrap());
    client.send_to(b"c", "10.96.0.1:53").unwrap();
    assert_eq!(receive(&two), b"c");
}

#[tokio::test]
async fn changes_by_others_are_heard() {
    let scratch = Scratch::new();
    let mut monitor = Monitor::open(&scratch.ns).unwrap();
    let mut ours = NfTables::open(&scratch.ns).unwrap();
    let mut theirs = NfTables::open(&scratch.ns).unwrap();
    let desired = ruleset(table(5353));
    ours.commit(&diff(&Ruleset::default(), &desired)).unwrap();
    let port = commit(&mut monitor).await.0;
    assert_eq!(port, ours.port());
    let spec = desired.tables[&id()].sets["endpoints"].spec.clone();
    let set = SetRef { table: id(), name: "endpoints".into(), spec };
    theirs.commit(&nft::Batch { ops: vec![Op::FlushSet { set }] }).unwrap();
    let (port, changes) = commit(&mut monitor).await;
    assert_eq!((port, changes), (theirs.port(), 1));
}

/// Waits for a whole commit: who made it, and how many changes it had.
async fn commit(monitor: &mut Monitor) -> (u32, usize) {
    let mut changes = 0;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), monitor.next());
        match next.await.expect("a commit is announced").unwrap() {
            Notice::Change { .. } => changes += 1,
            Notice::Commit { port, .. } => return (port, changes),
            Notice::Lost => panic!("nothing can be lost here"),
        }
    }
}
