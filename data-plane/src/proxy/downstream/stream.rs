//! A connection below HTTP, from a client or to a replica: TCP as it is, or TLS on it.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use gateway_runtime::{accept::begins_with, tls::Tls};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsAcceptor, TlsStream, client,
    rustls::{self, ProtocolVersion},
};

use super::proxy_headers::ProxyHeaders;
use crate::proxy::errors::refusals::Reason;

/// The first bytes of an HTTP/2 connection: a method that IANA keeps free of use, so that they are nothing else.
const HTTP2_PREFACE: &[u8; 4] = b"PRI ";
/// What HTTP/2 is called by ALPN.
pub(in crate::proxy) const HTTP2: &[u8] = b"h2";

/// What is offered by ALPN, best first.
pub(crate) const PROTOCOLS: &[&[u8]] = &[HTTP2, b"http/1.1"];

/// Bytes in both directions.
#[derive(Debug)]
pub(in crate::proxy) enum Stream {
    Tcp(TcpStream),
    /// Boxed: a session is larger than a kilobyte.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that has begun.
#[derive(Debug)]
pub(in crate::proxy) struct Begun {
    /// Whose it is: the peer, or whom it names by a PROXY header.
    pub(in crate::proxy) client: SocketAddr,
    pub(in crate::proxy) stream: Stream,
    pub(in crate::proxy) is_http2: bool,
}

/// Waits for what shows the protocol: the first bytes, or with TLS the end of the handshake. Cancel safe, if the connection
/// is given up then.
///
/// # Errors
/// When it comes to nothing within this time: why, if that is to be counted.
pub(in crate::proxy) async fn begin(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<&Arc<Tls>>,
    proxy_headers: Option<&ProxyHeaders>,
    within: Duration,
) -> Result<Begun, Option<Reason>> {
    let deadline = Instant::now() + within;
    let mut stream = stream;
    let client = match proxy_headers {
        Some(headers) => headers.client_of(&mut stream, address, deadline).await?,
        None => address,
    };
    let begun = async {
        let Some(tls) = tls else {
            let is_http2 = begins_with(&stream, HTTP2_PREFACE).await?;
            return io::Result::Ok(Begun { client, stream: Stream::Tcp(stream), is_http2 });
        };
        let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok(Begun { client, stream: Stream::Tls(Box::new(stream.into())), is_http2 })
    };
    let (ended, reason) = match timeout_at(deadline, begun).await {
        Ok(Ok(begun)) => return Ok(begun),
        Ok(Err(error)) => {
            // Who only connects and goes away looks whether somebody is there.
            let is_gone =
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
            (error, (tls.is_some() && !is_gone).then_some(Reason::TlsHandshake))
        }
        Err(_) => (io::Error::from(io::ErrorKind::TimedOut), Some(Reason::BeginTimeout)),
    };
    tracing::debug!(error = %ended, client = %address, "a connection did not begin");
    Err(reason)
}

impl Stream {
    pub(in crate::proxy) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The version of TLS, if it is any.
    pub(in crate::proxy) fn tls_version(&self) -> Option<&'static str> {
        let Self::Tls(stream) = self else { return None };
        match stream.get_ref().1.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
            _ => Some("1.2"),
        }
    }

    pub(in crate::proxy) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => {
                let written = Pin::new(&mut **stream).poll_write(cx, data);
                with_reason(stream, written)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => {
                let written = Pin::new(&mut **stream).poll_write_vectored(cx, parts);
                with_reason(stream, written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => {
                let flushed = Pin::new(&mut **stream).poll_flush(cx);
                with_reason(stream, flushed)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What was written to a replica, or why it could not be. In TLS 1.3 a server refuses a client's certificate, or that there is
/// none, behind the handshake, with what was sent meanwhile unread: then the connection is reset, and whoever writes meets
/// that before the alert that came in front of it.
fn with_reason<T>(stream: &mut TlsStream<TcpStream>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    let (Poll::Ready(Err(_)), TlsStream::Client(stream)) = (&written, stream) else { return written };
    match last_words(stream) {
        Some(said) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, said))),
        None => written,
    }
}

/// The alert that a server has sent last, if that has arrived. What came in front of it is still there to be read.
fn last_words(stream: &mut client::TlsStream<TcpStream>) -> Option<rustls::Error> {
    let (tcp, session) = stream.get_mut();
    let socket = SockRef::from(&*tcp);
    let mut reader = &*socket;
    // It ends with what the session, or the system, holds of it.
    while session.read_tls(&mut reader).is_ok_and(|count| count > 0) {
        if let Err(said) = session.process_new_packets() {
            return Some(said);
        }
    }
    None
}
