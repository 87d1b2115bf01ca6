//! A container's log in the CRI format: `<time> <stream> <F|P> <text>`, one line a line, with rotation.
//!
//! `F` ends a line of the program's, `P` is a part of one that is longer than 16 KiB (or that the program never ended).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The longest text of one log line, as in containerd and CRI-O.
const LONGEST: usize = 16 * 1024;
const DEFAULT_MAX_BYTES: u64 = 10 << 20;
const DEFAULT_MAX_FILES: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    /// What has come since the last line's end.
    pending: [Vec<u8>; 2],
}

impl Log {
    pub(super) fn open(path: &Path, max_bytes: Option<u64>, max_files: Option<u32>) -> io::Result<Log> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Log {
            path: path.to_path_buf(),
            file,
            size,
            max_bytes: max_bytes.filter(|b| *b > 0).unwrap_or(DEFAULT_MAX_BYTES),
            max_files: max_files.filter(|n| *n > 0).unwrap_or(DEFAULT_MAX_FILES),
            pending: Default::default(),
        })
    }

    /// Takes what the program has written.
    pub(super) fn take(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        pending.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(pending.len() + 64);
        let mut rest = pending.as_slice();
        loop {
            let window = &rest[..rest.len().min(LONGEST)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                line(&mut out, stream, 'F', &rest[..end], now);
                rest = &rest[end + 1..];
            } else if rest.len() > LONGEST {
                line(&mut out, stream, 'P', window, now);
                rest = &rest[LONGEST..];
            } else {
                break;
            }
        }
        self.pending[stream as usize] = rest.to_vec();
        self.write(&out)
    }

    /// The stream has ended: what is left of a line is written too.
    pub(super) fn end(&mut self, stream: Stream, now: Timestamp) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending[stream as usize]);
        if pending.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        line(&mut out, stream, 'P', &pending, now);
        self.write(&out)
    }

    /// Goes on in a new file; somebody has renamed the old one.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    fn write(&mut self, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + out.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(out)?;
        self.size += out.len() as u64;
        Ok(())
    }

    /// Renames the file as the kubelet does, with the time as an extension, and removes the oldest.
    fn rotate(&mut self) -> io::Result<()> {
        let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S.%f").to_string();
        fs::rename(&self.path, format!("{}.{stamp}", self.path.display()))?;
        self.reopen()?;
        let mut old = self.rotated()?;
        old.sort();
        let surplus = (old.len() + 1).saturating_sub(self.max_files as usize);
        for file in old.iter().take(surplus) {
            fs::remove_file(file)?;
        }
        Ok(())
    }

    fn rotated(&self) -> io::Result<Vec<PathBuf>> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(Vec::new()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let entries = fs::read_dir(folder)?.flatten();
        Ok(entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect())
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().create(true).append(true).mode(0o640).open(path)
}

fn line(out: &mut Vec<u8>, stream: Stream, tag: char, text: &[u8], now: Timestamp) {
    let _ = write!(out, "{now:.9} {} {tag} ", stream.name());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(writes: &[&[u8]], ended: bool, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod/0.log");
        let mut log = Log::open(&path, None, None).unwrap();
        for bytes in writes {
            log.take(Stream::Stdout, bytes, Timestamp::UNIX_EPOCH).unwrap();
        }
        if ended {
            log.end(Stream::Stdout, Timestamp::UNIX_EPOCH).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.replace("1970-01-01T00:00:00.000000000Z stdout ", ""), expected);
    }

    #[test]
    fn lines_are_kept_whole_and_long_ones_are_parted() {
        check(&[b"one\ntwo\n"], false, "F one\nF two\n");
        check(&[b"o", b"ne\n\n"], false, "F one\nF \n");
        check(&[b"no end"], false, "");
        check(&[b"no end"], true, "P no end\n");
        let long = "x".repeat(LONGEST);
        check(&[format!("{long}yz\n").as_bytes()], false, &format!("P {long}\nF yz\n"));
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = Log::open(&path, Some(100), Some(3)).unwrap();
        for n in 0..20 {
            log.take(Stream::Stderr, format!("line {n}\n").as_bytes(), Timestamp::now()).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(fs::read_to_string(&path).unwrap().ends_with("line 19\n"));
    }
}
