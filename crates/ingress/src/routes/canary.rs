//! `canary`: an Ingress that takes a part of another's requests, by a header, a cookie or a share, in that order.

use std::sync::atomic::{AtomicU64, Ordering};

use http::header::COOKIE;
use http::{HeaderMap, HeaderName};
use regex::Regex;

/// Who goes to the canary.
#[derive(Debug, Clone, Default)]
pub struct Canary {
    pub header: Option<(HeaderName, HeaderRule)>,
    /// The cookie's name.
    pub cookie: Option<String>,
    /// So many requests of `total`.
    pub weight: u64,
    pub total: u64,
}

/// What the header has to say.
#[derive(Debug, Clone)]
pub enum HeaderRule {
    /// `always` or `never`.
    Word,
    Value(String),
    Pattern(Regex),
}

impl Canary {
    /// Whether a request goes there. `turn` counts the requests that no header and no cookie decides.
    pub fn takes(&self, headers: &HeaderMap, turn: &AtomicU64) -> bool {
        let by_header = self.header.as_ref().and_then(|(name, rule)| rule.decides(headers.get(name)?.to_str().ok()?));
        let by_cookie = || word(cookie(headers, self.cookie.as_deref()?)?);
        by_header.or_else(by_cookie).unwrap_or_else(|| self.in_turn(turn))
    }

    /// Evenly, and exactly: of `total` requests in a row, `weight`.
    fn in_turn(&self, turn: &AtomicU64) -> bool {
        if self.weight == 0 || self.total == 0 {
            return false;
        }
        let n = turn.fetch_add(1, Ordering::Relaxed) % self.total;
        (n + 1) * self.weight / self.total > n * self.weight / self.total
    }
}

impl HeaderRule {
    /// None leaves it to the next rule.
    fn decides(&self, value: &str) -> Option<bool> {
        match self {
            HeaderRule::Word => word(value),
            HeaderRule::Value(wanted) => (wanted == value).then_some(true),
            HeaderRule::Pattern(pattern) => pattern.is_match(value).then_some(true),
        }
    }
}

fn word(value: &str) -> Option<bool> {
    match value {
        "always" => Some(true),
        "never" => Some(false),
        _ => None,
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|pair| {
        let (known, value) = pair.trim().split_once('=')?;
        (known == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(canary: &Canary, headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        canary.takes(&headers.collect(), &AtomicU64::new(0))
    }

    #[test]
    fn a_header_comes_before_a_cookie_and_that_before_the_share() {
        let header = |rule| Some((HeaderName::from_static("x-canary"), rule));
        let all = Canary { weight: 100, total: 100, cookie: Some("try".into()), ..Canary::default() };
        let word = Canary { header: header(HeaderRule::Word), ..all.clone() };
        assert!(takes(&word, &[]) && takes(&word, &[("x-canary", "what")]));
        assert!(!takes(&word, &[("x-canary", "never"), ("cookie", "try=always")]));
        assert!(!takes(&word, &[("cookie", "a=b; try=never")]));
        let none = Canary { weight: 0, ..word };
        assert!(takes(&none, &[("x-canary", "always")]) && takes(&none, &[("cookie", "try=always")]));
        assert!(!takes(&none, &[]));
        let value = Canary { header: header(HeaderRule::Value("eu".into())), ..none.clone() };
        assert!(takes(&value, &[("x-canary", "eu")]) && !takes(&value, &[("x-canary", "always")]));
        let pattern = Canary { header: header(HeaderRule::Pattern(Regex::new("^e.$").unwrap())), ..none };
        assert!(takes(&pattern, &[("x-canary", "eu")]) && !takes(&pattern, &[("x-canary", "us2")]));
    }

    #[test]
    fn a_share_is_exact_and_even() {
        let canary = Canary { weight: 30, total: 100, ..Canary::default() };
        let (headers, turn) = (HeaderMap::new(), AtomicU64::new(0));
        let taken: Vec<bool> = (0..1000).map(|_| canary.takes(&headers, &turn)).collect();
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 300);
        assert!(taken.windows(5).all(|five| five.iter().any(|taken| *taken)), "spread evenly");
    }
}
