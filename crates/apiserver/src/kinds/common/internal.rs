//! Objects as upstream's messages show them: as structs of its internal API, whose fields have an order, Go's names, and an empty value
//! where nothing was given. Types that upstream shares between its APIs keep the names that clients know, and leave out what is empty.

use api::field::FieldError;
use serde_json::Value;

use super::errors::shown;

/// What a field shows when it is absent.
#[derive(Debug, Clone, Copy)]
pub enum Empty {
    Null,
    Text,
    Left,
}

/// A field of a struct: its name in the API, its name where it is shown, and the fields in it when it is a struct itself.
pub type Field = (&'static str, &'static str, Empty, &'static [Field2]);
/// A field in a field.
pub type Field2 = (&'static str, &'static str);

const fn pointer(api: &'static str, go: &'static str) -> Field {
    (api, go, Empty::Null, &[])
}

const fn text(api: &'static str, go: &'static str) -> Field {
    (api, go, Empty::Text, &[])
}

const fn left(name: &'static str) -> Field {
    (name, name, Empty::Left, &[])
}

pub const TOLERATION: &[Field] = &[
    text("key", "Key"),
    text("operator", "Operator"),
    text("value", "Value"),
    text("effect", "Effect"),
    pointer("tolerationSeconds", "TolerationSeconds"),
];
pub const SECURITY_CONTEXT: &[Field] = &[
    ("capabilities", "Capabilities", Empty::Null, &[("add", "Add"), ("drop", "Drop")]),
    pointer("privileged", "Privileged"),
    pointer("seLinuxOptions", "SELinuxOptions"),
    pointer("windowsOptions", "WindowsOptions"),
    pointer("runAsUser", "RunAsUser"),
    pointer("runAsGroup", "RunAsGroup"),
    pointer("runAsNonRoot", "RunAsNonRoot"),
    pointer("readOnlyRootFilesystem", "ReadOnlyRootFilesystem"),
    pointer("allowPrivilegeEscalation", "AllowPrivilegeEscalation"),
    pointer("procMount", "ProcMount"),
    PROFILE_OF_SECCOMP,
    ("appArmorProfile", "AppArmorProfile", Empty::Null, &[("type", "Type"), ("localhostProfile", "LocalhostProfile")]),
];
const PROFILE_OF_SECCOMP: Field =
    ("seccompProfile", "SeccompProfile", Empty::Null, &[("type", "Type"), ("localhostProfile", "LocalhostProfile")]);
pub const PROFILE: &[Field] = &[text("type", "Type"), pointer("localhostProfile", "LocalhostProfile")];
pub const POD_CLAIM: &[Field] = &[
    text("name", "Name"),
    pointer("resourceClaimName", "ResourceClaimName"),
    pointer("resourceClaimTemplateName", "ResourceClaimTemplateName"),
];
pub const ADDRESS: &[Field] = &[text("ip", "IP")];
pub const PARENT: &[Field] =
    &[text("group", "Group"), text("resource", "Resource"), text("namespace", "Namespace"), text("name", "Name")];
pub const ROLLING_SET: &[Field] = &[pointer("partition", "Partition"), pointer("maxUnavailable", "MaxUnavailable")];
pub const SELECTOR: &[Field] = &[left("matchLabels"), left("matchExpressions")];
pub const OWNER: &[Field] = &[
    text("apiVersion", "apiVersion"),
    text("kind", "kind"),
    text("name", "name"),
    text("uid", "uid"),
    left("controller"),
    left("blockOwnerDeletion"),
];

/// The error with its value shown as upstream's struct; a list as one of such structs.
pub fn as_struct(error: FieldError, fields: &[Field]) -> FieldError {
    let text = match &error.value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| printed(item, fields)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(_) => printed(&error.value, fields),
        _ => return error,
    };
    shown(error, text)
}

fn printed(value: &Value, fields: &[Field]) -> String {
    let mut parts = Vec::new();
    for (api, go, empty, within) in fields {
        let found = value.get(*api).filter(|found| !found.is_null());
        let text = match (found, empty) {
            (Some(found), _) if !within.is_empty() => {
                let of =
                    |(api, go): &Field2| format!("{go:?}:{}", found.get(*api).map_or("null".to_owned(), api::go::json));
                format!("{{{}}}", within.iter().map(of).collect::<Vec<_>>().join(","))
            }
            (Some(found), _) => api::go::json(found),
            (None, Empty::Null) => "null".to_owned(),
            (None, Empty::Text) => "\"\"".to_owned(),
            (None, Empty::Left) => continue,
        };
        parts.push(format!("{go:?}:{text}"));
    }
    format!("{{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use api::field::Path;
    use serde_json::json;

    use super::*;

    fn check(value: Value, fields: &[Field], expected: &str) {
        let error = as_struct(FieldError::invalid(Path::new("x"), value, "bad"), fields);
        assert_eq!(error.to_string(), format!("x: Invalid value: {expected}: bad"));
    }

    #[test]
    fn structs_have_an_order_and_empty_values() {
        check(
            json!({"value": "v", "key": "k"}),
            TOLERATION,
            r#"{"Key":"k","Operator":"","Value":"v","Effect":"","TolerationSeconds":null}"#,
        );
        check(
            json!({"matchExpressions": [], "matchLabels": {"a": "b"}}),
            SELECTOR,
            r#"{"matchLabels":{"a":"b"},"matchExpressions":[]}"#,
        );
        check(json!([{"ip": "1.1.1.1"}]), ADDRESS, r#"[{"IP":"1.1.1.1"}]"#);
        check(json!({}), SELECTOR, "{}");
    }
}
