//! STOMP 1.2, as much as a producer and a reader need: connect, send with receipt, subscribe, receive.
//!
//! Frames and escapes follow <https://stomp.github.io/stomp-specification-1.2.html>. The crates that speak STOMP are either under a
//! copyleft licence, long unmaintained or parse without a connection, so these few lines are ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A frame: command, headers in order, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub command: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Bounds on what a broker may send us.
const MAX_LINE: u64 = 64 << 10;
const MAX_BODY: usize = 16 << 20;

impl Frame {
    pub fn new(command: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Frame { command: command.to_owned(), headers, body: body.to_vec() }
    }

    /// The first value of a header; later ones are to be ignored, says the specification.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("{}\n", self.command).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{}:{}\n", escape(name), escape(value)).as_bytes());
        }
        if !self.body.is_empty() {
            out.extend_from_slice(format!("content-length:{}\n", self.body.len()).as_bytes());
        }
        out.push(b'\n');
        out.extend_from_slice(&self.body);
        out.push(0);
        out
    }

    /// Reads one frame; empty lines between frames are heart-beats and are skipped.
    pub fn read(input: &mut impl BufRead) -> Result<Frame> {
        let mut command = line(input)?;
        while command.is_empty() {
            command = line(input)?;
        }
        let mut headers = Vec::new();
        loop {
            let text = line(input)?;
            if text.is_empty() {
                break;
            }
            let (name, value) = text.split_once(':').with_context(|| format!("header without a colon: `{text}`"))?;
            headers.push((unescape(name)?, unescape(value)?));
        }
        let mut frame = Frame { command, headers, body: Vec::new() };
        match frame.header("content-length").map(str::parse::<usize>).transpose().context("bad content-length")? {
            Some(length) if length > MAX_BODY => bail!("a body of {length} bytes is too large"),
            Some(length) => {
                frame.body = vec![0; length + 1];
                input.read_exact(&mut frame.body)?;
                if frame.body.pop() != Some(0) {
                    bail!("the frame does not end where its content-length says");
                }
            }
            None => {
                input.take(MAX_BODY as u64).read_until(0, &mut frame.body)?;
                if frame.body.pop() != Some(0) {
                    bail!("the connection ended inside a frame");
                }
            }
        }
        Ok(frame)
    }
}

fn line(input: &mut impl BufRead) -> Result<String> {
    let mut bytes = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    match bytes.pop() {
        Some(b'\n') => {}
        Some(_) => bail!("a line is too long, or the connection ended inside it"),
        None => bail!("the broker closed the connection"),
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).context("a header is not UTF-8")
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\r', "\\r").replace('\n', "\\n").replace(':', "\\c")
}

fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('\\')) => out.push('\\'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('c')) => out.push(':'),
            ('\\', _) => bail!("undefined escape in header `{text}`"),
            (plain, _) => out.push(plain),
        }
    }
    Ok(out)
}

/// A connection to a broker that has said CONNECTED.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    receipts: u64,
}

impl Connection {
    /// Connects and logs in. `timeout` bounds the connect and every later answer.
    pub fn open(address: &str, login: Option<(&str, &str)>, timeout: Duration) -> Result<Self> {
        let stream = dial(address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { reader: BufReader::new(stream), receipts: 0 };
        let mut headers = vec![("accept-version", "1.2"), ("host", "/"), ("heart-beat", "0,0")];
        if let Some((user, password)) = login {
            headers.extend([("login", user), ("passcode", password)]);
        }
        connection.write(&Frame::new("CONNECT", &headers, b""))?;
        let answer = connection.receive()?;
        if answer.command != "CONNECTED" {
            bail!("the broker answered {} to CONNECT: {}", answer.command, answer.header("message").unwrap_or("-"));
        }
        Ok(connection)
    }

    /// Sends a message and waits until the broker has taken it.
    pub fn send(&mut self, queue: &str, headers: &[(&str, &str)], body: &str) -> Result<()> {
        self.receipts += 1;
        let receipt = self.receipts.to_string();
        let destination = format!("/queue/{queue}");
        let mut all = vec![("destination", destination.as_str()), ("receipt", &receipt), ("persistent", "true")];
        all.extend_from_slice(headers);
        all.push(("content-type", "text/plain"));
        self.write(&Frame::new("SEND", &all, body.as_bytes()))?;
        let answer = self.receive().context("no receipt from the broker")?;
        match (answer.command.as_str(), answer.header("receipt-id")) {
            ("RECEIPT", Some(id)) if id == receipt => Ok(()),
            (command, _) => {
                bail!("the broker answered {command} to SEND: {}", answer.header("message").unwrap_or("-"))
            }
        }
    }

    /// Asks for the messages of a queue; each is taken off it as it arrives.
    pub fn subscribe(&mut self, queue: &str) -> Result<()> {
        let destination = format!("/queue/{queue}");
        self.write(&Frame::new("SUBSCRIBE", &[("id", "0"), ("destination", &destination), ("ack", "auto")], b""))
    }

    /// The next frame; an error after the timeout.
    pub fn receive(&mut self) -> Result<Frame> {
        Frame::read(&mut self.reader)
    }

    fn write(&mut self, frame: &Frame) -> Result<()> {
        self.reader.get_mut().write_all(&frame.encode()).context("cannot write to the broker")
    }
}

fn dial(address: &str, timeout: Duration) -> Result<TcpStream> {
    let mut last = None;
    for candidate in address.to_socket_addrs().with_context(|| format!("cannot resolve `{address}`"))? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("cannot connect to `{address}`")),
        None => bail!("`{address}` has no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_as_it_was_written() {
        let frames = [
            Frame::new("SEND", &[("destination", "/queue/news"), ("title", "a:b\\c\nd")], b"body\0with zero"),
            Frame::new("CONNECT", &[("accept-version", "1.2")], b""),
        ];
        for frame in frames {
            let bytes = frame.encode();
            let mut read = Frame::read(&mut bytes.as_slice()).unwrap();
            read.headers.retain(|(name, _)| name != "content-length");
            assert_eq!(read, frame);
        }
    }

    #[test]
    fn broken_frames_are_errors() {
        for bytes in [
            &b""[..],
            b"SEND\nno-colon\n\n\0",
            b"SEND\na:\\t\n\n\0",
            b"SEND\ncontent-length:5\n\nabc\0",
            b"SEND\ncontent-length:99999999999\n\n\0",
            b"SEND\n\nno end",
        ] {
            assert!(Frame::read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
