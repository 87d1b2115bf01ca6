//! ServiceAccount: who a pod is.

use serde_json::Value;

use super::common::{get, table};
use super::{Column, Kind};

pub const KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    columns: &[Column::NAME, Column::text("Secrets", "Number of secrets that its pods may use"), Column::AGE],
    cells,
    ..Kind::NAMESPACED
};

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![table::name(object), get::list(object, "/secrets").len().into(), table::age(object, now)]
}
