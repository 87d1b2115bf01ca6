//! Random tables that a kernel takes: sets of every shape that we use, and rules that refer to them.

use std::time::Duration;

use nft::{
    AddrType, Base, Bytes, ChainKind, Compare, CtState, CtStatus, DynsetOp, Element, Family, Field, Hook, Limit,
    NatKind, NatTarget, Policy, Reject, Rule, Ruleset, Set, SetSpec, Statement, Table, TableId, Value, Verdict,
};
use proptest::collection::vec;
use proptest::prelude::*;

const NUMBERED: [Field; 4] = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::NumgenRandom { modulus: 2 }];
const CLIENT6: [Field; 4] = [Field::Ip6Saddr, Field::Ip6Daddr, Field::L4Proto, Field::ThDport];

/// The shapes of sets; a set's name says its shape, so that rules can refer to it rightly.
pub fn spec(shape: usize, size: Option<u32>, comment: bool) -> SetSpec {
    let mut spec = match shape {
        0 => SetSpec::set(Field::SERVICE4),
        1 => SetSpec::map(NUMBERED, [Field::IpDaddr, Field::ThDport]),
        2 => SetSpec::set([Field::IpDaddr]).interval(),
        3 => SetSpec::set(Field::SERVICE4.into_iter().chain([Field::IpSaddr])).interval(),
        4 => SetSpec::verdict_map([Field::Mark]),
        5 => SetSpec::map([Field::ThDport], [Field::Mark]),
        6 => SetSpec::map(CLIENT6, [Field::Ip6Daddr, Field::ThDport]),
        _ => SetSpec::map([Field::IpSaddr, Field::IpDaddr], [Field::IpDaddr]).dynamic(Duration::from_secs(60)),
    };
    spec.size = size.or(spec.size);
    if comment { spec.comment("what it is for") } else { spec }
}

fn element(shape: usize, seed: u32, comment: bool) -> (Bytes, Element) {
    let [a, b, c, d] = seed.to_be_bytes();
    let v4 = Bytes::new().ipv4([10, a, b, c].into());
    let v6 = |last: u8| std::net::Ipv6Addr::from([0xfd, 0, a, b, c, 0, 0, 0, 0, 0, 0, 0, 0, 0, d, last]);
    let service = v4.clone().proto(6).port(u16::from(d));
    let (key, element) = match shape {
        0 => (service, Element::member()),
        1 => (service.number(seed % 5), Element::value(v4.port(8000 + u16::from(d)))),
        // Ranges of sixteen addresses that never overlap.
        2 => {
            let start = Bytes::new().ipv4([10, a, b, c & 0xf0].into());
            let end = Bytes::new().ipv4([10, a, b, c & 0xf0 | d & 0xf].into());
            (start.clone(), if start == end { Element::member() } else { Element::member().to(end) })
        }
        3 => {
            let end = service.clone().ipv4([192, 0, 2, 255].into());
            (service.ipv4([192, 0, 2, 0].into()), Element::member().to(end))
        }
        4 => (Bytes::new().number(seed % 64), Element::verdict(Verdict::Goto("z".into()))),
        5 => (Bytes::new().port(d.into()), Element::value(Bytes::new().number(a.into()))),
        6 => {
            (Bytes::new().ipv6(v6(1)).ipv6(v6(2)).proto(17).port(53), Element::value(Bytes::new().ipv6(v6(3)).port(53)))
        }
        _ => (v4.clone().ipv4([10, 0, 0, 1].into()), Element::value(v4).timeout(Duration::from_secs(5))),
    };
    (key, if comment { element.comment(format!("default/{seed}")) } else { element })
}

pub fn set() -> impl Strategy<Value = (usize, Set)> {
    (0..8usize, prop_oneof![3 => Just(None), 1 => Just(Some(1000u32))], any::<bool>())
        .prop_flat_map(|(shape, size, comment)| {
            (Just(shape), Just(spec(shape, size, comment)), vec((0..200u32, any::<bool>()), 0..20))
        })
        .prop_map(|(shape, spec, seeds)| {
            let mut set = Set::new(spec);
            for (seed, comment) in seeds {
                let (key, element) = element(shape, seed.wrapping_mul(2_654_435_761), comment);
                set.insert(key, element);
            }
            (shape, set)
        })
}

