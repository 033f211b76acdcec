//! A connection to a server, encrypted or not, whose failures say what is wrong and what to do about it.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::{AlertDescription, CertificateError, Error as TlsError, pki_types::ServerName};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ClientTls, PeerCertificate};
use crate::unix_socket;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// An address that has not answered for so long has the next one tried beside it, as in RFC 8305.
const STAGGER: Duration = Duration::from_millis(250);
/// What the other machine has not taken within so long does not get through to it any more: the connection ends. Without that, TCP
/// sends it again after pauses that double, and of a network that was away for some seconds nobody would know for as long again
/// that it is back. It is the kernel there that takes it: a program that is slow, or stands still, is not cut off.
#[cfg(target_os = "linux")]
const UNTAKEN: Duration = Duration::from_secs(4);

/// A connection to a server.
#[derive(Debug)]
pub enum Connection {
    /// Not encrypted.
    Plain(TcpStream),
    /// Within this machine.
    Unix(UnixStream),
    /// In TLS, with the server's name for what goes wrong later: servers refuse a certificate only after the handshake.
    Tls(Box<TlsStream<TcpStream>>, Server),
}

/// Whom a connection leads to, and where to tell what he has against us.
#[derive(Debug)]
pub struct Server {
    host: Box<str>,
    tls: Arc<ClientTls>,
    /// A write that has failed, and it is not known yet why.
    failure: Option<io::Error>,
}

impl Connection {
    /// Where it leads to; `None` within this machine.
    ///
    /// # Errors
    /// When it is not connected any more.
    pub fn peer_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Plain(stream) => stream.peer_addr().map(Some),
            Self::Unix(_) => Ok(None),
            Self::Tls(stream, _) => stream.get_ref().0.peer_addr().map(Some),
        }
    }
}

/// Connects to the Unix socket at a path. Cancel safe.
///
/// # Errors
/// Why nobody is reached there, in a sentence.
pub async fn connect_unix(path: &Path) -> io::Result<Connection> {
    unix_socket::connect(path).await.map(Connection::Unix)
}

/// Connects; with `tls`, the server must show a certificate for `host`, a DNS name or an IP address without brackets.
/// Cancel safe.
///
/// # Errors
/// Why there is no connection; of certificates, which one is wrong in which way, and what to do.
pub async fn connect(host: &str, port: u16, tls: Option<&Arc<ClientTls>>) -> io::Result<Connection> {
    connect_to(&resolve(host, port).await?, host, tls).await
}

/// All addresses that a name has, at most 16 of them, in the order in which the system names them. Cancel safe.
///
/// # Errors
/// When it has none, or nobody knows.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.take(MAX_ADDRESSES).collect();
    match addresses.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
        false => Ok(addresses),
    }
}

/// As [`connect`], to the first of these addresses of `host` that answers: each is tried 250 ms after the one before it, or as
/// soon as that has failed.
///
/// # Errors
/// Those of [`connect`]; where no address answers, why the last one does not.
pub async fn connect_to(
    addresses: &[SocketAddr],
    host: &str,
    tls: Option<&Arc<ClientTls>>,
) -> io::Result<Connection> {
    let stream = first_of(addresses).await?;
    stream.set_nodelay(true)?;
    give_up_untaken(&stream);
    let Some(tls) = tls else { return Ok(Connection::Plain(stream)) };
    let config = tls.config().await.map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::other(format!("{host} is no name that a certificate could have")))?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    match connected {
        Ok(stream) => {
            tls.was_refused(None);
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            tls.was_shown(shown.and_then(|certificate| PeerCertificate::parse(certificate).ok()));
            Ok(Connection::Tls(
                Box::new(stream),
                Server { host: host.into(), tls: Arc::clone(tls), failure: None },
            ))
        }
        Err(error) => Err(explained(error, host)),
    }
}

