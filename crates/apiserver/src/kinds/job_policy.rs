//! A Job's policies: which failures of pods end it or do not count, and when some of its indexes are success enough.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{invalid_all, unsupported};
use super::common::{get, names};

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATES: &[&str] = &["False", "True", "Unknown"];
/// A manager's name: a domain and a path in it.
const LONGEST_MANAGER: usize = 63;

/// `podFailurePolicy` of a `JobSpec`.
pub fn failure(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(policy) = spec.get("podFailurePolicy").filter(|policy| policy.is_object()) else { return };
    let path = path.child("podFailurePolicy").child("rules");
    let rules = get::list(policy, "/rules");
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(path.clone(), rules.len(), MOST_RULES));
    }
    let containers = ["containers", "initContainers"].into_iter();
    let containers = containers.flat_map(|list| get::list(spec, &format!("/template/spec/{list}")));
    let containers: BTreeSet<&str> = containers.map(|one| get::text(one, "/name")).collect();
    let by_index = get::has(spec, "/backoffLimitPerIndex");
    for (index, rule) in rules.iter().enumerate() {
        self::rule(rule, by_index, &containers, &path.index(index), errors);
    }
}

fn rule(rule: &Value, by_index: bool, containers: &BTreeSet<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    let action = get::text(rule, "/action");
    match action {
        "" => errors.push(FieldError::required(path.child("action"), valid(ACTIONS))),
        "FailIndex" if !by_index => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(path.child("action"), action, detail));
        }
        known if ACTIONS.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path.child("action"), other, ACTIONS)),
    }
    let codes = rule.get("onExitCodes").filter(|codes| codes.is_object());
    if let Some(codes) = codes {
        exit_codes(codes, containers, &path.child("onExitCodes"), errors);
    }
    let conditions = get::list(rule, "/onPodConditions");
    self::conditions(conditions, &path.child("onPodConditions"), errors);
    let detail = match (codes.is_some(), conditions.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        (true, true) | (false, false) => return,
    };
    let fault = FieldError::invalid(path.clone(), Value::Null, detail);
    errors.push(super::common::errors::without_value(fault));
}

/// `valid values: ["a" "b"]`, as upstream prints a list.
fn valid(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn exit_codes(codes: &Value, containers: &BTreeSet<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    let operator = get::text(codes, "/operator");
    match operator {
        "" => errors.push(FieldError::required(path.child("operator"), valid(OPERATORS))),
        known if OPERATORS.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path.child("operator"), other, OPERATORS)),
    }
    if let Some(name) = get::text_opt(codes, "/containerName").filter(|name| !containers.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(path.child("containerName"), name, detail));
    }
    let path = path.child("values");
    let values: Vec<i64> = get::list(codes, "/values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(FieldError::invalid(path.clone(), values.clone(), "at least one value is required"));
    } else if values.len() > MOST_CODES {
        errors.push(FieldError::too_many(path.clone(), values.len(), MOST_CODES));
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.push(FieldError::invalid(path.index(index), 0, "must not be 0 for the In operator"));
        }
        if !seen.insert(*value) {
            errors.push(FieldError::duplicate(path.index(index), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(path, values, "must be ordered"));
    }
}

fn conditions(conditions: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    if conditions.len() > MOST_RULES {
        errors.push(FieldError::too_many(path.clone(), conditions.len(), MOST_RULES));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = get::text(condition, "/type");
        invalid_all(errors, &path.child("type"), kind, names::qualified(kind));
        match get::text(condition, "/status") {
            "" => errors.push(FieldError::required(path.child("status"), valid(STATES))),
            known if STATES.contains(&known) => {}
            other => errors.push(FieldError::not_supported(path.child("status"), other, STATES)),
        }
    }
}

/// `successPolicy` of a `JobSpec`.
pub fn success(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(policy) = spec.get("successPolicy").filter(|policy| policy.is_object()) else { return };
    let path = path.child("successPolicy");
    if get::text(spec, "/completionMode") != "Indexed" {
        errors.push(FieldError::invalid(path, policy.clone(), "requires indexed completion mode"));
        return;
    }
    let path = path.child("rules");
    let rules = get::list(policy, "/rules");
    if rules.is_empty() {
        errors.push(FieldError::required(
            path,
            "at least one rules must be specified when the successPolicy is specified",
        ));
        return;
    }
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(path.clone(), rules.len(), MOST_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let indexes = get::text_opt(rule, "/succeededIndexes");
        let count = get::int_opt(rule, "/succeededCount");
        if indexes.is_none() && count.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(path.clone(), detail));
        }
        super::common::errors::non_negative(errors, path.child("succeededCount"), count);
        let all = get::int(spec, "/completions");
        if let Some(count) = count.filter(|count| *count > all) {
            let detail = format!("must be less than or equal to {all} (the number of specified completions)");
            errors.push(FieldError::invalid(path.child("succeededCount"), count, detail));
        }
    }
}

/// Who runs the job instead of the job controller: a path with a domain in front.
pub fn manager(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(manager) = get::text_opt(spec, "/managedBy") else { return };
    let path = path.child("managedBy");
    let (domain, rest) = manager.split_once('/').unwrap_or((manager, ""));
    if rest.is_empty() || domain.is_empty() {
        errors.push(FieldError::invalid(
            path.clone(),
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ));
    } else {
        invalid_all(errors, &path, domain, names::dns_subdomain(domain));
    }
    if manager.len() > LONGEST_MANAGER {
        errors.push(FieldError::too_long(path, LONGEST_MANAGER));
    }
}

/// What a pod's template may say in place of `Always`, and with a failure policy.
pub fn restart(policy: &str, with_failure_policy: bool, path: Path, errors: &mut Vec<FieldError>) {
    match policy {
        "" | "Always" => errors.push(FieldError::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if with_failure_policy => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, policy, detail));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(unsupported(path, other, &["OnFailure", "Never"])),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_of_failures_are_judged_one_by_one() {
        let spec = json!({
            "template": {"spec": {"containers": [{"name": "main"}]}},
            "podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 42]}},
                {"action": "FailIndex", "onExitCodes": {"operator": "In", "containerName": "x", "values": [3, 0, 3]}},
                {"action": "Retry", "onPodConditions": [{"type": "DisruptionTarget"}]},
                {"action": "Ignore"},
            ]},
        });
        let mut errors = Vec::new();
        failure(&spec, &Path::new("spec"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let at = "spec.podFailurePolicy.rules";
        assert_eq!(
            texts,
            [
                format!("{at}[1].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"),
                format!(
                    "{at}[1].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template"
                ),
                format!("{at}[1].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator"),
                format!("{at}[1].onExitCodes.values[2]: Duplicate value: 3"),
                format!("{at}[1].onExitCodes.values: Invalid value: [3,0,3]: must be ordered"),
                format!(
                    "{at}[2].action: Unsupported value: \"Retry\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\""
                ),
                format!(
                    "{at}[2].onPodConditions[0].status: Required value: valid values: [\"False\" \"True\" \"Unknown\"]"
                ),
                format!("{at}[3]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"),
            ]
        );
    }
}
