//! Who calls, and what they may.

pub(crate) mod aggregate;
pub(crate) mod escalation;
mod impersonation;
mod node;
mod rbac;
pub(crate) mod secrets;
pub(crate) mod token;

use std::collections::BTreeMap;

use http::header::AUTHORIZATION;
use http::request::Parts;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Server;
use crate::fault::Outcome;

pub(crate) use impersonation::impersonate;
pub(crate) use rbac::{Access, Attributes, authorize, permit, verb};

/// The identity of a caller, as authentication found it. In-process callers carry it as a request extension.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Who a client certificate says is at the other end of the connection.
#[derive(Debug, Clone)]
pub(crate) struct Certified(pub(crate) User);

/// Everyone who said who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

impl User {
    /// A user of the given groups, and of `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        User { name: name.into(), groups, ..User::default() }
    }

    /// The administrator that `portolan up` puts into the kubeconfig.
    pub fn admin() -> Self {
        User::new("kubernetes-admin", &["system:masters"])
    }

    /// Who did not say who they are.
    pub fn anonymous() -> Self {
        User { name: "system:anonymous".to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// The user that a verified client certificate names: its common name, its organizations as groups. As upstream does, the certificate
/// itself is told by its hash, so that an audit can say which of a person's certificates was used.
pub(crate) fn user_of_certificate(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    let mut user = User::new(name, &groups);
    let hash: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hash}")]);
    Some(user)
}

/// Who sent a request: a certificate, a bearer token, or nobody we know.
pub(crate) fn authenticate(server: &Server, parts: &Parts) -> Outcome<User> {
    if let Some(Certified(user)) = parts.extensions.get::<Certified>() {
        return Ok(user.clone());
    }
    let Some(header) = parts.headers.get(AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = header.to_str().ok().and_then(|header| header.strip_prefix("Bearer "));
    let user = token.and_then(|token| token::user(server, token.trim(), &[]));
    user.ok_or_else(|| api::status::Status::unauthorized("").into())
}
