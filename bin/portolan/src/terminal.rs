//! The only place that writes to the terminal: steps with their times, errors with their causes and hints.

use std::io::{ErrorKind, Write};
use std::time::Instant;

/// Writes a line to standard output. A reader that went away is no error of ours.
pub fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes text without a line end.
pub fn text(text: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// A warning on standard error; the command goes on.
pub fn warn(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "warning: {}", told(error));
}

/// What ended the command: the act, its causes, and the hint last.
pub fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {}", told(error));
}

/// Joins the chain of causes into one line and gathers the hints, which any level may carry, below it.
fn told(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        let whole = cause.to_string();
        let (said, hint) = whole.split_once("\n  hint: ").map_or((whole.as_str(), None), |(s, h)| (s, Some(h)));
        hints.extend(hint.map(str::to_owned));
        // Libraries repeat their source in their own text.
        if !causes.iter().any(|earlier| earlier.contains(said)) {
            causes.push(said.to_owned());
        }
    }
    let full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::StorageFull)
    };
    if hints.is_empty() && error.chain().any(full) {
        hints.push("the disk is full; make room on it, then try again".to_owned());
    }
    let hints: String = hints.iter().map(|hint| format!("\n  hint: {hint}")).collect();
    format!("{}{hints}", causes.join(": "))
}

/// Steps of a long command, each printed when it is done, with the time it took.
#[derive(Debug)]
pub struct Steps {
    start: Instant,
    last: Instant,
}

impl Steps {
    pub fn begin() -> Self {
        let now = Instant::now();
        Steps { start: now, last: now }
    }

    /// Prints that a step is done.
    pub fn done(&mut self, what: impl std::fmt::Display) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        line(format_args!("✓ {:<58} {:>6} ms", what.to_string(), took.as_millis()));
    }

    /// Seconds since the first step began.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_is_told_as_causes_and_then_hints() {
        let refused = std::io::Error::from(ErrorKind::AddrInUse);
        let error = Err::<(), _>(refused).context("cannot listen on 127.0.0.1:6443\n  hint: choose another --api-port");
        let told = told(&error.context("cannot start the API server").unwrap_err());
        let expected = "cannot start the API server: cannot listen on 127.0.0.1:6443: address in use\n  hint: choose another --api-port";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_full_disk_has_a_hint_wherever_it_was_met() {
        let full = std::io::Error::from_raw_os_error(28);
        let told = told(&Err::<(), _>(full).context("cannot write `x`").unwrap_err());
        assert_eq!(
            told,
            "cannot write `x`: No space left on device (os error 28)\n  hint: the disk is full; make room on it, then try again"
        );
    }
}
