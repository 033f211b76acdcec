//! Who has one share of what all have in common: of the rate, of turns, of connections, of streams.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// Somebody known, or a connection of somebody who is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Share {
    /// By his name and where he is: many may have the same token, and none of them pays for what another one does.
    Known(Arc<str>, Option<IpAddr>),
    Connection(SocketAddr),
}

impl Share {
    /// That of somebody of this name.
    pub(crate) fn of(name: &Arc<str>, from: Option<SocketAddr>) -> Self {
        Self::Known(Arc::clone(name), from.map(place))
    }
}

/// What counts as one place: an IPv4 address, or the network of an IPv6 one, for who has one of its addresses has all 2^64.
pub(super) fn place(from: SocketAddr) -> IpAddr {
    match from.ip().to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_token_at_another_address_has_another_share_but_not_in_the_same_network_of_ipv6() {
        let of = |from: &str| Share::of(&"ci".into(), Some(from.parse().unwrap()));
        assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:2"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_ne!(of("192.0.2.1:1"), Share::of(&"other".into(), Some("192.0.2.1:1".parse().unwrap())));
    }
}
