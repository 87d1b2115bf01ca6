//! From a budget and the pods that it covers to its status: how many are healthy, how many must be, how many may go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::Draft;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::deployment::resolve;
use crate::mechanism::{Decision, Write};
use crate::membership;

/// A pod whose eviction was granted counts as gone for so long; after that it is believed to stay.
pub const EXPECTED_GONE: SignedDuration = SignedDuration::from_mins(2);

/// How many pods the controller of a pod is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scale {
    /// Nobody keeps the pod.
    Unmanaged,
    Of {
        uid: String,
        replicas: i32,
    },
    /// Someone does, but no one that we can ask for a number.
    Unknown,
}

pub struct Observed<'a> {
    pub budget: &'a PodDisruptionBudget,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    pub scale: &'a dyn Fn(&Pod) -> Scale,
    pub now: Timestamp,
}

pub fn decide(observed: &Observed<'_>) -> Decision {
    let Observed { budget, pods, now, .. } = observed;
    let mut events = Vec::new();
    if pods.is_empty() {
        events.push(Draft::normal(*budget, "NoPods", "No matching pods found"));
    }
    let old = budget.status.clone().unwrap_or_default();
    let (disrupted, again) = disrupted(observed, &old, &mut events);
    let status = match expected(observed) {
        Ok((expected, desired)) => {
            let healthy = pods.iter().filter(|pod| is_healthy(pod, &disrupted)).count();
            let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
            // A budget without pods allows nothing: its first pods may come before we see them.
            let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            let mut status = PodDisruptionBudgetStatus {
                current_healthy: Some(healthy),
                desired_healthy: Some(desired),
                expected_pods: Some(expected),
                disruptions_allowed: Some(allowed),
                disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
                observed_generation: budget.metadata.generation,
                conditions: old.conditions.clone(),
            };
            let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            tell(&mut status, value, reason, "", *now);
            status
        }
        Err(fault) => {
            let message = format!("Failed to calculate the number of expected pods: {fault}");
            events.push(Draft::warning(*budget, "CalculateExpectedPodCountFailed", message));
            let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() };
            tell(&mut status, "False", "SyncFailed", &fault, *now);
            status
        }
    };
    let write = (!same(&old, &status))
        .then(|| Write::replace_status(&PodDisruptionBudget { status: Some(status), ..(*budget).clone() }));
    Decision { writes: write.into_iter().collect(), events, again }
}

/// How many pods there should be, and how many of them must be healthy.
fn expected(observed: &Observed<'_>) -> Result<(i32, i32), String> {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    let number = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = scale(observed)?;
            Ok((expected, (expected - resolve(most, expected, true)).max(0)))
        }
        (None, Some(IntOrString::Int(fewest))) => Ok((number, *fewest)),
        (None, Some(share @ IntOrString::String(_))) => {
            let expected = scale(observed)?;
            Ok((expected, resolve(share, expected, true)))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// The sum over the controllers of the pods.
fn scale(observed: &Observed<'_>) -> Result<i32, String> {
    let mut scales = BTreeMap::new();
    for pod in &observed.pods {
        match (observed.scale)(pod) {
            Scale::Unmanaged => {}
            Scale::Of { uid, replicas } => drop(scales.insert(uid, replicas)),
            Scale::Unknown => return Err(format!("found no controllers for pod {:?}", pod.name_any())),
        }
    }
    Ok(scales.into_values().sum())
}

/// Pods that were granted an eviction and are not gone yet.
fn disrupted(
    observed: &Observed<'_>,
    old: &PodDisruptionBudgetStatus,
    events: &mut Vec<Draft>,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let granted = old.disrupted_pods.clone().unwrap_or_default();
    let (mut kept, mut again): (BTreeMap<String, Time>, Option<Duration>) = (BTreeMap::new(), None);
    let staying = observed.pods.iter().filter(|pod| !membership::is_terminating(pod));
    for pod in staying {
        let Some(time) = granted.get(&pod.name_any()) else { continue };
        let left = EXPECTED_GONE - observed.now.duration_since(time.0);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => {
                kept.insert(pod.name_any(), time.clone());
                again = Some(again.map_or(left, |other| other.min(left)));
            }
            Ok(_) | Err(_) => {
                let (namespace, name) = (observed.budget.namespace().unwrap_or_default(), observed.budget.name_any());
                let message = format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't");
                events.push(Draft::warning(pod.as_ref(), "NotDeleted", message));
            }
        }
    }
    (kept, again)
}

fn is_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    !membership::is_terminating(pod) && !disrupted.contains_key(&pod.name_any()) && membership::is_ready(pod)
}

fn tell(status: &mut PodDisruptionBudgetStatus, value: &str, reason: &str, message: &str, now: Timestamp) {
    let observed_generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let told = conditions.iter().position(|one| one.type_ == "DisruptionAllowed");
    let since = told.map(|told| &conditions[told]).filter(|told| told.status == value);
    let condition = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.map_or(Time(now), |told| told.last_transition_time.clone()),
        observed_generation,
    };
    match told {
        Some(told) => conditions[told] = condition,
        None => conditions.push(condition),
    }
}

fn same(old: &PodDisruptionBudgetStatus, new: &PodDisruptionBudgetStatus) -> bool {
    let normal = |status: &PodDisruptionBudgetStatus| PodDisruptionBudgetStatus {
        current_healthy: Some(status.current_healthy.unwrap_or(0)),
        desired_healthy: Some(status.desired_healthy.unwrap_or(0)),
        expected_pods: Some(status.expected_pods.unwrap_or(0)),
        disruptions_allowed: Some(status.disruptions_allowed.unwrap_or(0)),
        disrupted_pods: status.disrupted_pods.clone().filter(|pods| !pods.is_empty()),
        ..status.clone()
    };
    normal(old) == normal(new)
}
