//! Images and containers of one node, over the kernel as `linux` offers it.
//!
//! - [`images`] is a content store: pulled, loaded or built images, unpacked layer by layer, ready to be mounted.
//! - [`runtime`] is the trait that the node agent drives, in the shape of the CRI, and [`runtime::Libcontainer`], which
//!   runs OCI containers with no program but our own.
//! - [`shim`] is that program's other half: one small process a pod, started from our own binary, which owns the pod's
//!   containers, writes their logs and exit codes to disk, and outlives the daemon.
//!
//! What a pod is, when it restarts and what its network looks like belongs to the agent.

#![forbid(unsafe_code)]

mod disk;
mod error;
pub mod images;
pub mod runtime;
pub mod shim;

pub use error::Error;
