//! Ranges of addresses and of ports over bitmaps, with upstream's words for what cannot be had.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::bitmap::{Bitmap, band};

/// Large IPv6 ranges are used up to this many addresses, as upstream does.
const LARGEST: u32 = 1 << 16;

/// One service range: its addresses without the network's own and, for IPv4, the broadcast address.
#[derive(Debug)]
pub(crate) struct AddressRange {
    pub(crate) net: IpNet,
    bits: Bitmap,
}

impl AddressRange {
    pub(crate) fn new(net: IpNet) -> Self {
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let all = 1u32.checked_shl(host_bits).filter(|_| host_bits < 17).unwrap_or(LARGEST);
        let reserved = if net.addr().is_ipv4() { 2 } else { 1 };
        let size = all.saturating_sub(reserved);
        AddressRange { net, bits: Bitmap::new(size, band(size, 16, 16, 256)) }
    }

    pub(crate) fn family(&self) -> &'static str {
        family(&self.net.addr())
    }

    fn place(&self, address: IpAddr) -> Option<u32> {
        let offset = match (self.net.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => u128::from(u32::from(address).checked_sub(u32::from(base))?),
            (IpAddr::V6(base), IpAddr::V6(address)) => u128::from(address).checked_sub(u128::from(base))?,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        u32::try_from(offset).ok()?.checked_sub(1)
    }

    fn address(&self, place: u32) -> IpAddr {
        match self.net.network() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base) + place + 1)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) + u128::from(place) + 1)),
        }
    }

    pub(crate) fn take(&mut self, address: IpAddr) -> Result<(), String> {
        let outside =
            || format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {}", self.net);
        let place = self.place(address).filter(|_| self.net.contains(&address)).ok_or_else(outside)?;
        if self.bits.has(place) {
            return Err("provided IP is already allocated".to_owned());
        }
        // The broadcast address is within the net and not within the bitmap.
        if self.bits.take(place) { Ok(()) } else { Err(outside()) }
    }

    pub(crate) fn take_any(&mut self, chance: u32) -> Option<IpAddr> {
        self.bits.take_any(chance).map(|place| self.address(place))
    }

    /// The addresses that are taken.
    pub(crate) fn taken(&self) -> impl Iterator<Item = IpAddr> {
        self.bits.taken().map(|place| self.address(place))
    }

    pub(crate) fn free(&mut self, address: IpAddr) {
        if let Some(place) = self.place(address) {
            self.bits.free(place);
        }
    }
}

/// `IPv4` or `IPv6`, as `ipFamilies` has it.
pub(crate) fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The node ports. A number is taken once, whatever its protocols.
#[derive(Debug)]
pub(crate) struct PortRange {
    range: RangeInclusive<u16>,
    bits: Bitmap,
}

impl PortRange {
    pub(crate) fn new(range: RangeInclusive<u16>) -> Self {
        let size = u32::from(*range.end()).saturating_sub(u32::from(*range.start())) + 1;
        PortRange { range, bits: Bitmap::new(size, band(size, 32, 16, 128)) }
    }

    pub(crate) fn take(&mut self, port: i64) -> Result<(), String> {
        let Some(place) = self.place(port) else {
            let (low, high) = (self.range.start(), self.range.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {low}-{high}"));
        };
        if self.bits.take(place) { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
    }

    pub(crate) fn take_any(&mut self, chance: u32) -> Option<i64> {
        self.bits.take_any(chance).map(|place| i64::from(place) + i64::from(*self.range.start()))
    }

    pub(crate) fn free(&mut self, port: i64) {
        if let Some(place) = self.place(port) {
            self.bits.free(place);
        }
    }

    fn place(&self, port: i64) -> Option<u32> {
        let port = u16::try_from(port).ok().filter(|port| self.range.contains(port))?;
        Some(u32::from(port - self.range.start()))
    }
}
