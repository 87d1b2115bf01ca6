//! The table: a fixed set of chains, and a few maps in which Services and endpoints are only elements.
//!
//! A packet's destination is looked up in `frontends`, which gives the class, that is how many endpoints there are. Frontends for which
//! that is not all (affinity, source ranges, policies, no endpoints) are `special` and elsewhere: the usual connection asks one map, and
//! one that is no Service's asks four. The class is written into the packet's destination, which DNAT will overwrite anyway and from which a small verdict map reads it again: registers
//! do not pass between lookups in any way that `nft list ruleset` can print, and marks belong to the machine's owner. The class's chain
//! then draws a number and finds the endpoint by `ct original` destination and number. All of it is in nat chains, so that only the
//! first packet of a connection meets it.
//!
//! A transaction may come between any two lookups of one packet (`docs/notes/two-generations.md`). So whatever follows `frontends` stands
//! in a dispatch chain, which is always there: where class or number lead nowhere any more, the first endpoint takes the packet, and
//! without one it is dropped. It never leaves with the class for its destination.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nft::{Base, Bytes, ChainKind, Field, Hook, Reject, Rule, SetSpec, Statement, Table, TableId, Value};
use service_model::{Affinity, Family, FrontendKey};

/// Our table's name.
pub const TABLE: &str = "portolan";
/// The most maps that endpoints are spread over, see [`shards`].
pub(crate) const MOST_SHARDS: u8 = 16;
/// From so many elements on they are.
const SHARDED_FROM: usize = 65_536;
const ENDPOINTS4: [&str; MOST_SHARDS as usize] = [
    "endpoints4",
    "endpoints4-1",
    "endpoints4-2",
    "endpoints4-3",
    "endpoints4-4",
    "endpoints4-5",
    "endpoints4-6",
    "endpoints4-7",
    "endpoints4-8",
    "endpoints4-9",
    "endpoints4-10",
    "endpoints4-11",
    "endpoints4-12",
    "endpoints4-13",
    "endpoints4-14",
    "endpoints4-15",
];
const ENDPOINTS6: [&str; MOST_SHARDS as usize] = [
    "endpoints6",
    "endpoints6-1",
    "endpoints6-2",
    "endpoints6-3",
    "endpoints6-4",
    "endpoints6-5",
    "endpoints6-6",
    "endpoints6-7",
    "endpoints6-8",
    "endpoints6-9",
    "endpoints6-10",
    "endpoints6-11",
    "endpoints6-12",
    "endpoints6-13",
    "endpoints6-14",
    "endpoints6-15",
];
/// The most clients that affinity remembers.
const AFFINITY_SIZE: u32 = 1 << 20;
/// A default that every rule overrides with its Service's own timeout.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// Our table.
pub fn table_id() -> TableId {
    TableId::new(nft::Family::Inet, TABLE)
}

/// How many maps endpoints are spread over, for so many elements: the kernel's time to list a map grows with the square of its size.
///
/// It is decided once at a start, by the objects alone, so that a start with nothing changed decides the same.
pub(crate) fn shards(elements: usize) -> u8 {
    if elements < SHARDED_FROM { 1 } else { MOST_SHARDS }
}

/// The map of a frontend's endpoints.
pub(crate) fn shard(key: &Bytes, shards: u8) -> u8 {
    // FNV-1a: the same in every build, which a start has to find again what another wrote.
    let hash =
        key.as_slice().iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) % u32::from(shards)) as u8
}

