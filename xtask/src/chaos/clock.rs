//! The clock of the machine: real time for everybody but our own processes, to which libfaketime tells what a file says.
//!
//! A time namespace would not do: the kernel shifts only the clocks that nobody can set.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub struct Clock {
    library: PathBuf,
    file: PathBuf,
    /// Seconds that it is ahead of the real one.
    pub ahead: i64,
}

impl Clock {
    /// A clock that is right so far.
    pub fn new(folder: &Path) -> Result<Clock> {
        let architectures = std::fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
        let mut libraries = architectures.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
        let library = libraries.find(|path| path.exists()).context("no libfaketime (package faketime)")?;
        let mut clock = Clock { library, file: folder.join("clock"), ahead: 0 };
        clock.jump(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds ahead of where it is, or back.
    pub fn jump(&mut self, seconds: i64) -> Result<()> {
        self.ahead += seconds;
        // As a whole: half a file would be a third time.
        let beside = self.file.with_extension("next");
        std::fs::write(&beside, format!("{:+}\n", self.ahead))?;
        Ok(std::fs::rename(beside, &self.file)?)
    }

    /// A program that goes by this clock.
    pub fn rule(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            // Waiting is by a clock that does not jump.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_RESET", "1");
    }
}
