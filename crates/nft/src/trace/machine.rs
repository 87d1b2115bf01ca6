//! One expression at a time, on the registers.

use std::net::IpAddr;
use std::sync::Arc;

use super::{After, Event, Fate, Translation, Walk};
use crate::bytes::Bytes;
use crate::expr::{Expr, LookupTo, Reg};
use crate::field::{CtStatus, Field};
use crate::ruleset::{Counter, Data, DataSpec, Element, Set, SetSpec};
use crate::statement::{Compare, DynsetOp, NatKind, Verdict};

pub(super) enum Next {
    Go,
    /// The rule does not match.
    Break,
    Leave(After),
}

type Registers = [u8];

impl Walk<'_> {
    pub(super) fn expr(&mut self, expr: &Expr, registers: &mut Registers, events: &mut Vec<Event>) -> Next {
        let done = self.try_expr(expr, registers, events);
        done.unwrap_or(Next::Break)
    }

    /// `None` breaks the rule off, as a missing header does.
    fn try_expr(&mut self, expr: &Expr, registers: &mut Registers, events: &mut Vec<Event>) -> Option<Next> {
        match expr {
            Expr::Load { field, dreg } => {
                let value = self.load(*field)?;
                put(registers, *dreg, value.as_slice());
            }
            Expr::Store { field, sreg } => {
                let address = address(get(registers, *sreg, field.width())?)?;
                self.packet.store(*field, address);
            }
            Expr::SetMark { sreg } => self.packet.mark = number(get(registers, *sreg, 4)?)?,
            Expr::SetCtMark { sreg } => self.packet.connection.mark = number(get(registers, *sreg, 4)?)?,
            Expr::Cmp { sreg, op, value, len } => {
                let len = usize::from(*len);
                let (left, right) = (get(registers, *sreg, len)?, value.as_slice().get(..len)?);
                return Some(if compare(left, *op, right) { Next::Go } else { Next::Break });
            }
            Expr::Range { sreg, negate, first, last, len } => {
                let len = usize::from(*len);
                let value = get(registers, *sreg, len)?;
                let inside = first.as_slice().get(..len)? <= value && value <= last.as_slice().get(..len)?;
                return Some(if inside != *negate { Next::Go } else { Next::Break });
            }
            Expr::Bitwise { sreg, dreg, mask, xor, len } => {
                let value = get(registers, *sreg, usize::from(*len))?;
                let masked = value.iter().zip(mask.as_slice()).zip(xor.as_slice());
                let result: Vec<u8> = masked.map(|((value, mask), xor)| (value & mask) ^ xor).collect();
                put(registers, *dreg, &result);
            }
            Expr::ToNetworkOrder { sreg, dreg } => {
                let value = number(get(registers, *sreg, 4)?)?;
                put(registers, *dreg, &value.to_be_bytes());
            }
            Expr::Lookup { set, sreg, to } => return self.lookup(set, *sreg, *to, registers, events),
            Expr::ImmediateValue { dreg, value, .. } => put(registers, *dreg, value.as_slice()),
            Expr::Verdict(verdict) => return Some(leave(verdict, events)),
            Expr::Dynset { set, op, sreg_key, sreg_data, .. } => {
                let key = self.change(set, *op, *sreg_key, *sreg_data, registers)?;
                events.push(Event::Changed { op: *op, set: set.clone(), key });
            }
            Expr::Nat { kind, v6, addr, port } => {
                let width = if *v6 { 16 } else { 4 };
                let address = address(get(registers, (*addr)?, width)?)?;
                let port = match port {
                    Some(reg) => Some(u16::from_be_bytes(get(registers, *reg, 2)?.try_into().ok()?)),
                    None => None,
                };
                self.translate(*kind, address, port);
                return Some(self.translated(Translation::Nat { kind: *kind, address, port }, events));
            }
            Expr::Masquerade { .. } => {
                self.packet.connection.status |= CtStatus::SNAT.0;
                return Some(self.translated(Translation::Masquerade, events));
            }
            Expr::Reject(reject) => {
                events.push(Event::Rejected(*reject));
                return Some(Next::Leave(After::Fate(Fate::Rejected(*reject))));
            }
            // They watch, and do not decide; a limit is never reached where time stands still.
            Expr::Counter(_) | Expr::Log { .. } | Expr::Limit(_) | Expr::Notrack => {}
            Expr::Unknown { .. } => return None,
        }
        Some(Next::Go)
    }

    fn load(&mut self, field: Field) -> Option<Bytes> {
        let kind = |kind: crate::field::AddrType| Bytes::new().number(kind.number());
        match field {
            Field::NumgenRandom { modulus } | Field::NumgenInc { modulus } => {
                Some(Bytes::new().number(self.world.number(modulus)))
            }
            Field::FibSaddrType => Some(kind(self.world.address_type(self.packet.source))),
            Field::FibDaddrType => Some(kind(self.world.address_type(self.packet.destination))),
            of_packet => self.packet.field(of_packet),
        }
    }

    fn lookup(
        &mut self,
        name: &Arc<str>,
        sreg: Reg,
        to: LookupTo,
        registers: &mut Registers,
        events: &mut Vec<Event>,
    ) -> Option<Next> {
        self.world.meanwhile(self.table);
        let set = self.table.sets.get_mut(name)?;
        let key = Bytes::from_slice(get(registers, sreg, width(&set.spec.key))?);
        let found = find(set, &key);
        if let (Some((own, _)), true) = (&found, set.spec.counter) {
            count(set, own);
        }
        events.push(Event::Lookup { set: name.clone(), key, found: found.clone() });
        let present = found.is_some();
        Some(match to {
            LookupTo::Present if present => Next::Go,
            LookupTo::Absent if !present => Next::Go,
            LookupTo::Present | LookupTo::Absent => Next::Break,
            LookupTo::Register(dreg) => match found?.1.data {
                Data::Value(value) => {
                    put(registers, dreg, value.as_slice());
                    Next::Go
                }
                Data::None | Data::Verdict(_) => Next::Break,
            },
            LookupTo::Verdict => match found?.1.data {
                Data::Verdict(verdict) => leave(&verdict, events),
                Data::None | Data::Value(_) => Next::Break,
            },
        })
    }

    /// Does to a set what the rule says; `None` when the set is full, which ends the rule.
    fn change(
        &mut self,
        name: &Arc<str>,
        op: DynsetOp,
        sreg_key: Reg,
        sreg_data: Option<Reg>,
        registers: &Registers,
    ) -> Option<Bytes> {
        self.world.meanwhile(self.table);
        let set = self.table.sets.get_mut(name)?;
        let key = Bytes::from_slice(get(registers, sreg_key, width(&set.spec.key))?);
        if op == DynsetOp::Delete {
            // A delete of what is not there ends nothing.
            set.elements.remove(&key);
            return Some(key);
        }
        if !set.elements.contains_key(&key) {
            if set.spec.size.is_some_and(|size| set.elements.len() >= size as usize) {
                return None;
            }
            let element = match (&set.spec.data, sreg_data) {
                (Some(DataSpec::Value(fields)), Some(reg)) => {
                    Element::value(Bytes::from_slice(get(registers, reg, width(fields))?))
                }
                (Some(DataSpec::Value(_)), None) => return None,
                (Some(DataSpec::Verdict) | None, _) => Element::member(),
            };
            set.elements.insert(key.clone(), element);
        }
        Some(key)
    }

    fn translate(&mut self, kind: NatKind, address: IpAddr, port: Option<u16>) {
        let packet = &mut *self.packet;
        match kind {
            NatKind::Dnat => {
                packet.connection.status |= CtStatus::DNAT.0;
                packet.destination = address;
                packet.destination_port = port.unwrap_or(packet.destination_port);
            }
            NatKind::Snat => {
                packet.connection.status |= CtStatus::SNAT.0;
                packet.source = address;
                packet.source_port = port.unwrap_or(packet.source_port);
            }
        }
    }

    fn translated(&mut self, translation: Translation, events: &mut Vec<Event>) -> Next {
        self.nat.push(translation);
        events.push(Event::Translated(translation));
        Next::Leave(After::Fate(Fate::Accepted))
    }
}

