//! HTTP/1.1 towards backends as bytes (RFC 9112): a request's head and body written, a response's head and body read. No socket is here.
//!
//! What a backend sends is taken strictly: whatever leaves doubt about where a response ends is a fault, since the next response on the same
//! connection would be taken for another's.

use std::io::Write;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Frame;
use httparse::Status;
use thiserror::Error;

/// A response's head may be so large.
const HEAD: usize = 128 * 1024;
const HEADERS: usize = 128;
/// The line before a chunk, with extensions that nobody reads.
const CHUNK_LINE: usize = 4096;
const TRAILERS: usize = 16 * 1024;

/// What came is no HTTP response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the backend sent no valid response")]
pub(crate) struct Malformed;

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, or none left.
    Nothing,
    Length(u64),
    Chunked,
}

/// Writes a request's head.
pub(crate) fn write_head<B>(request: &Request<B>, framing: Framing, out: &mut Vec<u8>) {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let framed = |name: &HeaderName| match framing {
        // A length of nothing is the client's to say.
        Framing::Nothing => *name == TRANSFER_ENCODING,
        Framing::Length(_) | Framing::Chunked => *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH,
    };
    for (name, value) in request.headers().iter().filter(|(name, _)| !framed(name)) {
        write_header(name, value, out);
    }
    match framing {
        Framing::Nothing => {}
        Framing::Length(length) => {
            // Into memory, which takes everything.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

fn write_header(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes a part of a request's body; says whether it was the last.
pub(crate) fn write_frame(frame: Frame<Bytes>, framing: Framing, out: &mut Vec<u8>) -> bool {
    match (frame.into_data(), framing) {
        (Ok(data), Framing::Chunked) if !data.is_empty() => {
            let _ = write!(out, "{:x}\r\n", data.len());
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\r\n");
            false
        }
        // An empty chunk would be the end.
        (Ok(_), Framing::Chunked) => false,
        (Ok(data), Framing::Length(_) | Framing::Nothing) => {
            out.extend_from_slice(&data);
            false
        }
        (Err(frame), Framing::Chunked) => {
            out.extend_from_slice(b"0\r\n");
            let trailers = frame.into_trailers().unwrap_or_default();
            // What frames a message has no meaning behind it (RFC 9110, 6.5.1).
            let fine = |name: &HeaderName| ![CONTENT_LENGTH, TRANSFER_ENCODING, HOST].contains(name);
            trailers.iter().filter(|(name, _)| fine(name)).for_each(|(name, value)| write_header(name, value, out));
            out.extend_from_slice(b"\r\n");
            true
        }
        (Err(_), Framing::Length(_) | Framing::Nothing) => false,
    }
}

/// Writes the end of a request's body.
pub(crate) fn write_end(framing: Framing, out: &mut Vec<u8>) {
    if framing == Framing::Chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

/// The head of a response, and what follows it.
#[derive(Debug)]
pub(crate) struct Head {
    pub response: Response<()>,
    pub body: Reading,
    /// Another request may be sent when the body has been read.
    pub keeps: bool,
}

/// Reads a response's head off `buffer`, past interim ones; none if it is not whole. `to_head`: the request was HEAD.
pub(crate) fn read_head(buffer: &mut BytesMut, to_head: bool) -> Result<Option<Head>, Malformed> {
    loop {
        let Some(length) = head_length(buffer) else {
            return if buffer.len() < HEAD { Ok(None) } else { Err(Malformed) };
        };
        let head = parse_head(buffer.split_to(length).freeze(), to_head)?;
        match head.response.status() {
            // Nobody asked for it.
            StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed),
            status if status.is_informational() => {}
            _ => return Ok(Some(head)),
        }
    }
}

/// Up to behind the first empty line. Empty lines in front of a response are not passed over: nothing may stand there.
fn head_length(buffer: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', buffer).find_map(|at| match buffer[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

fn parse_head(bytes: Bytes, to_head: bool) -> Result<Head, Malformed> {
    // httparse would pass over empty lines.
    if !bytes.starts_with(b"HTTP/") {
        return Err(Malformed);
    }
    let mut space = [const { MaybeUninit::uninit() }; HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut space) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        Ok(Status::Complete(_) | Status::Partial) | Err(_) => return Err(Malformed),
    }
    let mut response = Response::new(());
    *response.status_mut() = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?;
    *response.version_mut() = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 4);
    for header in parsed.headers.iter() {
        append(&mut headers, header, |value| bytes.slice_ref(value))?;
    }
    let body = framing(response.status(), response.version(), &mut headers, to_head)?;
    let keeps = body.is_delimited() && is_kept(response.version(), &headers);
    *response.headers_mut() = headers;
    Ok(Head { response, body, keeps })
}

fn append(
    headers: &mut HeaderMap,
    header: &httparse::Header<'_>,
    bytes: impl FnOnce(&[u8]) -> Bytes,
) -> Result<(), Malformed> {
    let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed)?;
    let value = HeaderValue::from_maybe_shared(bytes(header.value)).map_err(|_| Malformed)?;
    headers.append(name, value);
    Ok(())
}

/// Where a response's body ends (RFC 9112, 6.3).
fn framing(status: StatusCode, version: Version, headers: &mut HeaderMap, to_head: bool) -> Result<Reading, Malformed> {
    let never = to_head || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    if headers.contains_key(TRANSFER_ENCODING) {
        // The encoding counts; who sends both may not be understood alike by all (RFC 9112, 6.3).
        headers.remove(CONTENT_LENGTH);
        if version == Version::HTTP_10 {
            return Err(Malformed);
        }
        let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
        let (first, second) = (encodings.next(), encodings.next());
        let chunked = first.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        return match (chunked, second) {
            _ if never => Ok(Reading::Done),
            (true, None) => Ok(Reading::Chunked(Chunk::Size)),
            // Another encoding is not ours to undo, and nobody asked for one.
            (_, _) => Err(Malformed),
        };
    }
    let length = length(headers)?;
    Ok(match length {
        _ if never => Reading::Done,
        Some(0) => Reading::Done,
        Some(length) => Reading::Length(length),
        None => Reading::UntilEnd,
    })
}

fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for one in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let digits = !one.is_empty() && one.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(one).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let number: u64 = number.ok_or(Malformed)?;
            if found.replace(number).is_some_and(|before| before != number) {
                return Err(Malformed);
            }
        }
    }
    if let Some(length) = found {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(found)
}

