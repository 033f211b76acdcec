//! Where a replica is reached, and what is spoken to it there.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::{Address, Check, Invalid, address::parse_dns_name, v1};

/// An address and the protocol spoken there.
///
/// Two endpoints that differ in either are different places: a connection to one is of no use for the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// What it understands.
    pub protocol: Protocol,
}

impl Endpoint {
    /// Checks an endpoint.
    ///
    /// # Errors
    /// [`Invalid`] for each of the fields `address`, `protocol` and `tls_server_name` at fault.
    pub fn parse(wire: &v1::Endpoint) -> Result<Self, Invalid> {
        Self::at(Address::parse(&wire.address), wire)
    }

    /// As [`Endpoint::parse`], at an address that was read before.
    ///
    /// # Errors
    /// As there, those of the address included.
    pub fn at(address: Result<Address, Invalid>, wire: &v1::Endpoint) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let address = check.take(address);
        let protocol = check.take(Protocol::parse(wire.protocol, &wire.tls_server_name));
        check.finish()?;
        let (Some(address), Some(protocol)) = (address, protocol) else {
            unreachable!("nothing was refused")
        };
        Ok(Self { address, protocol })
    }

    /// The name, or the IP address, that the certificate must have; `None` unless TLS is spoken.
    pub fn tls_name(&self) -> Option<&str> {
        match self.protocol.kind() {
            Kind::Tls(Some(name)) => Some(name.as_str()),
            Kind::Tls(None) => Some(self.address.host()),
            Kind::Http1 | Kind::H2c => None,
        }
    }

    /// The wire's form.
    pub fn to_wire(&self) -> v1::Endpoint {
        let Self { address, protocol } = self;
        let name = match protocol.kind() {
            Kind::Tls(Some(name)) => name.as_str().to_owned(),
            _ => String::new(),
        };
        v1::Endpoint {
            address: address.to_string(),
            protocol: protocol.to_wire().into(),
            tls_server_name: name,
        }
    }
}

impl From<Address> for Endpoint {
    /// Where HTTP/1.1 is spoken.
    fn from(address: Address) -> Self {
        Self { address, protocol: Protocol::HTTP1 }
    }
}

/// What a replica understands.
///
/// One word: a registry holds very many of them, nearly all of them HTTP/1.1.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Protocol(Option<Arc<Other>>);

#[derive(PartialEq, Eq, Hash)]
enum Other {
    H2c,
    Tls(Option<TlsServerName>),
}

/// A [`Protocol`], to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// HTTP/1.1, not encrypted.
    Http1,
    /// HTTP/2 by prior knowledge, not encrypted.
    H2c,
    /// TLS, and in it HTTP/2 or HTTP/1.1 by ALPN; with the name that the certificate must have unless it is the
    /// address's host.
    Tls(Option<&'a TlsServerName>),
}

impl Protocol {
    /// HTTP/1.1, not encrypted.
    pub const HTTP1: Self = Self(None);

    /// HTTP/2 by prior knowledge, not encrypted.
    pub fn h2c() -> Self {
        Self(Some(Arc::new(Other::H2c)))
    }

    /// TLS; the certificate must have `name`, or else the address's host.
    pub fn tls(name: Option<TlsServerName>) -> Self {
        Self(Some(Arc::new(Other::Tls(name))))
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind<'_> {
        match self.0.as_deref() {
            None => Kind::Http1,
            Some(Other::H2c) => Kind::H2c,
            Some(Other::Tls(name)) => Kind::Tls(name.as_ref()),
        }
    }

    /// Reads the wire's value, where UNSPECIFIED stands for HTTP1, with its server name.
    ///
    /// # Errors
    /// [`Invalid`] for the field `protocol` when the number has no meaning, and for `tls_server_name` when it is no name,
    /// or there is no TLS for it.
    pub fn parse(number: i32, server_name: &str) -> Result<Self, Invalid> {
        use v1::EndpointProtocol as Wire;
        let protocol = match Wire::try_from(number) {
            Ok(Wire::Unspecified | Wire::Http1) => Self::HTTP1,
            Ok(Wire::H2c) => Self::h2c(),
            Ok(Wire::Tls) => Self::tls(None),
            Err(_) => return Err(Invalid::new("protocol", format!("{number} is no EndpointProtocol"))),
        };
        protocol.named(server_name)
    }

    /// With the name that the certificate must have; an empty one changes nothing.
    ///
    /// # Errors
    /// [`Invalid`] for the field `tls_server_name` when it is no name, or there is no TLS for it.
    pub fn named(self, server_name: &str) -> Result<Self, Invalid> {
        if server_name.is_empty() {
            return Ok(self);
        }
        match self.kind() {
            Kind::Tls(_) => Ok(Self::tls(Some(TlsServerName::parse(server_name)?))),
            Kind::Http1 | Kind::H2c => {
                let why = format!("is only for the protocol tls, and this is {self}");
                Err(Invalid::new("tls_server_name", why))
            }
        }
    }

