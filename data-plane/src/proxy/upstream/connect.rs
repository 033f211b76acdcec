//! New connections to replicas: TCP, TLS on it where the replica speaks it, and which HTTP goes over it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use gateway_proto::{Endpoint, endpoint::Kind};
use gateway_runtime::tls::ClientTls;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    proxy::downstream::stream::{HTTP2, Stream},
    resolved,
    routing::{CertificateFault, Fault, HandshakeFault},
};

/// A connection that is shared, or encrypted, is asked by the kernel for a sign of life when it was silent for so long, and
/// given up after three that stay out.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A connection, and what is spoken on it.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) is_http2: bool,
    /// Whether the replica has said which HTTP it speaks. One that has not speaks HTTP/1.1, unless it speaks none of what it was
    /// offered.
    pub(super) is_agreed: bool,
}

/// Why no connection could be had. Whatever it is, the replica has seen nothing of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum ConnectFailure {
    /// The replica is to blame.
    Replica(Fault),
    /// All connections that one worker may share to it carry as many requests as they may.
    Full,
    /// Protocols were to be switched, and the replica neither speaks HTTP/1.1 nor takes extended CONNECTs.
    NoSwitch,
    /// This process or machine has no file descriptor left.
    Exhausted,
    /// This machine has no port left for another connection to the replica: there may be some for others.
    NoPort,
}

/// What is offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2, and HTTP/1.1.
    Both,
    /// HTTP/1.1 only.
    Http1,
}

/// Whom to believe on the way to replicas, and where none is.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Way {
    /// Which replicas are believed over TLS, and what they are shown.
    pub(in crate::proxy) tls: Arc<ClientTls>,
    /// The admin side of this process.
    pub(in crate::proxy) admin: Option<SocketAddr>,
}

/// Connects as the endpoint wants it, within `time`, the TLS handshake included.
pub(super) async fn connect(
    endpoint: &Endpoint,
    way: &Way,
    offer: Offer,
    time: Duration,
) -> Result<Connected, ConnectFailure> {
    let connected = async {
        let stream = tcp(endpoint, way.admin).await?;
        match endpoint.protocol.kind() {
            Kind::Http1 => Ok(Connected { stream: Stream::Tcp(stream), is_http2: false, is_agreed: true }),
            Kind::H2c => {
                keep_alive(&stream);
                Ok(Connected { stream: Stream::Tcp(stream), is_http2: true, is_agreed: true })
            }
            Kind::Tls(_) => {
                keep_alive(&stream);
                encrypt(stream, endpoint, &way.tls, offer).await
            }
        }
    };
    match tokio::time::timeout(time, connected).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectFailure::Replica(Fault::ConnectTimeout)),
    }
}

/// Connects without more, unless it leads to `admin`.
pub(super) async fn tcp(endpoint: &Endpoint, admin: Option<SocketAddr>) -> Result<TcpStream, ConnectFailure> {
    let address = &endpoint.address;
    let connected = async {
        let stream = match address.socket() {
            Some(socket) => TcpStream::connect(socket).await?,
            None => to_name(address.host(), address.port()).await?,
        };
        resolved::check_not_admin(admin, address.port(), &stream)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    connected.await.map_err(|error| classify(&error))
}

/// Connects to where a name leads, unless no replica can be there.
async fn to_name(host: &str, port: u16) -> io::Result<TcpStream> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let places = resolved::admitted(host, found)?;
    TcpStream::connect(&places[..]).await
}

/// Where the system refuses, the connection works without.
fn keep_alive(stream: &TcpStream) {
    let wanted = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&wanted) {
        tracing::debug!(%error, "cannot have the kernel look after a connection");
    }
}

async fn encrypt(
    stream: TcpStream,
    endpoint: &Endpoint,
    tls: &Arc<ClientTls>,
    offer: Offer,
) -> Result<Connected, ConnectFailure> {
    let name = endpoint.tls_name().unwrap_or_default();
    let untrusted = |fault| ConnectFailure::Replica(Fault::TlsCertificate(fault));
    let config = tls.config().await.map_err(|why| {
        tracing::error!(%why, "no replica can be reached by TLS");
        untrusted(CertificateFault::UnknownAuthority)
    })?;
    let config = match offer {
        Offer::Both => config,
        Offer::Http1 => {
            let mut config = ClientConfig::clone(&config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        }
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|_| untrusted(CertificateFault::WrongName))?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => {
            let agreed = stream.get_ref().1.alpn_protocol();
            let (is_http2, is_agreed) = (agreed == Some(HTTP2), agreed.is_some());
            Ok(Connected { stream: Stream::Tls(Box::new(stream.into())), is_http2, is_agreed })
        }
        // Not its fault: it speaks HTTP/2, which is not what was asked for.
        Err(error) if offer == Offer::Http1 && has_no_such_protocol(&error) => Err(ConnectFailure::NoSwitch),
        Err(error) => {
            tracing::debug!(%error, address = %endpoint.address, "no TLS with a replica");
            let fault = tls_fault(&error).unwrap_or(Fault::TlsProtocol(HandshakeFault::Ended));
            Err(ConnectFailure::Replica(fault))
        }
    }
}

