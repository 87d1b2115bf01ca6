//! How long a kubelet may keep what it has read before it reads again, by the size of the cluster: an annotation on every node.
//!
//! Our own agents watch what they use and do not ask for it; kubelets of other clusters do, and people look for it.

mod decide;
mod reconcile;

pub use reconcile::start;
