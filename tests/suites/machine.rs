//! The test machine itself: what a test does on it stays on it.

use anyhow::Result;
use testkit::{Machine, said};

#[test]
fn a_machine_has_a_network_of_its_own() -> Result<()> {
    let machine = Machine::new()?;
    let inside = said(machine.command("ip").args(["-br", "link"]))?.ok()?.out;
    assert_eq!(inside.lines().count(), 1, "{inside}");
    assert!(inside.starts_with("lo "), "{inside}");
    Ok(())
}
