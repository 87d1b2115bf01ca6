//! Which Service an invocation of `kubectl port-forward` has read.
//!
//! kubectl turns `service/X` into a pod by itself and then asks for that pod alone. But it marks all requests of one invocation with the
//! same random `Kubectl-Session` (KEP-859), so what it read before says what it means. Nothing is guessed: who sends no such mark, or
//! reads no Service, has a forward to a pod.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use uuid::Uuid;

use crate::auth::User;

/// kubectl waits up to a minute, unless told otherwise, for a pod to run between its reading and its asking.
const KEPT: Duration = Duration::from_secs(120);
/// Beyond that the oldest goes, and its forward stays with its pod.
const MOST: usize = 1024;

/// What was read, the newest last. Volatile: a forward that is open has what it needs.
#[derive(Debug, Default)]
pub(crate) struct Reads(Mutex<VecDeque<Read>>);

#[derive(Debug)]
struct Read {
    at: Instant,
    user: User,
    session: Uuid,
    namespace: String,
    service: String,
}

impl Reads {
    /// Keeps that `user` has read a Service, if that is how a forward begins.
    pub(crate) fn note(&self, user: &User, headers: &HeaderMap, (namespace, service): (&str, &str), now: Instant) {
        let Some(session) = session(headers) else { return };
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.retain(|read| now.saturating_duration_since(read.at) < KEPT);
        if reads.len() >= MOST {
            reads.pop_front();
        }
        let (namespace, service) = (namespace.to_owned(), service.to_owned());
        reads.push_back(Read { at: now, user: user.clone(), session, namespace, service });
    }

    /// The Services of a namespace that the invocation has read, the newest first. Another user's session is nobody's.
    pub(crate) fn of(&self, user: &User, headers: &HeaderMap, namespace: &str, now: Instant) -> Vec<String> {
        let Some(session) = session(headers) else { return Vec::new() };
        let reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = reads.iter().rev().filter(|read| {
            now.saturating_duration_since(read.at) < KEPT
                && read.session == session
                && read.user == *user
                && read.namespace == namespace
        });
        own.map(|read| read.service.clone()).collect()
    }
}

/// The mark of an invocation of `kubectl port-forward`; none for all else.
fn session(headers: &HeaderMap) -> Option<Uuid> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    (text("kubectl-command")? == "kubectl port-forward").then(|| Uuid::parse_str(text("kubectl-session")?).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(command: &'static str, session: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("kubectl-command", command.parse().unwrap());
        headers.insert("kubectl-session", session.parse().unwrap());
        headers
    }

    const ONE: &str = "a37cf877-10db-4c43-82ee-1f46cf721651";
    const FORWARD: &str = "kubectl port-forward";

    #[test]
    fn an_invocation_finds_what_it_has_read_and_nobody_elses() {
        let (reads, now) = (Reads::default(), Instant::now());
        let (ann, bob) = (User::new("ann", &[]), User::new("bob", &[]));
        let one = marked(FORWARD, ONE);
        reads.note(&ann, &one, ("default", "web"), now);
        reads.note(&ann, &marked("kubectl get", ONE), ("default", "got"), now);
        reads.note(&ann, &marked(FORWARD, "one"), ("default", "unmarked"), now);
        reads.note(&ann, &HeaderMap::new(), ("default", "unmarked"), now);
        assert_eq!(reads.of(&ann, &one, "default", now), ["web"]);
        let other = marked(FORWARD, "d0943248-c9a4-4239-ba48-0ba26748278f");
        for (user, headers, namespace) in [
            (&bob, &one, "default"),
            (&User::new("ann", &["more"]), &one, "default"),
            (&ann, &other, "default"),
            (&ann, &HeaderMap::new(), "default"),
            (&ann, &marked("kubectl get", ONE), "default"),
            (&ann, &one, "other"),
        ] {
            assert!(reads.of(user, headers, namespace, now).is_empty(), "{user:?} {headers:?} {namespace}");
        }
        assert!(reads.of(&ann, &one, "default", now + KEPT).is_empty(), "it is forgotten");
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let (reads, now, ann) = (Reads::default(), Instant::now(), User::new("ann", &[]));
        let of = |number: usize| marked(FORWARD, &Uuid::from_u128(number as u128).to_string());
        for number in 0..=MOST {
            reads.note(&ann, &of(number), ("default", "web"), now);
        }
        assert_eq!(reads.0.lock().unwrap().len(), MOST);
        assert!(reads.of(&ann, &of(0), "default", now).is_empty());
        assert_eq!(reads.of(&ann, &of(MOST), "default", now), ["web"]);
        // What is old makes room.
        reads.note(&ann, &of(0), ("default", "web"), now + KEPT);
        assert_eq!(reads.0.lock().unwrap().len(), 1);
    }
}
