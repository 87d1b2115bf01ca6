//! Field selectors: `metadata.name=a,spec.type!=NodePort`. Only equality; commas, equals signs and backslashes in values are escaped.

use std::fmt;

use super::SelectorError;

/// Terms that must all hold; none selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldTerm {
    /// A field label such as `metadata.name`.
    pub field: String,
    pub value: String,
    /// `!=` rather than `=`.
    pub not: bool,
}

impl FieldSelector {
    /// From the text of a `fieldSelector` parameter. Which labels a kind supports is checked by [`FieldSelector::check_supported`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let misread = || SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let (field, not, value) = split_term(part).ok_or_else(misread)?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, not });
        }
        Ok(FieldSelector { terms })
    }

    /// `field label not supported: …` for the first term that `supported` does not know.
    pub fn check_supported(&self, supported: impl Fn(&str) -> bool) -> Result<(), SelectorError> {
        match self.terms.iter().find(|term| !supported(&term.field)) {
            Some(term) => Err(SelectorError(format!("field label not supported: {}", term.field))),
            None => Ok(()),
        }
    }

    /// Whether fields, looked up by label, satisfy every term. An absent field is the empty text.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|term| (field(&term.field) == term.value) != term.not)
    }

    /// The value that a field must have, if a term demands one: lets a list by name be a get.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.field == field && !term.not).map(|term| term.value.as_str())
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
}

/// The first operator of a term, scanning as upstream does: `!=`, `==` or `=` at the earliest place.
fn split_term(part: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in part.char_indices() {
        let (field, rest) = part.split_at(at);
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((field, true, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((field, false, value));
        }
    }
    None
}

/// Commas split, unless a backslash is before them.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            parts.extend(text.get(start..at));
            start = at + 1;
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            ',' | '=' => {
                let code = u32::from(c);
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {code}")));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.not { "!=" } else { "=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_match_and_print() {
        let selector = FieldSelector::parse("metadata.name!=l1,spec.type==ClusterIP").unwrap();
        let service = |name: &'static str| {
            move |field: &str| if field == "metadata.name" { name } else { "ClusterIP" }.to_owned()
        };
        assert!(selector.matches(service("l2")));
        assert!(!selector.matches(service("l1")));
        assert_eq!(selector.to_string(), "metadata.name!=l1,spec.type=ClusterIP");
        assert_eq!(selector.required("spec.type"), Some("ClusterIP"));
        assert_eq!(FieldSelector::parse(r"a=b\,c\=d").unwrap().terms()[0].value, "b,c=d");
    }

    #[test]
    fn refusals_are_upstreams() {
        let refused = |text: &str| FieldSelector::parse(text).unwrap_err().0;
        assert_eq!(refused("metadata.name"), "invalid selector: 'metadata.name'; can't understand 'metadata.name'");
        assert_eq!(refused(r"a=\x"), r"invalid field selector: invalid escape sequence: \x");
        let selector = FieldSelector::parse("spec.nope=1").unwrap();
        let error = selector.check_supported(|field| field == "metadata.name").unwrap_err();
        assert_eq!(error.0, "field label not supported: spec.nope");
    }
}
