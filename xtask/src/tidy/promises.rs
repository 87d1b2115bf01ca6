//! Promises: every test, benchmark and suite that `SPECIFICATION.md` names is there, and its numbers are in order.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use super::{Fault, sources};
use crate::command::root;

const PAGE: &str = "SPECIFICATION.md";
const COMMAND: &str = "cargo xtask ";

pub fn check() -> Result<Vec<Fault>> {
    let page = fs::read_to_string(root().join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let methods = fs::read_to_string(root().join("docs/bench.md")).context("cannot read docs/bench.md")?;
    let mut functions = BTreeSet::new();
    for file in sources::files()? {
        let text = fs::read_to_string(root().join(&file)).with_context(|| format!("cannot read {file}"))?;
        functions.extend(tests(&text).map(str::to_owned));
    }
    let there = |name: &str| match name.strip_prefix(COMMAND) {
        Some("demo") => true,
        Some(command) => methods.contains(&format!("## `{command}`")) || methods.contains(&format!("## `{name}`")),
        None => functions.contains(name),
    };
    Ok(check_page(&page, there))
}

fn check_page(page: &str, there: impl Fn(&str) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (mut chapter, mut promise) = (0, 0);
    for (at, line) in page.lines().enumerate() {
        let mut fault = |rule: String| faults.push(Fault { place: format!("{PAGE}:{}", at + 1), rule });
        if line.starts_with("## ") {
            (chapter, promise) = (chapter + 1, 0);
            if !line.starts_with(&format!("## {chapter} ")) {
                fault(format!("chapter {chapter} has another number"));
            }
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, held, _] = cells[..] else { continue };
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        promise += 1;
        if number != format!("{chapter}.{promise}") {
            fault(format!("promise {number} should be {chapter}.{promise}"));
        }
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            fault(format!("nothing holds promise {number}"));
        }
        for name in names.into_iter().filter(|name| !there(name)) {
            fault(format!("`{name}`, which holds promise {number}, is not there"));
        }
    }
    faults
}

/// Names of the functions that stand below an attribute that makes them a test, or in a `proptest!`.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().map(str::trim_start).filter_map(move |line| {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
            return None;
        }
        let name = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))?;
        std::mem::take(&mut is_test).then(|| name.split('(').next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_nothing_holds_is_found() {
        let page = "## 1 A\n| no | promise | held by |\n|---|---|---|\n| 1.1 | x | `one` |\n| 1.3 | x | `two` |\n| 1.3 | x | none |\n";
        let faults: Vec<String> = check_page(page, |name| name == "one").iter().map(Fault::to_string).collect();
        assert_eq!(
            faults,
            [
                "SPECIFICATION.md:5: promise 1.3 should be 1.2",
                "SPECIFICATION.md:5: `two`, which holds promise 1.3, is not there",
                "SPECIFICATION.md:6: nothing holds promise 1.3",
            ]
        );
    }

    #[test]
    fn only_tests_count_as_tests() {
        let text = "fn helper() {}\n#[test]\nfn one() {}\n  #[tokio::test(flavor = \"x\")]\n  #[should_panic]\n  async fn two() {}\nfn other() {}\n";
        assert_eq!(tests(text).collect::<Vec<_>>(), ["one", "two"]);
    }
}
