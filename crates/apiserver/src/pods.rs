//! A Pod's own subresources: the scheduler binds it, a drain evicts it.

use api::selector::LabelSelector;
use api::status::{Cause, Status};
use serde_json::{Value, json};
use store::RangeOptions;

use crate::Server;
use crate::delete::{self, DeleteOptions};
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, find};
use crate::object;
use crate::query::Query;
use crate::update::{Part, update};
use crate::write::WriteOptions;

/// Assigns a Pod to the node that a `Binding` names, once.
pub(crate) async fn bind(
    server: &Server,
    kind: &'static Kind,
    (namespace, name): (&str, &str),
    binding: &Value,
    options: &WriteOptions,
) -> Outcome<Value> {
    named_as(name, binding, "Binding")?;
    let target = &binding["target"];
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
        let found = target["kind"].as_str().unwrap_or_default();
        let supported = "supported values: \"Node\", \"<empty>\"";
        return Err(Fault::bad_request(format!("target.kind: Unsupported value: {found:?}: {supported}")));
    }
    let node = target["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(Fault::bad_request("target.name: Required value"));
    }
    let edit = |old: &Value| {
        let refuse = |why: String| Err(Status::conflict("", "pods/binding", name, why).into());
        let uid = object::meta(binding, "uid");
        if !uid.is_empty() && uid != object::meta(old, "uid") {
            let found = object::meta(old, "uid");
            return refuse(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"));
        }
        if object::is_deleting(old) {
            return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        let bound = old["spec"]["nodeName"].as_str().unwrap_or_default();
        if !bound.is_empty() {
            return refuse(format!("pod {name} is already assigned to node {bound:?}"));
        }
        if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut new = old.clone();
        new["spec"]["nodeName"] = node.clone().into();
        for field in ["annotations", "labels"] {
            for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
                new["metadata"][field][key] = value.clone();
            }
        }
        set_condition(&mut new, json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null}));
        Ok(new)
    };
    update(server, kind, (namespace, name), Part::Own("binding"), &edit, options).await?;
    Ok(created())
}

fn created() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// The body's name, when it has one, is the path's.
fn named_as(name: &str, body: &Value, kind: &str) -> Outcome<()> {
    match object::name(body) {
        "" => Ok(()),
        given if given == name => Ok(()),
        _ => Err(Fault::bad_request(format!("name in URL does not match name in {kind} object"))),
    }
}

/// Puts a condition in place of the one of its type.
fn set_condition(object: &mut Value, mut condition: Value) {
    condition["lastTransitionTime"] = object::now().into();
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
        conditions.retain(|one| one["type"] != condition["type"]);
        conditions.push(condition);
    }
}

/// Deletes a Pod unless a disruption budget forbids it just now.
pub(crate) async fn evict(
    server: &Server,
    kind: &'static Kind,
    (namespace, name): (&str, &str),
    eviction: &Value,
    options: &WriteOptions,
) -> Outcome<Value> {
    named_as(name, eviction, "Eviction")?;
    let mut asked = DeleteOptions::of(Some(&eviction["deleteOptions"]), &Query::default())?;
    asked.dry_run |= options.dry_run;
    let options = WriteOptions { dry_run: asked.dry_run, ..options.clone() };
    let entry = server.store.get(&object::key(kind, namespace, name)).ok_or_else(|| Fault::not_found(kind, name))?;
    let pod = object::decode(kind, &entry.value)?;
    if is_protected(&pod) {
        disrupt(server, &pod, &options).await?;
    }
    delete::delete(server, kind, namespace, name, &asked).await?;
    Ok(created())
}

/// Pods that have ended or are on their way out, or have not begun, disturb nobody by going.
fn is_protected(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Pending" | "Failed" | "Succeeded")) && !object::is_deleting(pod)
}