/// One of our sets and maps, each of which exists once a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// frontend → class, unless it is special
    Frontends,
    /// frontends of which other maps know more
    Special,
    /// special frontend → class
    Guarded,
    /// special frontend of a Service with `externalTrafficPolicy: Local` → class, for clients inside the cluster
    Inside,
    /// frontend, number → endpoint; in one of several maps when there are many
    Endpoints(u8),
    /// the same for clients inside the cluster
    InsideEndpoints,
    /// class → chain
    Classes,
    /// frontend of a Service with affinity → pool
    Sticky,
    /// the same for clients inside the cluster
    InsideSticky,
    /// pool → chain
    StickyClasses,
    /// pool, number → slot
    Choices,
    /// slot → endpoint; a slot is not used again for another endpoint
    Slots,
    /// client, pool → slot; written by packets
    Affinity,
    /// frontends without endpoints
    Refused,
    /// frontends without endpoints here, but with some elsewhere
    Dropped,
    /// frontends that not everyone may use
    Firewalled,
    /// frontend, client range: who may
    Allowed,
    ClusterIps,
    /// endpoint, itself
    Hairpin,
    /// frontends whose packets get this node's address
    Masquerade,
    /// ranges of pods
    ClusterCidrs,
    /// ranges of cluster IPs
    ServiceCidrs,
}

impl SetId {
    /// All but the maps of endpoints.
    const FIXED: [SetId; 21] = [
        SetId::Frontends,
        SetId::Special,
        SetId::Guarded,
        SetId::Inside,
        SetId::InsideEndpoints,
        SetId::Classes,
        SetId::Sticky,
        SetId::InsideSticky,
        SetId::StickyClasses,
        SetId::Choices,
        SetId::Slots,
        SetId::Affinity,
        SetId::Refused,
        SetId::Dropped,
        SetId::Firewalled,
        SetId::Allowed,
        SetId::ClusterIps,
        SetId::Hairpin,
        SetId::Masquerade,
        SetId::ClusterCidrs,
        SetId::ServiceCidrs,
    ];

    pub(crate) fn all(shards: u8) -> impl Iterator<Item = SetId> {
        SetId::FIXED.into_iter().chain((0..shards).map(SetId::Endpoints))
    }

    /// Its name in the table.
    pub fn name(self, family: Family) -> &'static str {
        let (v4, v6) = match self {
            SetId::Frontends => ("frontends4", "frontends6"),
            SetId::Special => ("special4", "special6"),
            SetId::Guarded => ("special-frontends4", "special-frontends6"),
            SetId::Inside => ("inside-frontends4", "inside-frontends6"),
            SetId::Endpoints(shard) => {
                let at = usize::from(shard.min(MOST_SHARDS - 1));
                (ENDPOINTS4[at], ENDPOINTS6[at])
            }
            SetId::InsideEndpoints => ("inside-endpoints4", "inside-endpoints6"),
            SetId::Classes => ("classes4", "classes6"),
            SetId::Sticky => ("sticky-frontends4", "sticky-frontends6"),
            SetId::InsideSticky => ("inside-sticky-frontends4", "inside-sticky-frontends6"),
            SetId::StickyClasses => ("sticky-classes4", "sticky-classes6"),
            SetId::Choices => ("sticky-choices4", "sticky-choices6"),
            SetId::Slots => ("sticky-endpoints4", "sticky-endpoints6"),
            SetId::Affinity => ("affinity4", "affinity6"),
            SetId::Refused => ("refused4", "refused6"),
            SetId::Dropped => ("dropped4", "dropped6"),
            SetId::Firewalled => ("firewalled4", "firewalled6"),
            SetId::Allowed => ("allowed4", "allowed6"),
            SetId::ClusterIps => ("cluster-ips4", "cluster-ips6"),
            SetId::Hairpin => ("hairpin4", "hairpin6"),
            SetId::Masquerade => ("masquerade4", "masquerade6"),
            SetId::ClusterCidrs => ("cluster-cidrs4", "cluster-cidrs6"),
            SetId::ServiceCidrs => ("service-cidrs4", "service-cidrs6"),
        };
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Whether a lookup in it is a connection.
    fn leads_to_endpoints(self) -> bool {
        matches!(self, SetId::Endpoints(_) | SetId::InsideEndpoints | SetId::Slots)
    }

