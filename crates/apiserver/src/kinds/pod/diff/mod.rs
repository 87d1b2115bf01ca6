//! How two specs of a pod differ, for the message that refuses a change.
//!
//! Upstream prints both as its own structs, in its own names and with every field, and shows a unified diff of the lines. People and
//! tools read the names off it, so ours are the same: `fields` lists the structs, `dump` prints them, `lines` compares.

mod dump;
mod fields;
mod lines;

use serde_json::Value;

use crate::kinds::common::get;

/// The unified diff of two specs.
pub fn of_specs(before: &Value, after: &Value) -> String {
    let (before, after) =
        (dump::lines(&internal(before), fields::POD_SPEC), dump::lines(&internal(after), fields::POD_SPEC));
    lines::unified(&before, &after)
}

/// The unified diff of two ephemeral containers.
pub fn of_ephemeral(before: &Value, after: &Value) -> String {
    let of = |container| dump::lines(container, fields::EPHEMERAL_CONTAINER);
    lines::unified(&of(before), &of(after))
}

/// Upstream's own structs keep what concerns the node's namespaces in the security context.
fn internal(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for field in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if let Some(value) = get::remove(&mut spec, &format!("/{field}")) {
            get::set(&mut spec, &format!("/securityContext/{field}"), value);
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::of_specs;

    #[test]
    fn a_diff_names_every_field_as_upstream_does() {
        let before = json!({"containers": [{"name": "c", "image": "i"}], "securityContext": {}});
        let after = json!({"containers": [{"name": "c", "image": "i"}], "securityContext": {}, "hostname": "x"});
        let expected = "@@ -74,7 +74,7 @@\n   \"SELinuxChangePolicy\": null\n  },\n  \"ImagePullSecrets\": null,\n- \"Hostname\": \"\",\n\
                        + \"Hostname\": \"x\",\n  \"Subdomain\": \"\",\n  \"SetHostnameAsFQDN\": null,\n  \"Affinity\": null,\n";
        let found = of_specs(&before, &after);
        assert_eq!(found.split_once('\n').map(|(_, rest)| rest), expected.split_once('\n').map(|(_, rest)| rest));
        assert!(of_specs(&before, &before).is_empty());
    }
}
