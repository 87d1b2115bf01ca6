//! How endpoints that share their ports are laid into slices: what is in place stays there, gaps are filled where a slice changes anyway.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

use super::{Group, Wanted, identity};

/// The content that one slice should have.
#[derive(Debug, Default)]
pub struct Filled {
    pub endpoints: Vec<Endpoint>,
    /// When the first of the changes to this slice came about.
    pub changed_at: Option<Timestamp>,
}

impl Filled {
    fn add(&mut self, wanted: Wanted) {
        self.touch(wanted.changed_at);
        self.endpoints.push(wanted.endpoint);
    }

    fn touch(&mut self, at: Option<Timestamp>) {
        self.changed_at = match (self.changed_at, at) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
    }
}

/// A group's slices.
#[derive(Debug)]
pub struct Layout {
    pub kept: Vec<(Arc<EndpointSlice>, Filled)>,
    /// Slices that are to be made.
    pub fresh: Vec<Filled>,
    /// Slices that hold nothing any more.
    pub spare: Vec<Arc<EndpointSlice>>,
}

struct Open {
    slice: Arc<EndpointSlice>,
    filled: Filled,
    changed: bool,
}

/// Lays a group into slices of at most `max`. An empty group needs one empty slice.
pub fn fill(mut group: Group, mut slices: Vec<Arc<EndpointSlice>>, max: usize) -> Layout {
    slices.sort_by_key(|slice| slice.name_any());
    let empty_group = group.is_empty();
    let mut open: Vec<Open> = slices.into_iter().map(|slice| keep(slice, &mut group, max)).collect();
    let mut rest: Vec<Wanted> = group.into_values().collect();
    // Taken from the end, so that names come in order.
    rest.sort_by_key(|wanted| std::cmp::Reverse(order(&wanted.endpoint)));
    for slice in open.iter_mut().filter(|slice| slice.changed) {
        slice.take(&mut rest, max);
    }
    let mut fresh = Vec::new();
    while !rest.is_empty() {
        let fits = |slice: &&mut Open| slice.filled.endpoints.len() + rest.len() <= max;
        let fullest = open.iter_mut().filter(|slice| !slice.filled.endpoints.is_empty()).filter(fits);
        if let Some(slice) = fullest.max_by_key(|slice| slice.filled.endpoints.len()) {
            slice.take(&mut rest, max);
        } else if let Some(slice) = open.iter_mut().find(|slice| slice.filled.endpoints.is_empty()) {
            slice.take(&mut rest, max);
        } else {
            let mut filled = Filled::default();
            rest.drain(rest.len().saturating_sub(max)..).rev().for_each(|wanted| filled.add(wanted));
            fresh.push(filled);
        }
    }
    finish(open, fresh, empty_group)
}

fn order(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    (endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone()), endpoint.addresses.first().cloned())
}

impl Open {
    fn take(&mut self, rest: &mut Vec<Wanted>, max: usize) {
        while self.filled.endpoints.len() < max
            && let Some(wanted) = rest.pop()
        {
            self.filled.add(wanted);
            self.changed = true;
        }
    }
}

/// What of a slice stays: endpoints that are still wanted, each in its place, as they are now. An endpoint that another slice already
/// holds is dropped from this one.
fn keep(slice: Arc<EndpointSlice>, group: &mut Group, max: usize) -> Open {
    let mut filled = Filled::default();
    let mut changed = false;
    for old in slice.endpoints.iter().flatten() {
        let full = filled.endpoints.len() >= max;
        match if full { None } else { group.remove(&identity(old)) } {
            Some(wanted) if wanted.endpoint == *old => filled.endpoints.push(wanted.endpoint),
            Some(wanted) => {
                changed = true;
                filled.add(wanted);
            }
            None => changed = true,
        }
    }
    Open { slice, filled, changed }
}

fn finish(open: Vec<Open>, mut fresh: Vec<Filled>, empty_group: bool) -> Layout {
    let (mut kept, mut spare) = (Vec::new(), Vec::new());
    for Open { slice, filled, changed: _ } in open {
        if filled.endpoints.is_empty() && !(empty_group && kept.is_empty()) {
            spare.push(slice);
        } else {
            kept.push((slice, filled));
        }
    }
    if empty_group && kept.is_empty() {
        fresh.push(Filled::default());
    }
    Layout { kept, fresh, spare }
}
