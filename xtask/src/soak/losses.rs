//! What was lost, attempt by attempt, with what the cluster said around it.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::clients::Sample;
use super::journal::Journal;

/// So many are told in full; the file has them all, in short.
const IN_FULL: usize = 20;

/// Writes the account of all losses to `file`, and gives it.
pub fn tell(lost: &[Sample], journal: &Journal, file: &Path) -> Result<String> {
    let mut account = String::new();
    for (number, sample) in lost.iter().enumerate() {
        let why = sample.why.as_deref().unwrap_or_default();
        let (at, took) = (sample.at.as_secs_f64(), sample.took.as_secs_f64());
        let _ = writeln!(account, "lost at {at:.3} s after {took:.3} s: {}: {why}", sample.target);
        if number < IN_FULL {
            for (at, line) in journal.around(sample.at, sample.at + sample.took) {
                let _ = writeln!(account, "    {:.3} s  {line}", at.as_secs_f64());
            }
        }
    }
    std::fs::write(file, &account).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(account)
}
