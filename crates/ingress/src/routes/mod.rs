//! From objects to routes, purely: Ingresses, IngressClasses, Services, EndpointSlices and Secrets in, an immutable [`Table`] out.
//!
//! [`Model`] keeps what was seen and rebuilds only the hosts that a change touches, so that one change among a thousand hosts costs one
//! host. Endpoints change more often than routes: they are swapped inside the [`ServicePort`] that the routes share, and no table is
//! built for them. What cannot be served is reported as a [`Fault`] of the object that is to blame.

mod alias;
mod annotations;
mod backend;
mod canary;
mod class;
mod fault;
mod host;
mod htpasswd;
mod limits;
mod model;
mod options;
mod parse;
mod path;
mod ports;
mod stats;
mod table;

pub use backend::{ATTEMPTS, Endpoint, EndpointSet, Load, Protocol, ServicePort, Unavailable};
pub use canary::{Canary, HeaderRule};
pub use class::ClassRule;
pub use fault::{Culprit, Fault, Reason};
pub use host::{CanaryRoute, Gate, HostTable, Rewrite, Route};
pub use htpasswd::{Credentials, Users};
pub use limits::{Limited, Limiter, Limits, Place};
pub use model::{Committed, Model, TlsBinding};
pub use options::{Affinity, BackendProtocol, BasicAuth, Cors, Options, Redirect, SameSite};
pub use path::normalise;
pub use stats::Stats;
pub use table::Table;