fn leave(verdict: &Verdict, events: &mut Vec<Event>) -> Next {
    events.push(Event::Verdict(verdict.clone()));
    match verdict {
        Verdict::Accept => Next::Leave(After::Fate(Fate::Accepted)),
        Verdict::Drop => Next::Leave(After::Fate(Fate::Dropped)),
        Verdict::Continue => Next::Go,
        Verdict::Return => Next::Leave(After::Return),
        Verdict::Jump(chain) => Next::Leave(After::Jump(chain.clone())),
        Verdict::Goto(chain) => Next::Leave(After::Goto(chain.clone())),
    }
}

/// The element that a key meets, by its own key.
fn find(set: &Set, key: &Bytes) -> Option<(Bytes, Element)> {
    let own = |(key, element): (&Bytes, &Element)| (key.clone(), element.clone());
    if !set.spec.flags.interval {
        return set.elements.get_key_value(key).map(own);
    }
    if set.spec.key.len() == 1 {
        let (start, element) = set.elements.range::<Bytes, _>(..=key).next_back()?;
        return (element.end().unwrap_or(start) >= key).then(|| own((start, element)));
    }
    set.elements.iter().find(|(start, element)| inside(&set.spec, key, start, element)).map(own)
}

/// Whether each component lies within the element's.
fn inside(spec: &SetSpec, key: &Bytes, start: &Bytes, element: &Element) -> bool {
    let end = element.end().unwrap_or(start);
    let mut at = 0;
    spec.key.iter().all(|field| {
        let part = at..at + field.padded();
        at = part.end;
        match (key.as_slice().get(part.clone()), start.as_slice().get(part.clone()), end.as_slice().get(part)) {
            (Some(key), Some(start), Some(end)) => start <= key && key <= end,
            (_, _, _) => false,
        }
    })
}

fn count(set: &mut Set, key: &Bytes) {
    if let Some(element) = set.elements.get_mut(key) {
        let before = element.get_counter().unwrap_or_default();
        let counter = Counter { packets: before.packets + 1, bytes: before.bytes };
        *element = std::mem::take(element).counted(counter);
    }
}

fn compare(left: &[u8], op: Compare, right: &[u8]) -> bool {
    match op {
        Compare::Eq => left == right,
        Compare::Ne => left != right,
        Compare::Lt => left < right,
        Compare::Le => left <= right,
        Compare::Gt => left > right,
        Compare::Ge => left >= right,
    }
}

fn get(registers: &Registers, reg: Reg, len: usize) -> Option<&[u8]> {
    let start = usize::from(reg) * 4;
    registers.get(start..start + len)
}

fn put(registers: &mut Registers, reg: Reg, value: &[u8]) {
    let start = usize::from(reg) * 4;
    if let Some(space) = registers.get_mut(start..start + value.len()) {
        space.copy_from_slice(value);
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

fn width(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.padded()).sum()
}
