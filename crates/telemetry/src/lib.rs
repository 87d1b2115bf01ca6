//! What operators read: log fields, a metrics registry and health, the same in every component.
//!
//! Components register their metrics in their own `metrics.rs` and their checks by name; how they are written, scraped and served is
//! decided here once.
#![forbid(unsafe_code)]

mod health;
mod logs;
mod metrics;

pub use health::{Check, Health, Report};
pub use logs::{LogFormat, chain, init as init_logs};
pub use metrics::{Registry, Scrape};
pub use prometheus_client;