/// Statements that any table with all shapes of sets takes.
fn statement() -> impl Strategy<Value = Statement> {
    let compare = prop_oneof![
        Just(Compare::Eq),
        Just(Compare::Ne),
        Just(Compare::Lt),
        Just(Compare::Le),
        Just(Compare::Gt),
        Just(Compare::Ge)
    ];
    let affinity = |op, timeout, data| Statement::Dynset {
        op,
        set: "s7".into(),
        key: vec![Field::IpSaddr, Field::IpDaddrHigh],
        timeout,
        data,
    };
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Statement::daddr(std::net::IpAddr::from(ip))),
        any::<[u8; 16]>().prop_map(|ip| Statement::daddr(std::net::IpAddr::from(ip))),
        (any::<u16>(), compare.clone()).prop_map(|(port, op)| Statement::Match {
            field: Field::ThDport,
            mask: None,
            op,
            value: Bytes::new().port(port)
        }),
        (any::<u32>(), compare).prop_map(|(value, op)| Statement::Match {
            field: Field::CtExpiration,
            mask: None,
            op,
            value: Bytes::new().number(value)
        }),
        (any::<u16>(), any::<u16>(), any::<bool>()).prop_map(|(a, b, negate)| Statement::Range {
            field: Field::ThSport,
            first: Bytes::new().port(a.min(b)),
            last: Bytes::new().port(a.max(b)),
            negate
        }),
        (any::<u32>(), 1..u32::MAX).prop_map(|(value, mask)| Statement::mark(value & mask, mask)),
        (1..u32::MAX).prop_map(Statement::or_mark),
        Just(Statement::SetMark(Value::Const(Bytes::new().number(7)))),
        Just(Statement::SetMark(Value::map([Field::ThDport], "s5"))),
        Just(Statement::SetCtMark(Value::Fields(vec![Field::Mark]))),
        Just(Statement::is_not(Field::Iifname, Bytes::new().interface("cni0"))),
        "[a-z]{1,15}".prop_map(|name| Statement::is(Field::Iifname, Bytes::interfaces(&name))),
        Just(Statement::ct_state(&[CtState::NEW, CtState::ESTABLISHED])),
        Just(Statement::Flags { field: Field::CtStatus, bits: CtStatus::DNAT.0, negate: true }),
        Just(Statement::lookup(Field::SERVICE4, "s0")),
        Just(Statement::not_in([Field::IpDaddr], "s2")),
        Just(Statement::lookup([Field::CtOriginalIpDaddr], "s2")),
        Just(Statement::vmap([Field::Mark], "s4")),
        Just(affinity(DynsetOp::Update, Some(Duration::from_secs(9)), Some(Value::Fields(vec![Field::IpDaddr])))),
        Just(affinity(DynsetOp::Delete, None, Some(Value::Fields(vec![Field::IpDaddr])))),
        Just(Statement::dnat_map(false, NUMBERED, "s1")),
        Just(Statement::dnat_map(true, CLIENT6, "s6")),
        any::<([u8; 4], Option<u16>)>()
            .prop_map(|(ip, port)| Statement::Nat { kind: NatKind::Snat, to: NatTarget::V4(ip.into(), port) }),
        Just(Statement::set_field(Field::IpDaddr, [Field::IpSaddr, Field::IpDaddrHigh], "s7")),
        Just(Statement::fib_daddr(AddrType::Local)),
        any::<bool>().prop_map(|fully_random| Statement::Masquerade { fully_random }),
        prop_oneof![
            Just(Reject::TcpReset),
            (0..3u8).prop_map(Reject::Icmpx),
            (0..3u8).prop_map(Reject::Icmp),
            (0..3u8).prop_map(Reject::Icmpv6)
        ]
        .prop_map(Statement::Reject),
        Just(Statement::counter()),
        any::<bool>().prop_map(|over| Statement::Limit(Limit { rate: 5, per_seconds: 60, burst: 3, over })),
        Just(Statement::Log { prefix: "x".into(), level: None }),
        Just(Statement::Notrack),
        Just(Statement::accept()),
        Just(Statement::goto("z")),
    ]
}

pub fn rule() -> impl Strategy<Value = Rule> {
    (vec(statement(), 1..4), any::<bool>()).prop_map(|(statements, comment)| {
        let rule = Rule::new(statements);
        if comment { rule.comment("why") } else { rule }
    })
}

/// A table in which every shape of set exists as `s0` to `s7`, perhaps with elements, and chains `a` to `d` and `z`.
fn table() -> impl Strategy<Value = Table> {
    let base = prop_oneof![
        Just(None),
        Just(Some(Base::new(ChainKind::Nat, Hook::Prerouting, -100))),
        Just(Some(Base { policy: Policy::Drop, ..Base::new(ChainKind::Filter, Hook::Input, 0) })),
    ];
    let chains = vec((0..4usize, base, vec(rule(), 0..5)), 0..4);
    (vec(set(), 0..6), chains).prop_map(|(sets, chains)| {
        let mut table = Table::default();
        for shape in 0..8 {
            table.set(&format!("s{shape}"), spec(shape, None, false));
        }
        for (shape, set) in sets {
            table.sets.insert(format!("s{shape}").into(), set);
        }
        table.chain("z");
        for (name, base, rules) in chains {
            let chain = table.chain(["a", "b", "c", "d"][name]);
            (chain.base, chain.rules) = (base, rules);
        }
        table
    })
}

/// A ruleset with the table, without some sets that no rule needs.
pub fn ruleset() -> impl Strategy<Value = Ruleset> {
    let family = prop_oneof![Just(Family::Inet), Just(Family::Ip)];
    (family, prop_oneof![9 => table().prop_map(Some), 1 => Just(None)], any::<u8>()).prop_map(
        |(family, table, keep)| {
            let Some(mut table) = table else { return Ruleset::default() };
            let used: Vec<_> = rules(&table).flat_map(|s| s.sets().into_iter().cloned().collect::<Vec<_>>()).collect();
            let shape = |name: &str| name[1..].parse::<u8>().unwrap();
            if family == Family::Ip {
                let v6 = |statement: &Statement| matches!(statement, Statement::Reject(Reject::Icmpv6(_)));
                for chain in table.chains.values_mut() {
                    chain.rules.retain(|rule| !rule.statements.iter().any(v6));
                }
            }
            table.sets.retain(|name, _| keep & 1 << shape(name) != 0 || used.contains(name));
            Ruleset { tables: [(TableId::new(family, "t"), table)].into() }
        },
    )
}

fn rules(table: &Table) -> impl Iterator<Item = &Statement> {
    table.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements)
}
