//! Kubernetes objects as values: what every layer above says about an object without asking the network, a clock or the kernel.
//!
//! Field paths and their errors, selectors, quantities, `Status`, and the one schema table that drives protobuf, strict decoding,
//! strategic merge and server-side apply. Typed objects themselves are `k8s-openapi`'s.
#![forbid(unsafe_code)]

pub mod apply;
pub mod canonical;
pub mod cron;
pub mod decode;
pub mod field;
pub mod go;
pub mod names;
pub mod patch;
pub mod placement;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
