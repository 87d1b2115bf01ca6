//! Deployments: a ReplicaSet for each version of the template, and the way from one to the next.

mod decide;
mod reconcile;
mod revision;
mod rolling;
mod scale;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::start;
pub use rolling::resolve;
