//! The bytes of one set key or one map value, as they lie in nf_tables registers.
//!
//! Every component of a concatenation starts on a 32-bit boundary and is padded with zeros; addresses and ports are in
//! network order, numbers that the kernel computes itself (numgen, marks) in the machine's order. A set of 500,000
//! elements is a normal thing here, so up to 22 bytes live inline and only IPv6 keys go to the heap.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const INLINE: usize = 22;

/// Register contents: a key, or the value that a map gives. Ordered as bytes.
#[derive(Clone)]
pub struct Bytes(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, buf: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Bytes {
    /// No bytes yet; push components with the builder methods below.
    pub const fn new() -> Bytes {
        Bytes(Repr::Inline { len: 0, buf: [0; INLINE] })
    }

    /// Takes the bytes as they are, without padding.
    pub fn from_slice(bytes: &[u8]) -> Bytes {
        if bytes.len() <= INLINE {
            let mut buf = [0; INLINE];
            buf[..bytes.len()].copy_from_slice(bytes);
            Bytes(Repr::Inline { len: bytes.len() as u8, buf })
        } else {
            Bytes(Repr::Heap(bytes.into()))
        }
    }

    /// Appends one component and pads it to a whole number of 32-bit registers.
    #[must_use]
    pub fn push(self, component: &[u8]) -> Bytes {
        let old = self.as_slice();
        let len = old.len() + component.len().div_ceil(4) * 4;
        if len <= INLINE {
            let mut buf = [0; INLINE];
            buf[..old.len()].copy_from_slice(old);
            buf[old.len()..old.len() + component.len()].copy_from_slice(component);
            return Bytes(Repr::Inline { len: len as u8, buf });
        }
        let mut all = Vec::with_capacity(len);
        all.extend_from_slice(old);
        all.extend_from_slice(component);
        all.resize(len, 0);
        Bytes(Repr::Heap(all.into_boxed_slice()))
    }

    /// Appends an IPv4 address.
    #[must_use]
    pub fn ipv4(self, addr: Ipv4Addr) -> Bytes {
        self.push(&addr.octets())
    }

    /// Appends an IPv6 address.
    #[must_use]
    pub fn ipv6(self, addr: Ipv6Addr) -> Bytes {
        self.push(&addr.octets())
    }

    /// Appends an address of either family.
    #[must_use]
    pub fn ip(self, addr: IpAddr) -> Bytes {
        match addr {
            IpAddr::V4(addr) => self.ipv4(addr),
            IpAddr::V6(addr) => self.ipv6(addr),
        }
    }

    /// Appends an IP protocol number.
    #[must_use]
    pub fn proto(self, proto: u8) -> Bytes {
        self.push(&[proto])
    }

    /// Appends a port, in network order.
    #[must_use]
    pub fn port(self, port: u16) -> Bytes {
        self.push(&port.to_be_bytes())
    }

    /// Appends a number in the machine's own order: a numgen index, a mark, an interface index.
    #[must_use]
    pub fn number(self, number: u32) -> Bytes {
        self.push(&number.to_ne_bytes())
    }

    /// Appends the whole name of an interface.
    #[must_use]
    pub fn interface(self, name: &str) -> Bytes {
        let mut padded = [0; 16];
        padded.iter_mut().zip(name.bytes().take(15)).for_each(|(to, byte)| *to = byte);
        self.push(&padded)
    }

    /// What names of interfaces begin with, to be compared with their first bytes alone: `"veth*"`.
    pub fn interfaces(prefix: &str) -> Bytes {
        Bytes::from_slice(&prefix.as_bytes()[..prefix.len().min(15)])
    }

    /// The bytes, padded as in registers.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, buf } => &buf[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// How many bytes there are, padding included.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::new()
    }
}

impl Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Bytes) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Bytes) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for word in self.as_slice().chunks(4) {
            f.write_str(".")?;
            for byte in word {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_padded_to_registers() {
        let key = Bytes::new().ipv4(Ipv4Addr::new(10, 96, 0, 1)).proto(6).port(80).number(1);
        assert_eq!(key.as_slice()[..12], [10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(key.as_slice()[12..], 1u32.to_ne_bytes());
        assert_eq!(key, Bytes::from_slice(key.as_slice()));
    }

    #[test]
    fn long_keys_go_to_the_heap_and_compare_the_same() {
        let long = Bytes::new().ipv6(Ipv6Addr::LOCALHOST).proto(6).port(80).number(1);
        assert_eq!(long.len(), 28);
        assert!(long > Bytes::new());
        assert_eq!(size_of::<Bytes>(), 24);
    }
}
