//! Where a replica listens, and by which address data planes reach it.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket},
    str::FromStr,
};

use gateway_proto::{Address, ControlPlaneUrl, ReplicaId};

use crate::error::{Error, Exit};

/// Of documentation (RFC 5737): a way to it is a way to elsewhere. Nothing is sent there.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// The port of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// A free one.
    Auto,
    Fixed(u16),
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(0) | Err(_) => Err("is \"auto\" or a number in 1..=65535".into()),
                Ok(port) => Ok(Self::Fixed(port)),
            },
        }
    }
}

/// The host by which data planes reach the program: the one given, or this machine as the control plane sees it.
pub(crate) fn host(given: Option<&str>, control_plane: &ControlPlaneUrl) -> String {
    match given {
        Some(host) => host.to_owned(),
        None => own_address(control_plane).to_string(),
    }
}

/// The source address of the way to the control plane; loopback when it is on this machine, and where there is no way out.
fn own_address(control_plane: &ControlPlaneUrl) -> IpAddr {
    let ControlPlaneUrl::Web(url) = control_plane else { return IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let host = url.host().unwrap_or("").trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(80);
    // A name that cannot be resolved yet is elsewhere: what runs on this machine is found without a name server.
    let target = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
    let target = target.unwrap_or_else(|| SocketAddr::from(ELSEWHERE));
    let way = || -> std::io::Result<IpAddr> {
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        // Chooses a way; a packet would only leave with a send.
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    way().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Free ports for the first starts, all different.
///
/// # Errors
/// When the system has no free port.
pub(crate) fn ports(wanted: Port, count: usize) -> Result<Vec<u16>, Error> {
    if let Port::Fixed(port) = wanted {
        return Ok(vec![port; count]);
    }
    // All are held before one is let go.
    let held: std::io::Result<Vec<_>> = (0..count).map(|_| hold(0)).collect();
    let ports: std::io::Result<Vec<_>> =
        held.and_then(|held| held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect());
    ports.map_err(|error| Error::new(Exit::Failed, format!("cannot find a free port: {error}")))
}

/// The port for the next start: the one it had. When somebody has taken that meanwhile, another one, if it may be any.
///
/// # Errors
/// Why there is none.
pub(crate) fn next_port(wanted: Port, before: u16) -> Result<u16, String> {
    let is_taken = hold(before).is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    match wanted {
        _ if !is_taken => Ok(before),
        // Its probe would be answered by somebody else.
        Port::Fixed(_) => Err(format!("port {before} is taken by another process")),
        Port::Auto => {
            let other = hold(0).and_then(|listener| Ok(listener.local_addr()?.port()));
            other.map_err(|error| format!("there is no free port: {error}"))
        }
    }
}

/// Listens on all addresses, as a program might.
fn hold(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
}

/// `HOST:PORT`, an IPv6 host in brackets.
///
/// # Errors
/// A usage error when that is no address that could be registered.
pub(crate) fn address(host: &str, port: u16) -> Result<Address, Error> {
    let is_v6 = host.contains(':') && !host.starts_with('[');
    let text = if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Address::parse(&text).map_err(|invalid| {
        Error::new(Exit::Usage, format!("{text} cannot be registered: {invalid}"))
            .hint("--host takes an IP address or a name, without a port")
    })
}

/// The id of the replica at an address, the same whenever it is asked for: a supervisor that starts again after a crash
/// takes its own registration over, where a new id would find its address taken until the old lease has lapsed.
pub(crate) fn replica_id(service: &str, address: &Address) -> ReplicaId {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits = crc32fast::hash(format!("{service} {address}").as_bytes());
    let digit = |place: u32| char::from(ALPHABET[(bits >> (5 * place)) as usize % 32]);
    let id: String = ['r', '-'].into_iter().chain((0..6).map(digit)).collect();
    ReplicaId::parse(&id).expect("letters, digits and one '-' inside make a label")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_auto() {
        assert_eq!("auto".parse(), Ok(Port::Auto));
        assert_eq!("8080".parse(), Ok(Port::Fixed(8080)));
        for text in ["", "0", "65536", "-1", "any", "80 "] {
            assert!(text.parse::<Port>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_port_is_kept_until_somebody_takes_it() {
        let ports = ports(Port::Auto, 8).unwrap();
        let different: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 8, "{ports:?}");
        let first = ports[0];
        assert_eq!(next_port(Port::Auto, first), Ok(first));
        assert_eq!(next_port(Port::Fixed(first), first), Ok(first));
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, first)).unwrap();
        assert_ne!(next_port(Port::Auto, first), Ok(first));
        let refused = next_port(Port::Fixed(first), first);
        assert_eq!(refused, Err(format!("port {first} is taken by another process")));
        drop(taken);
    }

    #[test]
    fn beside_its_control_plane_a_replica_is_at_the_loopback_address() {
        for (url, host) in [
            ("http://127.0.0.1:7400", "127.0.0.1"),
            ("http://[::1]:7400", "::1"),
            ("unix:///run/gateway/control.sock", "127.0.0.1"),
        ] {
            assert_eq!(own_address(&ControlPlaneUrl::parse(url).unwrap()).to_string(), host, "{url}");
        }
    }

    #[test]
    fn an_address_is_built_of_names_and_both_kinds_of_ip_addresses() {
        for (host, text) in
            [("app", "app:80"), ("10.0.0.1", "10.0.0.1:80"), ("::1", "[::1]:80"), ("[::1]", "[::1]:80")]
        {
            assert_eq!(address(host, 80).unwrap().to_string(), text);
        }
        assert_eq!(address("a b", 80).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_replica_s_id_follows_from_where_it_is() {
        let at = |port| address("127.0.0.1", port).unwrap();
        let id = replica_id("orders", &at(80));
        assert_eq!(id, replica_id("orders", &at(80)));
        assert_ne!(id, replica_id("orders", &at(81)));
        assert_ne!(id, replica_id("payments", &at(80)));
        assert_eq!(id.as_str().len(), 8, "{id}");
    }
}
