//! Endpoints that someone wrote by hand for a Service without a selector, mirrored into EndpointSlices, which is all that proxies read.

mod decide;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::start;
