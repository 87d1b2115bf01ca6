//! Paths of files inside volumes and images: relative, and never out of where they belong.

/// A path below something: not absolute, no `..` in it.
pub fn descending(path: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if path.starts_with('/') {
        faults.push("must be a relative path".to_owned());
    }
    faults.extend(no_backsteps(path));
    faults
}

/// No element is `..`.
pub fn no_backsteps(path: &str) -> Vec<String> {
    if path.split('/').any(|part| part == "..") { vec!["must not contain '..'".to_owned()] } else { Vec::new() }
}

/// A path below something that does not start with the `..` that volumes keep for themselves.
pub fn not_reserved(path: &str) -> Vec<String> {
    let mut faults = descending(path);
    if path.starts_with("..") && !path.starts_with("../") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}
