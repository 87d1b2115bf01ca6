//! From statements to the kernel's register machine.
//!
//! Registers are given out afresh for each statement, since values do not outlive it in the form that nft can read back.
//! In `inet` tables a statement that reads an IPv4 or IPv6 header is preceded by a check of the family, once for each
//! rule and family, exactly as nft does it.

use crate::bytes::Bytes;
use crate::expr::{Expr, LookupTo, Reg};
use crate::field::{Field, nfproto};
use crate::ruleset::{Family, Rule};
use crate::statement::{Compare, NatTarget, Reject, Statement, Value};

/// The expressions of a rule in a table of that family.
pub fn lower(family: Family, rule: &Rule) -> Vec<Expr> {
    let mut code = Code { family, nfproto: None, exprs: Vec::new() };
    for statement in &rule.statements {
        code.statement(statement);
    }
    code.exprs
}

/// Where `masquerade fully-random` stands among the flags. Source: `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub(crate) const RANDOM_FULLY: u32 = 1 << 4;

struct Code {
    family: Family,
    /// What the rule has established about the packet's family so far.
    nfproto: Option<u8>,
    exprs: Vec<Expr>,
}

impl Code {
    fn push(&mut self, expr: Expr) {
        self.exprs.push(expr);
    }

    fn statement(&mut self, statement: &Statement) {
        self.depend(statement);
        match statement {
            Statement::Match { field, mask, op, value } => self.compare(*field, mask.as_ref(), *op, value),
            Statement::Flags { field, bits, negate } => {
                let op = if *negate { Compare::Eq } else { Compare::Ne };
                let (mask, nothing) = (Bytes::new().number(*bits), Bytes::new().number(0));
                self.compare(*field, Some(&mask), op, &nothing);
            }
            Statement::Range { field, first, last, negate } => {
                self.load(&[*field], 0);
                let (first, last) = (self.ordered(*field, first), self.ordered(*field, last));
                self.push(Expr::Range { sreg: 0, negate: *negate, first, last, len: field.width() as u8 });
            }
            Statement::Lookup { key, set, negate } => {
                self.load(key, 0);
                let to = if *negate { LookupTo::Absent } else { LookupTo::Present };
                self.push(Expr::Lookup { set: set.clone(), sreg: 0, to });
            }
            Statement::VerdictMap { key, map } => {
                self.load(key, 0);
                self.push(Expr::Lookup { set: map.clone(), sreg: 0, to: LookupTo::Verdict });
            }
            Statement::SetMark(value) => {
                self.value(value, 0);
                self.push(Expr::SetMark { sreg: 0 });
            }
            Statement::SetCtMark(value) => {
                self.value(value, 0);
                self.push(Expr::SetCtMark { sreg: 0 });
            }
            Statement::UpdateMark { mask, xor } => {
                self.load(&[Field::Mark], 0);
                let (mask, xor) = (Bytes::new().number(*mask), Bytes::new().number(*xor));
                self.push(Expr::Bitwise { sreg: 0, dreg: 0, mask, xor, len: 4 });
                self.push(Expr::SetMark { sreg: 0 });
            }
            Statement::SetField { field, to } => {
                self.value(to, 0);
                self.push(Expr::Store { field: *field, sreg: 0 });
            }
            Statement::Dynset { op, set, key, timeout, data } => {
                // The data first: looking it up may need registers that the key takes afterwards.
                let above = registers(key);
                if let Some(data) = data {
                    self.value(data, above);
                }
                self.load(key, 0);
                let sreg_data = data.as_ref().map(|_| above);
                self.push(Expr::Dynset { set: set.clone(), op: *op, sreg_key: 0, sreg_data, timeout: *timeout });
            }
            Statement::Nat { kind, to } => {
                let (v6, addr, port) = self.nat_target(to);
                self.push(Expr::Nat { kind: *kind, v6, addr: Some(addr), port });
            }
            Statement::Masquerade { fully_random } => {
                self.push(Expr::Masquerade { flags: if *fully_random { RANDOM_FULLY } else { 0 } });
            }
            Statement::Reject(reject) => self.push(Expr::Reject(*reject)),
            Statement::Counter(counter) => self.push(Expr::Counter(*counter)),
            Statement::Limit(limit) => self.push(Expr::Limit(*limit)),
            Statement::Log { prefix, level } => self.push(Expr::Log { prefix: prefix.clone(), level: *level }),
            Statement::Notrack => self.push(Expr::Notrack),
            Statement::Verdict(verdict) => self.push(Expr::Verdict(verdict.clone())),
            Statement::Foreign(exprs) => self.exprs.extend(exprs.iter().cloned()),
        }
    }

    /// Checks the packet's family where the statement needs one that is not established yet.
    fn depend(&mut self, statement: &Statement) {
        if self.family != Family::Inet {
            return;
        }
        for nfproto in statement.nfprotos() {
            if self.nfproto != Some(nfproto) {
                self.compare(Field::Nfproto, None, Compare::Eq, &Bytes::new().push(&[nfproto]));
            }
        }
    }

