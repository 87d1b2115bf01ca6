//! CronJobs: Jobs by the clock.

mod clock;
mod decide;
mod reconcile;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::start;
