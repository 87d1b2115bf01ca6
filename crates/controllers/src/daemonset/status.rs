//! What a DaemonSet tells: counts over nodes.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::decide::{Seat, Seats};
use super::placement::Place;
use crate::mechanism::{Decision, Write};
use crate::membership;
use crate::workload::{self, Availability};

pub fn write(seats: &Seats<'_>) -> Decision {
    let old = seats.set.status.clone().unwrap_or_default();
    let patience = seats.set.spec.min_ready_seconds.unwrap_or(0);
    let pods = seats.all.iter().flat_map(|seat| &seat.pods);
    let waits = pods.filter_map(|pod| match workload::availability(pod, patience, seats.now) {
        Availability::In(left) => Some(left),
        Availability::NotReady | Availability::Available => None,
    });
    let again = waits.min();
    let status = count(seats, &old);
    let write = (status != old).then(|| replace(seats.set, status));
    Decision { writes: write.into_iter().collect(), again, ..Decision::default() }
}

fn replace(set: &DaemonSet, status: DaemonSetStatus) -> Write {
    Write::replace_status(&DaemonSet { status: Some(status), ..set.clone() })
}

/// A node counts as its oldest pod does: as long as the old pod is beside the new one, it is not renewed.
fn count(seats: &Seats<'_>, old: &DaemonSetStatus) -> DaemonSetStatus {
    let count = |is: &dyn Fn(&Seat) -> bool| -> i32 { seats.all.iter().filter(|seat| is(seat)).map(|_| 1).sum() };
    let wanted = |seat: &Seat| seat.place == Place::Wanted;
    let first = |is: &dyn Fn(&Pod) -> bool| count(&|seat| wanted(seat) && seat.oldest().is_some_and(|pod| is(pod)));
    let patience = seats.set.spec.min_ready_seconds.unwrap_or(0);
    let desired = count(&wanted);
    let available = first(&|pod| workload::availability(pod, patience, seats.now) == Availability::Available);
    let positive = |count: i32| (count > 0).then_some(count);
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: first(&|_| true),
        number_misscheduled: count(&|seat| !wanted(seat) && seat.oldest().is_some()),
        number_ready: first(&membership::is_ready),
        number_available: positive(available),
        number_unavailable: positive(desired - available),
        updated_number_scheduled: positive(first(&|pod| seats.is_new(pod))),
        observed_generation: seats.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    }
}

/// Counts a hash that was taken, so that the next one is another.
pub fn count_collision(set: &DaemonSet) -> Decision {
    let mut status = set.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    vec![replace(set, status)].into()
}
