//! The layouts that are compared, each for the same Services.

use std::net::Ipv4Addr;

use nft::{
    Base, Batch, Bytes, ChainKind, Element, Family, Field, Hook, NatKind, NatTarget, Op, Ruleset, SetRef, SetSpec,
    Statement, Table, TableId, Value, Verdict,
};

/// What is laid out: Service `n` has `endpoints - n % classes` endpoints, which are in one of `shards` maps.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub services: usize,
    pub endpoints: usize,
    pub classes: usize,
    pub shards: usize,
}

/// The Services that are treated alike: as many endpoints, in the same map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    size: u32,
    shard: usize,
}

impl Class {
    fn chain(self) -> String {
        format!("mod-{}-{}", self.size, self.shard)
    }

    fn map(self) -> String {
        format!("endpoints-{}", self.shard)
    }

    fn number(self) -> u32 {
        self.size | (self.shard as u32) << 16
    }
}

impl Plan {
    pub fn vip(n: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + n as u32 + 1)
    }

    pub fn size(&self, service: usize) -> u32 {
        (self.endpoints - service % self.classes) as u32
    }

    fn endpoint(&self, service: usize, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + (service * self.endpoints) as u32 + index)
    }

    fn class(&self, service: usize) -> Class {
        Class { size: self.size(service), shard: service / self.classes % self.shards }
    }

    fn all_classes(&self) -> impl Iterator<Item = Class> + '_ {
        (0..self.classes * self.shards).map(|service| self.class(service))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A set for each number of endpoints, asked one after the other.
    SetForEachClass,
    /// One map to the class, which travels in the packet's mark.
    Mark,
    /// One map to the class, which travels in the packet's destination until DNAT overwrites that.
    Destination,
    /// One map from the frontend to a verdict.
    VerdictMap,
    /// A chain for each Service and each endpoint.
    Chains,
}

const UDP: u8 = 17;
const PORT: u16 = 53;

impl Layout {
    pub const ALL: [Layout; 5] =
        [Layout::SetForEachClass, Layout::Mark, Layout::Destination, Layout::VerdictMap, Layout::Chains];

    pub fn name(self) -> &'static str {
        match self {
            Layout::SetForEachClass => "a set for each class",
            Layout::Mark => "class in the mark",
            Layout::Destination => "class in the address",
            Layout::VerdictMap => "verdict map",
            Layout::Chains => "chains",
        }
    }

    pub fn ruleset(self, plan: &Plan) -> Ruleset {
        let mut table = Table::default();
        let base = Base::new(ChainKind::Nat, Hook::Prerouting, -100);
        table.chain("prerouting").base = Some(base);
        if self == Layout::Chains {
            chains(&mut table, plan);
        } else {
            self.maps(&mut table, plan);
        }
        Ruleset { tables: [(id(), table)].into() }
    }

    fn maps(self, table: &mut Table, plan: &Plan) {
        for shard in 0..plan.shards {
            let endpoints = table.set(&format!("endpoints-{shard}"), endpoints_spec(plan));
            for service in (0..plan.services).filter(|service| plan.class(*service).shard == shard) {
                for index in 0..plan.size(service) {
                    let (key, element) = endpoint(plan, service, index);
                    endpoints.insert(key, element);
                }
            }
        }
        for class in plan.all_classes() {
            let address = if self == Layout::Destination { Field::CtOriginalIpDaddr } else { Field::IpDaddr };
            let key = [address, Field::L4Proto, Field::ThDport, Field::NumgenRandom { modulus: class.size }];
            table.chain(&class.chain()).rule([Statement::dnat_map(false, key, &class.map())]);
        }
        match self {
            Layout::SetForEachClass => {
                for class in plan.all_classes() {
                    let name = format!("k{}-{}", class.size, class.shard);
                    let set = table.set(&name, SetSpec::set(Field::SERVICE4).size(1 << 17));
                    for service in (0..plan.services).filter(|service| plan.class(*service) == class) {
                        set.insert(frontend(service), Element::member());
                    }
                    let rule = [Statement::lookup(Field::SERVICE4, &name), Statement::goto(&class.chain())];
                    table.chain("prerouting").rule(rule);
                }
            }
            Layout::VerdictMap => {
                let map = table.set("frontends", SetSpec::verdict_map(Field::SERVICE4).size(1 << 17));
                for service in 0..plan.services {
                    let verdict = Verdict::Goto(plan.class(service).chain().as_str().into());
                    map.insert(frontend(service), Element::verdict(verdict));
                }
                table.chain("prerouting").rule([Statement::vmap(Field::SERVICE4, "frontends")]);
            }
            Layout::Mark => self.classes(table, plan, Field::Mark, |class| Bytes::new().number(class)),
            Layout::Destination => {
                self.classes(table, plan, Field::IpDaddr, |class| Bytes::new().ipv4(Ipv4Addr::from_bits(class)));
            }
            Layout::Chains => {}
        }
    }

    /// A map from the frontend to the class, which is written to `scratch` and read again by a small verdict map.
    fn classes(self, table: &mut Table, plan: &Plan, scratch: Field, scratch_of: impl Fn(u32) -> Bytes) {
        let map = table.set("frontends", SetSpec::map(Field::SERVICE4, [scratch]).size(1 << 17));
        for service in 0..plan.services {
            map.insert(frontend(service), Element::value(scratch_of(plan.class(service).number())));
        }
        let map = table.set("classes", SetSpec::verdict_map([scratch]));
        for class in plan.all_classes() {
            let verdict = Verdict::Goto(class.chain().as_str().into());
            map.insert(scratch_of(class.number()), Element::verdict(verdict));
        }
        let write = match self {
            Layout::Mark => Statement::SetMark(Value::map(Field::SERVICE4, "frontends")),
            Layout::Destination | Layout::SetForEachClass | Layout::VerdictMap | Layout::Chains => {
                Statement::set_field(scratch, Field::SERVICE4, "frontends")
            }
        };
        table.chain("prerouting").rule([write, Statement::vmap([scratch], "classes")]);
    }

    /// One endpoint gives way to another.
    pub fn change(self, plan: &Plan, n: usize) -> Batch {
        let service = n * 7919 % plan.services;
        let to = Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 0).to_bits() + n as u32);
        if self == Layout::Chains {
            return change_chain(service, n, to);
        }
        let (key, old) = endpoint(plan, service, 0);
        let new = Element::value(Bytes::new().ipv4(to).port(PORT)).comment(old.comment.clone().unwrap_or_default());
        let set =
            SetRef { table: id(), name: plan.class(service).map().as_str().into(), spec: endpoints_spec(plan).into() };
        Batch {
            ops: vec![
                Op::DeleteElements { set: set.clone(), elements: vec![(key.clone(), old)] },
                Op::AddElements { set, elements: vec![(key, new)] },
            ],
        }
    }
}

