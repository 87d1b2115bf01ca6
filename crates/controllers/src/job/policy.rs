//! What a Job's policies say: of a failed pod whether and how it counts, and of the succeeded indexes whether they are enough.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use super::indexes::Indexes;

/// What becomes of a failed pod's Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The failure counts towards the limits.
    Count,
    /// The pod is replaced as if nothing had happened.
    Ignore,
    /// The pod's index is not tried again.
    FailIndex,
    /// The Job ends, and this is why.
    FailJob(String),
}

impl Verdict {
    pub fn counts(&self) -> bool {
        match self {
            Verdict::Count | Verdict::FailIndex | Verdict::FailJob(_) => true,
            Verdict::Ignore => false,
        }
    }
}

/// The first rule that a failed pod meets decides.
pub fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let met = rules.iter().enumerate().find_map(|(place, rule)| Some((place, rule, met(rule, pod)?)));
    let Some((place, rule, what)) = met else { return Verdict::Count };
    match rule.action.as_str() {
        "Ignore" => Verdict::Ignore,
        "FailIndex" => Verdict::FailIndex,
        "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {place}")),
        // Also what this version does not know: upstream skips such a rule, and what no rule meets counts.
        _ => Verdict::Count,
    }
}

fn met(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if let Some(wanted) = &rule.on_exit_codes {
        let (container, code) = exit_code(wanted, pod)?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let condition = pod_condition(rule.on_pod_conditions.as_deref().unwrap_or_default(), pod)?;
    Some(format!("Pod {name} has condition {condition}"))
}

/// The first container with an exit code, other than zero, that is asked for.
fn exit_code<'a>(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let code = |status: &ContainerStatus| status.state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code);
    all.filter(|status| wanted.container_name.as_ref().is_none_or(|name| *name == status.name))
        .filter_map(|status| Some((status.name.as_str(), code(status)?)))
        .find(|(_, code)| *code != 0 && (wanted.operator == "In") == wanted.values.contains(code))
}

fn pod_condition<'a>(patterns: &[PodFailurePolicyOnPodConditionsPattern], pod: &'a Pod) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let is = |condition: &&k8s_openapi::api::core::v1::PodCondition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    };
    conditions.into_iter().find(is).map(|condition| condition.type_.as_str())
}

/// Whether the succeeded indexes are all that the Job is for; the text says by which rule.
pub fn is_enough(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let met = rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(text), count) => {
            let wanted = Indexes::parse(text, completions);
            succeeded.shared(&wanted) >= count.unwrap_or_else(|| wanted.total())
        }
        (None, Some(count)) => succeeded.total() >= count,
        (None, None) => false,
    });
    met.map(|place| format!("Matched rules at index {place}"))
}
