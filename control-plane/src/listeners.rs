//! Where connections come from: an address, and a Unix socket of this machine.
//!
//! A Unix socket is no network: who may connect is said by the mode of its file, nobody between could read along, so it never
//! speaks TLS, and the kernel says which user is at the other end.

use std::{
    fmt,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    str::FromStr,
};

use gateway_proto::unix_path;
use gateway_runtime::{
    Failure,
    accept::Bound,
    unix_socket::{self, UnixSocket},
};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::Config;

/// Where to listen, as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAt {
    /// `IP:PORT`.
    Address(SocketAddr),
    /// `unix:///PATH`.
    Socket(PathBuf),
}

impl FromStr for ListenAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("unix:") {
            return unix_path(text).map(Self::Socket);
        }
        text.parse().map(Self::Address).map_err(|_| "is neither IP:PORT nor unix:///PATH".to_owned())
    }
}

/// A Unix socket to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlace {
    /// Where its file is.
    pub path: PathBuf,
    /// Who may connect: the file's permission bits.
    pub mode: u32,
}

/// As a URL.
impl fmt::Display for SocketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.path.display())
    }
}

impl SocketPlace {
    /// Listens there.
    ///
    /// # Errors
    /// A [`Failure`] that names the flag, and why nobody can: a usage one unless somebody else has it.
    fn bind(&self) -> Result<UnixSocket, Failure> {
        UnixSocket::claim(&self.path, self.mode).map_err(|error| self.refused(&error))
    }

    /// Whether somebody could listen there, once whoever does so now has ended: he may be the one whose flags are checked.
    ///
    /// # Errors
    /// As [`SocketPlace::bind`].
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match unix_socket::check(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(self.refused(&error)),
            _ => Ok(()),
        }
    }

    fn refused(&self, error: &io::Error) -> Failure {
        let why = format!("--listen {self}: cannot listen there: {error}");
        // Whoever listens there may be ending.
        if error.kind() == io::ErrorKind::AddrInUse { Failure::fatal(why) } else { Failure::usage(why) }
    }
}

/// Where a control plane is reached.
#[derive(Debug, Clone)]
pub struct Served {
    /// The address it is bound to.
    pub listen: Option<SocketAddr>,
    /// Its Unix socket.
    pub socket: Option<SocketPlace>,
}

impl Served {
    /// The place that is reached from farthest away.
    pub(crate) fn address(&self) -> String {
        match (&self.listen, &self.socket) {
            (Some(listen), _) => listen.to_string(),
            (None, socket) => socket.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// All places.
impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())?;
        match (&self.listen, &self.socket) {
            (Some(_), Some(socket)) => write!(f, " and {socket}"),
            _ => Ok(()),
        }
    }
}

/// Whether an address is one of this machine's: then the system would send from there to there. Nothing is sent.
pub(crate) fn is_of_this_machine(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Some systems take no port 0; which other one it is says nothing.
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

/// Where connections are accepted: at one place at least.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) tcp: Option<TcpListener>,
    pub(crate) unix: Option<UnixSocket>,
}

/// The same places before anybody can be answered: that they are ours shows at the start, and until the registry is read, which takes
/// seconds where it is large, clients are refused at an address of ours, and go to another control plane. At a Unix socket, and at
/// one that was passed, they wait.
#[derive(Debug)]
pub(crate) struct Taken {
    tcp: Option<Tcp>,
    unix: Option<UnixSocket>,
}

#[derive(Debug)]
enum Tcp {
    Passed(TcpListener),
    Ours(Bound, SocketAddr),
}

impl Taken {
    /// Takes wherever the configuration says; a socket that was passed in place of its address.
    ///
    /// # Errors
    /// A [`Failure`] that names the flag, as of [`Failure::unbound`].
    pub(crate) fn take(config: &Config, passed: Option<std::net::TcpListener>) -> Result<Self, Failure> {
        let tcp = match (passed, config.listen) {
            (Some(socket), _) => {
                tracing::info!(?config, "starting at the socket that was passed");
                let passed = |error: io::Error| Failure::usage(format!("LISTEN_FDS: {error}"));
                config.check_socket()?;
                // Whoever bound it may have bound it anywhere.
                config.check_listener("LISTEN_FDS:", socket.local_addr().map_err(passed)?)?;
                Some(Tcp::Passed(TcpListener::from_std(socket).map_err(passed)?))
            }
            (None, listen) => {
                config.check_listeners()?;
                tracing::info!(?config, "starting");
                let bind = |address| match Bound::at(address) {
                    Ok(bound) => Ok(Tcp::Ours(bound, address)),
                    Err(error) => Err(Failure::unbound("--listen", address, &error)),
                };
                listen.map(bind).transpose()?
            }
        };
        Ok(Self { tcp, unix: config.socket.as_ref().map(SocketPlace::bind).transpose()? })
    }

