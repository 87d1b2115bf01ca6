//! Server-side search: what a client's walk through its search list would have ended with, in the first answer.
//!
//! A pod's resolver puts the search domains behind a name one after the other (`ndots:5`), and most names that are asked are outside the
//! cluster: five questions for one answer. We know the pod by its address and so its list. When the first question of such a walk would be
//! denied, we walk the rest ourselves and answer with an alias for the name at which the walk would have ended.
//!
//! Nothing may come out otherwise than by the client's own walk, hence:
//! - only the first search domain begins a walk, only for names with fewer dots than the pod's `ndots`, only for addresses (A, AAAA);
//! - the walk goes on past names that do not exist and past nothing else. Resolvers disagree about names that exist without the type (glibc
//!   goes on, musl stops); we stop there and say so, upon which each does as it would have done there;
//! - whatever is not certain (no answer outside, an address of several pods) is answered plainly, and the client walks itself;
//! - the names that a client will try after a walk that found nothing are remembered for a moment: they look like the beginning of
//!   another walk, but are the rest of this one.
//!
//! A walk's own questions are whole names, and one cannot be told from a question that was meant as such: `a.b.<ns>.svc.<zone>.` with the
//! final dot, if it does not exist, is answered as `a.b` is. That is the one price (CoreDNS' `autopath` has it too).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::name::{WireName, before, join, labels};

/// Longer than a resolver's walk takes.
const REMEMBERED: Duration = Duration::from_secs(10);
const WALKS: usize = 10_000;

/// How one pod's resolver walks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchList {
    pub domains: Arc<[WireName]>,
    /// A name with so many dots is tried as it is first.
    pub ndots: usize,
}

/// The names that a walk tries after its first question, in order; the last is the name itself. None if `name` is no first question.
pub fn rest_of_walk(name: &[u8], list: &SearchList) -> Option<Vec<WireName>> {
    let prefix = before(name, list.domains.first()?).filter(|prefix| !prefix.is_empty())?;
    let dots = labels(prefix).count() - 1;
    if dots >= list.ndots {
        return None;
    }
    list.domains[1..].iter().map(AsRef::as_ref).chain([b"\x00".as_slice()]).map(|domain| join(prefix, domain)).collect()
}

/// The walks that found nothing, for as long as their clients may still be walking.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    hasher: RandomState,
    /// (client, name) as one number.
    recent: Mutex<HashMap<u64, Instant>>,
}

impl Walks {
    /// The client may now try these names itself. Only those that look like the first question of another walk need to be known.
    pub(crate) fn remember(&self, client: IpAddr, list: &SearchList, names: &[WireName], now: Instant) {
        let Some(first) = list.domains.first() else { return };
        let mut misleading = names.iter().filter(|name| before(name, first).is_some()).peekable();
        if misleading.peek().is_none() {
            return;
        }
        let mut recent = self.lock();
        if recent.len() >= WALKS {
            recent.retain(|_, until| now < *until);
        }
        recent.extend(misleading.map(|name| (self.key(client, name), now + REMEMBERED)));
    }

    /// Whether the question may be a later step of a walk that we have seen the beginning of. With too many walks to remember, every
    /// question may.
    pub(crate) fn is_later_step(&self, client: IpAddr, name: &[u8], now: Instant) -> bool {
        let recent = self.lock();
        recent.len() >= 2 * WALKS || recent.get(&self.key(client, name)).is_some_and(|until| now < *until)
    }

    fn key(&self, client: IpAddr, name: &[u8]) -> u64 {
        self.hasher.hash_one((client, name))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
