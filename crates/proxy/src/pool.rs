//! One pool: the endpoints for one kind of traffic to one Service port, each with a number from 0 without gaps.
//!
//! A change moves as few numbers as can be: a newcomer takes the place of one that left, else the last one moves into the gap.

use std::collections::BTreeMap;

use service_model::Backend;

/// Endpoints by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    pub order: Vec<Backend>,
    pub sticky: Option<Sticky>,
}

/// What affinity needs: an identity that outlives changes of the pool, and one for each endpoint that none gets after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    pub id: u16,
    /// The slot of each endpoint, in the pool's order.
    pub slots: Vec<u16>,
    next: u16,
}

/// What a kernel's table says of a sticky pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StickyHint {
    pub id: u16,
    pub slots: BTreeMap<Backend, u16>,
}

impl Pool {
    /// The pool after this one that holds just `wanted` (sorted).
    pub fn follow(before: &[Backend], wanted: &[Backend]) -> Vec<Backend> {
        let mut order = before.to_vec();
        let mut known: Vec<Backend> = before.to_vec();
        known.sort_unstable();
        let mut new = wanted.iter().filter(|backend| known.binary_search(backend).is_err());
        let mut at = 0;
        while at < order.len() {
            if wanted.binary_search(&order[at]).is_ok() {
                at += 1;
            } else if let Some(new) = new.next() {
                order[at] = *new;
                at += 1;
            } else {
                order.swap_remove(at);
            }
        }
        order.extend(new);
        order
    }

    /// How many endpoints there are, as the kernel counts them.
    pub fn len(&self) -> u32 {
        u32::try_from(self.order.len()).expect("an API object cannot hold four billion endpoints")
    }
}

impl Sticky {
    /// A pool that nobody has stuck to yet, or one that a kernel's table remembers.
    pub fn new(id: u16, order: &[Backend], hint: Option<&StickyHint>) -> Self {
        let empty = BTreeMap::new();
        let known = hint.map_or(&empty, |hint| &hint.slots);
        let next = known.values().max().map_or(1, |last| last.wrapping_add(1).max(1));
        let mut sticky = Sticky { id, slots: Vec::new(), next };
        sticky.slots = known.values().copied().collect();
        let slots = order.iter().map(|backend| known.get(backend).copied().unwrap_or_else(|| sticky.take())).collect();
        sticky.slots = slots;
        sticky
    }

    /// The same pool with other endpoints: who stays keeps the slot, who comes or returns gets a new one.
    pub fn follow(&self, before: &[Backend], order: &[Backend]) -> Self {
        let known: BTreeMap<Backend, u16> = before.iter().copied().zip(self.slots.iter().copied()).collect();
        let mut sticky = self.clone();
        sticky.slots =
            order.iter().map(|backend| known.get(backend).copied().unwrap_or_else(|| sticky.take())).collect();
        sticky
    }

    fn take(&mut self) -> u16 {
        // With fewer than 65,535 endpoints one is free; more stick by luck.
        for _ in 0..=u16::MAX {
            let slot = self.next;
            self.next = self.next.wrapping_add(1).max(1);
            if !self.slots.contains(&slot) {
                return slot;
            }
        }
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn backends(last: &[u8]) -> Vec<Backend> {
        last.iter().map(|n| Backend { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, *n)), port: 80 }).collect()
    }

    #[test]
    fn a_gap_is_filled_by_a_newcomer_else_by_the_last() {
        let before = backends(&[1, 2, 3, 4]);
        assert_eq!(Pool::follow(&before, &backends(&[1, 3, 4, 5])), backends(&[1, 5, 3, 4]));
        assert_eq!(Pool::follow(&before, &backends(&[1, 3, 4])), backends(&[1, 4, 3]));
        assert_eq!(Pool::follow(&before, &backends(&[1, 2, 3, 4, 5])), backends(&[1, 2, 3, 4, 5]));
        assert_eq!(Pool::follow(&before, &[]), backends(&[]));
    }

    #[test]
    fn an_endpoint_that_returns_gets_another_slot() {
        let (both, one) = (backends(&[1, 2]), backends(&[1]));
        let first = Sticky::new(7, &both, None);
        assert_eq!(first.slots, [1, 2]);
        let alone = first.follow(&both, &one);
        assert_eq!(alone.slots, [1]);
        assert_eq!(alone.follow(&one, &both).slots, [1, 3]);
    }
}