fn is_kept(version: Version, headers: &HeaderMap) -> bool {
    let tokens = || {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::trim)
    };
    let says = |word: &str| tokens().any(|token| token.eq_ignore_ascii_case(word));
    if version == Version::HTTP_11 { !says("close") } else { says("keep-alive") && !says("close") }
}

/// A response's body while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Length(u64),
    Chunked(Chunk),
    /// The end of the connection is its end.
    UntilEnd,
    Done,
}

/// Where in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunk {
    Size,
    Data(u64),
    /// The line end behind the data.
    End,
    Trailers,
}

/// What was read.
#[derive(Debug)]
pub(crate) enum Read {
    Frame(Frame<Bytes>),
    /// Nothing, before more has come.
    More,
    Done,
}

impl Reading {
    pub fn is_delimited(self) -> bool {
        self != Reading::UntilEnd
    }

    /// Reads on, off `buffer`.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Read, Malformed> {
        loop {
            match self {
                Reading::Done => return Ok(Read::Done),
                _ if buffer.is_empty() => return Ok(Read::More),
                Reading::UntilEnd => return Ok(data(buffer.split().freeze())),
                Reading::Length(left) => {
                    let part = take(buffer, left);
                    if *left == 0 {
                        *self = Reading::Done;
                    }
                    return Ok(data(part));
                }
                Reading::Chunked(Chunk::Size) => match httparse::parse_chunk_size(buffer) {
                    Ok(Status::Complete((line, size))) => {
                        buffer.advance(line);
                        *self = Reading::Chunked(if size == 0 { Chunk::Trailers } else { Chunk::Data(size) });
                    }
                    Ok(Status::Partial) if buffer.len() < CHUNK_LINE => return Ok(Read::More),
                    Ok(Status::Partial) | Err(_) => return Err(Malformed),
                },
                Reading::Chunked(Chunk::Data(left)) => {
                    let part = take(buffer, left);
                    if *left == 0 {
                        *self = Reading::Chunked(Chunk::End);
                    }
                    return Ok(data(part));
                }
                Reading::Chunked(Chunk::End) => match buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *self = Reading::Chunked(Chunk::Size);
                    }
                    [b'\r'] => return Ok(Read::More),
                    _ => return Err(Malformed),
                },
                Reading::Chunked(Chunk::Trailers) => {
                    let Some((length, trailers)) = trailers(buffer)? else { return Ok(Read::More) };
                    buffer.advance(length);
                    *self = Reading::Done;
                    if !trailers.is_empty() {
                        return Ok(Read::Frame(Frame::trailers(trailers)));
                    }
                }
            }
        }
    }
}

fn data(bytes: Bytes) -> Read {
    Read::Frame(Frame::data(bytes))
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    buffer.split_to(length).freeze()
}

