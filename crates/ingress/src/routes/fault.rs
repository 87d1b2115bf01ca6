//! What of an object is not served, and why: the text of its Event.

use std::fmt;

use service_model::ObjectKey;

/// The object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Culprit {
    Ingress(ObjectKey),
    Secret(ObjectKey),
}

/// One thing that is left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub culprit: Culprit,
    pub reason: Reason,
}

/// Why it is left out, and what is answered instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No such Service: 503.
    NoService { service: ObjectKey },
    /// The Service has no such port: 503.
    NoPort { service: ObjectKey, port: String },
    /// The Service is an alias of a name that leads nowhere: 503.
    ExternalName { service: ObjectKey },
    /// The backend is not a Service.
    ResourceBackend { kind: String, name: String },
    /// Another Ingress has this host and path.
    Taken { host: String, path: String, by: ObjectKey },
    /// Another Ingress is the default backend.
    DefaultTaken { by: ObjectKey },
    /// The path is a regular expression that cannot be compiled.
    Pattern { path: String, why: String },
    /// An annotation that is not known here.
    UnsupportedAnnotation { name: String },
    /// An annotation whose value cannot be used.
    InvalidAnnotation { name: String, why: String },
    /// The Secret of a TLS section is not there: its hosts get the default certificate.
    NoSecret { secret: ObjectKey },
    /// The Secret holds no usable certificate and key.
    Certificate { secret: ObjectKey, why: String },
    /// The Secret of basic authentication is missing or unusable: 503.
    Users { secret: ObjectKey, why: String },
}

impl Reason {
    /// The Event's reason, in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::NoService { .. } => "ServiceNotFound",
            Reason::NoPort { .. } => "ServicePortNotFound",
            Reason::ExternalName { .. } => "NameNotResolved",
            Reason::ResourceBackend { .. } => "UnsupportedBackend",
            Reason::Taken { .. } | Reason::DefaultTaken { .. } => "Conflict",
            Reason::Pattern { .. } => "InvalidPath",
            Reason::UnsupportedAnnotation { .. } => "UnsupportedAnnotation",
            Reason::InvalidAnnotation { .. } => "InvalidAnnotation",
            Reason::NoSecret { .. } => "SecretNotFound",
            Reason::Certificate { .. } => "InvalidCertificate",
            Reason::Users { .. } => "InvalidUsers",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoService { service } => write!(f, "Service {service} does not exist; its paths answer 503"),
            Reason::NoPort { service, port } => {
                write!(f, "Service {service} has no TCP port `{port}`; its paths answer 503")
            }
            Reason::ExternalName { service } => {
                write!(
                    f,
                    "the external name of Service {service} leads to no address that may be asked; its paths answer 503"
                )
            }
            Reason::ResourceBackend { kind, name } => {
                write!(f, "backend {kind} `{name}` is not a Service; its paths answer 503")
            }
            Reason::Taken { host, path, by } => {
                let host = if host.is_empty() { "any host" } else { host };
                write!(f, "path `{path}` of {host} belongs to Ingress {by}, which is older")
            }
            Reason::DefaultTaken { by } => write!(f, "the default backend belongs to Ingress {by}, which is older"),
            Reason::Pattern { path, why } => write!(f, "path `{path}` is not a regular expression: {why}"),
            Reason::UnsupportedAnnotation { name } => {
                write!(f, "annotation `{name}` is not supported and has no effect")
            }
            Reason::InvalidAnnotation { name, why } => write!(f, "annotation `{name}` has no effect: {why}"),
            Reason::NoSecret { secret } => {
                write!(f, "Secret {secret} does not exist; its hosts get the default certificate")
            }
            Reason::Certificate { secret, why } => {
                write!(f, "Secret {secret} holds no usable certificate: {why}; its hosts get the default certificate")
            }
            Reason::Users { secret, why } => {
                write!(f, "Secret {secret} holds no usable users: {why}; its paths answer 503")
            }
        }
    }
}
