//! Header blocks of SPDY/3.1: name and value pairs, all blocks of one direction in one zlib stream with a dictionary.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::Headers;

/// Longest block after decompression.
const MOST: usize = 256 * 1024;

/// The dictionary of the protocol's draft 3: words with their length before them, then words that are found in values.
fn dictionary() -> Vec<u8> {
    #[rustfmt::skip]
    const NAMES: [&str; 64] = [
        "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding", "accept-language",
        "accept-ranges", "age", "allow", "authorization", "cache-control", "connection", "content-base", "content-encoding",
        "content-language", "content-length", "content-location", "content-md5", "content-range", "content-type", "date",
        "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range",
        "if-unmodified-since", "last-modified", "location", "max-forwards", "pragma", "proxy-authenticate",
        "proxy-authorization", "range", "referer", "retry-after", "server", "te", "trailer", "transfer-encoding", "upgrade",
        "user-agent", "vary", "via", "warning", "www-authenticate", "method", "get", "status", "200 OK", "version",
        "HTTP/1.1", "url", "public", "set-cookie", "keep-alive",
    ];
    const VALUES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
        403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
        Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
        chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
        publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut all = Vec::new();
    for name in NAMES.iter().chain(&["origin"]) {
        all.extend_from_slice(&(name.len() as u32).to_be_bytes());
        all.extend_from_slice(name.as_bytes());
    }
    all.extend_from_slice(VALUES.as_bytes());
    all
}

fn wrong(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new() -> io::Result<Self> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).map_err(wrong)?;
        Ok(Encoder(compress))
    }

    pub(super) fn encode(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        // More than any compression can make of it.
        let mut block = Vec::with_capacity(plain.len() + 128);
        self.0.compress_vec(&plain, &mut block, FlushCompress::Sync).map_err(wrong)?;
        Ok(block)
    }
}

pub(super) struct Decoder {
    decompress: Decompress,
    begun: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Decoder { decompress: Decompress::new(true), begun: false }
    }

    pub(super) fn decode(&mut self, block: &[u8]) -> io::Result<Headers> {
        let mut plain = Vec::with_capacity(4096);
        let mut rest = block;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= MOST {
                    return Err(wrong("the headers are too long"));
                }
                plain.reserve(plain.len());
            }
            let (read, written) = (self.decompress.total_in(), plain.len());
            let mut progress = false;
            if let Err(error) = self.decompress.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                if self.begun || error.needs_dictionary().is_none() {
                    return Err(wrong(error));
                }
                self.decompress.set_dictionary(&dictionary()).map_err(wrong)?;
                progress = true;
            }
            self.begun = true;
            let taken = usize::try_from(self.decompress.total_in() - read).map_err(wrong)?;
            rest = rest.get(taken..).unwrap_or_default();
            if rest.is_empty() && plain.len() < plain.capacity() {
                break;
            }
            if !progress && taken == 0 && plain.len() == written {
                return Err(wrong("the headers do not end"));
            }
        }
        parse(&plain).ok_or_else(|| wrong("the headers are damaged"))
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    let mut headers = Headers::new();
    for _ in 0..number(&mut plain)? {
        let (name, value) = (text(&mut plain)?, text(&mut plain)?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    plain.is_empty().then_some(headers)
}

fn number(from: &mut &[u8]) -> Option<u32> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u32::from_be_bytes(*bytes))
}

fn text(from: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        let all = dictionary();
        assert_eq!(all.len(), 1423);
        // Its Adler-32, which every stream that uses it begins with.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &all {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
        assert_eq!(Encoder::new().unwrap().encode(&Headers::new()).unwrap()[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        let long = "x".repeat(100_000);
        for list in [
            &[("streamtype", "data"), ("port", "80"), ("requestid", "0")][..],
            &[],
            &[("long", long.as_str())],
            &[("streamtype", "error"), ("port", "80"), ("requestid", "1")],
        ] {
            let block = encoder.encode(&headers(list)).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), headers(list));
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        assert!(Decoder::new().decode(b"\x78\x9crubbish").is_err());
        assert!(Decoder::new().decode(&[]).is_err());
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'a']).is_none());
        assert!(parse(&[0xff; 4]).is_none());
        // A bomb.
        let bomb = Encoder::new().unwrap().encode(&headers(&[("a", &"x".repeat(10 << 20))])).unwrap();
        assert!(Decoder::new().decode(&bomb).is_err());
    }
}
