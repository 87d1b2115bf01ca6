//! Garbage collection: what was owned goes with its owner, at once, before it, or not at all, as the deleter asked.

mod decide;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::start;
