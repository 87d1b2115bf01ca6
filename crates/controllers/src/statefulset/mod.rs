//! StatefulSets: pods with a place, a name and a volume each, that come and go in order.

mod decide;
mod identity;
mod reconcile;
mod retention;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::start;
