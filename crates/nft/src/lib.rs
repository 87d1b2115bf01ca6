//! nf_tables as values: tables, chains, rules, sets and maps; their text, their wire form, their difference.
//!
//! Nothing here opens a socket or asks the time, so rulesets can be planned, compared, printed, committed to a kernel in
//! memory and traced in any test. The crate that owns the sockets sends what `wire` encodes and hands back what it decodes.
//!
//! Start with [`Table`], [`Rule`] and [`Statement`]; [`diff()`] gives the [`Batch`] from one [`Ruleset`] to another, and
//! [`kernel::Memory`] takes batches as a kernel does.
//!
//! ```
//! use nft::{Base, Bytes, ChainKind, Element, Family, Field, Hook, Ruleset, SetSpec, Statement, Table, TableId, diff};
//!
//! let mut table = Table::default();
//! let endpoints = SetSpec::map(Field::SERVICE4, [Field::IpDaddr, Field::ThDport]);
//! let vip = Bytes::new().ipv4([10, 96, 0, 1].into()).proto(6).port(80);
//! let pod = Bytes::new().ipv4([10, 244, 0, 5].into()).port(8080);
//! table.set("endpoints", endpoints).insert(vip, Element::value(pod).comment("default/web:http"));
//! let chain = table.chain("prerouting");
//! chain.base = Some(Base::new(ChainKind::Nat, Hook::Prerouting, -100));
//! chain.rule([Statement::dnat_map(false, Field::SERVICE4, "endpoints")]);
//!
//! let desired = Ruleset { tables: [(TableId::new(Family::Ip, "example"), table)].into() };
//! assert_eq!(
//!     desired.to_string().replace('\t', "    "),
//!     r#"table ip example {
//!     map endpoints {
//!         typeof ip daddr . meta l4proto . th dport : ip daddr . th dport
//!         elements = { 10.96.0.1 . tcp . 80 comment "default/web:http" : 10.244.0.5 . 8080 }
//!     }
//!
//!     chain prerouting {
//!         type nat hook prerouting priority dstnat; policy accept;
//!         dnat to ip daddr . meta l4proto . th dport map @endpoints
//!     }
//! }
//! "#
//! );
//! let mut kernel = nft::kernel::Memory::new();
//! kernel.commit(&diff(kernel.ruleset(), &desired)).unwrap();
//! assert!(diff(kernel.ruleset(), &desired).is_empty());
//! ```
#![forbid(unsafe_code)]

mod bytes;
mod errno;
mod field;
mod ruleset;
mod statement;

mod batch;
mod diff;
mod expr;
pub mod kernel;
mod lower;
mod raise;
pub mod text;
pub mod trace;
pub mod wire;

pub use batch::{Batch, Op, Position, SetRef};
pub use bytes::Bytes;
pub use diff::{diff, diff_elements};
pub use errno::Errno;
pub use expr::{Expr, LookupTo, REGISTERS, Reg};
pub use field::{AddrType, CtState, CtStatus, Field};
pub use lower::lower;
pub use raise::raise;
pub use ruleset::{
    Base, Chain, ChainKind, Counter, Data, DataSpec, Element, Elements, Family, Hook, Policy, Rule, Ruleset, Set,
    SetFlags, SetSpec, Table, TableId,
};
pub use statement::{Compare, DynsetOp, Limit, NatKind, NatTarget, Reject, Statement, Value, Verdict};
