//! Affinity by cookie: a client goes on with the endpoint that its cookie names, for as long as that serves.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::routes::{Affinity, Load, ServicePort};

/// The endpoint that the client's cookie names.
pub(crate) fn named(affinity: &Affinity, headers: &HeaderMap, port: &ServicePort) -> Option<Load> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == affinity.name)?;
    port.named(value)
}

/// Gives the client the cookie of the endpoint that answered.
pub(crate) fn give(affinity: &Affinity, cookie: &str, tls: bool, headers: &mut HeaderMap) {
    let secure = if affinity.secure.unwrap_or(tls) { "; Secure" } else { "" };
    let text = format!("{}={cookie}{}{secure}", affinity.name, affinity.attributes);
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(SET_COOKIE, value);
    }
}
