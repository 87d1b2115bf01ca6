//! `cargo xtask tidy`: the rules of the house that neither compiler nor clippy knows.
//!
//! Layers (arrows between crates point down, a component never depends on another), sizes (files and functions), forbidden calls
//! (who may open sockets, touch the store, write unsafe code), the opening words of each file, and the tests that promises
//! name. Each fault names the place.

mod layers;
mod promises;
mod sources;

use std::fmt;

use anyhow::{Result, bail};

/// A broken rule, where and which.
pub struct Fault {
    pub place: String,
    pub rule: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

pub fn run() -> Result<()> {
    let mut faults = layers::check()?;
    faults.extend(sources::check()?);
    faults.extend(promises::check()?);
    if faults.is_empty() {
        println!("tidy");
        return Ok(());
    }
    for fault in &faults {
        println!("{fault}");
    }
    bail!("{} places are not tidy", faults.len())
}
