//! From the kernel's register machine back to statements: `lower` read backwards.
//!
//! It follows symbolically what each register holds. Rules that `lower` made come back as they were; what another program
//! wrote comes back too where it has the same shape, and otherwise as one `Foreign` statement, so that it can be told
//! from ours but never taken for it.

use std::sync::Arc;

use crate::bytes::Bytes;
use crate::expr::{Expr, LookupTo, REGISTERS, Reg};
use crate::field::{Field, nfproto};
use crate::lower::{RANDOM_FULLY, swap_number};
use crate::ruleset::Family;
use crate::statement::{Compare, NatTarget, Reject, Statement, Value};

/// The statements that lower to these expressions. `key_len` tells the length in bytes of a set's key.
pub fn raise(family: Family, exprs: &[Expr], key_len: &dyn Fn(&str) -> Option<usize>) -> Vec<Statement> {
    let mut reader = Reader {
        family,
        key_len,
        held: [const { None }; REGISTERS as usize],
        pending: None,
        nfproto: None,
        out: Vec::new(),
    };
    for expr in exprs {
        if reader.read(expr).is_none() {
            return vec![Statement::Foreign(exprs.to_vec())];
        }
    }
    reader.flush_pending(None);
    reader.out
}

/// What the registers from one on hold.
#[derive(Clone)]
enum Held {
    Field(Field),
    Const(Bytes),
    Mapped {
        key: Vec<Field>,
        map: Arc<str>,
    },
    Masked(Field, Bytes),
    /// A field in network order, for ordered comparison.
    Swapped(Field),
    /// The mark with some bits changed.
    Mark {
        mask: u32,
        xor: u32,
    },
}

struct Reader<'a> {
    family: Family,
    key_len: &'a dyn Fn(&str) -> Option<usize>,
    held: [Option<Held>; REGISTERS as usize],
    /// A check of the packet's family, which is said by the next statement if that reads a header of the family.
    pending: Option<u8>,
    /// The packet's family as far as the rule has established it.
    nfproto: Option<u8>,
    out: Vec<Statement>,
}