/// Takes one disruption from the budget of a Pod, if it has one.
async fn disrupt(server: &Server, pod: &Value, options: &WriteOptions) -> Outcome<()> {
    let Some(kind) = find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let namespace = object::namespace(pod);
    let mut budgets = Vec::new();
    for entry in server.store.range(&object::prefix(kind, namespace), RangeOptions::default())?.entries {
        let budget = object::decode(kind, &entry.value)?;
        let selector = LabelSelector::from_object(budget["spec"].get("selector"));
        if selector.is_ok_and(|selector| selector.matches_value(pod["metadata"].get("labels"))) {
            budgets.push(budget);
        }
    }
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            let mut status = Status::internal("");
            status.message =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                    .to_owned();
            return Err(status.into());
        }
    };
    if !is_ready(pod) && spares_unready(budget) {
        return Ok(());
    }
    let name = object::name(pod);
    let edit = |budget: &Value| take_one(budget, name);
    update(server, kind, (namespace, object::name(budget)), Part::Own("status"), &edit, options).await.map(drop)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether a pod that is not ready may go without being counted: always, or while enough others are healthy.
fn spares_unready(budget: &Value) -> bool {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (wanted, healthy) = (number("desiredHealthy"), number("currentHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (healthy >= wanted && wanted > 0)
}

/// More evictions than this that no controller has seen yet mean that none is watching.
const MOST_UNSEEN: usize = 2000;

/// The budget with one disruption less, for a pod.
fn take_one(budget: &Value, pod: &str) -> Outcome<Value> {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let name = object::name(budget);
    let refuse = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudgets", name, why).into());
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(not_now(format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return refuse("pdb disruptions allowed is negative");
    }
    if budget["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len) > MOST_UNSEEN {
        return refuse("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let (wanted, healthy) = (number("desiredHealthy"), number("currentHealthy"));
        let mut why = format!("The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently");
        let mut conditions = budget["status"]["conditions"].as_array().into_iter().flatten();
        let failed = conditions.find(|one| {
            one["type"] == "DisruptionAllowed" && one["status"] == "False" && one["reason"] == "SyncFailed"
        });
        if let Some(message) = failed.map(|one| one["message"].as_str().unwrap_or_default()) {
            why = format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            );
        }
        return Err(not_now(why, 0));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        let generation = budget["metadata"]["generation"].clone();
        let none = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": generation,
        });
        set_condition(&mut new, none);
    }
    new["status"]["disruptedPods"][pod] = object::now().into();
    Ok(new)
}

/// Whoever evicts tries again.
fn not_now(why: String, retry_after: u32) -> Fault {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(text, retry_after);
    if let Some(details) = &mut status.details {
        details.causes = vec![Cause { reason: "DisruptionBudget".to_owned(), message: why, field: String::new() }];
    }
    status.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64, observed: i64) -> Value {
        json!({
            "metadata": {"name": "b", "generation": 2},
            "spec": {},
            "status": {"observedGeneration": observed, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 1},
        })
    }

    #[test]
    fn a_budget_gives_what_it_has_and_says_why_not() {
        let taken = take_one(&budget(1, 2), "p").unwrap();
        assert_eq!(taken["status"]["disruptionsAllowed"], 0);
        assert!(taken["status"]["disruptedPods"]["p"].is_string());
        assert_eq!(taken["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = |budget: Value| take_one(&budget, "p").unwrap_err().0;
        let why = |status: &Status| status.details.as_ref().unwrap().causes[0].message.clone();
        let none = refused(budget(0, 2));
        assert_eq!(
            (none.code, why(&none).as_str()),
            (429, "The disruption budget b needs 2 healthy pods and has 1 currently")
        );
        let unseen = refused(budget(1, 1));
        assert_eq!(unseen.details.as_ref().unwrap().retry_after_seconds, 10);
        assert_eq!(why(&unseen), "The disruption budget b is still being processed by the server.");
        assert_eq!(refused(budget(-1, 2)).code, 403);
    }

    #[test]
    fn an_unready_pod_is_spared_only_when_enough_are_healthy() {
        assert!(!spares_unready(&budget(0, 2)));
        let mut healthy = budget(0, 2);
        healthy["status"]["currentHealthy"] = 2.into();
        assert!(spares_unready(&healthy));
        let mut always = budget(0, 2);
        always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(spares_unready(&always));
    }
}
