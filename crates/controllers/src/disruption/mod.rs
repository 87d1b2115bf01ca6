//! PodDisruptionBudgets: how many pods may be taken away by will, so that enough are left.

mod decide;
mod reconcile;
mod scale;
mod stale;
#[cfg(test)]
mod tests;

pub use reconcile::start;