    fn spec(self, f: Fields) -> SetSpec {
        match self {
            SetId::Frontends | SetId::Guarded | SetId::Inside | SetId::Sticky | SetId::InsideSticky => {
                SetSpec::map(f.key(), [f.daddr])
            }
            SetId::Endpoints(_) | SetId::InsideEndpoints => {
                SetSpec::map(f.numbered(f.key(), 2), [f.daddr, Field::ThDport])
            }
            SetId::Classes | SetId::StickyClasses => SetSpec::verdict_map([f.daddr]),
            SetId::Choices => SetSpec::map(f.numbered(vec![f.daddr], 2), [f.daddr]),
            SetId::Slots => SetSpec::map([f.daddr, Field::L4Proto], [f.daddr, Field::ThDport]),
            SetId::Affinity => {
                SetSpec::map([f.saddr, f.daddr], [f.daddr]).dynamic(AFFINITY_DEFAULT).size(AFFINITY_SIZE)
            }
            SetId::Special | SetId::Refused | SetId::Dropped | SetId::Firewalled | SetId::Masquerade => {
                SetSpec::set(f.key())
            }
            SetId::Allowed => SetSpec::set(f.key().into_iter().chain([f.saddr])).interval(),
            SetId::ClusterIps => SetSpec::set([f.daddr]),
            SetId::Hairpin => SetSpec::set([f.saddr, f.daddr]),
            SetId::ClusterCidrs => SetSpec::set([f.saddr]).interval(),
            SetId::ServiceCidrs => SetSpec::set([f.daddr]).interval(),
        }
    }
}

/// A chain that exists while something uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// One of `n` endpoints, which are in the map of that number.
    Mod { family: Family, n: u32, shard: u8 },
    /// The same for clients inside the cluster.
    Inside { family: Family, n: u32 },
    /// The endpoint that the client had before, or one of `n`.
    Sticky { family: Family, n: u32, timeout: Affinity },
}

impl Class {
    pub fn family(self) -> Family {
        match self {
            Class::Mod { family, .. } | Class::Inside { family, .. } | Class::Sticky { family, .. } => family,
        }
    }

    /// The name of its chain.
    pub fn chain(self) -> String {
        let digit = match self.family() {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        match self {
            Class::Mod { n, shard: 0, .. } => format!("mod{digit}-{n}"),
            Class::Mod { n, shard, .. } => format!("mod{digit}-{n}-{shard}"),
            Class::Inside { n, .. } => format!("inside-mod{digit}-{n}"),
            Class::Sticky { n, timeout, .. } => format!("sticky{digit}-{n}-{}s", timeout.0),
        }
    }

    /// What stands in `frontends` for it, in the shape of an address.
    pub fn mark(self) -> IpAddr {
        match self {
            // More endpoints than there is room for below the shard would be more than an API server can hold.
            Class::Mod { family, n, shard } => in_family(family, n | u32::from(shard) << 20),
            Class::Inside { family: Family::V4, n } => in_family(Family::V4, n | 1 << 24),
            Class::Inside { family: Family::V6, n } => Ipv6Addr::from_bits(1 << 32 | u128::from(n)).into(),
            // Pools mark sticky frontends, not classes.
            Class::Sticky { family, .. } => in_family(family, 0),
        }
    }

    /// Its rules. What they do not decide goes back to the dispatch chain.
    pub fn rules(self) -> Vec<Rule> {
        let f = Fields::of(self.family());
        match self {
            Class::Mod { n, shard, .. } => vec![f.choose(n, SetId::Endpoints(shard))],
            Class::Inside { n, .. } => vec![f.choose(n, SetId::InsideEndpoints)],
            Class::Sticky { n, timeout, .. } => f.stick(n, Duration::from_secs(timeout.0.into())),
        }
    }
}

fn in_family(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(n).into(),
        Family::V6 => Ipv6Addr::from_bits(n.into()).into(),
    }
}

/// A pool of endpoints that clients stick to, and a slot in it, in the shape of an address: half for each.
pub fn slot_address(family: Family, pool: u16, slot: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::from(pool) << 16 | u32::from(slot)).into(),
        Family::V6 => Ipv6Addr::from_bits(u128::from(pool) << 64 | u128::from(slot)).into(),
    }
}

