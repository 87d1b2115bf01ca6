//! Endpoints: the older form of the same truth, one object a Service, still read by many programs.

mod decide;
mod reconcile;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub use reconcile::EndpointsController;
pub use reconcile::start;