impl Reader<'_> {
    /// `None` when the expression does not fit any statement.
    fn read(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Load { field, dreg } => self.put(*dreg, Held::Field(*field)),
            Expr::ImmediateValue { dreg, value, .. } => self.put(*dreg, Held::Const(value.clone())),
            Expr::Bitwise { sreg, dreg, mask, xor, .. } => self.bitwise(*sreg, *dreg, mask, xor),
            Expr::ToNetworkOrder { sreg, dreg } => match self.get(*sreg)? {
                Held::Field(field) if field.host_order() => self.put(*dreg, Held::Swapped(field)),
                Held::Field(_) | Held::Const(_) | Held::Mapped { .. } | Held::Masked(..) | Held::Swapped(_) => None,
                Held::Mark { .. } => None,
            },
            Expr::Cmp { sreg, op, value, len } => self.compare(*sreg, *op, value, usize::from(*len)),
            Expr::Range { sreg, negate, first, last, .. } => {
                let (field, first, last) = match self.get(*sreg)? {
                    Held::Field(field) if !field.host_order() => (field, first.clone(), last.clone()),
                    Held::Swapped(field) => (field, swap_number(first), swap_number(last)),
                    Held::Field(_) | Held::Const(_) | Held::Mapped { .. } | Held::Masked(..) | Held::Mark { .. } => {
                        return None;
                    }
                };
                self.emit(Statement::Range { field, first, last, negate: *negate })
            }
            Expr::Lookup { set, sreg, to } => self.lookup(set, *sreg, *to),
            Expr::SetMark { sreg } => match self.get(*sreg)? {
                Held::Mark { mask, xor } => self.emit(Statement::UpdateMark { mask, xor }),
                Held::Field(_) | Held::Const(_) | Held::Mapped { .. } | Held::Masked(..) | Held::Swapped(_) => {
                    let value = self.value(*sreg)?;
                    self.emit(Statement::SetMark(value))
                }
            },
            Expr::SetCtMark { sreg } => {
                let value = self.value(*sreg)?;
                self.emit(Statement::SetCtMark(value))
            }
            Expr::Store { field, sreg } => {
                let to = self.value(*sreg)?;
                self.emit(Statement::SetField { field: *field, to })
            }
            Expr::Dynset { set, op, sreg_key, sreg_data, timeout } => {
                let key = self.fields(*sreg_key, (self.key_len)(set))?;
                let data = match sreg_data {
                    Some(sreg) => Some(self.value(*sreg)?),
                    None => None,
                };
                self.emit(Statement::Dynset { op: *op, set: set.clone(), key, timeout: *timeout, data })
            }
            Expr::Nat { kind, v6, addr, port } => {
                let to = self.nat_target(*v6, (*addr)?, *port)?;
                self.emit(Statement::Nat { kind: *kind, to })
            }
            Expr::Masquerade { flags: 0 } => self.emit(Statement::Masquerade { fully_random: false }),
            Expr::Masquerade { flags: RANDOM_FULLY } => self.emit(Statement::Masquerade { fully_random: true }),
            Expr::Masquerade { .. } | Expr::Unknown { .. } => None,
            // In an `inet` table the code alone does not tell whose it is.
            Expr::Reject(Reject::Icmp(code)) if self.nfproto == Some(nfproto::IPV6) => {
                self.emit(Statement::Reject(Reject::Icmpv6(*code)))
            }
            Expr::Reject(reject) => self.emit(Statement::Reject(*reject)),
            Expr::Counter(counter) => self.emit(Statement::Counter(*counter)),
            Expr::Limit(limit) => self.emit(Statement::Limit(*limit)),
            Expr::Log { prefix, level } => self.emit(Statement::Log { prefix: prefix.clone(), level: *level }),
            Expr::Notrack => self.emit(Statement::Notrack),
            Expr::Verdict(verdict) => self.emit(Statement::Verdict(verdict.clone())),
        }
    }

    fn put(&mut self, reg: Reg, held: Held) -> Option<()> {
        *self.held.get_mut(usize::from(reg))? = Some(held);
        Some(())
    }

    fn get(&self, reg: Reg) -> Option<Held> {
        self.held.get(usize::from(reg))?.clone()
    }

    fn emit(&mut self, statement: Statement) -> Option<()> {
        self.flush_pending(Some(&statement));
        self.out.push(statement);
        // Values do not outlive their statement; what is left over must not be taken for part of the next.
        self.held = [const { None }; REGISTERS as usize];
        Some(())
    }

    /// A check of the family that the next statement does not imply was written on its own.
    fn flush_pending(&mut self, next: Option<&Statement>) {
        if let Some(nfproto) = self.pending.take()
            && next.is_none_or(|next| !next.nfprotos().contains(&nfproto))
        {
            self.out.push(Statement::is(Field::Nfproto, Bytes::new().push(&[nfproto])));
        }
    }

    fn bitwise(&mut self, sreg: Reg, dreg: Reg, mask: &Bytes, xor: &Bytes) -> Option<()> {
        let Held::Field(field) = self.get(sreg)? else { return None };
        if xor.as_slice().iter().all(|byte| *byte == 0) {
            return match field.upper_half(mask) {
                Some(half) => self.put(dreg, Held::Field(half)),
                None => self.put(dreg, Held::Masked(field, mask.clone())),
            };
        }
        if field != Field::Mark {
            return None;
        }
        self.put(dreg, Held::Mark { mask: number(mask)?, xor: number(xor)? })
    }

    fn compare(&mut self, sreg: Reg, op: Compare, value: &Bytes, len: usize) -> Option<()> {
        let value = value.clone();
        match self.get(sreg)? {
            Held::Field(field) if field.is_name() => {
                let value = Bytes::from_slice(value.as_slice().get(..len)?);
                self.emit(Statement::Match { field, mask: None, op, value })
            }
            Held::Field(Field::Nfproto) if op == Compare::Eq && self.family == Family::Inet => {
                self.flush_pending(None);
                self.pending = value.as_slice().first().copied();
                self.nfproto = self.pending;
                Some(())
            }
            Held::Field(half) if half.masked().is_some() => {
                let (field, mask) = half.masked()?;
                self.emit(Statement::Match { field, mask: Some(mask), op, value })
            }
            Held::Field(field) if matches!(op, Compare::Eq | Compare::Ne) || !field.host_order() => {
                self.emit(Statement::Match { field, mask: None, op, value })
            }
            Held::Swapped(field) => self.emit(Statement::Match { field, mask: None, op, value: swap_number(&value) }),
            Held::Masked(field @ (Field::CtState | Field::CtStatus), mask)
                if matches!(op, Compare::Eq | Compare::Ne) && number(&value) == Some(0) =>
            {
                let bits = number(&mask)?;
                self.emit(Statement::Flags { field, bits, negate: op == Compare::Eq })
            }
            Held::Masked(field, mask) if matches!(op, Compare::Eq | Compare::Ne) => {
                self.emit(Statement::Match { field, mask: Some(mask), op, value })
            }
            Held::Field(_) | Held::Const(_) | Held::Mapped { .. } | Held::Masked(..) | Held::Mark { .. } => None,
        }
    }

    fn lookup(&mut self, set: &Arc<str>, sreg: Reg, to: LookupTo) -> Option<()> {
        let key = self.fields(sreg, (self.key_len)(set))?;
        let set = set.clone();
        match to {
            LookupTo::Present => self.emit(Statement::Lookup { key, set, negate: false }),
            LookupTo::Absent => self.emit(Statement::Lookup { key, set, negate: true }),
            LookupTo::Verdict => self.emit(Statement::VerdictMap { key, map: set }),
            LookupTo::Register(dreg) => {
                for register in self.held.iter_mut().skip(usize::from(dreg)) {
                    *register = None;
                }
                self.put(dreg, Held::Mapped { key, map: set })
            }
        }
    }

    fn value(&self, sreg: Reg) -> Option<Value> {
        match self.get(sreg)? {
            Held::Const(value) => Some(Value::Const(value)),
            Held::Mapped { key, map } => Some(Value::Map { key, map }),
            Held::Field(_) => Some(Value::Fields(self.fields(sreg, None)?)),
            Held::Masked(..) | Held::Swapped(_) | Held::Mark { .. } => None,
        }
    }

    /// The fields that were loaded one after the other from `sreg` on, `len` bytes of them if that is known.
    fn fields(&self, sreg: Reg, len: Option<usize>) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        let mut reg = usize::from(sreg);
        let mut left = len;
        while left != Some(0) {
            let Some(Some(Held::Field(field))) = self.held.get(reg) else { break };
            fields.push(*field);
            reg += field.padded() / 4;
            left = left.map(|left| left.saturating_sub(field.padded()));
        }
        (!fields.is_empty() && left.unwrap_or(0) == 0).then_some(fields)
    }

    fn nat_target(&self, v6: bool, addr: Reg, port: Option<Reg>) -> Option<NatTarget> {
        match self.get(addr)? {
            Held::Mapped { key, map } => {
                let width = if v6 { 4 } else { 1 };
                let fits = port.is_none_or(|port| port == addr + width);
                fits.then_some(NatTarget::Map { v6, key, map, port: port.is_some() })
            }
            Held::Const(addr) => {
                let port = match port {
                    Some(reg) => match self.get(reg)? {
                        Held::Const(port) => Some(u16::from_be_bytes(port.as_slice().get(..2)?.try_into().ok()?)),
                        Held::Field(_) | Held::Mapped { .. } | Held::Masked(..) | Held::Swapped(_) => return None,
                        Held::Mark { .. } => return None,
                    },
                    None => None,
                };
                if v6 {
                    let octets: [u8; 16] = addr.as_slice().try_into().ok()?;
                    Some(NatTarget::V6(octets.into(), port))
                } else {
                    let octets: [u8; 4] = addr.as_slice().try_into().ok()?;
                    Some(NatTarget::V4(octets.into(), port))
                }
            }
            Held::Field(_) | Held::Masked(..) | Held::Swapped(_) | Held::Mark { .. } => None,
        }
    }
}

fn number(value: &Bytes) -> Option<u32> {
    Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
}
