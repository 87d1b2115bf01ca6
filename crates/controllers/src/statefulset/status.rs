//! What a StatefulSet tells: counts, and the revisions that it comes from and goes to.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::decide::{Places, revision_of};
use crate::mechanism::{Decision, Write};
use crate::membership;
use crate::workload::{self, Availability};

pub fn write(places: &Places<'_>) -> Decision {
    let old = places.set.status.clone().unwrap_or_default();
    let mut status = count(places, &old);
    let all = |count: Option<i32>| count.unwrap_or(0) == places.replicas;
    if all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == places.replicas {
        status.current_revision = Some(places.update.clone());
        status.current_replicas = status.updated_replicas;
    }
    let patience = places.set.spec.min_ready_seconds.unwrap_or(0);
    let waits = places.kept.values().filter_map(|pod| match workload::availability(pod, patience, places.now) {
        Availability::In(left) => Some(left),
        Availability::NotReady | Availability::Available => None,
    });
    let again = waits.min().map(|left| left + std::time::Duration::from_millis(1));
    let write = (status != old).then(|| replace(places.set, status));
    Decision { writes: write.into_iter().collect(), again, ..Decision::default() }
}

fn replace(set: &StatefulSet, status: StatefulSetStatus) -> Write {
    Write::replace_status(&StatefulSet { status: Some(status), ..set.clone() })
}

fn count(places: &Places<'_>, old: &StatefulSetStatus) -> StatefulSetStatus {
    let pods = || places.kept.values().chain(places.surplus.values());
    let count = |is: &dyn Fn(&Pod) -> bool| -> Option<i32> {
        let number: i32 = pods().filter(|pod| is(pod)).map(|_| 1).sum();
        (number > 0).then_some(number)
    };
    let counted = |pod: &Pod| workload::is_active(pod);
    // Upstream says a zero of these aloud.
    let available = count(&|pod| places.is_available(pod) && counted(pod)).or(Some(0));
    StatefulSetStatus {
        observed_generation: places.set.metadata.generation,
        replicas: pods().map(|_| 1).sum(),
        ready_replicas: count(&|pod| membership::is_ready(pod)),
        available_replicas: available,
        current_replicas: count(&|pod| counted(pod) && revision_of(pod) == places.current),
        updated_replicas: count(&|pod| counted(pod) && revision_of(pod) == places.update),
        current_revision: Some(places.current.clone()),
        update_revision: Some(places.update.clone()),
        collision_count: old.collision_count.or(Some(0)),
        conditions: old.conditions.clone(),
    }
}

/// Counts a hash that was taken, so that the next one is another.
pub fn count_collision(set: &StatefulSet) -> Decision {
    let mut status = set.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    vec![replace(set, status)].into()
}
