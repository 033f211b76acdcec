//! Where the address of a replica leads, looked at with each connect: whoever owns a name may have it lead, after it was
//! registered, to where no replica is and something trusts its neighbours (DNS rebinding); and whoever registers an address
//! may have this process ask its own admin side, which tells whoever is on this machine more than clients may know.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use gateway_proto::{Hazard, destination};
use tokio::net::TcpStream;

/// Those of the addresses at which a replica can be.
///
/// This machine is one of them for names that mean it, and so is the shared space, from which some clusters number theirs.
///
/// # Errors
/// When there is none; it says which address was refused.
pub(crate) fn admitted(host: &str, found: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut refused = None;
    let admitted: Vec<_> = found
        .filter(|place| {
            let hazard = hazard(host, *place);
            refused = hazard.map(|hazard| (place.ip(), hazard)).or(refused);
            hazard.is_none()
        })
        .collect();
    match refused {
        Some((ip, hazard)) if admitted.is_empty() => {
            tracing::warn!(host, %ip, "the name of a replica leads to {hazard}: not connecting");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{host} leads to {ip}, {hazard}")))
        }
        _ => Ok(admitted),
    }
}

/// Refuses a connection that has come to the admin side of this process, by whatever name or address of its machine. Nothing
/// has been sent on it. `port` is the replica's: of all but the few that have the same one, the system is asked nothing.
///
/// # Errors
/// That it leads there.
pub(crate) fn check_not_admin(admin: Option<SocketAddr>, port: u16, stream: &TcpStream) -> io::Result<()> {
    let Some(admin) = admin.filter(|admin| admin.port() == port) else { return Ok(()) };
    let reached = stream.peer_addr()?.ip();
    let is_own = is_own(admin.ip(), reached, || stream.local_addr().map(|from| from.ip()))?;
    if is_own {
        tracing::warn!(%reached, port, "the address of a replica leads to the admin side of this data plane: not asking it");
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "its address leads to the admin side of this data plane",
        ));
    }
    Ok(())
}

/// Whether what is `reached` is this machine, where it listens at `own`. `from` asks the system which address it is reached from.
fn is_own(own: IpAddr, reached: IpAddr, from: impl FnOnce() -> io::Result<IpAddr>) -> io::Result<bool> {
    let (own, reached) = (destination(own), destination(reached));
    Ok(match own.is_unspecified() {
        // From one of this machine's addresses to itself, the system sends from that very one.
        true => reached.is_loopback() || destination(from()?) == reached,
        false => reached == own,
    })
}

fn hazard(host: &str, place: SocketAddr) -> Option<Hazard> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let means_here = host == "localhost" || host.ends_with(".localhost");
    match Hazard::of(place.ip()) {
        Some(Hazard::Loopback) if means_here => None,
        Some(Hazard::Shared) => None,
        hazard => hazard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(host: &str, found: &[&str]) -> Result<Vec<String>, String> {
        let found = found.iter().map(|text| text.parse().unwrap());
        let admitted = admitted(host, found).map_err(|error| error.to_string())?;
        Ok(admitted.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_name_that_comes_to_lead_to_what_trusts_its_neighbours_is_not_followed() {
        for place in [
            "169.254.169.254:80",
            "127.0.0.1:80",
            "[::1]:80",
            "[fe80::1]:80",
            "0.0.0.0:80",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
            "[::ffff:100.100.100.200]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(
                places("rebound.example", &[place]).unwrap_err().contains("rebound.example leads to"),
                "{place}"
            );
        }
        let mixed = places("orders.example", &["169.254.1.1:80", "10.0.0.1:80", "100.64.0.1:80"]);
        assert_eq!(mixed.unwrap(), ["10.0.0.1:80", "100.64.0.1:80"]);
    }

    #[test]
    fn names_of_this_machine_lead_here() {
        for host in ["localhost", "a.localhost", "localhost."] {
            assert_eq!(places(host, &["127.0.0.1:80", "[::1]:80"]).unwrap().len(), 2);
        }
        assert!(places("localhost", &["169.254.169.254:80"]).is_err());
    }

    #[tokio::test]
    async fn a_connection_to_the_admin_side_is_refused_and_one_to_a_neighbour_at_the_same_port_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stream = TcpStream::connect(at).await.unwrap();
        let is_refused = |admin: &str, port| {
            let admin = admin.parse().map(|ip| SocketAddr::new(ip, at.port())).ok();
            check_not_admin(admin, port, &stream).is_err()
        };
        for admin in ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(is_refused(admin, at.port()), "{admin}");
            assert!(!is_refused(admin, at.port() ^ 1), "{admin} at another port");
        }
        for admin in ["127.0.0.2", "10.0.0.1", "none"] {
            assert!(!is_refused(admin, at.port()), "{admin}");
        }
    }

    #[test]
    fn the_admin_side_is_known_by_whatever_address_leads_to_it() {
        let is_own = |own: &str, reached: &str, from: &str| {
            super::is_own(own.parse().unwrap(), reached.parse().unwrap(), || Ok(from.parse().unwrap()))
                .unwrap()
        };
        for reached in ["10.0.0.7", "::ffff:10.0.0.7", "64:ff9b::a00:7", "2002:a00:7::1"] {
            assert!(is_own("10.0.0.7", reached, "fd00::1"), "{reached}");
            assert!(!is_own("10.0.0.8", reached, "fd00::1"), "{reached}");
        }
        assert!(is_own("0.0.0.0", "64:ff9b::7f00:1", "fd00::1"));
        assert!(is_own("::", "10.0.0.7", "10.0.0.7") && is_own("::", "fd00::1", "fd00::1"));
        assert!(!is_own("::", "10.0.0.8", "10.0.0.7"));
    }

    #[test]
    fn a_name_without_addresses_is_none_that_was_refused() {
        assert_eq!(places("orders.example", &[]).unwrap(), Vec::<String>::new());
    }
}
