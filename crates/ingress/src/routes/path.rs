//! Paths as they are compared: percent signs decoded, `.` and `..` resolved, repeated slashes merged.
//!
//! Rules are matched against this form, so that `/public/../admin` cannot pass for `/public`. What is sent on is the path as it came.

use std::borrow::Cow;

/// The form of `path` that rules are matched against. `None`: it climbs above the root.
pub fn normalise(path: &str) -> Option<Cow<'_, str>> {
    if is_normal(path) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path);
    let mut parts: Vec<&str> = Vec::new();
    let mut directory = true;
    for part in decoded.split('/').skip(1) {
        match part {
            "" | "." => directory = true,
            ".." => {
                parts.pop()?;
                directory = true;
            }
            part => {
                parts.push(part);
                directory = false;
            }
        }
    }
    let mut normal = String::with_capacity(decoded.len() + 1);
    for part in &parts {
        normal.push('/');
        normal.push_str(part);
    }
    if directory {
        normal.push('/');
    }
    Some(Cow::Owned(normal))
}

fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return false;
    }
    let mut previous = 0;
    for byte in bytes {
        match byte {
            b'%' => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => previous = *byte,
        }
    }
    true
}

/// Decodes what is percent-encoded; `%2F` stays, because an encoded slash is no separator, and so does what is not UTF-8.
fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let value = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten().and_then(hex);
        match value {
            Some(value) if value != b'/' && value != 0 => {
                decoded.push(value);
                at += 3;
            }
            Some(_) | None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(path), Cow::Owned)
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*digits.first()?)? * 16 + digit(*digits.get(1)?)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_in_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%61%2e%2E/b", "/a../b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2fb"),
            ("/%zz%", "/%zz%"),
            ("/%ff", "/%ff"),
            ("/.hidden", "/.hidden"),
            ("/a/..b", "/a/..b"),
            ("/%C3%A4", "/ä"),
        ] {
            assert_eq!(normalise(path).as_deref(), Some(normal), "{path}");
        }
        for path in ["/..", "/a/../..", "/%2e%2e/etc"] {
            assert_eq!(normalise(path), None, "{path}");
        }
    }
}
