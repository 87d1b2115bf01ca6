//! EndpointSlices: for each Service with a selector, who may be sent what, in slices of at most a hundred.

mod decide;
#[cfg(test)]
mod history;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::start;
