//! Values as Go prints them. Upstream's messages quote names, numbers and objects in Go's formats, and people compare messages.

use serde_json::Value;

/// `%q`: in double quotes, with Go's escapes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            // Rust's own escaping knows which characters beyond ASCII cannot be printed.
            c if !c.is_ascii() && c.escape_debug().len() > 1 => {
                let code = u32::from(c);
                out.push_str(&if code > 0xffff { format!("\\U{code:08x}") } else { format!("\\u{code:04x}") });
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `json.Marshal`: compact, keys sorted, and safe within HTML.
pub fn json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // These characters stand within strings only, so that replacing them in the text is enough.
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// `%v`: `map[a:1 b:[x y]]`.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(entries) => {
            let mut shown: Vec<_> = entries.iter().map(|(key, value)| format!("{key}:{}", text(value))).collect();
            shown.sort();
            format!("map[{}]", shown.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escape_as_go_does() {
        for (plain, quoted) in [
            ("a", r#""a""#),
            ("it's", r#""it's""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\0\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
            ("\n\t\u{b}", r#""\n\t\v""#),
            ("größe 漢", r#""größe 漢""#),
            ("\u{200b}", r#""\u200b""#),
        ] {
            assert_eq!(quote(plain), quoted);
        }
    }

    #[test]
    fn objects_print_as_go_prints_them() {
        let value = serde_json::json!({"b": ["x", 1], "a": {"c": null}, "d": "<&>"});
        assert_eq!(text(&value), "map[a:map[c:<nil>] b:[x 1] d:<&>]");
        assert_eq!(json(&value), r#"{"a":{"c":null},"b":["x",1],"d":"\u003c\u0026\u003e"}"#);
    }
}
