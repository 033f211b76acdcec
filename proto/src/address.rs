//! Where a replica listens.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::Invalid;

/// `host:port` or `[v6]:port`, where host is an IP address or a DNS name and port is 1..=65535.
///
/// Two spellings of one IP address compare equal, because addresses are kept in canonical form; DNS names are kept
/// in lower case and never resolved here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// [`Invalid`] for the field `address`: a scheme or path, a missing or zero port, a host that is neither an
    /// IP address nor a DNS name, the unspecified address, and numbers that only some resolvers take for an
    /// IP address (`2130706433`, `0x7f.1`, `127.1`).
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |why: &str| Invalid::new("address", why);
        if text.is_empty() {
            return Err(refuse("is required, as host:port"));
        }
        if text.len() > 300 {
            return Err(refuse("is longer than 300 characters"));
        }
        if text.contains("://") {
            return Err(refuse("is host:port without a scheme"));
        }
        if text.contains('/') {
            return Err(refuse("is host:port without a path"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("has no port: write host:port"))?;
        let port = parse_port(port).ok_or_else(|| refuse("needs a port between 1 and 65535"))?;
        let canonical = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(|| refuse("has '[' without ']'"))?;
                let ip: Ipv6Addr =
                    inner.parse().map_err(|_| refuse("has brackets around what is no IPv6 address"))?;
                check_ip(ip.into())?;
                match IpAddr::V6(ip).to_canonical() {
                    // The IPv6 spelling of an IPv4 address, which would be another replica at the same place.
                    IpAddr::V4(ip) => {
                        check_ip(ip.into())?;
                        format!("{ip}:{port}")
                    }
                    IpAddr::V6(ip) => format!("[{ip}]:{port}"),
                }
            }
            None if host.contains(':') => {
                return Err(refuse("needs brackets around an IPv6 address: [::1]:8080"));
            }
            None => match host.parse::<Ipv4Addr>() {
                Ok(ip) => {
                    check_ip(ip.into())?;
                    format!("{ip}:{port}")
                }
                Err(_) => format!("{}:{port}", parse_dns_name(host)?),
            },
        };
        Ok(Self(canonical.into()))
    }

    /// The canonical text, `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.split().1
    }

    /// The host without brackets.
    pub fn host(&self) -> &str {
        self.split().0
    }

    /// The socket address, when the host is an IP address and needs no resolver.
    pub fn socket(&self) -> Option<std::net::SocketAddr> {
        self.0.parse().ok()
    }

    fn split(&self) -> (&str, u16) {
        let (host, port) = self.0.rsplit_once(':').expect("parse puts a port into every address");
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        (host, port.parse().expect("parse checks the port"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` takes a leading '+'; a port is digits.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

fn check_ip(ip: IpAddr) -> Result<(), Invalid> {
    if ip.is_unspecified() {
        return Err(Invalid::new(
            "address",
            "is the unspecified address: name the one the replica is reached at",
        ));
    }
    if ip.is_multicast() {
        return Err(Invalid::new("address", "is a multicast address"));
    }
    Ok(())
}

/// RFC 1123 host name in lower case, whose last label is no number.
pub(crate) fn parse_dns_name(host: &str) -> Result<String, Invalid> {
    let refuse = |why: String| Invalid::new("address", why);
    if host.is_empty() {
        return Err(refuse("has no host: write host:port".into()));
    }
    if host.len() > 253 {
        return Err(refuse("has a host of more than 253 characters".into()));
    }
    for label in host.split('.') {
        let edges = label.starts_with('-') || label.ends_with('-');
        let bad = label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-'));
        match bad {
            Some(bad) => return Err(refuse(format!("has '{}' in its host", bad.escape_default()))),
            None if label.is_empty() || label.len() > 63 || edges => {
                return Err(refuse("has a host that is neither an IP address nor a DNS name".into()));
            }
            None => {}
        }
    }
    let last = host.rsplit('.').next().unwrap_or(host);
    let numeric =
        last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    if numeric {
        return Err(refuse("has a number for a host: write an IPv4 address as four decimal numbers".into()));
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_kept_in_canonical_form() {
        for (text, canonical, host, port) in [
            ("127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1", 9000),
            ("10.0.0.1:00080", "10.0.0.1:80", "10.0.0.1", 80),
            ("[0:0::1]:1", "[::1]:1", "::1", 1),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", "10.0.0.1", 80),
            ("Orders.Example.COM:65535", "orders.example.com:65535", "orders.example.com", 65535),
            ("localhost:8080", "localhost:8080", "localhost", 8080),
            ("9lives.example:80", "9lives.example:80", "9lives.example", 80),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.as_str(), address.host(), address.port()), (canonical, host, port));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "is required, as host:port"),
            ("http://a:1", "is host:port without a scheme"),
            ("a:1/x", "is host:port without a path"),
            ("a", "has no port: write host:port"),
            ("a:", "needs a port between 1 and 65535"),
            ("a:0", "needs a port between 1 and 65535"),
            ("a:65536", "needs a port between 1 and 65535"),
            ("a:+80", "needs a port between 1 and 65535"),
            (":80", "has no host: write host:port"),
            ("::1:80", "needs brackets around an IPv6 address: [::1]:8080"),
            ("[::1:80", "has '[' without ']'"),
            ("[127.0.0.1]:80", "has brackets around what is no IPv6 address"),
            ("0.0.0.0:80", "is the unspecified address: name the one the replica is reached at"),
            ("224.0.0.1:80", "is a multicast address"),
            ("2130706433:80", "has a number for a host: write an IPv4 address as four decimal numbers"),
            ("127.1:80", "has a number for a host: write an IPv4 address as four decimal numbers"),
            ("0x7f.0x1:80", "has a number for a host: write an IPv4 address as four decimal numbers"),
            ("a\r\nb:80", "has '\\r' in its host"),
            ("a b:80", "has ' ' in its host"),
            ("a..b:80", "has a host that is neither an IP address nor a DNS name"),
        ] {
            assert_eq!(Address::parse(text), Err(Invalid::new("address", why)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_parses_to_itself(text in ".{0,40}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(address.as_str()).unwrap(), address.clone());
                prop_assert!(address.port() > 0);
            }
        }
    }
}
