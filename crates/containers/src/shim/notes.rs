//! What libcontainer says about its own failures.
//!
//! Its errors come from a process that it has cloned, as one line that names the last act only ("failed to prepare
//! rootfs"). What exactly failed it tells as log events at error level, at the place where it happened. In the copies
//! that call it those events go into a pipe, and the first one explains the error.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Where the notes are read.
#[derive(Debug)]
pub(super) struct Notes(File);

/// Where they are written: in this process and all that are cloned from it, until they execute a program.
#[derive(Debug)]
pub(super) struct Notebook(File);

pub(super) fn pipe() -> std::io::Result<(Notes, Notebook)> {
    let (read, write) = std::io::pipe()?;
    linux::process::set_nonblocking(&read)?;
    linux::process::set_nonblocking(&write)?;
    Ok((Notes(OwnedFd::from(read).into()), Notebook(OwnedFd::from(write).into())))
}

impl Notes {
    /// The first note, which is the nearest to the cause.
    pub(super) fn first(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        let n = self.0.read(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        text.lines().next().filter(|line| !line.is_empty()).map(str::to_owned)
    }
}

impl Notebook {
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Takes the events of this process from now on.
    pub(super) fn open(self) {
        // Only the copy calls this, once, so no other subscriber can be there.
        let _ = tracing::subscriber::set_global_default(self);
    }
}

impl Subscriber for Notebook {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields).replace('\n', " ");
        let _ = writeln!(&self.0, "{text}");
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name} {value:?}"),
        };
    }
}
