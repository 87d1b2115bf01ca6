//! Names in wire form: labels with their lengths before them, the root's empty label last (RFC 1035, 3.1).
//!
//! Names that are kept and compared are in lower case, because DNS compares ASCII letters without their case (RFC 4343). Labels are bytes:
//! nothing says that they are text.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name in wire form (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// A name that is kept: in wire form, lower case, uncompressed.
pub type WireName = Box<[u8]>;

/// A name on the stack, in lower case.
#[derive(Clone, Copy)]
pub struct NameBuffer {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl NameBuffer {
    pub(crate) const fn new() -> Self {
        NameBuffer { bytes: [0; MAX_NAME], length: 0 }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Appends bytes in lower case; false, with nothing appended, if the name would be too long.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let start = usize::from(self.length);
        let Some(place) = self.bytes.get_mut(start..start + bytes.len()) else { return false };
        place.copy_from_slice(bytes);
        place.make_ascii_lowercase();
        // The slice above lies within 255 bytes.
        self.length = (start + bytes.len()) as u8;
        true
    }

    /// Appends a label with its length; false if it is empty or too long, or the name would be.
    pub(crate) fn push_label(&mut self, label: &[u8]) -> bool {
        match u8::try_from(label.len()) {
            Ok(length @ 1..=63) if usize::from(self.length) + label.len() < MAX_NAME => {
                self.push(&[length]) && self.push(label)
            }
            Ok(_) | Err(_) => false,
        }
    }
}

impl std::fmt::Debug for NameBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&to_text(self.as_slice()))
    }
}

/// The labels of a whole name in wire form, the root's left out.
pub fn labels(name: &[u8]) -> Labels<'_> {
    Labels { rest: name }
}

/// See [`labels`].
#[derive(Debug, Clone)]
pub struct Labels<'a> {
    rest: &'a [u8],
}

impl<'a> Labels<'a> {
    /// What has not been given yet, as a name.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        if label.is_empty() {
            return None;
        }
        self.rest = rest;
        Some(label)
    }
}

/// What stands before `suffix` in `name`, as bytes of whole labels; none if the name does not end so.
pub fn before<'a>(name: &'a [u8], suffix: &[u8]) -> Option<&'a [u8]> {
    let at = name.len().checked_sub(suffix.len()).filter(|at| &name[*at..] == suffix)?;
    let mut walk = labels(name);
    while name.len() - walk.rest().len() < at {
        walk.next()?;
    }
    (name.len() - walk.rest().len() == at).then(|| &name[..at])
}

/// The name that a text means, in lower case: a final dot is implied. None for what is no name.
pub fn parse(text: &str) -> Option<WireName> {
    let mut name = NameBuffer::new();
    let text = text.strip_suffix('.').unwrap_or(text);
    if !text.is_empty() {
        let fine = text.split('.').all(|label| name.push_label(label.as_bytes()));
        if !fine {
            return None;
        }
    }
    name.push(&[0]).then(|| name.as_slice().into())
}

/// Puts labels (as bytes in wire form) before a name; none if that is too long.
pub fn join(labels: &[u8], name: &[u8]) -> Option<WireName> {
    (labels.len() + name.len() <= MAX_NAME).then(|| [labels, name].concat().into())
}

/// A label in wire form.
pub fn label(text: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(text.len()).ok().filter(|length| (1..=MAX_LABEL as u8).contains(length))?;
    Some([&[length], text.to_ascii_lowercase().as_slice()].concat())
}