fn id() -> TableId {
    TableId::new(Family::Ip, "portolan-bench")
}

fn frontend(service: usize) -> Bytes {
    Bytes::new().ipv4(Plan::vip(service)).proto(UDP).port(PORT)
}

fn endpoints_spec(plan: &Plan) -> SetSpec {
    let key = Field::SERVICE4.into_iter().chain([Field::NumgenRandom { modulus: 2 }]);
    let room = (plan.services * plan.endpoints * 2 / plan.shards).next_power_of_two() as u32;
    SetSpec::map(key, [Field::IpDaddr, Field::ThDport]).size(room)
}

fn endpoint(plan: &Plan, service: usize, index: u32) -> (Bytes, Element) {
    let value = Bytes::new().ipv4(plan.endpoint(service, index)).port(PORT);
    (frontend(service).number(index), Element::value(value).comment(format!("default/service-{service}:dns")))
}

fn chains(table: &mut Table, plan: &Plan) {
    table.set("frontends", SetSpec::verdict_map(Field::SERVICE4));
    for service in 0..plan.services {
        let size = plan.size(service);
        let mut choice = nft::Set::new(SetSpec::verdict_map([Field::NumgenRandom { modulus: size }]));
        for index in 0..size {
            let name = format!("endpoint-{service}-{index}");
            choice.insert(Bytes::new().number(index), Element::verdict(Verdict::Goto(name.as_str().into())));
            table.chain(&name).rule([dnat(plan.endpoint(service, index))]);
        }
        let name = format!("service-{service}");
        table.sets.insert(name.as_str().into(), choice);
        table.chain(&name).rule([Statement::vmap([Field::NumgenRandom { modulus: size }], &name)]);
        let element = Element::verdict(Verdict::Goto(name.as_str().into()));
        if let Some(frontends) = table.sets.get_mut("frontends") {
            frontends.insert(frontend(service), element);
        }
    }
    table.chain("prerouting").rule([Statement::vmap(Field::SERVICE4, "frontends")]);
}

fn dnat(to: Ipv4Addr) -> Statement {
    Statement::Nat { kind: NatKind::Dnat, to: NatTarget::V4(to, Some(PORT)) }
}

/// A chain for the new endpoint, and the element that leads to it in place of the old one.
fn change_chain(service: usize, n: usize, to: Ipv4Addr) -> Batch {
    let (table, new) = (id(), format!("endpoint-new-{n}"));
    let spec = SetSpec::verdict_map([Field::NumgenRandom { modulus: 2 }]).into();
    let set = SetRef { table: id(), name: format!("service-{service}").as_str().into(), spec };
    let chain: std::sync::Arc<str> = new.as_str().into();
    let rule = [dnat(to)].into();
    let key = Bytes::new().number(0);
    Batch {
        ops: vec![
            Op::AddChain { table: table.clone(), chain: chain.clone(), base: None, comment: None },
            Op::AddRule { table, chain: chain.clone(), at: nft::Position::End, rule },
            Op::DeleteElements { set: set.clone(), elements: vec![(key.clone(), Element::member())] },
            Op::AddElements { set, elements: vec![(key, Element::verdict(Verdict::Goto(chain)))] },
        ],
    }
}
