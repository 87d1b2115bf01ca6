//! Where a pod shall run: filter the nodes that can take it, score them, bind it to the best.
//!
//! `filter` and `score` are pure functions over a [`Cluster`], the picture of nodes and of the pods that count against them. `run` keeps
//! that picture from watches, assumes a pod on its node as soon as it has decided, and binds in the background. A pod that fits nowhere
//! says why in its condition and in an event, in upstream's words. Preemption is not done.
#![forbid(unsafe_code)]

mod affinity;
mod cluster;
mod cycle;
mod filter;
mod resources;
mod run;
mod score;
#[cfg(test)]
mod tests;
mod verdict;

pub use cluster::{Cluster, Light, NodeState, PodState};
pub use cycle::Cycle;
pub use filter::{Reason, filter};
pub use resources::Resources;
pub use run::run;
pub use score::best;
pub use verdict::{Verdict, decide};

use thiserror::Error;

/// What the scheduler does.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pods that name this scheduler are ours.
    pub scheduler_name: String,
    /// How many bindings may be on their way at once.
    pub bindings_at_once: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".to_owned(), bindings_at_once: 128 }
    }
}

/// Why one pod could not be bound or told of. It is tried again.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot bind pod `{pod}` to node `{node}`")]
    Bind { pod: String, node: String, source: Box<kube::Error> },
    #[error("cannot write the condition of pod `{pod}`")]
    Condition { pod: String, source: Box<kube::Error> },
}
