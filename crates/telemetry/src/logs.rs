//! Log lines: fields first, on standard error, filtered by `PORTOLAN_LOG` (`info`, `proxy=debug,warn`, …).

use std::io;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: `2026-01-01T00:00:00Z  INFO proxy: applied service=default/web added=3`.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts logging for the whole process, to standard error or to `file`. A second call changes nothing.
pub fn init(format: LogFormat, default_filter: &str, file: Option<std::fs::File>) {
    let filter = EnvFilter::try_from_env("PORTOLAN_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let ansi = file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let writer = match file {
        // Appended to line by line without a lock, which a writer that panics would poison.
        Some(file) => BoxMakeWriter::new(Arc::new(file)),
        None => BoxMakeWriter::new(io::stderr),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(ansi);
    // A line that cannot be written (a full disk, a closed pipe) is lost. To say so on standard error, which may be the same file, panics.
    let builder = builder.log_internal_errors(false);
    // An error here means that logging is already set up (a test, an embedding program): theirs stays.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// An error with all its causes in one line, for a log field.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
