//! Claims that pods use and volumes that are bound stay until they are not: a finalizer holds them, and these two controllers take it away.
//!
//! The API server puts the finalizers on new objects (upstream's admission plugin `StorageObjectInUseProtection`); older ones get them here.

mod decide;
mod reconcile;

pub use reconcile::{start_claims, start_volumes};
