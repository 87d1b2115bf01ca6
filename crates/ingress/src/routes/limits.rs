//! `limit-rps`, `limit-rpm`, `limit-connections`: how much one client may ask for.
//!
//! The rule is nginx's leaky bucket: a client's excess over its rate drains as time goes by, and what would go beyond the burst is refused.
//! Time is an argument, in milliseconds of the caller's clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

/// Clients that are remembered. Beyond that, those that have nothing left to drain are forgotten, and new ones are let through.
const REMEMBERED: usize = 65_536;
const MINUTE_MS: f64 = 60_000.0;

/// What an Ingress allows each client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests a minute, for each rate that is given.
    pub per_minute: Vec<u32>,
    /// Requests at one time.
    pub at_once: Option<u32>,
    /// The burst is the rate, as it was written, times this.
    pub burst: Vec<u32>,
    /// Who is not limited.
    pub exempt: Vec<IpNet>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        self.per_minute.is_empty() && self.at_once.is_none()
    }
}

/// Counts the clients of one Ingress, over all workers.
#[derive(Debug)]
pub struct Limiter {
    pub limits: Limits,
    clients: Mutex<HashMap<IpAddr, Client>>,
}

#[derive(Debug, Default)]
struct Client {
    /// Requests over each rate.
    excess: Vec<f64>,
    at: u64,
    open: u32,
}

/// A request that was let through; counts for as long as it lives.
#[derive(Debug)]
pub struct Place {
    limiter: Arc<Limiter>,
    client: IpAddr,
}

impl Limiter {
    pub fn new(limits: Limits) -> Self {
        Limiter { limits, clients: Mutex::default() }
    }

    /// Whether a client may ask now: `Err` if not, and a place to keep if requests at one time are counted.
    pub fn admit(self: &Arc<Self>, client: IpAddr, now: u64) -> Result<Option<Place>, Limited> {
        if self.limits.exempt.iter().any(|range| range.contains(&client)) {
            return Ok(None);
        }
        let mut clients = self.clients();
        if clients.len() >= REMEMBERED && !clients.contains_key(&client) {
            clients.retain(|_, known| known.open > 0 || self.excess(known, now, 0.0).any(|excess| excess > 0.0));
            if clients.len() >= REMEMBERED {
                return Ok(None);
            }
        }
        let known = clients.entry(client).or_default();
        if self.limits.at_once.is_some_and(|most| known.open >= most) {
            return Err(Limited);
        }
        let next: Vec<f64> = if known.excess.is_empty() {
            vec![0.0; self.limits.per_minute.len()]
        } else {
            self.excess(known, now, 1.0).collect()
        };
        if next.iter().zip(&self.limits.burst).any(|(excess, burst)| *excess > f64::from(*burst)) {
            return Err(Limited);
        }
        (known.excess, known.at) = (next, now);
        if self.limits.at_once.is_none() {
            return Ok(None);
        }
        known.open += 1;
        Ok(Some(Place { limiter: Arc::clone(self), client }))
    }

    /// What is left of a client's excess by now, with so many requests more.
    fn excess<'a>(&'a self, known: &'a Client, now: u64, more: f64) -> impl Iterator<Item = f64> + 'a {
        let passed = now.saturating_sub(known.at) as f64;
        let rates = self.limits.per_minute.iter().map(move |rate| f64::from(*rate) * passed / MINUTE_MS);
        known.excess.iter().zip(rates).map(move |(excess, drained)| (excess - drained + more).max(0.0))
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Client>> {
        // Counts are whole at any time.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(known) = self.limiter.clients().get_mut(&self.client) {
            known.open = known.open.saturating_sub(1);
        }
    }
}

/// A client has asked for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited;

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn limiter(limits: Limits) -> Arc<Limiter> {
        Arc::new(Limiter::new(limits))
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let limiter = limiter(Limits { per_minute: vec![60], burst: vec![5], ..Limits::default() });
        let asked = |client, now| limiter.admit(client, now).is_ok();
        let let_through = (0..20).filter(|_| asked(ANN, 1000)).count();
        assert_eq!(let_through, 6, "one, and a burst of five");
        assert!(asked(BOB, 1000), "others have their own");
        assert!(!asked(ANN, 1500) && asked(ANN, 2001) && !asked(ANN, 2002));
        assert_eq!((0..20).filter(|_| asked(ANN, 1_000_000)).count(), 6, "drained");
    }

    #[test]
    fn the_narrower_of_two_rates_counts_and_some_are_exempt() {
        let exempt = vec!["192.0.2.2/32".parse().unwrap()];
        let limits = Limits { per_minute: vec![600, 60], burst: vec![50, 3], exempt, ..Limits::default() };
        let limiter = limiter(limits);
        assert_eq!((0..20).filter(|_| limiter.admit(ANN, 0).is_ok()).count(), 4);
        assert_eq!((0..20).filter(|_| limiter.admit(BOB, 0).is_ok()).count(), 20);
    }

    #[test]
    fn places_are_given_back() {
        let limiter = limiter(Limits { at_once: Some(2), ..Limits::default() });
        let held: Vec<_> = (0..3).map(|_| limiter.admit(ANN, 0)).collect();
        assert_eq!(held.iter().filter(|place| place.is_ok()).count(), 2);
        drop(held);
        assert!(limiter.admit(ANN, 0).is_ok());
    }
}
