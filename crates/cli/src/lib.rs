//! What people type and read beside kubectl: the table of a Service's addresses, and the kubeconfig that lets kubectl find the cluster.
//!
//! Everything here goes through the Kubernetes API or a user's own file; what prints is handed back as text, so that tests read it as
//! people do.
#![forbid(unsafe_code)]

pub mod kubeconfig;
pub mod service;
mod table;
