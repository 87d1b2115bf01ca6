//! The distribution's own `nft` must list our table whole, readably, and take our text.

use std::process::{Command, Stdio};
use std::sync::Once;

use crate::common::{Scratch, everything, ruleset};
use netlink::NfTables;
use nft::{Ruleset, diff};

/// `nft` is not needed to run Portolan, only to judge what it shows to those who have it.
fn need_nft() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let there = || Command::new("nft").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        if !there() {
            let install = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nftables";
            let status = Command::new("sh").args(["-c", install]).stdout(Stdio::null()).status().unwrap();
            assert!(status.success() && there(), "this test needs the program `nft`: {install}");
        }
    });
}

fn list(scratch: &Scratch) -> String {
    let output = scratch.ns.run(|| Command::new("nft").args(["list", "ruleset"]).output().unwrap()).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.is_empty(), "`nft list ruleset`: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nft_prints_what_we_print() {
    need_nft();
    let scratch = Scratch::new();
    let desired = ruleset(everything());
    NfTables::open(&scratch.ns).unwrap().commit(&diff(&Ruleset::default(), &desired)).unwrap();
    let listed = list(&scratch);
    same(&listed, &desired.to_string());
}

#[test]
fn nft_takes_what_we_print() {
    need_nft();
    let (scratch, file) = (Scratch::new(), tempfile::NamedTempFile::new().unwrap());
    let mut table = everything();
    // nft 1.0.6 does not take what it prints itself for `ct original proto-dst` in a concatenation.
    table.chain("postrouting").rules.retain(|rule| !nft::text::rule(nft::Family::Inet, rule).contains(". ct original"));
    let desired = ruleset(table);
    std::fs::write(file.path(), desired.to_string()).unwrap();
    let load = || Command::new("nft").arg("-f").arg(file.path()).output().unwrap();
    let output = scratch.ns.run(load).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&list(&scratch), &desired.to_string());
}

/// Line by line, whatever the order of the elements within a set, where nft has one of its own.
fn same(left: &str, right: &str) {
    fn sorted(text: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut elements: Vec<String> = Vec::new();
        for line in text.lines() {
            let entry = line.trim().trim_start_matches("elements = { ");
            if line.trim().starts_with("elements = {") || !elements.is_empty() {
                elements.push(entry.trim_end_matches(" }").trim_end_matches(',').to_owned());
                if line.ends_with(" }") {
                    elements.sort();
                    lines.append(&mut elements);
                }
            } else {
                lines.push(line.to_owned());
            }
        }
        lines
    }
    let (left, right) = (sorted(left), sorted(right));
    for (left, right) in left.iter().zip(&right) {
        assert_eq!(left, right);
    }
    assert_eq!(left.len(), right.len());
}
