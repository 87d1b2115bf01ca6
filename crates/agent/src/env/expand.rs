//! `$(VAR)` in env values, commands and arguments, by the rules of the Kubernetes API reference.
//!
//! A known variable is replaced, an unknown one is left as it was written, `$$` is a single `$` (so `$$(VAR)` is the literal `$(VAR)`),
//! and anything else after a `$` stays. Values are not expanded a second time.

/// `input` with every `$(NAME)` that `lookup` knows replaced.
pub fn expand<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match (after.as_bytes().first(), after.find(')')) {
            (Some(b'$'), _) => {
                out.push('$');
                &after[1..]
            }
            (Some(b'('), Some(end)) => {
                let name = &after[1..end];
                match lookup(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&rest[at..at + 2 + end]),
                }
                &after[end + 1..]
            }
            (Some(_) | None, _) => {
                out.push('$');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn the_cases_of_the_api_reference() {
        let lookup = |name: &str| match name {
            "A" => Some("a"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        for (input, output) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)y$(A)z", "xayaz"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)", ""),
            ("$(NOPE)", "$(NOPE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$$", "$"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$)", "$)"),
            ("$()", "$()"),
            ("a$", "a$"),
            ("$(A)$(A", "a$(A"),
            ("€$(A)€", "€a€"),
        ] {
            assert_eq!(expand(input, lookup), output, "{input}");
        }
    }
}
