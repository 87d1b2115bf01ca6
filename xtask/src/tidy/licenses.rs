//! Licenses and origins: what every crate that we build upon says of itself, and where it comes from. The project is Apache-2.0; a license that
//! binds the whole (GPL and its kin) is out, and so is a crate that says nothing, or that comes from elsewhere than crates.io.
//!
//! This needs no network. Known vulnerabilities do: `deny.toml` is for `cargo deny`, where its database can be reached.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Fault;
use crate::command::{cargo, output};

/// Licenses that a part of an Apache-2.0 program may have. MPL-2.0 binds its own files only.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that name no license in their manifest but carry one in a file, read by us: (crate, license).
const READ: &[(&str, &str)] = &[("rust-criu", "MIT")];

/// What cargo says of a crate that was fetched from there; one of ours has no source.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub fn check() -> Result<Vec<Fault>> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let read = READ.iter().find(|(read, _)| *read == name).map(|(_, license)| *license);
        let license = package["license"].as_str().or(read);
        if let Some(source) = package["source"].as_str().filter(|source| *source != CRATES_IO) {
            let rule = format!("it comes from `{source}`, not from crates.io");
            faults.push(Fault { place: name.to_owned(), rule });
        }
        if !license.is_some_and(allowed) {
            let said = license.unwrap_or("no license");
            faults.push(Fault {
                place: name.to_owned(),
                rule: format!("`{said}` is not among the licenses that we may use"),
            });
        }
    }
    Ok(faults)
}

/// Whether some alternative of an SPDX expression has allowed licenses only. The older `/` means `OR`.
fn allowed(expression: &str) -> bool {
    let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // `(A OR B) AND C` is read as `A` or `B AND C`, so every license behind an AND is asked for by itself as well.
    let required = flat.split(" AND ").all(|part| part.split(" OR ").any(known));
    required && flat.split(" OR ").any(|part| part.split(" AND ").all(known))
}

/// A single license; an exception only adds rights.
fn known(license: &str) -> bool {
    license.split(" WITH ").next().is_some_and(|name| ALLOWED.contains(&name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licenses_are_judged() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "MPL-2.0 OR LGPL-3.0-or-later",
            "Apache-2.0 WITH LLVM-exception",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in
            ["GPL-3.0", "LGPL-3.0-or-later", "MIT AND GPL-2.0", "(MIT OR Apache-2.0) AND GPL-3.0", "AGPL-3.0", ""]
        {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
