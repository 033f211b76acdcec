//! Addresses at which nobody's replica is to be expected, and at which something else may listen that trusts whoever
//! reaches it: a gateway that is talked into sending requests there is somebody else's arm.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

/// Why an address is no place for a replica unless somebody allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hazard {
    /// `0.0.0.0/8` and `::`, which many systems take for this machine.
    Unspecified,
    /// This machine itself.
    Loopback,
    /// `169.254.0.0/16` and `fe80::/10`: the metadata services of clouds are among them.
    LinkLocal,
    /// The metadata services of clouds that are elsewhere.
    Metadata,
    /// `100.64.0.0/10`, the provider's own network.
    Shared,
    /// Multicast and broadcast.
    Multicast,
    /// `240.0.0.0/4`.
    Reserved,
}

/// AWS and its pods' credentials, Google Cloud, Scaleway, Azure, Oracle, Alibaba (within the shared space); others are link-local.
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(100, 100, 100, 200)];

impl Hazard {
    /// What is wrong with an address; `None`: nothing. An IPv4 address within an IPv6 one (mapped, compatible, NAT64, 6to4,
    /// ISATAP) is looked at as what it leads to.
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Option<Self> {
        let [first, second, ..] = address.octets();
        match (first, second) {
            _ if METADATA_V4.contains(&address) => Some(Self::Metadata),
            (0, _) => Some(Self::Unspecified),
            (127, _) => Some(Self::Loopback),
            (169, 254) => Some(Self::LinkLocal),
            (100, 64..=127) => Some(Self::Shared),
            (224..=239, _) => Some(Self::Multicast),
            _ if address.is_broadcast() => Some(Self::Multicast),
            (240.., _) => Some(Self::Reserved),
            _ => None,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Option<Self> {
        if address.is_unspecified() {
            return Some(Self::Unspecified);
        }
        if address.is_loopback() {
            return Some(Self::Loopback);
        }
        match address.segments()[0] {
            0xfe80..=0xfebf => Some(Self::LinkLocal),
            0xff00.. => Some(Self::Multicast),
            _ if METADATA_V6.contains(&address) => Some(Self::Metadata),
            _ => embedded(address).and_then(Self::of_v4),
        }
    }
}

/// Where what is sent to an address arrives: an IPv4 address within an IPv6 one is what it leads to.
pub fn destination(address: IpAddr) -> IpAddr {
    match address {
        // Neither is a compatible one, as which both could be read.
        IpAddr::V6(within) if !within.is_unspecified() && !within.is_loopback() => {
            embedded(within).map_or(address, IpAddr::V4)
        }
        _ => address,
    }
}

/// The IPv4 address that an IPv6 one stands for.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first, second, third, fourth, fifth, sixth, high, low] = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (first, second, third, fourth, fifth, sixth) {
        // Compatible, mapped, translated (RFC 2765), NAT64 (RFC 6052).
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => {
            Some(join(high, low))
        }
        // NAT64 of a network's own (RFC 8215), with the longest prefix, which is the usual one.
        (0x64, 0xff9b, 1, ..) => Some(join(high, low)),
        // 6to4 (RFC 3056).
        (0x2002, ..) => Some(join(second, third)),
        // ISATAP (RFC 5214), of a private address or a public one.
        (.., 0 | 0x200, 0x5efe) => Some(join(high, low)),
        _ => None,
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "an address of a cloud's metadata service",
            Self::Shared => "an address of the provider's shared space",
            Self::Multicast => "a multicast or broadcast address",
            Self::Reserved => "a reserved address",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<Hazard> {
        Hazard::of(text.parse().unwrap())
    }

    #[test]
    fn each_dangerous_range_is_known_to_its_edges() {
        for (text, hazard) in [
            ("0.0.0.0", Some(Hazard::Unspecified)),
            ("0.255.255.255", Some(Hazard::Unspecified)),
            ("127.0.0.1", Some(Hazard::Loopback)),
            ("127.255.255.255", Some(Hazard::Loopback)),
            ("169.254.169.254", Some(Hazard::LinkLocal)),
            ("169.253.0.1", None),
            ("100.63.255.255", None),
            ("100.64.0.1", Some(Hazard::Shared)),
            ("100.100.100.199", Some(Hazard::Shared)),
            ("100.100.100.200", Some(Hazard::Metadata)),
            ("100.100.100.201", Some(Hazard::Shared)),
            ("100.128.0.0", None),
            ("168.63.129.16", Some(Hazard::Metadata)),
            ("224.0.0.1", Some(Hazard::Multicast)),
            ("240.0.0.1", Some(Hazard::Reserved)),
            ("255.255.255.255", Some(Hazard::Multicast)),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("8.8.8.8", None),
            ("::", Some(Hazard::Unspecified)),
            ("::1", Some(Hazard::Loopback)),
            ("fe80::1", Some(Hazard::LinkLocal)),
            ("febf::1", Some(Hazard::LinkLocal)),
            ("fe80::5efe:10.0.0.1", Some(Hazard::LinkLocal)),
            ("fec0::1", None),
            ("ff02::1", Some(Hazard::Multicast)),
            ("fd00:ec2::254", Some(Hazard::Metadata)),
            ("fd00:ec2::23", Some(Hazard::Metadata)),
            ("fd00:42::42", Some(Hazard::Metadata)),
            ("fd20:ce::254", Some(Hazard::Metadata)),
            ("fd00:ec2::253", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(of(text), hazard, "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_is_found_in_whatever_ipv6_wraps_it() {
        for text in [
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:db8::5efe:a9fe:a9fe",
            "2001:db8::200:5efe:a9fe:a9fe",
        ] {
            assert_eq!(of(text), Some(Hazard::LinkLocal), "{text}");
        }
        assert_eq!(of("::ffff:127.0.0.1"), Some(Hazard::Loopback));
        assert_eq!(of("::ffff:10.0.0.1"), None);
    }

    #[test]
    fn an_address_that_wraps_none_leads_to_itself() {
        for text in ["::", "::1", "2001:db8::1", "fe80::1", "10.0.0.1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(destination(address), address);
        }
    }

    proptest! {
        #[test]
        fn wrapping_changes_nothing(bits in 2_u32..) {
            let inner = Ipv4Addr::from_bits(bits);
            for prefix in ["::", "::ffff:", "64:ff9b::", "64:ff9b:1::", "2001:db8::5efe:"] {
                let within = format!("{prefix}{inner}").parse().unwrap();
                prop_assert_eq!(destination(within), IpAddr::V4(inner), "{}", within);
            }
            prop_assert_eq!(Hazard::of(inner.to_ipv6_mapped().into()), Hazard::of(inner.into()));
        }
    }
}
