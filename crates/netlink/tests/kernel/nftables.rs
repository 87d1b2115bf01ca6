//! Rulesets in a real kernel: what we write is what we read, and what `nft` prints.

use crate::common::{Scratch, everything, id, ruleset, service};
use std::time::Duration;

use netlink::{Error, NfTables};
use nft::{Batch, Bytes, Element, Errno, Field, Op, Ruleset, SetRef, SetSpec, Statement, Table, diff};

fn load(nft: &mut NfTables, actual: &Ruleset, desired: &Ruleset) {
    let batch = diff(actual, desired);
    nft.commit(&batch).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_is_committed_is_read_back() {
    let scratch = Scratch::new();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    assert_eq!(nft.dump(&id()).unwrap().table, None);
    let before = nft.generation().unwrap();
    let desired = ruleset(everything());
    load(&mut nft, &Ruleset::default(), &desired);
    let snapshot = nft.dump(&id()).unwrap();
    assert_eq!(snapshot.generation, before + 1);
    let actual = snapshot.into_ruleset(id());
    for (name, set) in &desired.tables[&id()].sets {
        assert_eq!(&actual.tables[&id()].sets[name], set, "{name}");
    }
    for (name, chain) in &desired.tables[&id()].chains {
        assert_eq!(&actual.tables[&id()].chains[name], chain, "{name}");
    }
    assert!(actual == desired);
    assert!(diff(&actual, &desired).is_empty());
    load(&mut nft, &actual, &Ruleset::default());
    assert_eq!(nft.dump(&id()).unwrap().table, None);
}

#[test]
fn changes_are_taken_in_the_order_that_diff_gives() {
    let scratch = Scratch::new();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    let first = ruleset(everything());
    load(&mut nft, &Ruleset::default(), &first);

    let mut second = first.clone();
    let table = second.tables.get_mut(&id()).unwrap();
    // Same key with other data, one element less, a set declared otherwise, a chain gone, rules inserted and removed.
    let moved = Bytes::new().ipv4([10, 244, 9, 9].into()).port(9090);
    let endpoints = &mut table.sets.get_mut("endpoints4").unwrap().elements;
    endpoints.insert(service(1).number(0), Element::value(moved));
    endpoints.remove(&service(3).number(1));
    table.sets.get_mut("hairpin").unwrap().spec = SetSpec::set([Field::IpSaddr, Field::IpDaddr]).size(100).into();
    table.sets.get_mut("cluster-ips").unwrap().elements.pop_first();
    table.chains.remove("choose6");
    let rules = &mut table.chain("prerouting").rules;
    rules.remove(4);
    rules.insert(1, Statement::counter().into_rule());
    table.chain("postrouting").base.as_mut().unwrap().priority = 90;

    let actual = nft.dump(&id()).unwrap().into_ruleset(id());
    load(&mut nft, &actual, &second);
    let actual = nft.dump(&id()).unwrap().into_ruleset(id());
    assert!(diff(&actual, &second).is_empty(), "{:?}", diff(&actual, &second));
    assert!(actual == second);
}

trait IntoRule {
    fn into_rule(self) -> nft::Rule;
}

impl IntoRule for Statement {
    fn into_rule(self) -> nft::Rule {
        nft::Rule::new([self])
    }
}

#[test]
fn a_refused_batch_names_the_operation_and_changes_nothing() {
    let scratch = Scratch::new();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    let desired = ruleset(everything());
    load(&mut nft, &Ruleset::default(), &desired);
    let spec = desired.tables[&id()].sets["k2"].spec.clone();
    let set = SetRef { table: id(), name: "k2".into(), spec };
    let absent = vec![(service(77), Element::member())];
    let batch = Batch {
        ops: vec![
            Op::AddElements { set: set.clone(), elements: vec![(service(50), Element::member())] },
            Op::DeleteElements { set: set.clone(), elements: absent },
            Op::DeleteSet { set: SetRef { name: "missing".into(), ..set.clone() } },
        ],
    };
    match nft.commit(&batch).unwrap_err() {
        Error::Commit { op: Some(1), errno: Errno::ENOENT, what: Some(what), .. } => {
            assert_eq!(what, "delete 1 elements inet portolan k2");
        }
        other => panic!("{other}"),
    }
    let busy = Batch { ops: vec![Op::DeleteSet { set: set.clone() }] };
    assert_eq!(nft.commit(&busy).unwrap_err().errno(), Some(Errno::EBUSY));
    assert!(nft.dump(&id()).unwrap().into_ruleset(id()) == desired);
    let stale = nft.generation().unwrap();
    let add = Batch { ops: vec![Op::AddElements { set, elements: vec![(service(50), Element::member())] }] };
    nft.commit_at(stale, &add).unwrap();
    let refused = nft.commit_at(stale, &add).unwrap_err();
    assert!(refused.is_transient(), "{refused}");
}

#[test]
fn many_elements_go_in_one_batch() {
    let scratch = Scratch::new();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    let mut table = Table::default();
    let set = table.set("many", SetSpec::set([Field::IpDaddr, Field::ThDport]).size(40_000));
    for n in 0..20_000u32 {
        set.insert(Bytes::new().ipv4(n.into()).port(80), Element::member().comment("default/many"));
    }
    let desired = ruleset(table);
    load(&mut nft, &Ruleset::default(), &desired);
    let actual = nft.dump(&id()).unwrap().into_ruleset(id());
    assert!(actual == desired);
}

#[test]
fn what_packets_added_can_be_carried_over_with_its_age() {
    let scratch = Scratch::new();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    let mut table = Table::default();
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    let client = |n: u8| Bytes::new().ipv4([192, 0, 2, n].into());
    let set = table.set("clients", SetSpec::map([Field::IpSaddr], [Field::IpDaddr]).dynamic(hour));
    set.insert(client(1), Element::value(client(101)).timeout(2 * minute).expires(minute));
    set.insert(client(2), Element::value(client(102)).expires(minute));
    let desired = ruleset(table);
    let set = SetRef { table: id(), name: "clients".into(), spec: desired.tables[&id()].sets["clients"].spec.clone() };
    load(&mut nft, &Ruleset::default(), &desired);
    let read = nft.elements(&set).unwrap();
    assert_eq!(read, desired.tables[&id()].sets["clients"].elements);
    for element in read.values() {
        assert!(element.get_expires().unwrap() <= minute, "{element:?}");
    }
    // A later look at the same set finds nothing to change: its elements are the packets'.
    let empty = Ruleset {
        tables: [(id(), {
            let mut t = Table::default();
            t.set("clients", set.spec.clone());
            t
        })]
        .into(),
    };
    assert!(diff(&nft.dump(&id()).unwrap().into_ruleset(id()), &empty).is_empty());
}

#[test]
fn a_table_can_be_deleted_whether_or_not_it_is_there() {
    let scratch = Scratch::new();
    let mut nft = NfTables::open(&scratch.ns).unwrap();
    let delete = |must_exist| Batch { ops: vec![Op::DeleteTable { table: id(), must_exist }] };
    nft.commit(&delete(false)).unwrap();
    load(&mut nft, &Ruleset::default(), &ruleset(everything()));
    nft.commit(&delete(false)).unwrap();
    assert_eq!(nft.dump(&id()).unwrap().table, None);
    assert_eq!(nft.commit(&delete(true)).unwrap_err().errno(), Some(Errno::ENOENT));
}
