//! Nodes that stopped answering: their conditions, their taints, and what becomes of the pods on them.

mod decide;
mod eviction;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::start;
