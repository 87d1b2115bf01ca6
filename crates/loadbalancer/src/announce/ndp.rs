//! Neighbour discovery (RFC 4861): solicitations heard, advertisements said.

use std::net::Ipv6Addr;

use linux::icmp6::{ADVERTISEMENT, SOLICITATION};
use netlink::links::Mac;

/// Every node on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// With one link-layer address behind it.
pub const LEN: usize = 32;

const SOLICITED: u8 = 0x40;
/// Replace what you remember: an address that moved has another MAC.
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER: u8 = 2;

/// The address that a solicitation asks for; none if the message is another or breaks RFC 4861 section 7.1.1.
pub fn solicited_target(message: &[u8]) -> Option<Ipv6Addr> {
    let [SOLICITATION, 0, _, _, _, _, _, _, rest @ ..] = message else { return None };
    let (target, mut options) = rest.split_first_chunk::<16>()?;
    while let [_, length, ..] = options {
        // An option of no length, or one that is cut short, spoils the whole message.
        options = options.get(usize::from(*length).checked_mul(8).filter(|bytes| *bytes > 0)?..)?;
    }
    let target = Ipv6Addr::from(*target);
    (options.is_empty() && !target.is_multicast()).then_some(target)
}

/// "I have `target`, at `mac`". The kernel fills in the checksum.
pub fn advertisement(target: Ipv6Addr, mac: Mac, solicited: bool) -> [u8; LEN] {
    let mut message = [0; LEN];
    message[0] = ADVERTISEMENT;
    message[4] = OVERRIDE | if solicited { SOLICITED } else { 0 };
    message[8..24].copy_from_slice(&target.octets());
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER, 1]);
    message[26..].copy_from_slice(&mac.0);
    message
}

/// Where an answer goes: to who asked, or to everyone when the asker has no address yet (duplicate address detection).
pub fn answer(target: Ipv6Addr, asker: Ipv6Addr, mac: Mac) -> (Ipv6Addr, [u8; LEN]) {
    if asker.is_unspecified() {
        return (ALL_NODES, advertisement(target, mac, false));
    }
    (asker, advertisement(target, mac, true))
}

/// The group on which solicitations for an address arrive (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn solicitation(options: &[u8]) -> Vec<u8> {
        let target: Ipv6Addr = "fd00::12:3456".parse().unwrap();
        [&[135, 0, 1, 2, 0, 0, 0, 0], &target.octets()[..], options].concat()
    }

    #[test]
    fn a_solicitation_names_its_target() {
        let target = "fd00::12:3456".parse().ok();
        assert_eq!(solicited_target(&solicitation(&[])), target);
        assert_eq!(solicited_target(&solicitation(&[1, 1, 2, 0, 0, 0, 0, 9])), target);
        assert_eq!(solicited_target(&solicitation(&[1, 0, 2, 0, 0, 0, 0, 9])), None, "an option of no length");
        assert_eq!(solicited_target(&solicitation(&[1, 2, 2, 0, 0, 0, 0, 9])), None, "an option cut short");
        assert_eq!(solicited_target(&solicitation(&[1])), None);
        assert_eq!(solicited_target(&solicitation(&[])[..20]), None);
        assert_eq!(solicited_target(&[136, 0]), None);
    }

    #[test]
    fn an_answer_goes_to_who_asked_or_to_everyone() {
        let target: Ipv6Addr = "fd00::12:3456".parse().unwrap();
        let (to, message) = answer(target, "fe80::9".parse().unwrap(), MAC);
        assert_eq!((to, message[4]), ("fe80::9".parse().unwrap(), 0x60));
        assert_eq!(message[24..], [2, 1, 2, 0, 0, 0, 0, 1]);
        let (to, message) = answer(target, Ipv6Addr::UNSPECIFIED, MAC);
        assert_eq!((to, message[4]), (ALL_NODES, 0x20));
        assert_eq!(solicited_node(target).to_string(), "ff02::1:ff12:3456");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            let _ = solicited_target(&bytes);
        }
    }
}
