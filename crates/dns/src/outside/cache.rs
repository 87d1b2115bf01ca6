//! Answers from outside, kept for as long as their records live and not longer than a bound.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;

use super::Asked;

/// As many as CoreDNS keeps of either kind.
const ENTRIES: usize = 10_000;

#[derive(Debug)]
pub(super) struct Cache {
    kept_at_most: Duration,
    entries: Mutex<HashMap<Asked, Kept>>,
}

#[derive(Debug)]
struct Kept {
    answer: Message,
    since: Instant,
    until: Instant,
}

impl Cache {
    pub(super) fn new(kept_at_most: Duration) -> Self {
        Cache { kept_at_most, entries: Mutex::default() }
    }

    /// The answer, with what is left of its records' lives.
    pub(super) fn get(&self, asked: &Asked, now: Instant) -> Option<Message> {
        let entries = self.lock();
        let kept = entries.get(asked).filter(|kept| now < kept.until)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Keeps an answer if it may be kept, and gives it as clients shall see it: no record lives longer than we would keep it.
    pub(super) fn keep(&self, asked: Asked, mut answer: Message, now: Instant) -> Message {
        let bound = u32::try_from(self.kept_at_most.as_secs()).unwrap_or(u32::MAX);
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            record.ttl = record.ttl.min(bound);
        }
        let lives = life(&answer);
        if !lives.is_zero() {
            let mut entries = self.lock();
            make_room(&mut entries, now);
            entries.insert(asked, Kept { answer: answer.clone(), since: now, until: now + lives });
        }
        answer
    }

    pub(super) fn entries(&self) -> (usize, usize) {
        let entries = self.lock();
        let good = entries.values().filter(|kept| !kept.answer.answers.is_empty()).count();
        (good, entries.len() - good)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Kept>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long an answer holds: the shortest life of its records; a denial for the least of the SOA's own time and its minimum, and not at
/// all without an SOA (RFC 2308, 5).
fn life(answer: &Message) -> Duration {
    if !matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Duration::ZERO;
    }
    let of_answers = answer.answers.iter().map(|record| record.ttl).min();
    let denials = answer.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let denied = answer.metadata.response_code == ResponseCode::NXDomain || answer.answers.is_empty();
    let seconds = match (of_answers, denials.min()) {
        (None, None) => 0,
        (Some(answers), Some(denial)) if denied => answers.min(denial),
        (Some(_), None) if denied => 0,
        (Some(answers), _) => answers,
        (None, Some(denial)) => denial,
    };
    Duration::from_secs(seconds.into())
}

/// A full cache forgets what has expired, and if that is nothing any tenth of it: that is enough, and costs no order.
fn make_room(entries: &mut HashMap<Asked, Kept>, now: Instant) {
    if entries.len() < ENTRIES {
        return;
    }
    entries.retain(|_, kept| now < kept.until);
    if entries.len() >= ENTRIES {
        let some: Vec<Asked> = entries.keys().take(ENTRIES / 10).cloned().collect();
        some.iter().for_each(|asked| drop(entries.remove(asked)));
    }
}
