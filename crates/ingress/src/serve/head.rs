//! A look at an HTTP/1 request's head as it comes, for what hyper makes sense of and then forgets: a length beside an encoding, a length
//! said twice, lines that end without a carriage return.
//!
//! hyper reads such a request in the safe way and closes behind it (RFC 9112, 6.3); but whoever sends one means it to be read differently by
//! somebody else on its way (RFC 9112, 11.2), so it is answered 400.

/// As much of a line as tells the two names apart.
const START: usize = 18;

/// A head that is looked at while it comes, in whatever pieces.
#[derive(Debug, Default)]
pub(crate) struct Look {
    start: [u8; START],
    /// Bytes of the line so far, as far as they are in `start`.
    length: usize,
    last: u8,
    /// The request line has passed: an empty line ends the head.
    begun: bool,
    ended: bool,
    lengths: u8,
    encodings: u8,
    bare: bool,
}

impl Look {
    pub fn is_twofold(&self) -> bool {
        self.bare || self.lengths.saturating_add(self.encodings) > 1
    }

    /// Looks at the next bytes, as far as they belong to the head.
    pub fn at(&mut self, mut bytes: &[u8]) {
        while !self.ended && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let taken = part.len().min(START - self.length);
            self.start[self.length..self.length + taken].copy_from_slice(&part[..taken]);
            self.length += taken;
            self.last = part.last().copied().unwrap_or(self.last);
            let Some(end) = end else { return };
            self.end_line();
            bytes = &bytes[end + 1..];
        }
    }

    fn end_line(&mut self) {
        let line = &self.start[..self.length];
        self.bare |= self.last != b'\r';
        let empty = matches!(line, [] | [b'\r']);
        self.ended = empty && self.begun;
        self.begun |= !empty;
        let names = |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        match line.first() {
            Some(b'c' | b'C') if names(b"content-length:") => self.lengths = self.lengths.saturating_add(1),
            Some(b't' | b'T') if names(b"transfer-encoding:") => self.encodings = self.encodings.saturating_add(1),
            Some(_) | None => {}
        }
        (self.length, self.last) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: bool) {
        for size in [1, 2, 7, 1000] {
            let mut look = Look::default();
            head.as_bytes().chunks(size).for_each(|piece| look.at(piece));
            assert_eq!(look.is_twofold(), expected, "{head:?} in pieces of {size}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_seen_however_it_comes() {
        check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", false);
        check("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false);
        check("POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length: 3\r\n\r\n", true);
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", true);
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\nX: y\r\nContent-Length: 3\r\n\r\nabc", true);
        let many = "Content-Length: 3\r\n".repeat(300) + &"Transfer-Encoding: chunked\r\n".repeat(300);
        check(&format!("POST / HTTP/1.1\r\n{many}\r\n"), true);
        check("GET / HTTP/1.1\nHost: a\n\n", true);
        check("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", true);
        // Names that begin alike, values, and bodies are others' matter.
        check("POST / HTTP/1.1\r\nContent-Length-X: 3\r\nX: content-length: 3\r\nContent-Length: 3\r\n\r\n", false);
        check(
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nContent-Length: 3\nTransfer-Encoding: chunked\n",
            false,
        );
    }
}
