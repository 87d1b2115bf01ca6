//! The metrics registry, in the text form that Prometheus scrapes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A registry shared by the components of a process. Clones share it.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Mutex<prometheus_client::registry::Registry>>,
}

/// One answer to a scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrape {
    pub content_type: &'static str,
    pub body: String,
}

impl Registry {
    /// Lets a component add its metrics; each component does this once, in its `metrics.rs`.
    pub fn register(&self, add: impl FnOnce(&mut prometheus_client::registry::Registry)) {
        add(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All metrics as OpenMetrics text.
    pub fn scrape(&self) -> Scrape {
        let mut body = String::new();
        let registry = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a String fails only when a metric's own encoder does; what it wrote so far is still valid text.
        let _ = prometheus_client::encoding::text::encode(&mut body, &registry);
        Scrape { content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8", body }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
