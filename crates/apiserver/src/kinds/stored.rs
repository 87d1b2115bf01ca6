//! Kinds that are stored and served so that charts apply, but that nothing acts on yet, and what all such kinds share.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{immutable, invalid_all, positive};
use super::common::{get, meta, names, table};
use super::{Alias, Column, Kind, NameRule, Rules, Scope, Subresource};

pub const HORIZONTAL_POD_AUTOSCALER: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Reference", "What is scaled"),
        Column::text("Targets", "Metrics and their targets"),
        Column::text("MinPods", "Fewest replicas"),
        Column::text("MaxPods", "Most replicas"),
        Column::text("Replicas", "Replicas now"),
        Column::AGE,
    ],
    cells: autoscaler_cells,
    rules: Rules {
        default: default_autoscaler,
        prepare_create: start_without_status,
        prepare_update: keep_status,
        validate_create: |object| [meta::validate_create(object), autoscaler(object)].concat(),
        validate_update: |new, old| [meta::validate_update(new, old), autoscaler(new)].concat(),
        warnings: |new, old| idle(new, old, "HorizontalPodAutoscaler", "scales nothing"),
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

/// The same objects as their first version shows them: one target, for the processor.
pub const HORIZONTAL_POD_AUTOSCALER_V1: Kind = Kind {
    version: "v1",
    alias: Some(Alias {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        to_stored: autoscaler_to_v2,
        from_stored: autoscaler_from_v2,
    }),
    rules: Rules {
        default: |object| {
            default_status(object);
            get::set_default(object, "/spec/minReplicas", 1);
            for count in ["currentReplicas", "desiredReplicas"] {
                get::set_default(object, &format!("/status/{count}"), 0);
            }
        },
        ..HORIZONTAL_POD_AUTOSCALER.rules
    },
    ..HORIZONTAL_POD_AUTOSCALER
};

/// Where the first version keeps the metrics that it has no field for.
const OTHER_METRICS: &str = "/metadata/annotations/autoscaling.alpha.kubernetes.io~1metrics";
const BEHAVIOR: &str = "/metadata/annotations/autoscaling.alpha.kubernetes.io~1behavior";

fn parsed(object: &mut Value, pointer: &str) -> Value {
    let text = get::remove(object, pointer).unwrap_or(Value::Null);
    text.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

fn autoscaler_to_v2(object: &mut Value) {
    let others = parsed(object, OTHER_METRICS);
    let mut metrics: Vec<Value> = others.as_array().cloned().unwrap_or_default();
    let percent = get::remove(object, "/spec/targetCPUUtilizationPercentage");
    let percent = percent.or_else(|| metrics.is_empty().then(|| 80.into()));
    if let Some(percent) = percent {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    get::set(object, "/spec/metrics", metrics);
    let behavior = parsed(object, BEHAVIOR);
    if behavior.is_object() {
        get::set(object, "/spec/behavior", behavior);
    }
    if get::map(object, "/metadata/annotations").is_some_and(serde_json::Map::is_empty) {
        get::remove(object, "/metadata/annotations");
    }
    get::set(object, "/apiVersion", "autoscaling/v2");
}

fn autoscaler_from_v2(object: &mut Value) {
    let metrics = get::remove(object, "/spec/metrics").unwrap_or(Value::Null);
    let (mut percent, mut others) = (None, Vec::new());
    for metric in metrics.as_array().into_iter().flatten() {
        let of_cpu = get::text(metric, "/type") == "Resource" && get::text(metric, "/resource/name") == "cpu";
        match get::int_opt(metric, "/resource/target/averageUtilization").filter(|_| of_cpu && percent.is_none()) {
            Some(found) => percent = Some(found),
            None => others.push(metric.clone()),
        }
    }
    if let Some(percent) = percent {
        get::set(object, "/spec/targetCPUUtilizationPercentage", percent);
    }
    if !others.is_empty() {
        get::set(object, OTHER_METRICS, Value::from(others).to_string());
    }
    if let Some(behavior) = get::remove(object, "/spec/behavior") {
        get::set(object, BEHAVIOR, behavior.to_string());
    }
    for field in ["currentMetrics", "conditions"] {
        get::remove(object, &format!("/status/{field}"));
    }
    for count in ["currentReplicas", "desiredReplicas"] {
        get::set_default(object, &format!("/status/{count}"), 0);
    }
    get::set(object, "/apiVersion", "autoscaling/v1");
}

pub const RUNTIME_CLASS: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    unconditional_update: false,
    columns: &[Column::NAME, Column::text("Handler", "Configuration of the runtime"), Column::AGE],
    cells: runtime_cells,
    rules: Rules {
        validate_create: runtime,
        validate_update: runtime_updated,
        warnings: |new, old| idle(new, old, "RuntimeClass", "chooses no other runtime"),
        ..Rules::CLUSTER
    },
    ..Kind::CLUSTER
};

/// What a creator is told of a kind that nothing acts on.
pub fn idle(_new: &Value, old: Option<&Value>, kind: &str, effect: &str) -> Vec<String> {
    match old {
        None => vec![format!("{kind} is stored, but Portolan does not act on it yet: it {effect}")],
        Some(_) => Vec::new(),
    }
}

pub fn default_status(object: &mut Value) {
    get::object_at(object, "/spec");
    get::object_at(object, "/status");
}

fn start_without_status(object: &mut Value) {
    get::set(object, "/status", json!({}));
}

pub fn keep_status(new: &mut Value, old: &Value) {
    meta::prepare_update(new, old);
    get::copy(new, old, "/status");
}

fn default_autoscaler(object: &mut Value) {
    default_status(object);
    get::set_default(object, "/spec/minReplicas", 1);
    if get::list(object, "/spec/metrics").is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        get::set(object, "/spec/metrics", json!([metric]));
    }
}

fn autoscaler(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let (fewest, most) = (get::int_opt(object, "/spec/minReplicas"), get::int(object, "/spec/maxReplicas"));
    if let Some(fewest) = fewest.filter(|fewest| *fewest < 1) {
        let detail = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(path.child("minReplicas"), fewest, detail));
    }
    positive(&mut errors, path.child("maxReplicas"), Some(most));
    if fewest.is_some_and(|fewest| most < fewest) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(path.child("maxReplicas"), most, detail));
    }
    for field in ["kind", "name"] {
        if get::text(object, &format!("/spec/scaleTargetRef/{field}")).is_empty() {
            errors.push(FieldError::required(path.child("scaleTargetRef").child(field), ""));
        }
    }
    errors
}