    /// Where that is, after the system has chosen what was left to it.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn served(&self, socket: Option<SocketPlace>) -> Result<Served, Failure> {
        let listen = self.tcp.as_ref().map(|tcp| match tcp {
            Tcp::Passed(listener) => listener.local_addr(),
            Tcp::Ours(bound, _) => bound.local_addr(),
        });
        let listen = listen.transpose().map_err(|error| Failure::usage(format!("--listen: {error}")))?;
        Ok(Served { listen, socket })
    }

    /// Listens at all of them.
    ///
    /// # Errors
    /// As [`Taken::take`]: somebody else listens there by now.
    pub(crate) fn listen(self) -> Result<Listeners, Failure> {
        let tcp = self.tcp.map(|tcp| match tcp {
            Tcp::Passed(listener) => Ok(listener),
            Tcp::Ours(bound, address) => {
                bound.listen().map_err(|error| Failure::unbound("--listen", address, &error))
            }
        });
        Ok(Listeners { tcp: tcp.transpose()?, unix: self.unix })
    }
}

impl Listeners {
    /// The next connection at any of them. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Whence)> {
        tokio::select! {
            accepted = accept_tcp(self.tcp.as_ref()) => accepted,
            accepted = accept_unix(self.unix.as_ref()) => accepted,
        }
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<(Stream, Whence)> {
    let Some(listener) = listener else { return pending().await };
    let (stream, peer) = listener.accept().await?;
    // Small messages both ways: waiting to fill a packet only costs time. Failing that, they are just slower.
    let _ = stream.set_nodelay(true);
    Ok((Stream::Tcp(stream), Whence::Address(peer)))
}

async fn accept_unix(socket: Option<&UnixSocket>) -> io::Result<(Stream, Whence)> {
    let Some(socket) = socket else { return pending().await };
    let stream = socket.accept().await?;
    // Whoever cannot be named has gone.
    let user = stream.peer_cred().map_err(|_| io::ErrorKind::ConnectionAborted)?.uid();
    Ok((Stream::Unix(stream), Whence::User(user)))
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whence a connection came. In the extensions of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whence {
    Address(SocketAddr),
    /// A user of this machine, by his number.
    User(u32),
}

impl Whence {
    /// The address, as rules on addresses see it: a Unix socket is of this machine.
    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::Address(address) => address.ip().to_canonical(),
            Self::User(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// The user, if it is one of this machine.
    pub(crate) fn user(self) -> Option<u32> {
        match self {
            Self::Address(_) => None,
            Self::User(user) => Some(user),
        }
    }

    /// What somebody goes by who has said nothing of himself: no port, for each of his connections has another one.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Address(_) => self.ip().to_string(),
            Self::User(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Whence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(user) => write!(f, "uid {user}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_which_addresses_are_of_this_machine() {
        assert!(is_of_this_machine([127, 0, 0, 1].into()));
        assert!(!is_of_this_machine([198, 51, 100, 7].into()));
        // What others call this machine, if it has a network.
        let ours = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        });
        if let Ok(ours) = ours {
            assert!(is_of_this_machine(ours.ip()), "{ours}");
        }
    }

    #[test]
    fn it_is_listened_at_an_address_or_at_a_path() {
        assert_eq!("127.0.0.1:0".parse(), Ok(ListenAt::Address("127.0.0.1:0".parse().unwrap())));
        assert_eq!("unix:///run/x.sock".parse(), Ok(ListenAt::Socket("/run/x.sock".into())));
        for (text, why) in [
            ("localhost:7400", "is neither IP:PORT nor unix:///PATH"),
            ("/run/x.sock", "is neither IP:PORT nor unix:///PATH"),
            ("unix://x.sock", "is no absolute path of a socket: write unix:///PATH"),
        ] {
            assert_eq!(text.parse::<ListenAt>(), Err(why.to_owned()));
        }
    }

    #[test]
    fn a_user_of_this_machine_counts_as_its_loopback_address() {
        let user = Whence::User(1000);
        assert_eq!((user.ip().is_loopback(), user.name().as_str()), (true, "uid 1000"));
        let mapped = Whence::Address("[::ffff:10.0.0.1]:4000".parse().unwrap());
        assert_eq!((mapped.name().as_str(), mapped.user()), ("10.0.0.1", None));
    }
}
