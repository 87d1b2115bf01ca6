//! Rulesets as `nft list ruleset` prints them, so that who knows nft can read them and `nft -f` takes them.
//!
//! Sets come before chains and both in order of name, which is also the order in which `diff` makes them. Elements are
//! in order of value. The printing follows nft 1.0.6.

mod statement;
mod value;

use std::fmt::{self, Display, Formatter};

use crate::bytes::Bytes;
use crate::field::{DataType, Field};
use crate::ruleset::{
    Base, Chain, Data, DataSpec, Element, Family, Hook, Policy, Rule, Ruleset, Set, SetSpec, Table, TableId,
};

pub(crate) use statement::verdict;
pub(crate) use value::{concatenation, duration, fields};

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (id, table)) in self.tables.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            print_table(f, id, table)?;
        }
        Ok(())
    }
}

/// A key or value of a set, printed by what it is declared as: `10.96.0.1 . tcp . 80`.
pub fn key(fields: &[Field], bytes: &Bytes) -> String {
    Piece(|f: &mut Formatter<'_>| concatenation(f, fields, bytes, None)).to_string()
}

/// An element with all that stands beside it: `10.96.0.1 . tcp . 80 comment "default/web" : 10.244.0.5 . 8080`.
pub fn element(spec: &SetSpec, key: &Bytes, element: &Element) -> String {
    Piece(|f: &mut Formatter<'_>| print_element(f, spec, key, element)).to_string()
}

/// A rule on one line, for a table of that family.
pub fn rule(family: Family, rule: &Rule) -> String {
    Piece(|f: &mut Formatter<'_>| statement::print_rule(f, family, rule)).to_string()
}

/// Something that can print itself.
struct Piece<F>(F);

impl<F: Fn(&mut Formatter<'_>) -> fmt::Result> Display for Piece<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0(f)
    }
}

fn print_table(f: &mut Formatter<'_>, id: &TableId, table: &Table) -> fmt::Result {
    writeln!(f, "table {id} {{")?;
    let mut between = "";
    if let Some(comment) = &table.comment {
        writeln!(f, "\tcomment \"{comment}\"")?;
        // nft leaves no empty line after the table's comment.
    }
    for (name, set) in &table.sets {
        f.write_str(between)?;
        print_set(f, name, set)?;
        between = "\n";
    }
    for (name, chain) in &table.chains {
        f.write_str(between)?;
        print_chain(f, id.family, name, chain)?;
        between = "\n";
    }
    writeln!(f, "}}")
}

fn print_set(f: &mut Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
    let spec = &*set.spec;
    writeln!(f, "\t{} {name} {{", if spec.data.is_some() { "map" } else { "set" })?;
    print_types(f, spec)?;
    if let Some(size) = spec.size {
        writeln!(f, "\t\tsize {size}")?;
    }
    let flags = [
        (spec.flags.constant, "constant"),
        (spec.flags.dynamic, "dynamic"),
        (spec.flags.interval, "interval"),
        (spec.flags.timeout, "timeout"),
    ];
    let flags: Vec<&str> = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    if !flags.is_empty() {
        writeln!(f, "\t\tflags {}", flags.join(","))?;
    }
    if spec.counter {
        writeln!(f, "\t\tcounter")?;
    }
    if let Some(timeout) = spec.timeout {
        writeln!(f, "\t\ttimeout {}", duration(timeout))?;
    }
    if let Some(comment) = &spec.comment {
        writeln!(f, "\t\tcomment \"{comment}\"")?;
    }
    print_elements(f, set)?;
    writeln!(f, "\t}}")
}

fn print_types(f: &mut Formatter<'_>, spec: &SetSpec) -> fmt::Result {
    match &spec.data {
        // nft knows no `typeof` of a verdict, and falls back to types for the whole declaration.
        Some(DataSpec::Verdict) => {
            let types: Vec<&str> = spec.key.iter().map(|field| field.data_type().name()).collect();
            return writeln!(f, "\t\ttype {} : verdict", types.join(" . "));
        }
        Some(DataSpec::Value(_)) | None => {}
    }
    f.write_str("\t\ttypeof ")?;
    fields(f, &spec.key)?;
    if let Some(DataSpec::Value(data)) = &spec.data {
        f.write_str(" : ")?;
        fields(f, data)?;
    }
    writeln!(f)
}

fn print_elements(f: &mut Formatter<'_>, set: &Set) -> fmt::Result {
    if set.elements.is_empty() {
        return Ok(());
    }
    let mut elements: Vec<(&Bytes, &Element)> = set.elements.iter().collect();
    if set.spec.key.iter().any(|field| field.host_order()) {
        elements.sort_by_cached_key(|(key, _)| value::by_value(&set.spec.key, key));
    }
    let in_a_line = match &set.spec.key[..] {
        [single] => match single.data_type() {
            DataType::Ipv4 => 2,
            DataType::Nfproto
            | DataType::Integer
            | DataType::InetProto
            | DataType::InetService
            | DataType::Mark
            | DataType::Ifindex
            | DataType::CtState
            | DataType::CtDir
            | DataType::CtStatus
            | DataType::FibAddr => 5,
            DataType::Ipv6 | DataType::Time | DataType::Ifname => 1,
        },
        _ => 1,
    };
    f.write_str("\t\telements = { ")?;
    for (index, (key, element)) in elements.into_iter().enumerate() {
        if index > 0 {
            f.write_str(if index % in_a_line == 0 { ",\n\t\t\t     " } else { ", " })?;
        }
        print_element(f, &set.spec, key, element)?;
    }
    writeln!(f, " }}")
}

fn print_element(f: &mut Formatter<'_>, spec: &SetSpec, key: &Bytes, element: &Element) -> fmt::Result {
    concatenation(f, &spec.key, key, element.end())?;
    if spec.counter {
        let counter = element.get_counter().unwrap_or_default();
        write!(f, " counter packets {} bytes {}", counter.packets, counter.bytes)?;
    }
    if let Some(timeout) = element.get_timeout() {
        write!(f, " timeout {}", duration(timeout))?;
    }
    if let Some(expires) = element.get_expires() {
        write!(f, " expires {}", duration(expires))?;
    }
    if let Some(comment) = &element.comment {
        write!(f, " comment \"{comment}\"")?;
    }
    match (&element.data, &spec.data) {
        (Data::Value(data), Some(DataSpec::Value(fields))) => {
            f.write_str(" : ")?;
            concatenation(f, fields, data, None)
        }
        (Data::Value(data), Some(DataSpec::Verdict) | None) => write!(f, " : {data:?}"),
        (Data::Verdict(target), _) => {
            f.write_str(" : ")?;
            verdict(f, target)
        }
        (Data::None, _) => Ok(()),
    }
}

fn print_chain(f: &mut Formatter<'_>, family: Family, name: &str, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {name} {{")?;
    if let Some(comment) = &chain.comment {
        writeln!(f, "\t\tcomment \"{comment}\"")?;
    }
    if let Some(base) = &chain.base {
        let policy = match base.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        let (kind, hook) = (base.kind.name(), base.hook.name());
        writeln!(f, "\t\ttype {kind} hook {hook} priority {}; policy {policy};", priority(base))?;
    }
    for rule in &chain.rules {
        f.write_str("\t\t")?;
        statement::print_rule(f, family, rule)?;
        writeln!(f)?;
    }
    writeln!(f, "\t}}")
}

/// The nearest priority that has a name, and the distance from it if that is at most ten.
fn priority(base: &Base) -> String {
    let named: [(&str, i32, Option<Hook>); 6] = [
        ("raw", -300, None),
        ("mangle", -150, None),
        ("dstnat", -100, Some(Hook::Prerouting)),
        ("filter", 0, None),
        ("security", 50, None),
        ("srcnat", 100, Some(Hook::Postrouting)),
    ];
    for (name, at, hook) in named {
        let distance = base.priority.saturating_sub(at);
        if hook.is_some_and(|hook| hook != base.hook) || distance.abs() > 10 {
            continue;
        }
        return match distance {
            0 => name.to_owned(),
            more if more > 0 => format!("{name} + {more}"),
            less => format!("{name} - {}", -less),
        };
    }
    base.priority.to_string()
}
