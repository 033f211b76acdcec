//! Who has one share of what all have in common: of the rate, of turns, of connections, of streams.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use crate::listeners::Whence;

/// What somebody known has at all of his places together: so many times his share at one of them. The registry's largest size by default, of
/// which each replica renews every 5 s, is as much as that of `--rate-limit`.
pub(crate) const PLACES: u32 = 4;

/// Somebody known, or a connection of somebody who is not; a user of this machine has one for all of his.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Share {
    /// By his name and where he is: many may have the same token, and none of them pays for what another one does.
    Known(Arc<str>, Option<Place>),
    Connection(Whence),
}

/// What counts as one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// An IPv4 address, or the network of an IPv6 one, for who has one of its addresses has all 2^64.
    Network(IpAddr),
    /// A user of this machine, at the other end of a Unix socket.
    User(u32),
}

impl Share {
    /// That of somebody of this name.
    pub(crate) fn of(name: &Arc<str>, from: Option<Whence>) -> Self {
        Self::Known(Arc::clone(name), from.map(Place::of))
    }

    /// That of the same wherever he is; a connection of somebody unknown is at one place only.
    pub(crate) fn everywhere(&self) -> Self {
        match self {
            Self::Known(name, _) => Self::Known(Arc::clone(name), None),
            Self::Connection(_) => self.clone(),
        }
    }
}

impl Place {
    /// That of whoever comes from there.
    pub(super) fn of(from: Whence) -> Self {
        match from {
            Whence::User(user) => Self::User(user),
            Whence::Address(_) => Self::Network(match from.ip() {
                IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
                address => address,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_token_at_another_address_has_another_share_but_not_in_the_same_network_of_ipv6() {
        let at = |from: &str| Some(Whence::Address(from.parse().unwrap()));
        let of = |from: &str| Share::of(&"ci".into(), at(from));
        assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:2"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_ne!(of("192.0.2.1:1"), Share::of(&"other".into(), at("192.0.2.1:1")));
    }

    #[test]
    fn the_same_token_of_another_user_of_this_machine_has_another_share() {
        let of = |from| Share::of(&"ci".into(), Some(from));
        let ana = of(Whence::User(1000));
        assert_eq!(ana, of(Whence::User(1000)));
        assert_ne!(ana, of(Whence::User(1001)));
        assert_ne!(ana, of(Whence::Address("127.0.0.1:1".parse().unwrap())));
    }
}
