//! The layout that this project does without: a chain for each Service and for each endpoint, with the rules that kube-proxy 1.36 has in
//! nftables mode for the same duties. It is the yardstick for what a packet costs, so it masquerades, filters and refuses as ours does.
//!
//! What is empty here (load-balancer source ranges, node ports, Services without endpoints) is asked all the same, as there.

use nft::{
    Base, Bytes, ChainKind, CtState, Element, Family, Field, Hook, NatKind, NatTarget, Reject, Ruleset, Set, SetSpec,
    Statement, Table, TableId, Verdict,
};

use crate::objects::{ENDPOINTS, endpoint, vip};
use crate::ratios::PODS;
use crate::server::PORT;

/// kube-proxy's `masqueradeBit`.
const MARK: u32 = 0x4000;
const FRONTEND: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];

pub fn chains(services: usize) -> Ruleset {
    let mut table = Table::default();
    let pods = table.set("pods", SetSpec::set([Field::IpSaddr]).interval());
    pods.insert(Bytes::new().ip(PODS.network().into()), Element::member().to(Bytes::new().ip(PODS.broadcast().into())));
    table.set("cluster-ips", SetSpec::set([Field::IpDaddr]));
    let mut frontends = Set::new(SetSpec::verdict_map(FRONTEND));
    for n in 0..services {
        let name = service(&mut table, n);
        let key = Bytes::new().ipv4(vip(n)).proto(6).port(80);
        frontends.insert(key, Element::verdict(Verdict::Goto(name.as_str().into())));
        table.sets.get_mut("cluster-ips").unwrap().insert(Bytes::new().ipv4(vip(n)), Element::member());
    }
    table.sets.insert("service-ips".into(), frontends);
    nat(&mut table);
    filter(&mut table);
    Ruleset { tables: [(TableId::new(Family::Ip, "chains"), table)].into() }
}

/// A Service's chain, which draws a number, and a chain for each endpoint.
fn service(table: &mut Table, n: usize) -> String {
    let name = format!("service-{n}");
    let random = [Field::NumgenRandom { modulus: ENDPOINTS as u32 }];
    let mut choice = Set::new(SetSpec::verdict_map(random));
    for index in 0..ENDPOINTS {
        let chain = format!("endpoint-{n}-{index}");
        choice.insert(Bytes::new().number(index as u32), Element::verdict(Verdict::Goto(chain.as_str().into())));
        let itself = Statement::is(Field::IpSaddr, Bytes::new().ipv4(endpoint(n, index)));
        let to = NatTarget::V4(endpoint(n, index), Some(PORT));
        let chain = table.chain(&chain);
        chain.rule([itself, Statement::jump("mark-for-masquerade")]);
        chain.rule([Statement::l4proto(6), Statement::Nat { kind: NatKind::Dnat, to }]);
    }
    table.sets.insert(name.as_str().into(), choice);
    let chain = table.chain(&name);
    chain.rule([
        Statement::is(Field::IpDaddr, Bytes::new().ipv4(vip(n))),
        Statement::l4proto(6),
        Statement::is(Field::ThDport, Bytes::new().port(80)),
        Statement::not_in([Field::IpSaddr], "pods"),
        Statement::jump("mark-for-masquerade"),
    ]);
    chain.rule([Statement::vmap(random, &name)]);
    name
}

fn nat(table: &mut Table) {
    table.set("nodeport-ips", SetSpec::set([Field::IpDaddr]));
    table.set("service-nodeports", SetSpec::verdict_map([Field::L4Proto, Field::ThDport]));
    let services = table.chain("services");
    services.rule([Statement::vmap(FRONTEND, "service-ips")]);
    services.rule([
        Statement::lookup([Field::IpDaddr], "nodeport-ips"),
        Statement::vmap([Field::L4Proto, Field::ThDport], "service-nodeports"),
    ]);
    table.chain("mark-for-masquerade").rule([Statement::or_mark(MARK)]);
    let masquerading = table.chain("masquerading");
    masquerading.rule([Statement::mark(0, MARK), Statement::ret()]);
    masquerading.rule([Statement::UpdateMark { mask: u32::MAX, xor: MARK }]);
    masquerading.rule([Statement::masquerade()]);
    for (name, hook, priority, to) in [
        ("nat-prerouting", Hook::Prerouting, -100, "services"),
        ("nat-output", Hook::Output, -100, "services"),
        ("nat-postrouting", Hook::Postrouting, 100, "masquerading"),
    ] {
        let chain = table.chain(name);
        chain.base = Some(Base::new(ChainKind::Nat, hook, priority));
        chain.rule([Statement::jump(to)]);
    }
}

fn filter(table: &mut Table) {
    table.set("firewall-ips", SetSpec::verdict_map(FRONTEND));
    table.set("no-endpoint-services", SetSpec::verdict_map(FRONTEND));
    table.set("no-endpoint-nodeports", SetSpec::verdict_map([Field::L4Proto, Field::ThDport]));
    table.chain("firewall-check").rule([Statement::vmap(FRONTEND, "firewall-ips")]);
    table.chain("service-endpoints-check").rule([Statement::vmap(FRONTEND, "no-endpoint-services")]);
    table.chain("nodeport-endpoints-check").rule([
        Statement::lookup([Field::IpDaddr], "nodeport-ips"),
        Statement::vmap([Field::L4Proto, Field::ThDport], "no-endpoint-nodeports"),
    ]);
    table
        .chain("cluster-ips-check")
        .rule([Statement::lookup([Field::IpDaddr], "cluster-ips"), Statement::Reject(Reject::Icmp(3))]);
    for (name, hook, priority, checks) in [
        ("filter-prerouting", Hook::Prerouting, -110, &["firewall-check"][..]),
        ("filter-input", Hook::Input, -110, &["nodeport-endpoints-check", "service-endpoints-check"]),
        ("filter-forward", Hook::Forward, -110, &["service-endpoints-check", "cluster-ips-check"]),
        ("filter-output", Hook::Output, -110, &["service-endpoints-check", "firewall-check"]),
        ("filter-output-post-dnat", Hook::Output, -90, &["cluster-ips-check"]),
    ] {
        let chain = table.chain(name);
        chain.base = Some(Base::new(ChainKind::Filter, hook, priority));
        for check in checks {
            chain.rule([Statement::ct_state(&[CtState::NEW]), Statement::jump(check)]);
        }
    }
}