    fn compare(&mut self, field: Field, mask: Option<&Bytes>, op: Compare, value: &Bytes) {
        // Names of interfaces may be compared by their beginning.
        let len = if field.is_name() { value.len() } else { field.width() } as u8;
        self.load(&[field], 0);
        if let Some(mask) = mask {
            let xor = Bytes::from_slice(&vec![0; mask.len()]);
            self.push(Expr::Bitwise { sreg: 0, dreg: 0, mask: mask.clone(), xor, len });
        }
        let value = match op {
            Compare::Eq | Compare::Ne => value.clone(),
            Compare::Lt | Compare::Le | Compare::Gt | Compare::Ge => self.ordered(field, value),
        };
        self.push(Expr::Cmp { sreg: 0, op, value: value.clone(), len });
        if (field, op, mask) == (Field::Nfproto, Compare::Eq, None) {
            self.nfproto = value.as_slice().first().copied();
        }
    }

    /// Makes the number in register 0 one that compares by its bytes, and gives the value in that form too.
    fn ordered(&mut self, field: Field, value: &Bytes) -> Bytes {
        if !field.host_order() {
            return value.clone();
        }
        if !matches!(self.exprs.last(), Some(Expr::ToNetworkOrder { .. })) {
            self.push(Expr::ToNetworkOrder { sreg: 0, dreg: 0 });
        }
        swap_number(value)
    }

    /// Loads the fields into consecutive registers.
    fn load(&mut self, fields: &[Field], from: Reg) {
        let mut dreg = from;
        for field in fields {
            match field.masked() {
                Some((whole, mask)) => {
                    self.push(Expr::Load { field: whole, dreg });
                    let (xor, len) = (Bytes::from_slice(&vec![0; mask.len()]), whole.width() as u8);
                    self.push(Expr::Bitwise { sreg: dreg, dreg, mask, xor, len });
                }
                None => self.push(Expr::Load { field: *field, dreg }),
            }
            dreg += registers(&[*field]);
        }
    }

    /// Puts the value into registers from `dreg` on. What is looked up has its key below.
    fn value(&mut self, value: &Value, dreg: Reg) {
        match value {
            Value::Const(value) => {
                self.push(Expr::ImmediateValue { dreg, value: value.clone(), len: value.len() as u8 });
            }
            Value::Fields(fields) => self.load(fields, dreg),
            Value::Map { key, map } => {
                self.load(key, 0);
                self.push(Expr::Lookup { set: map.clone(), sreg: 0, to: LookupTo::Register(dreg) });
            }
        }
    }

    fn nat_target(&mut self, to: &NatTarget) -> (bool, Reg, Option<Reg>) {
        let (v6, addr, port) = match to {
            NatTarget::V4(addr, port) => (false, Bytes::new().ipv4(*addr), port),
            NatTarget::V6(addr, port) => (true, Bytes::new().ipv6(*addr), port),
            NatTarget::Map { v6, key, map, port } => {
                self.load(key, 0);
                self.push(Expr::Lookup { set: map.clone(), sreg: 0, to: LookupTo::Register(0) });
                return (*v6, 0, port.then_some(if *v6 { 4 } else { 1 }));
            }
        };
        let after = (addr.len() / 4) as Reg;
        let len = addr.len() as u8;
        self.push(Expr::ImmediateValue { dreg: 0, value: addr, len });
        if let Some(port) = port {
            self.push(Expr::ImmediateValue { dreg: after, value: Bytes::new().port(*port), len: 2 });
        }
        (v6, 0, port.map(|_| after))
    }
}

/// How many registers the fields take together.
pub(crate) fn registers(fields: &[Field]) -> Reg {
    fields.iter().map(|field| (field.padded() / 4) as Reg).sum()
}

/// The same number with its bytes the other way round, where the machine's order is not the network's.
pub(crate) fn swap_number(value: &Bytes) -> Bytes {
    match value.as_slice().try_into() {
        Ok(bytes) => Bytes::from_slice(&u32::from_ne_bytes(bytes).to_be_bytes()),
        Err(_) => value.clone(),
    }
}

impl Statement {
    /// The packet families without which the statement makes no sense.
    pub(crate) fn nfprotos(&self) -> Vec<u8> {
        match self {
            Statement::Reject(Reject::Icmp(_)) => vec![nfproto::IPV4],
            Statement::Reject(Reject::Icmpv6(_)) => vec![nfproto::IPV6],
            other => other.fields().into_iter().filter_map(Field::nfproto).collect(),
        }
    }

    /// The fields that the statement reads.
    pub fn fields(&self) -> Vec<Field> {
        fn of(value: &Value) -> &[Field] {
            match value {
                Value::Const(_) => &[],
                Value::Fields(fields) => fields,
                Value::Map { key, .. } => key,
            }
        }
        match self {
            Statement::Match { field, .. } | Statement::Flags { field, .. } | Statement::Range { field, .. } => {
                vec![*field]
            }
            Statement::Lookup { key, .. } | Statement::VerdictMap { key, .. } => key.clone(),
            Statement::SetMark(value) | Statement::SetCtMark(value) => of(value).to_vec(),
            Statement::SetField { field, to } => [field].into_iter().chain(of(to)).copied().collect(),
            Statement::UpdateMark { .. } => vec![Field::Mark],
            Statement::Dynset { key, data, .. } => {
                key.iter().chain(data.as_ref().map(of).unwrap_or_default()).copied().collect()
            }
            Statement::Nat { to: NatTarget::Map { key, .. }, .. } => key.clone(),
            Statement::Nat { to: NatTarget::V4(..) | NatTarget::V6(..), .. }
            | Statement::Masquerade { .. }
            | Statement::Reject(_)
            | Statement::Counter(_)
            | Statement::Limit(_)
            | Statement::Log { .. }
            | Statement::Notrack
            | Statement::Verdict(_)
            | Statement::Foreign(_) => Vec::new(),
        }
    }
}
