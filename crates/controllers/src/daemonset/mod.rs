//! DaemonSets: one pod on every node that may have one.

mod decide;
mod placement;
mod reconcile;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::start;
