//! ReplicaSets and ReplicationControllers: as many pods as asked for, no more and no fewer.

mod decide;
mod keep;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::{start_controllers, start_sets};

/// What the tests of Deployments need of this controller.
#[cfg(test)]
pub mod tests_support {
    use client::Key;
    use k8s_openapi::api::apps::v1::ReplicaSet;

    pub use super::reconcile::Replicas;
    use crate::mechanism::{Informers, Queue};

    pub fn replicas_of(informers: &Informers) -> (Replicas<ReplicaSet>, Queue<Key>) {
        Replicas::new(informers)
    }
}
