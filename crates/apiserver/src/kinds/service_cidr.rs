//! ServiceCIDR: a range that cluster addresses come from.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{IMMUTABLE, invalid_all, shown};
use super::common::{get, meta, net, table};
use super::{Column, Kind, NameRule, Rules, Scope, Subresource};

pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    subresources: &[Subresource::Status],
    columns: &[Column::NAME, Column::text("CIDRs", "Ranges, one for each family"), Column::AGE],
    cells,
    rules: Rules { default, prepare_update, validate_create, validate_update, ..Rules::CLUSTER },
    ..Kind::CLUSTER
};

fn default(object: &mut Value) {
    get::object_at(object, "/spec");
    get::object_at(object, "/status");
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::prepare_update(new, old);
    get::copy(new, old, "/status");
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    errors.extend(ranges(object));
    errors
}

fn ranges(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("cidrs");
    let ranges = get::texts(object, "/spec/cidrs");
    if ranges.is_empty() {
        errors.push(FieldError::required(path, "at least one CIDR required"));
        return errors;
    }
    if ranges.len() > 2 {
        // Upstream shows its internal struct here.
        let text = format!(r#"{{"CIDRs":{}}}"#, Value::from(ranges));
        errors.push(shown(FieldError::invalid(path, Value::Null, "may only hold up to 2 values"), text));
        return errors;
    }
    for (index, range) in ranges.iter().enumerate() {
        invalid_all(&mut errors, &path.index(index), range, net::strict_cidr(range));
    }
    let family = |range: &str| net::parse_cidr(range).map(|range| range.addr().is_ipv4());
    if let [a, b] = ranges.as_slice()
        && family(a).is_some()
        && family(a) == family(b)
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(path, ranges, detail));
    }
    errors
}

/// One range may become two, its first the same; nothing else changes.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let (after, before) = (get::texts(new, "/spec/cidrs"), get::texts(old, "/spec/cidrs"));
    let path = Path::new("spec").child("cidrs");
    let changed = |index: usize| FieldError::invalid(path.index(index), after[index], IMMUTABLE);
    if before.len() == after.len() {
        errors.extend((0..after.len()).filter(|index| after[*index] != before[*index]).map(changed));
    } else if before.len() == 1 && after.len() == 2 {
        errors.extend((after[0] != before[0]).then(|| changed(0)));
        errors.extend(ranges(new));
    } else {
        errors.push(FieldError::invalid(path, after, IMMUTABLE));
    }
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![table::name(object), get::texts(object, "/spec/cidrs").join(",").into(), table::age(object, now)]
}