/// Where the system cannot do that, the connection works without.
#[cfg(target_os = "linux")]
fn give_up_untaken(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN)) {
        tracing::debug!(%error, "cannot have the kernel end a connection on which nothing gets through");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_up_untaken(_: &TcpStream) {}

async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut trying = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address to connect to");
    for address in addresses {
        trying.spawn(TcpStream::connect(*address));
        if let Ok(Some(tried)) = timeout(STAGGER, trying.join_next()).await {
            match tried.map_err(io::Error::other).and_then(|tried| tried) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
    }
    while let Some(tried) = trying.join_next().await {
        match tried.map_err(io::Error::other).and_then(|tried| tried) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The same error in a sentence, where it is of TLS.
fn explained(error: io::Error, host: &str) -> io::Error {
    let found = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match found.and_then(|found| sentence(found, host)) {
        Some(sentence) => io::Error::new(error.kind(), sentence),
        None if error.kind() == io::ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            format!("{host} ended the connection in the TLS handshake: does it speak TLS?"),
        ),
        None => error,
    }
}

fn sentence(error: &TlsError, host: &str) -> Option<String> {
    use CertificateError as C;
    Some(match error {
        TlsError::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            format!("the certificate of {host} has expired: have it renewed there")
        }
        TlsError::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            format!("the certificate of {host} is not valid yet: compare the clocks")
        }
        TlsError::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => format!(
            "the certificate of {host} is for other names: use one of its names in the URL, or have it issued for this one"
        ),
        TlsError::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => format!(
            "the certificate of {host} is self-signed or signed by an authority that is not trusted here: name its authority \
             in the file of authorities (CA)"
        ),
        TlsError::InvalidCertificate(C::Revoked) => format!("the certificate of {host} is revoked"),
        TlsError::InvalidCertificate(other) => {
            format!("the certificate of {host} cannot be believed: {other}")
        }
        TlsError::InvalidMessage(_) => {
            format!("{host} does not speak TLS at this port: write http://, or turn TLS on there")
        }
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                format!("{host} asks for a client certificate, and none was shown: name one with its key")
            }
            AlertDescription::CertificateExpired => {
                format!("{host} refuses the client certificate that it was shown: it has expired")
            }
            AlertDescription::UnknownCA => format!(
                "{host} refuses the client certificate that it was shown: it does not trust the authority that signed it"
            ),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError => {
                format!("{host} refuses the client certificate that it was shown ({alert:?})")
            }
            _ => return None,
        },
        _ => return None,
    })
}

impl Server {
    /// What went wrong on a connection, in a sentence that is kept for whoever uses it: he may learn only that it is closed. What
    /// was said in TLS is not forgotten for the end of the connection that came of it.
    fn broken(&self, error: io::Error) -> io::Error {
        let is_said = is_of_tls(&error);
        let error = explained(error, &self.host);
        if is_said || self.tls.refusal().is_none() {
            self.tls.was_refused(Some(error.to_string()));
        }
        error
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TlsError>())
}

/// Waits for why nothing can be written any more: a server that refuses a certificate says so and closes the connection, and who
/// writes meets the end of it before he has read the reason. Whatever was said before the end is there to be read by then.
fn last_word(
    stream: &mut TlsStream<TcpStream>,
    server: &mut Server,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    /// More than a server sends before it reads a certificate.
    const MAX_READS: usize = 16;
    let mut scratch = [0; 4096];
    for _ in 0..MAX_READS {
        let mut buf = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            Poll::Ready(Err(said)) if is_of_tls(&said) => {
                server.failure = None;
                return Poll::Ready(server.broken(said));
            }
            // The end itself is read as soon as it is known that there is something to read.
            Poll::Pending if server.failure.as_ref().is_some_and(is_of_peer) => return Poll::Pending,
            _ => break,
        }
    }
    let failure = server.failure.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    Poll::Ready(server.broken(failure))
}

/// Whether the other side has ended the connection.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// What a write came to, once it is known why it failed.
fn told<T>(
    stream: &mut TlsStream<TcpStream>,
    server: &mut Server,
    cx: &mut Context<'_>,
    write: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if server.failure.is_none() {
        match ready!(write(Pin::new(&mut *stream), cx)) {
            Ok(written) => return Poll::Ready(Ok(written)),
            Err(error) => server.failure = Some(error),
        }
    }
    last_word(stream, server, cx).map(Err)
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream, server) => {
                let read = ready!(Pin::new(stream).poll_read(cx, buf));
                Poll::Ready(read.map_err(|error| server.broken(error)))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream, server) => told(stream, server, cx, |stream, cx| stream.poll_write(cx, bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, server) => told(stream, server, cx, |stream, cx| stream.poll_flush(cx)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_does_not_outlast_a_network_that_takes_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = connect_to(&[listener.local_addr().unwrap()], "127.0.0.1", None).await.unwrap();
        let Connection::Plain(stream) = connected else { panic!("no TLS was asked for") };
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNTAKEN));
    }
}