/// The name as people write it, with the final dot; bytes that are no plain text are escaped (RFC 4343, 2.1).
pub fn to_text(name: &[u8]) -> String {
    let mut text = String::new();
    for label in labels(name) {
        for &byte in label {
            match byte {
                b'.' | b'\\' | b'"' => text.extend(['\\', char::from(byte)]),
                0x21..=0x7e => text.push(char::from(byte)),
                _ => {
                    let _ = write!(text, "\\{byte:03}");
                }
            }
        }
        text.push('.');
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

/// The name that an endpoint without a hostname gets: its address with dashes, stable for as long as the address is.
pub fn address_label(address: IpAddr) -> String {
    let name = match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.to_string().replace(':', "-"),
    };
    // A label must not begin or end in a dash, which `fd00::` and `::1` would.
    let name = if name.ends_with('-') { format!("{name}0") } else { name };
    if name.starts_with('-') { format!("0{name}") } else { name }
}

/// `10-244-1-7` and `fd00--1` as addresses.
pub fn labelled_address(label: &[u8]) -> Option<IpAddr> {
    // The longest text of an IPv6 address has 39 characters.
    let mut text = [0; 39];
    let text = text.get_mut(..label.len())?;
    let fill = |separator: u8, text: &mut [u8]| {
        text.copy_from_slice(label);
        text.iter_mut().filter(|byte| **byte == b'-').for_each(|byte| *byte = separator);
    };
    if label.iter().any(|byte| !byte.is_ascii_hexdigit() && *byte != b'-') {
        return None;
    }
    fill(b'.', text);
    let v4 = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Ipv4Addr>().ok());
    if let Some(address) = v4 {
        return Some(address.into());
    }
    fill(b':', text);
    std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

const IN_ADDR: &[u8] = b"\x07in-addr\x04arpa\x00";
const IP6: &[u8] = b"\x03ip6\x04arpa\x00";

/// The part of the reverse tree that a name is in: `in-addr.arpa.` or `ip6.arpa.`, in wire form.
pub(crate) fn reverse_tree(name: &[u8]) -> Option<&'static [u8]> {
    [IN_ADDR, IP6].into_iter().find(|tree| before(name, tree).is_some())
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` spells out completely.
pub fn reverse_address(name: &[u8]) -> Option<IpAddr> {
    if let Some(own) = before(name, IN_ADDR) {
        let mut octets = [0; 4];
        let mut walk = Labels { rest: own };
        for octet in octets.iter_mut().rev() {
            let label = walk.next()?;
            let plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label[0] != b'0');
            *octet = std::str::from_utf8(label).ok().filter(|_| plain)?.parse().ok()?;
        }
        return walk.rest.is_empty().then(|| Ipv4Addr::from(octets).into());
    }
    let own = before(name, IP6).filter(|own| own.len() == 64)?;
    let mut bits = 0u128;
    for pair in own.chunks_exact(2).rev() {
        let digit = char::from(pair[1]).to_digit(16).filter(|_| pair[0] == 1)?;
        bits = bits << 4 | u128::from(digit);
    }
    Some(Ipv6Addr::from(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let long = "x".repeat(63);
        for text in [".", "cluster.local.", "_http._tcp.web.shop.svc.cluster.local.", &format!("{long}.a.")] {
            assert_eq!(to_text(&parse(text).unwrap()), text);
        }
        assert_eq!(parse("A.B").unwrap(), parse("a.b.").unwrap());
        for bad in ["a..b", ".a", &format!("{long}x"), &format!("{long}.").repeat(4)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(to_text(b"\x04a\x00.\xff\x00"), "a\\000\\.\\255.");
    }

    #[test]
    fn a_suffix_begins_at_a_label() {
        let (name, zone) = (parse("web.shop.svc.cluster.local").unwrap(), parse("cluster.local").unwrap());
        assert_eq!(before(&name, &zone), Some(b"\x03web\x04shop\x03svc".as_slice()));
        assert_eq!(before(&zone, &zone), Some(b"".as_slice()));
        // The bytes of the suffix can also stand inside a label.
        assert_eq!(before(b"\x11x\x07cluster\x05local\x00", &zone), None);
        assert_eq!(before(&parse("local").unwrap(), &zone), None);
    }

    #[test]
    fn addresses_become_labels_and_come_back() {
        for (address, label) in [
            ("10.244.2.1", "10-244-2-1"),
            ("fd00:10:244::3:1", "fd00-10-244--3-1"),
            ("fd00:10:244:0:1::", "fd00-10-244-0-1--0"),
            ("::1", "0--1"),
            ("::", "0--0"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(address_label(address), label);
            assert_eq!(labelled_address(label.as_bytes()), Some(address));
        }
        for bad in ["", "1-2-3", "1-2-3-4-5", "256-1-1-1", "01-2-3-4", "a.b", "fd00---1", &"1".repeat(40)] {
            assert_eq!(labelled_address(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn reverse_names_give_their_address() {
        let reverse = |name: &str| reverse_address(&parse(name).unwrap()).map(|a| a.to_string());
        assert_eq!(reverse("1.0.96.10.in-addr.arpa."), Some("10.96.0.1".into()));
        for bad in
            ["0.96.10.in-addr.arpa.", "1.1.0.96.10.in-addr.arpa", "01.0.96.10.in-addr.arpa", "+1.0.96.10.in-addr.arpa"]
        {
            assert_eq!(reverse(bad), None, "{bad}");
        }
        let six = |digits: &str| reverse(&format!("{digits}d.f.ip6.arpa."));
        assert_eq!(six(&format!("1.{}", "0.".repeat(29))), Some("fd00::1".into()));
        assert_eq!(six(&format!("1.{}", "0.".repeat(28))), None);
        assert_eq!(six(&format!("10.{}", "0.".repeat(28))), None);
    }
}
