//! Which names, label keys and label values Kubernetes accepts, and its sentences for those that it does not.
//!
//! Each function returns the faults, none for a good name; the caller adds the path. The sentences quote upstream's regular expressions.

/// A lower-case RFC 1123 label: `my-name`.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut faults = too_long(value, 63);
    if !is_dns_label(value) {
        faults.push(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    faults
}

/// A lower-case RFC 1123 subdomain: `example.com`.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut faults = too_long(value, 253);
    if !value.split('.').all(is_dns_label) {
        faults.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
             with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    faults
}

const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                              character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                              '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// A label or annotation key: `name` or `example.com/name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let (prefix, name) = match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    let mut faults = Vec::new();
    match prefix {
        Some("") => faults.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => faults.extend(dns_subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}"))),
        None => {}
    }
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    }
    faults.extend(too_long(name, 63).into_iter().map(|fault| format!("name part {fault}")));
    if !is_label_word(name) {
        faults.push(format!("name part {QUALIFIED_NAME}"));
    }
    faults
}

/// A label value; empty is one.
pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = too_long(value, 63);
    if !value.is_empty() && !is_label_word(value) {
        faults.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
             with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    faults
}

fn too_long(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

fn is_dns_label(value: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|byte| word(byte) || *byte == b'-')
}

fn is_label_word(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_have_no_fault() {
        for name in ["a", "0", "a-b", "app.kubernetes.io/name", "kubernetes.io/os", "A_b.c"] {
            assert_eq!(qualified_name(name), Vec::<String>::new(), "{name}");
        }
        for value in ["", "a", "A.b_c-d", "1"] {
            assert_eq!(label_value(value), Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn faults_name_the_part() {
        assert!(qualified_name("-bad-/x")[0].starts_with("prefix part a lowercase RFC 1123 subdomain must consist"));
        assert!(qualified_name("not valid key")[0].starts_with("name part must consist of alphanumeric"));
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a qualified name must consist"));
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(!dns_subdomain("a..b").is_empty());
    }
}
