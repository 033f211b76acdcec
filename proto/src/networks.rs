//! Networks of IP addresses, as flags name them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

/// A set of networks. Whether an address is in it is asked once for each connection, so a list will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Box<[Network]>);

/// One network, of one version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    V4 { base: u32, mask: u32 },
    V6 { base: u128, mask: u128 },
}

/// Why a text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// It does not begin with an address.
    #[error("is no IP address or network such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")]
    Address,
    /// What is behind the slash is no length of this version of IP.
    #[error("has no prefix length of 0 to {max} behind its slash")]
    Length {
        /// The longest.
        max: u8,
    },
    /// It says one network and means another, or one address.
    #[error("has bits set beyond its prefix: {network} is the network, without a length it is one address")]
    Beyond {
        /// What it is an address of.
        network: String,
    },
}

impl Networks {
    /// The most that one set may have.
    pub const MAX: usize = 256;

    /// The set of these. An address without a length is a network of one.
    ///
    /// # Errors
    /// The first text that names no network, and why.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, (&'a str, InvalidNetwork)> {
        let parsed = texts.into_iter().map(|text| Network::parse(text.trim()).map_err(|why| (text, why)));
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them is this address and no other.
    pub fn name(&self, address: IpAddr) -> bool {
        let alone = match address.to_canonical() {
            IpAddr::V4(address) => Network::v4(address, 32),
            IpAddr::V6(address) => Network::v6(address, 128),
        };
        self.0.contains(&alone)
    }

    /// Whether one of them has this address. An IPv4 address that is written as an IPv6 one is what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                self.0.iter().any(|one| matches!(one, Network::V4 { base, mask } if bits & mask == *base))
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.0.iter().any(|one| matches!(one, Network::V6 { base, mask } if bits & mask == *base))
            }
        }
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork::Address)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(text) => number(text).filter(|length| *length <= max),
            None => Some(max),
        };
        let length = length.ok_or(InvalidNetwork::Length { max })?;
        let network = match (address, address.to_canonical()) {
            // Where the system has one socket for both, IPv4 addresses look so.
            (IpAddr::V6(_), IpAddr::V4(inner)) if length >= 96 => Self::v4(inner, length - 96),
            (IpAddr::V4(address), _) => Self::v4(address, length),
            (IpAddr::V6(address), _) => Self::v6(address, length),
        };
        let is_base = match (network, address) {
            (Self::V4 { base, .. }, IpAddr::V4(given)) => given.to_bits() == base,
            (Self::V4 { base, .. }, IpAddr::V6(given)) => given.to_bits() as u32 == base,
            (Self::V6 { base, .. }, given) => given == IpAddr::V6(Ipv6Addr::from_bits(base)),
        };
        if is_base { Ok(network) } else { Err(InvalidNetwork::Beyond { network: network.to_string() }) }
    }

    fn v4(address: Ipv4Addr, length: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        Self::V4 { base: address.to_bits() & mask, mask }
    }

    fn v6(address: Ipv6Addr, length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Self::V6 { base: address.to_bits() & mask, mask }
    }
}

/// Digits only: a sign would be a slip, and so would a zero in front.
fn number(text: &str) -> Option<u8> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4 { base, mask } => write!(f, "{}/{}", Ipv4Addr::from_bits(base), mask.count_ones()),
            Self::V6 { base, mask } => write!(f, "{}/{}", Ipv6Addr::from_bits(base), mask.count_ones()),
        }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            write!(f, "{}{network}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(networks: &[&str], address: &str) -> bool {
        Networks::parse(networks.iter().copied()).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_in_its_network_and_in_no_neighbour() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("::/0", "2001:db8::1", "8.8.8.8"),
        ] {
            assert!(has(&[network], inside), "{inside} in {network}");
            assert!(!has(&[network], outside), "{outside} in {network}");
        }
        assert!(!has(&[], "127.0.0.1"));
    }

    #[test]
    fn ipv4_is_the_same_however_ipv6_wraps_it() {
        assert!(has(&["10.0.0.0/8"], "::ffff:10.1.2.3"));
        assert!(has(&["::ffff:10.0.0.0/104"], "10.1.2.3"));
        assert!(has(&["::ffff:10.0.0.1"], "10.0.0.1"));
        assert!(!has(&["::ffff:10.0.0.0/104"], "11.1.2.3"));
    }

    #[test]
    fn what_names_no_network_is_refused_with_what_would() {
        let refusal = |text: &'static str| Networks::parse([text]).unwrap_err().1;
        for text in ["", "ten", "10.0.0", "10.0.0.0/", "/8", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08"] {
            let why = refusal(text);
            assert!(
                matches!(why, InvalidNetwork::Address | InvalidNetwork::Length { max: 32 }),
                "{text}: {why}"
            );
        }
        assert_eq!(refusal("::/129"), InvalidNetwork::Length { max: 128 });
        assert_eq!(refusal("10.1.2.3/8"), InvalidNetwork::Beyond { network: "10.0.0.0/8".into() });
        assert_eq!(refusal("2001:db8::1/32"), InvalidNetwork::Beyond { network: "2001:db8::/32".into() });
        assert_eq!(Networks::parse(["10.0.0.0/8", "x"]).unwrap_err().0, "x", "the one at fault is named");
    }

    proptest! {
        #[test]
        fn a_network_has_every_address_that_shares_its_prefix(bits: u32, other: u32, length in 0_u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let text = format!("{}/{length}", Ipv4Addr::from_bits(bits & mask));
            let networks = Networks::parse([text.as_str()]).unwrap();
            prop_assert_eq!(networks.to_string(), text.clone());
            let has = networks.contains(IpAddr::V4(Ipv4Addr::from_bits(other)));
            prop_assert_eq!(has, bits & mask == other & mask);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = Networks::parse([text.as_str()]);
        }
    }
}
