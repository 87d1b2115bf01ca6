//! Pods that nobody will ever end: those of nodes that are gone, and those that were deleted before they had a node. And pods that have ended,
//! when there are very many of them.

mod decide;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::start;
