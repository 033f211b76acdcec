//! How many connections each client address has, over all workers: looked at once for each connection, and only where
//! there is a limit.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts of connections by address. There are never more entries than connections.
#[derive(Debug)]
pub(in crate::proxy) struct Addresses {
    most: Option<u32>,
    counts: Mutex<HashMap<IpAddr, u32>>,
}

/// A connection's place among those of its address, until it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Seat {
    /// `None` where nobody counts.
    of: Option<Box<(Arc<Addresses>, IpAddr)>>,
}

impl Addresses {
    /// So many connections for each address; `None` for any number.
    pub(in crate::proxy) fn new(most: Option<u32>) -> Self {
        Self { most, counts: Mutex::default() }
    }

    /// A place for one more connection from there; `None` if it is one too many.
    pub(in crate::proxy) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let Some(most) = self.most else { return Some(Seat { of: None }) };
        let origin = origin(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(origin).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat { of: Some(Box::new((Arc::clone(self), origin))) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((addresses, origin)) = self.of.as_deref() else { return };
        let mut counts = addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(origin) {
            *count -= 1;
            if *count == 0 {
                counts.remove(origin);
            }
        }
    }
}

/// What one customer of a provider has: an address of IPv4, a /64 of IPv6.
pub(in crate::proxy) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_as_many_places_as_the_limit_and_gets_them_back() {
        let addresses = Arc::new(Addresses::new(Some(2)));
        let seat = |text: &str| addresses.seat(at(text));
        let held = [seat("192.0.2.1").unwrap(), seat("::ffff:192.0.2.1").unwrap()];
        assert!(seat("192.0.2.1").is_none());
        let other = seat("192.0.2.2");
        assert!(other.is_some());
        drop(held);
        assert!(seat("192.0.2.1").is_some());
        drop(other);
        assert_eq!(addresses.counts.lock().unwrap().len(), 0, "nothing is left of those that are gone");
    }

    #[test]
    fn addresses_of_ipv6_count_by_their_network() {
        let addresses = Arc::new(Addresses::new(Some(1)));
        let held = addresses.seat(at("2001:db8:0:1::1"));
        assert!(held.is_some());
        assert!(addresses.seat(at("2001:db8:0:1:ffff::2")).is_none());
        assert!(addresses.seat(at("2001:db8:0:2::1")).is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let addresses = Arc::new(Addresses::new(None));
        let seats: Vec<_> = (0..100).map(|_| addresses.seat(at("192.0.2.1")).unwrap()).collect();
        assert_eq!((seats.len(), addresses.counts.lock().unwrap().len()), (100, 0));
    }
}
