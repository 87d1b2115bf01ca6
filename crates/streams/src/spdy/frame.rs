//! Frames of SPDY/3.1: eight bytes that say what and how much, then the rest. Source: the SPDY protocol, draft 3.1.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::{Headers, headers};

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const LAST: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// `CANCEL`, of the statuses of RST_STREAM.
const CANCEL: u32 = 5;
/// Longest control frame that is read; Kubernetes' have a few hundred bytes.
const MOST_CONTROL: u32 = 64 * 1024;
const MOST_DATA: u32 = 1 << 24;

/// What the other side says. `last` closes its end of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Open {
        stream: u32,
        headers: Headers,
        last: bool,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates, further headers, replies: nothing that we act upon.
    Other,
}

/// What we say.
#[derive(Debug)]
pub(super) enum Frame {
    Open { stream: u32, headers: Headers },
    Reply { stream: u32 },
    Data { stream: u32, bytes: Bytes, last: bool },
    Reset { stream: u32 },
    Ping { id: u32 },
    GoAway { protocol_error: bool },
}

/// The other side's frames, one by one.
pub(super) struct Input<R> {
    from: BufReader<R>,
    decoder: headers::Decoder,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(super) fn new(from: R) -> Self {
        Input { from: BufReader::new(from), decoder: headers::Decoder::new() }
    }

    /// The next frame; none at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Incoming>> {
        let mut head = [0; 8];
        match self.from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let control = head[0] & CONTROL != 0;
        if length >= if control { MOST_CONTROL } else { MOST_DATA } {
            return Err(wrong("the frame is too long"));
        }
        let mut body = vec![0; length as usize];
        self.from.read_exact(&mut body).await?;
        let last = head[4] & LAST != 0;
        if !control {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Ok(Some(Incoming::Data { stream, bytes: body.into(), last }));
        }
        if u16::from_be_bytes([head[0] & !CONTROL, head[1]]) != VERSION {
            return Err(wrong("another version than 3"));
        }
        self.control(u16::from_be_bytes([head[2], head[3]]), &body, last).map(Some)
    }

    fn control(&mut self, kind: u16, body: &[u8], last: bool) -> io::Result<Incoming> {
        // The first bit is reserved.
        let number = || {
            let bytes = body.first_chunk().ok_or_else(|| wrong("the frame is too short"))?;
            Ok::<u32, io::Error>(u32::from_be_bytes(*bytes) & 0x7fff_ffff)
        };
        Ok(match kind {
            SYN_STREAM => {
                // Its own stream, another that it belongs to, priority and slot; then the headers.
                let block = body.get(10..).ok_or_else(|| wrong("the frame is too short"))?;
                Incoming::Open { stream: number()?, headers: self.decoder.decode(block)?, last }
            }
            RST_STREAM => Incoming::Reset { stream: number()? },
            PING => {
                let bytes = body.first_chunk().ok_or_else(|| wrong("the frame is too short"))?;
                Incoming::Ping { id: u32::from_be_bytes(*bytes) }
            }
            GOAWAY => Incoming::GoAway,
            SYN_REPLY | HEADERS => {
                // All header blocks are one compressed stream: none may be left out.
                self.decoder.decode(body.get(4..).ok_or_else(|| wrong("the frame is too short"))?)?;
                Incoming::Other
            }
            _ => Incoming::Other,
        })
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Frame {
    pub(super) fn encode(&self, encoder: &mut headers::Encoder) -> io::Result<Vec<u8>> {
        Ok(match self {
            Frame::Open { stream, headers } => {
                let block = encoder.encode(headers)?;
                // It belongs to no other, and has neither priority nor slot.
                control(SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], &block])
            }
            Frame::Reply { stream } => {
                let block = encoder.encode(&Headers::new())?;
                control(SYN_REPLY, &[&stream.to_be_bytes(), &block])
            }
            Frame::Data { stream, bytes, last } => {
                let mut frame = stream.to_be_bytes().to_vec();
                frame.push(if *last { LAST } else { 0 });
                frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes()[1..]);
                frame.extend_from_slice(bytes);
                frame
            }
            Frame::Reset { stream } => control(RST_STREAM, &[&stream.to_be_bytes(), &CANCEL.to_be_bytes()]),
            Frame::Ping { id } => control(PING, &[&id.to_be_bytes()]),
            Frame::GoAway { protocol_error } => {
                control(GOAWAY, &[&0u32.to_be_bytes(), &u32::from(*protocol_error).to_be_bytes()])
            }
        })
    }
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut frame = (VERSION | u16::from(CONTROL) << 8).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.push(0);
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    frame.extend(body);
    frame
}