/// Whether the replica refused all that it was offered by ALPN.
fn has_no_such_protocol(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>());
    matches!(error, Some(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

/// What TLS itself has against a replica, if it is that which ended the connection.
pub(crate) fn tls_fault(error: &io::Error) -> Option<Fault> {
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    Some(match error {
        TlsError::InvalidCertificate(error) => Fault::TlsCertificate(certificate_fault(error)),
        TlsError::NoCertificatesPresented => Fault::TlsCertificate(CertificateFault::Unusable),
        TlsError::InvalidMessage(_) => Fault::TlsProtocol(HandshakeFault::NotTls),
        TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol => {
            Fault::TlsProtocol(HandshakeFault::NothingInCommon)
        }
        TlsError::AlertReceived(alert) => Fault::TlsProtocol(match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => HandshakeFault::CertificateRefused,
            AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::NoApplicationProtocol
            | AlertDescription::HandshakeFailure => HandshakeFault::NothingInCommon,
            _ => HandshakeFault::Alert,
        }),
        _ => Fault::TlsProtocol(HandshakeFault::Other),
    })
}

fn certificate_fault(error: &CertificateError) -> CertificateFault {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateFault::NotValidYet
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateFault::WrongName
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateFault::UnknownAuthority
        }
        CertificateError::Revoked => CertificateFault::Revoked,
        _ => CertificateFault::Unusable,
    }
}

/// `ENFILE` and `EMFILE`, the same numbers on Linux, macOS and the BSDs; the standard library has no kind for them.
const NO_FILE_LEFT: [i32; 2] = [23, 24];

fn classify(error: &io::Error) -> ConnectFailure {
    if error.raw_os_error().is_some_and(|code| NO_FILE_LEFT.contains(&code)) {
        return ConnectFailure::Exhausted;
    }
    ConnectFailure::Replica(match error.kind() {
        // Said of this side of the connection, the replica's has not been asked.
        io::ErrorKind::AddrNotAvailable => return ConnectFailure::NoPort,
        io::ErrorKind::ConnectionRefused => Fault::ConnectRefused,
        io::ErrorKind::TimedOut => Fault::ConnectTimeout,
        _ => Fault::ConnectFailed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_replicas_fault() {
        let by_code = |code| classify(&io::Error::from_raw_os_error(code));
        let by_kind = |kind: io::ErrorKind| classify(&kind.into());
        assert_eq!(NO_FILE_LEFT.map(by_code), [ConnectFailure::Exhausted; 2]);
        assert_eq!(by_kind(io::ErrorKind::AddrNotAvailable), ConnectFailure::NoPort);
        for (kind, fault) in [
            (io::ErrorKind::ConnectionRefused, Fault::ConnectRefused),
            (io::ErrorKind::TimedOut, Fault::ConnectTimeout),
            (io::ErrorKind::HostUnreachable, Fault::ConnectFailed),
        ] {
            assert_eq!(by_kind(kind), ConnectFailure::Replica(fault));
        }
    }

    /// What listens there trusts whoever reaches it, and must not even see a connection.
    #[tokio::test]
    async fn a_name_that_leads_to_a_refused_address_is_never_connected_to() {
        // A notation that is no address of a replica, but for which resolvers yield loopback without asking anybody.
        const NAME: &str = "0x7f000001";
        let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = trap.local_addr().unwrap();
        let mut found = tokio::net::lookup_host((NAME, at.port())).await.unwrap();
        assert!(found.any(|place| place == at), "the name leads to the trap");
        let refused = to_name(NAME, at.port()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        // This one arrives, and whatever had come before it would be ahead of it.
        let own = TcpStream::connect(at).await.unwrap();
        let (_, first) = trap.accept().await.unwrap();
        assert_eq!(first, own.local_addr().unwrap());
    }
}