/// Trailers and how many bytes they were; none if they are not whole.
fn trailers(buffer: &BytesMut) -> Result<Option<(usize, HeaderMap)>, Malformed> {
    let mut space = [httparse::EMPTY_HEADER; 32];
    match httparse::parse_headers(buffer, &mut space) {
        Ok(Status::Complete((length, parsed))) => {
            let mut headers = HeaderMap::new();
            for header in parsed {
                append(&mut headers, header, Bytes::copy_from_slice)?;
            }
            Ok(Some((length, headers)))
        }
        Ok(Status::Partial) if buffer.len() < TRAILERS => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a response that comes in pieces; its status, kept or not, body and trailers. `Err(true)`: malformed; `Err(false)`: not whole.
    fn read(text: &[u8], size: usize, to_head: bool) -> Result<(u16, bool, Vec<u8>, usize), bool> {
        let (mut buffer, mut head, mut body, mut trailers) = (BytesMut::new(), None, Vec::new(), 0);
        let mut pieces = text.chunks(size);
        loop {
            let more = match &mut head {
                None => {
                    head = read_head(&mut buffer, to_head).map_err(|_| true)?;
                    head.is_none()
                }
                Some(Head { response, body: reading, keeps }) => match reading.next(&mut buffer).map_err(|_| true)? {
                    Read::Done => return Ok((response.status().as_u16(), *keeps && buffer.is_empty(), body, trailers)),
                    Read::More => true,
                    Read::Frame(frame) => {
                        match frame.into_data() {
                            Ok(data) => body.extend_from_slice(&data),
                            Err(frame) => trailers = frame.into_trailers().map_or(0, |trailers| trailers.len()),
                        }
                        false
                    }
                },
            };
            if more {
                match (pieces.next(), &head) {
                    (Some(piece), _) => buffer.extend_from_slice(piece),
                    (None, Some(Head { response, body: Reading::UntilEnd, .. })) => {
                        return Ok((response.status().as_u16(), false, body, trailers));
                    }
                    (None, _) => return Err(false),
                }
            }
        }
    }

    fn check(text: &str, expected: Result<(u16, bool, &str, usize), bool>) {
        for size in [1, 3, 1000] {
            let told = read(text.as_bytes(), size, false);
            let told =
                told.map(|(status, keeps, body, trailers)| (status, keeps, String::from_utf8(body).unwrap(), trailers));
            let told = told.as_ref().map(|(status, keeps, body, n)| (*status, *keeps, body.as_str(), *n));
            assert_eq!(told.map_err(|error| *error), expected, "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn responses_end_where_they_say() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok((200, true, "abc", 0)));
        check("HTTP/1.1 200\r\ncontent-length: 3, 3\r\nconnection: X, close\r\n\r\nabc", Ok((200, false, "abc", 0)));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, true, "", 0)));
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Ok((304, true, "", 0)));
        check("HTTP/1.1 200 OK\r\n\r\nto the end", Ok((200, false, "to the end", 0)));
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", Ok((200, false, "a", 0)));
        check("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na", Ok((200, true, "a", 0)));
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n",
            Ok((201, true, "", 0)),
        );
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
        check(
            &format!("{chunked}3;x=\"y\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"),
            Ok((200, true, "abc0123456789", 0)),
        );
        check(&format!("{chunked}1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n"), Ok((200, true, "a", 2)));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Ok((200, true, "", 0)),
        );
        // Bytes behind a response: it is good, its connection is not.
        let behind = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc";
        assert_eq!(read(behind, 1000, false), Ok((200, false, b"a".to_vec(), 0)));
        let (status, _, body, _) = read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 1000, true).unwrap();
        assert_eq!((status, body.len()), (200, 0), "to HEAD");
    }

    #[test]
    fn doubt_is_a_fault() {
        for bad in [
            "what?\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
        ] {
            check(bad, Err(true));
        }
        for cut in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            check(cut, Err(false));
        }
    }

    #[test]
    fn requests_say_how_long_they_are() {
        let request = Request::post("/a?b")
            .header("host", "x")
            .header("content-length", "7")
            .header("transfer-encoding", "chunked")
            .body(())
            .unwrap();
        let written = |framing| {
            let mut out = Vec::new();
            write_head(&request, framing, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Framing::Nothing), "POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\n");
        assert_eq!(written(Framing::Length(7)), "POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\n");
        assert_eq!(written(Framing::Chunked), "POST /a?b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    proptest! {
        /// What is written in chunks is read as it was, in whatever pieces it comes.
        #[test]
        fn chunks_come_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6), size in 1_usize..40, trailer in any::<bool>()) {
            let mut wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for part in &parts {
                write_frame(Frame::data(Bytes::from(part.clone())), Framing::Chunked, &mut wire);
            }
            if trailer {
                let trailers = HeaderMap::from_iter([(HeaderName::from_static("x"), HeaderValue::from_static("y"))]);
                prop_assert!(write_frame(Frame::trailers(trailers), Framing::Chunked, &mut wire));
            } else {
                write_end(Framing::Chunked, &mut wire);
            }
            prop_assert_eq!(read(&wire, size, false), Ok((200, true, parts.concat(), usize::from(trailer))));
        }

        #[test]
        fn noise_is_read_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..20) {
            let _ = read(&noise, size, false);
            let _ = read(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &noise[..]].concat(), size, false);
        }
    }
}