/// The way back from [`slot_address`].
pub fn parse_slot(address: IpAddr) -> Option<(u16, u16)> {
    let (pool, slot) = match address {
        IpAddr::V4(v4) => (u64::from(v4.to_bits() >> 16), u64::from(v4.to_bits() & 0xffff)),
        IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
    };
    Some((u16::try_from(pool).ok()?, u16::try_from(slot).ok()?))
}

/// A frontend as a key of our maps.
pub fn key(frontend: &FrontendKey) -> Bytes {
    Bytes::new().ip(frontend.address).proto(frontend.protocol.number()).port(frontend.port)
}

/// Whose packets to cluster IPs get this node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masqueraded {
    /// Nobody's: it is not known who is a pod.
    None,
    /// Those of clients that are no pods.
    Outside,
    All,
}

/// The interfaces that this node's pods are behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodInterface {
    /// The one of that name, a bridge.
    Named(String),
    /// All whose names begin so.
    Prefixed(String),
}

impl PodInterface {
    fn name(&self) -> Bytes {
        match self {
            PodInterface::Named(name) => Bytes::new().interface(name),
            PodInterface::Prefixed(prefix) => Bytes::interfaces(prefix),
        }
    }
}

/// What the rules of all Services depend on.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// In the order of [`Family::ALL`].
    pub masqueraded: [Masqueraded; 2],
    pub pods_by: Option<&'a PodInterface>,
    /// The kernel counts connections by endpoint.
    pub counted: bool,
    pub shards: u8,
}

/// The table without Services: all sets, empty, and the chains that are always there.
pub fn skeleton(shape: &Shape<'_>) -> Table {
    let mut table = Table::default();
    for (family, masqueraded) in Family::ALL.into_iter().zip(shape.masqueraded) {
        let f = Fields::of(family);
        for id in SetId::all(shape.shards) {
            let spec = id.spec(f);
            let counts = shape.counted && id.leads_to_endpoints();
            table.set(id.name(family), if counts { spec.counter() } else { spec });
        }
        f.chains(&mut table, &Pods { masqueraded, by: shape.pods_by }, shape.shards);
    }
    let refuse = table.chain("refuse");
    refuse.rule([Statement::l4proto(6), Statement::Reject(Reject::TcpReset)]);
    refuse.rule([Statement::Reject(Reject::Icmpx(1))]);
    hooks(&mut table);
    table
}

fn hooks(table: &mut Table) {
    let v4 = || Statement::is(Field::Nfproto, Bytes::new().proto(2));
    let v6 = || Statement::is(Field::Nfproto, Bytes::new().proto(10));
    for (chain, hook, priority, to) in [
        ("prerouting", Hook::Prerouting, -100, ["services4", "services6"]),
        ("output", Hook::Output, -100, ["local4", "local6"]),
    ] {
        let chain = table.chain(chain);
        chain.base = Some(Base::new(ChainKind::Nat, hook, priority));
        chain.rule([v4(), Statement::goto(to[0])]);
        chain.rule([v6(), Statement::goto(to[1])]);
    }
    let chain = table.chain("postrouting");
    chain.base = Some(Base::new(ChainKind::Nat, Hook::Postrouting, 100));
    chain.rule([v4(), Statement::ct_status(nft::CtStatus::DNAT), Statement::goto("masquerade4")]);
    chain.rule([v6(), Statement::ct_status(nft::CtStatus::DNAT), Statement::goto("masquerade6")]);
}

/// How the rules of a family know pods, and what they do with others.
struct Pods<'a> {
    masqueraded: Masqueraded,
    by: Option<&'a PodInterface>,
}

impl Pods<'_> {
    fn sent(&self, f: Fields) -> Statement {
        match self.by {
            Some(interface) => Statement::is(Field::Iifname, interface.name()),
            None => Statement::lookup([f.saddr], f.name(SetId::ClusterCidrs)),
        }
    }

    /// Also true of what the node itself sends.
    fn did_not_send(&self, f: Fields) -> Statement {
        match self.by {
            Some(interface) => Statement::is_not(Field::Iifname, interface.name()),
            None => Statement::not_in([f.saddr], f.name(SetId::ClusterCidrs)),
        }
    }
}

