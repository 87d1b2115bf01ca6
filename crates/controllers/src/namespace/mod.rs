//! Namespaces that are being deleted: their content goes first, the pods before all else, and then they do.

mod decide;
mod reconcile;
mod tell;
#[cfg(test)]
mod tests;

pub use reconcile::start;
