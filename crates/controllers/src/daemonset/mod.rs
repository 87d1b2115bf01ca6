//! DaemonSets: one pod on every node that may have one.

mod decide;
mod pauses;
mod placement;
mod reconcile;
mod renew;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::start;
