//! A pod that says it is about to be disrupted, and then is not, stops saying so.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::decide::EXPECTED_GONE;
use crate::mechanism::{Decision, Write};
use crate::workload::DISRUPTED;
use crate::{membership, workload};

pub fn is_told(pod: &Pod) -> bool {
    workload::is_active(pod) && membership::condition(pod, DISRUPTED).is_some_and(|told| told.status == "True")
}

pub fn decide(pod: &Pod, now: Timestamp) -> Decision {
    if !is_told(pod) {
        return Decision::default();
    }
    let told = membership::condition(pod, DISRUPTED).and_then(|told| told.last_transition_time.as_ref());
    let left = EXPECTED_GONE - told.map_or(EXPECTED_GONE, |time| now.duration_since(time.0));
    if let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
        return Decision { again: Some(left), ..Decision::default() };
    }
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == DISRUPTED) {
        condition.status = "False".to_owned();
        condition.reason = None;
        condition.message = None;
        condition.last_transition_time = Some(Time(now));
    }
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    vec![Write::patch_status(pod, json!({"metadata": meta, "status": {"conditions": conditions}}))].into()
}