fn runtime(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    let handler = get::text(object, "/handler");
    invalid_all(&mut errors, &Path::new("handler"), handler, names::dns_label(handler));
    errors
}

fn runtime_updated(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    immutable(&mut errors, Path::new("handler"), new.get("handler"), old.get("handler"));
    errors
}

fn autoscaler_cells(object: &Value, now: i64) -> Vec<Value> {
    let part = |field: &str| get::text(object, field);
    let reference = format!("{}/{}", part("/spec/scaleTargetRef/kind"), part("/spec/scaleTargetRef/name"));
    let fewest = get::int_opt(object, "/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        table::name(object),
        reference.into(),
        targets(object),
        fewest.into(),
        get::int(object, "/spec/maxReplicas").into(),
        get::int(object, "/status/currentReplicas").into(),
        table::age(object, now),
    ]
}

/// Each metric's target; nothing measures, so that the current values are unknown.
fn targets(object: &Value) -> Value {
    let of_metric = |metric: &Value| {
        let kind = get::text(metric, "/type");
        let field = format!("/{}{}", kind.get(..1).unwrap_or("").to_lowercase(), kind.get(1..).unwrap_or(""));
        let source = metric.pointer(&field).unwrap_or(&Value::Null);
        let name = match get::text(source, "/name") {
            "" => String::new(),
            name => format!("{name}: "),
        };
        match get::int_opt(source, "/target/averageUtilization") {
            Some(percent) => format!("{name}<unknown>/{percent}%"),
            None => match get::text(source, "/target/averageValue") {
                "" => format!("{name}<unknown>/{}", get::text(source, "/target/value")),
                average => format!("{name}<unknown>/{average} (avg)"),
            },
        }
    };
    let all: Vec<String> = get::list(object, "/spec/metrics").iter().map(of_metric).collect();
    table::or_none(&all.join(", "))
}

fn runtime_cells(object: &Value, now: i64) -> Vec<Value> {
    vec![table::name(object), get::text(object, "/handler").into(), table::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_an_autoscaler_say_the_same() {
        let mut object =
            json!({"metadata": {"name": "a"}, "spec": {"targetCPUUtilizationPercentage": 50, "maxReplicas": 3}});
        let before = object.clone();
        autoscaler_to_v2(&mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        autoscaler_from_v2(&mut object);
        assert_eq!(object["spec"], before["spec"]);
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 9}}});
        let mut other = json!({"spec": {"metrics": [memory], "maxReplicas": 3}});
        autoscaler_from_v2(&mut other);
        assert_eq!(other["spec"].get("metrics"), None);
        autoscaler_to_v2(&mut other);
        assert_eq!(other["spec"]["metrics"], json!([memory]));
    }
}
