//! LimitRange: what containers, pods and claims of a namespace may ask for. Stored and judged; nothing acts on it yet.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use api::quantity::Quantity;
use serde_json::Value;

use super::common::errors::invalid_all;
use super::common::{get, meta, names, resources, table};
use super::{Kind, Rules, stored};

pub const KIND: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    create_on_update: true,
    columns: table::NAME_CREATED,
    cells: table::name_created,
    rules: Rules {
        default,
        validate_create,
        validate_update: |new, old| [meta::update(new, old), validate_create(new)].concat(),
        warnings: |new, old| stored::idle(new, old, "LimitRange", "limits nothing"),
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

/// A container's default limit is its maximum, its default request its default limit or its minimum.
fn default(object: &mut Value) {
    for limit in get::list_mut(object, "/spec/limits").into_iter().flatten() {
        if get::text(limit, "/type") != "Container" {
            continue;
        }
        for (to, from) in [("/default", "/max"), ("/defaultRequest", "/default"), ("/defaultRequest", "/min")] {
            for (resource, amount) in get::map(limit, from).cloned().unwrap_or_default() {
                if let Some(defaults) = get::object_at(limit, to) {
                    defaults.entry(resource).or_insert(amount);
                }
            }
        }
    }
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    let path = Path::new("spec").child("limits");
    let mut seen = BTreeSet::new();
    for (index, limit) in get::list(object, "/spec/limits").iter().enumerate() {
        let path = path.index(index);
        let kind = get::text(limit, "/type");
        invalid_all(&mut errors, &path.child("type"), kind, names::qualified(kind));
        if !kind.contains('/') && !TYPES.contains(&kind) {
            let detail = "must be a standard limit type or fully qualified";
            errors.push(FieldError::invalid(path.child("type"), kind, detail));
        }
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(path.child("type"), kind));
        }
        fields(limit, kind, &path, &mut errors);
        let all = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"].into_iter();
        let all =
            all.filter_map(|field| limit.get(field).and_then(Value::as_object)).flat_map(|amounts| amounts.keys());
        for resource in all.collect::<BTreeSet<_>>() {
            against_each_other(limit, resource, &path, &mut errors);
        }
    }
    errors
}

fn fields(limit: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let all: Vec<&String> = get::entries(limit, &format!("/{field}")).map(|(name, _)| name).collect();
        if kind == "Pod" && field.starts_with("default") {
            if !all.is_empty() {
                errors.push(FieldError::forbidden(path.child(field), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for resource in all {
            let at = path.child(field).key(resource);
            if matches!(kind, "Pod" | "Container") {
                errors.extend(resources::container_name(resource, &at));
            } else {
                errors.extend(resources::name(resource, &at));
            }
        }
    }
    if kind == "PersistentVolumeClaim" && !get::has(limit, "/min/storage") && !get::has(limit, "/max/storage") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(path.child("limits"), detail));
    }
}

/// Least ≤ default request ≤ default ≤ most, for one resource.
fn against_each_other(limit: &Value, resource: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let of = |field: &str| -> Option<Quantity> {
        get::map(limit, &format!("/{field}")).and_then(|all| all.get(resource)).map(resources::quantity)
    };
    let (least, most) = (of("min"), of("max"));
    let (default, request, ratio) = (of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let mut order =
        |low: Option<Quantity>, high: Option<Quantity>, at: &str, shown: Option<Quantity>, what: [&str; 2]| {
            let (Some(low), Some(high), Some(shown)) = (low, high, shown) else { return };
            if low.cmp(&high) == Ordering::Greater {
                let detail = format!("{} value {low} is greater than {} value {high}", what[0], what[1]);
                errors.push(FieldError::invalid(path.child(at).key(resource), shown.to_string(), detail));
            }
        };
    order(least, most, "min", least, ["min", "max"]);
    order(least, request, "defaultRequest", request, ["min", "default request"]);
    order(request, most, "defaultRequest", request, ["default request", "max"]);
    order(request, default, "defaultRequest", request, ["default request", "default limit"]);
    order(least, default, "default", least, ["min", "default"]);
    order(default, most, "default", most, ["default", "max"]);
    let at = path.child("maxLimitRequestRatio").key(resource);
    if let Some(ratio) = ratio {
        if ratio < Quantity::from_units(1) {
            errors.push(FieldError::invalid(at.clone(), ratio.to_string(), format!("ratio {ratio} is less than 1")));
        }
        if let (Some(least), Some(most)) = (least, most) {
            let bound = most.milli_value() as f64 / least.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > bound {
                let detail = format!("ratio {ratio} is greater than max/min = {bound:.6}");
                errors.push(FieldError::invalid(at, ratio.to_string(), detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_held_against_each_other() {
        let range = |limit: Value| {
            let object = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [limit]}});
            validate_create(&object).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(range(json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}})).is_empty());
        assert_eq!(
            range(json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}})),
            ["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]
        );
        assert_eq!(
            range(json!({"type": "Pod", "default": {"cpu": "2"}})),
            ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
        );
        assert_eq!(
            range(json!({"type": "PersistentVolumeClaim"})),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
            ]
        );
        assert_eq!(
            range(json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}})),
            ["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"]
        );
    }
}