/// The fields of one family, and the rules that are written with them.
#[derive(Debug, Clone, Copy)]
struct Fields {
    family: Family,
    saddr: Field,
    daddr: Field,
    /// The half of the destination that names a pool.
    pool: Field,
    original: Field,
}

impl Fields {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Fields {
                family,
                saddr: Field::IpSaddr,
                daddr: Field::IpDaddr,
                pool: Field::IpDaddrHigh,
                original: Field::CtOriginalIpDaddr,
            },
            Family::V6 => Fields {
                family,
                saddr: Field::Ip6Saddr,
                daddr: Field::Ip6Daddr,
                pool: Field::Ip6DaddrHigh,
                original: Field::CtOriginalIp6Daddr,
            },
        }
    }

    fn v6(self) -> bool {
        self.family == Family::V6
    }

    fn key(self) -> Vec<Field> {
        vec![self.daddr, Field::L4Proto, Field::ThDport]
    }

    fn numbered(self, mut key: Vec<Field>, modulus: u32) -> Vec<Field> {
        key.push(Field::NumgenRandom { modulus });
        key
    }

    fn name(self, id: SetId) -> &'static str {
        id.name(self.family)
    }

    fn chain_name(self, stem: &str) -> String {
        format!("{stem}{}", if self.v6() { 6 } else { 4 })
    }

    /// The chains of one family that are always there.
    fn chains(self, table: &mut Table, pods: &Pods<'_>, shards: u8) {
        let (inside, special, unknown) =
            (self.chain_name("inside"), self.chain_name("special"), self.chain_name("unknown"));
        let from_pods = [pods.sent(self), Statement::jump(&inside)];
        for (services, guarded, inside) in [
            ("services", "guarded", Rule::new(from_pods)),
            ("local", "guarded-local", Rule::new([Statement::jump(&inside)])),
        ] {
            let chain = table.chain(&self.chain_name(services));
            chain.rule(self.classify(SetId::Frontends, "dispatch"));
            let goto = Statement::goto(&self.chain_name(guarded));
            chain.rule([Statement::lookup(self.key(), self.name(SetId::Special)), goto]);
            chain.rule([Statement::goto(&unknown)]);
            let chain = table.chain(&self.chain_name(guarded));
            chain.rule(self.firewall());
            chain.rule(inside);
            // Asked again, for a frontend that a transaction moved from a map that was asked late to one that was asked early.
            chain.rule([Statement::jump(&special)]);
            chain.rule([Statement::jump(&special)]);
            chain.rule([Statement::goto(&unknown)]);
        }
        let chain = table.chain(&inside);
        chain.rule(self.classify(SetId::Inside, "inside-dispatch"));
        chain.rule(self.classify(SetId::InsideSticky, "sticky-dispatch"));
        self.special(table.chain(&special));
        let chain = table.chain(&unknown);
        chain.rule([Statement::lookup([self.daddr], self.name(SetId::ClusterIps)), Statement::goto("refuse")]);
        chain.rule([Statement::lookup([self.daddr], self.name(SetId::ServiceCidrs)), Statement::drop()]);
        self.dispatch(table.chain(&self.chain_name("dispatch")), (0..shards).map(SetId::Endpoints));
        self.dispatch(table.chain(&self.chain_name("inside-dispatch")), [SetId::InsideEndpoints]);
        self.sticky_dispatch(table.chain(&self.chain_name("sticky-dispatch")));
        self.masquerade(table.chain(&self.chain_name("masquerade")), pods);
    }

    /// A frontend that is special no more while the packet passes is in `frontends` by now: the set has it for a moment longer.
    fn special(self, chain: &mut nft::Chain) {
        chain.rule(self.classify(SetId::Guarded, "dispatch"));
        chain.rule(self.classify(SetId::Sticky, "sticky-dispatch"));
        chain.rule([Statement::lookup(self.key(), self.name(SetId::Refused)), Statement::goto("refuse")]);
        chain.rule([Statement::lookup(self.key(), self.name(SetId::Dropped)), Statement::drop()]);
        chain.rule(self.classify(SetId::Frontends, "dispatch"));
    }

    /// Number 0 exists as long as there is an endpoint, so it stands in for a class or a number that a transaction took away meanwhile.
    fn dispatch(self, chain: &mut nft::Chain, endpoints: impl IntoIterator<Item = SetId>) {
        chain.rule([Statement::vmap([self.daddr], self.name(SetId::Classes))]);
        for map in endpoints {
            chain.rule(self.choose(1, map));
        }
        chain.rule([Statement::drop()]);
    }

    /// Without a class nobody knows how long to remember: the client keeps what it had, and is not remembered anew.
    fn sticky_dispatch(self, chain: &mut nft::Chain) {
        chain.rule([Statement::vmap([self.daddr], self.name(SetId::StickyClasses))]);
        let affinity = self.name(SetId::Affinity);
        chain.rule([Statement::set_field(self.daddr, [self.saddr, self.pool], affinity), self.send_to_slot()]);
        chain.rule([self.draw_slot(1), self.send_to_slot()]);
        chain.rule([Statement::drop()]);
    }

    fn masquerade(self, chain: &mut nft::Chain, pods: &Pods<'_>) {
        let original = [self.original, Field::L4Proto, Field::CtOriginalProtoDst];
        chain.rule([Statement::lookup([self.saddr, self.daddr], self.name(SetId::Hairpin)), Statement::masquerade()]);
        chain.rule([Statement::lookup(original, self.name(SetId::Masquerade)), Statement::masquerade()]);
        let cluster_ip = Statement::lookup([self.original], self.name(SetId::ClusterIps));
        let rule = match pods.masqueraded {
            Masqueraded::None => return,
            // Most clients are pods.
            Masqueraded::Outside => vec![pods.did_not_send(self), cluster_ip, Statement::masquerade()],
            Masqueraded::All => vec![cluster_ip, Statement::masquerade()],
        };
        chain.rule(Rule::new(rule));
    }

    fn firewall(self) -> Rule {
        let client = self.key().into_iter().chain([self.saddr]);
        Rule::new([
            Statement::lookup(self.key(), self.name(SetId::Firewalled)),
            Statement::not_in(client, self.name(SetId::Allowed)),
            Statement::drop(),
        ])
    }

    fn classify(self, from: SetId, dispatch: &str) -> Rule {
        Rule::new([
            Statement::set_field(self.daddr, self.key(), self.name(from)),
            Statement::goto(&self.chain_name(dispatch)),
        ])
    }

    fn choose(self, n: u32, endpoints: SetId) -> Rule {
        let key = self.numbered(vec![self.original, Field::L4Proto, Field::ThDport], n);
        Rule::new([Statement::dnat_map(self.v6(), key, self.name(endpoints))])
    }

    fn draw_slot(self, n: u32) -> Statement {
        Statement::set_field(self.daddr, self.numbered(vec![self.pool], n), self.name(SetId::Choices))
    }

    fn send_to_slot(self) -> Statement {
        Statement::dnat_map(self.v6(), [self.daddr, Field::L4Proto], self.name(SetId::Slots))
    }

    /// First the slot that the client had: if it is still an endpoint's, that is the choice. Otherwise the client is forgotten and a slot
    /// is drawn; if that is gone meanwhile, the first. An update would not change what an element says, hence the delete.
    fn stick(self, n: u32, timeout: Duration) -> Vec<Rule> {
        let client = || vec![self.saddr, self.pool];
        let affinity = self.name(SetId::Affinity);
        let remember = |op, timeout| Statement::Dynset {
            op,
            set: affinity.into(),
            key: client(),
            timeout,
            data: Some(Value::Fields(vec![self.daddr])),
        };
        let update = || remember(nft::DynsetOp::Update, Some(timeout));
        let forget = || remember(nft::DynsetOp::Delete, None);
        let draw = |n| Rule::new([forget(), self.draw_slot(n), update(), self.send_to_slot()]);
        vec![
            Rule::new([Statement::set_field(self.daddr, client(), affinity), update(), self.send_to_slot()]),
            draw(n),
            draw(1),
        ]
    }
}
