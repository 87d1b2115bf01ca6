//! Services, EndpointSlices and one Node → who may send where.
//!
//! Kubernetes' objects are parsed once, at the edge, into compact owned values ([`Service`], [`Slice`], [`NodeView`]). [`Model`] holds
//! them and keeps for each Service a [`ServiceView`]: its frontends, the endpoints that each kind of traffic may reach on this node, and
//! what happens when there are none. A change of one object recomputes one Service. What cannot be used is left out and reported as a
//! [`Fault`] that names the culprit. The proxy turns views into kernel tables; DNS, ingress and the load balancer read the same model.
#![forbid(unsafe_code)]

mod claims;
mod decide;
mod fault;
mod http;
mod model;
mod names;
mod node;
mod service;
mod slice;
mod view;

pub use claims::FrontendKey;
pub use fault::{Fault, Reason};
pub use http::http_port;
pub use model::{Change, Model};
pub use names::{Family, ObjectKey, ObjectRef, Protocol, ServicePortKey};
pub use node::NodeView;
pub use service::{Affinity, LoadBalancerAddress, NodePort, Policy, Service, ServiceKind, ServicePort};
pub use slice::{Condition, Endpoint, Hints, Slice, SlicePort};
pub use view::{Backend, Empty, Frontend, FrontendKind, HealthCheck, PortView, ServiceView, Target};