    /// The wire's value.
    pub fn to_wire(&self) -> v1::EndpointProtocol {
        match self.kind() {
            Kind::Http1 => v1::EndpointProtocol::Http1,
            Kind::H2c => v1::EndpointProtocol::H2c,
            Kind::Tls(_) => v1::EndpointProtocol::Tls,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind() {
            Kind::Http1 => "http1",
            Kind::H2c => "h2c",
            Kind::Tls(_) => "tls",
        })
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

impl FromStr for Protocol {
    type Err = Invalid;

    /// Reads the word that people write.
    ///
    /// # Errors
    /// [`Invalid`] for the field `protocol` with the words there are.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "http1" => Ok(Self::HTTP1),
            "h2c" => Ok(Self::h2c()),
            "tls" => Ok(Self::tls(None)),
            _ => Err(Invalid::new("protocol", format!("{text:?} is none of http1, h2c and tls"))),
        }
    }
}

/// A name that a certificate has: a DNS name in lower case, or an IP address in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsServerName(Box<str>);

impl TlsServerName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] for the field `tls_server_name`: a port, brackets, a wildcard, and whatever else is neither a DNS name
    /// nor an IP address.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(ip.to_canonical().to_string().into()));
        }
        let refuse = |why: &str| Invalid::new("tls_server_name", why);
        if text.contains(['[', ']', ':']) {
            return Err(refuse("is a name or an IP address without a port and without brackets"));
        }
        if text.contains('*') {
            return Err(refuse("is one name: a certificate may have a wildcard, what is asked for may not"));
        }
        match parse_dns_name(text) {
            Ok(name) => Ok(Self(name.into())),
            Err(_) => Err(refuse("is neither a DNS name nor an IP address")),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(address: &str, protocol: v1::EndpointProtocol, name: &str) -> v1::Endpoint {
        v1::Endpoint { address: address.into(), protocol: protocol.into(), tls_server_name: name.into() }
    }

    #[test]
    fn an_endpoint_without_a_protocol_speaks_http1_and_says_so() {
        let endpoint = Endpoint::parse(&wire("a:1", v1::EndpointProtocol::Unspecified, "")).unwrap();
        assert_eq!(endpoint, Endpoint::from(Address::parse("a:1").unwrap()));
        assert_eq!(endpoint.to_wire(), wire("a:1", v1::EndpointProtocol::Http1, ""));
        assert_eq!(endpoint.tls_name(), None);
    }

    #[test]
    fn every_protocol_survives_the_wire() {
        use v1::EndpointProtocol as P;
        for wire in [
            wire("a:1", P::Http1, ""),
            wire("a:1", P::H2c, ""),
            wire("a:1", P::Tls, ""),
            wire("a:1", P::Tls, "b.example"),
            wire("[::1]:1", P::Tls, "10.0.0.1"),
        ] {
            assert_eq!(Endpoint::parse(&wire).unwrap().to_wire(), wire);
        }
        for word in ["http1", "h2c", "tls"] {
            assert_eq!(word.parse::<Protocol>().unwrap().to_string(), word);
        }
        assert!("HTTP2".parse::<Protocol>().is_err());
    }

    #[test]
    fn a_certificate_must_have_the_name_or_else_the_host_of_the_address() {
        let name = |address: &str, name: &str| {
            let endpoint = Endpoint::parse(&wire(address, v1::EndpointProtocol::Tls, name)).unwrap();
            endpoint.tls_name().unwrap().to_owned()
        };
        assert_eq!(name("Orders.example:1", ""), "orders.example");
        assert_eq!(name("[::1]:1", ""), "::1");
        assert_eq!(name("10.0.0.1:1", "Orders.Example"), "orders.example");
        assert_eq!(name("10.0.0.1:1", "::FFFF:10.0.0.2"), "10.0.0.2");
    }

    #[test]
    fn every_field_at_fault_is_named() {
        let refused = |endpoint: &v1::Endpoint| {
            let invalid = Endpoint::parse(endpoint).unwrap_err();
            let field = |v: &crate::Violation| (v.field.clone(), v.description.clone());
            invalid.violations().iter().map(field).collect::<Vec<_>>()
        };
        let unknown = v1::Endpoint { protocol: 77, ..Default::default() };
        let expected = [("address", "is required, as host:port"), ("protocol", "77 is no EndpointProtocol")];
        assert_eq!(refused(&unknown), expected.map(|(field, why)| (field.into(), why.into())));
        for (protocol, name, why) in [
            (v1::EndpointProtocol::H2c, "b", "is only for the protocol tls, and this is h2c"),
            (v1::EndpointProtocol::Unspecified, "b", "is only for the protocol tls, and this is http1"),
            (
                v1::EndpointProtocol::Tls,
                "b:1",
                "is a name or an IP address without a port and without brackets",
            ),
            (
                v1::EndpointProtocol::Tls,
                "[::1]",
                "is a name or an IP address without a port and without brackets",
            ),
            (
                v1::EndpointProtocol::Tls,
                "*.b",
                "is one name: a certificate may have a wildcard, what is asked for may not",
            ),
            (v1::EndpointProtocol::Tls, "a b", "is neither a DNS name nor an IP address"),
            (v1::EndpointProtocol::Tls, "b.", "is neither a DNS name nor an IP address"),
            (v1::EndpointProtocol::Tls, "127.1", "is neither a DNS name nor an IP address"),
        ] {
            let expected = vec![("tls_server_name".to_owned(), why.to_owned())];
            assert_eq!(refused(&wire("a:1", protocol, name)), expected, "{name}");
        }
    }

    #[test]
    fn a_protocol_costs_a_replica_one_word() {
        assert_eq!(size_of::<Protocol>(), size_of::<usize>());
    }
}
