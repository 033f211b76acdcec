//! A connection below HTTP, from a client or to a replica: TCP as it is, or TLS on it; and how one from a client begins.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use gateway_runtime::tls::Tls;
use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsAcceptor, TlsStream, client,
    rustls::{self, ProtocolVersion},
};
use tokio_util::io::poll_read_buf;

use super::proxy_headers::ProxyHeaders;
use crate::proxy::{errors::refusals::Reason, h1::Buffers};

/// The first bytes of an HTTP/2 connection: a method that IANA keeps free of use, so that they are nothing else.
const HTTP2_PREFACE: &[u8; 4] = b"PRI ";
/// What HTTP/2 is called by ALPN.
pub(in crate::proxy) const HTTP2: &[u8] = b"h2";

/// What is offered by ALPN, best first.
pub(crate) const PROTOCOLS: &[&[u8]] = &[HTTP2, b"http/1.1"];

/// Who is gone is told by an error, not by a signal. Where there is no such flag, the socket itself was told so when it was made.
#[cfg(target_os = "linux")]
const PLAIN: SendFlags = SendFlags::NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const PLAIN: SendFlags = SendFlags::empty();

/// Bytes in both directions.
#[derive(Debug)]
pub(in crate::proxy) enum Stream {
    Tcp(TcpStream),
    /// Boxed, for it is the HTTP/2 without TLS of few clients.
    Ahead(Box<Ahead>),
    /// Boxed: a session is larger than a kilobyte.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection of which some bytes were read before it was known who is to have them.
#[derive(Debug)]
pub(in crate::proxy) struct Ahead {
    tcp: TcpStream,
    seen: Bytes,
}

/// A connection that has begun.
#[derive(Debug)]
pub(in crate::proxy) struct Begun {
    pub(in crate::proxy) stream: Stream,
    /// What was read of it, if it is not for the stream to say again.
    pub(in crate::proxy) seen: BytesMut,
    pub(in crate::proxy) is_http2: bool,
}

/// Waits for what comes before HTTP: a PROXY header where there may be one, and the handshake where there is TLS. Yields whose
/// connection it is, and what HTTP is spoken on. Cancel safe, if the connection is given up then.
///
/// # Errors
/// When it comes to nothing within this time: why, if that is to be counted.
pub(in crate::proxy) async fn introduce(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<&Arc<Tls>>,
    proxy_headers: Option<&ProxyHeaders>,
    within: Duration,
) -> Result<(SocketAddr, Stream), Option<Reason>> {
    let deadline = Instant::now() + within;
    let mut stream = stream;
    let client = match proxy_headers {
        Some(headers) => headers.client_of(&mut stream, address, deadline).await?,
        None => address,
    };
    let Some(tls) = tls else { return Ok((client, Stream::Tcp(stream))) };
    match timeout_at(deadline, TlsAcceptor::from(tls.config()).accept(stream)).await {
        Ok(Ok(stream)) => Ok((client, Stream::Tls(Box::new(stream.into())))),
        Ok(Err(error)) => {
            not_begun(client, &error);
            // Who only connects and goes away looks whether somebody is there.
            let is_gone =
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
            Err((!is_gone).then_some(Reason::TlsHandshake))
        }
        Err(_) => {
            not_begun(client, &io::ErrorKind::TimedOut.into());
            Err(Some(Reason::BeginTimeout))
        }
    }
}

/// Reads the beginning of a connection without TLS, until it shows whether it is one in HTTP/2. What was read is in `seen`,
/// which is a borrowed buffer as long as there is something in it.
///
/// # Errors
/// `UnexpectedEof` when the client ends it before, without a byte; otherwise what reading it yields.
pub(in crate::proxy) fn poll_protocol(
    tcp: &mut TcpStream,
    seen: &mut BytesMut,
    buffers: &Buffers,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    loop {
        // No buffer is borrowed for nothing.
        ready!(tcp.poll_read_ready(cx))?;
        if seen.is_empty() {
            *seen = buffers.take_input();
        }
        let read = read_now(tcp, seen);
        if seen.is_empty() {
            buffers.give_input(seen);
        }
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
            Ok(0) if seen.is_empty() => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            // Nothing more comes that could tell.
            Ok(0) => return Poll::Ready(Ok(false)),
            Ok(_) if seen.len() >= HTTP2_PREFACE.len() || !HTTP2_PREFACE.starts_with(seen) => {
                return Poll::Ready(Ok(seen.starts_with(HTTP2_PREFACE)));
            }
            Ok(_) => {}
        }
    }
}

/// Tells the log why there is nothing else to tell of a connection.
pub(in crate::proxy) fn not_begun(client: SocketAddr, error: &io::Error) {
    tracing::debug!(%error, %client, "a connection did not begin");
}

impl Stream {
    /// A connection on which `seen` comes before all that there is yet to be read.
    pub(in crate::proxy) fn ahead(tcp: TcpStream, seen: Bytes) -> Self {
        Self::Ahead(Box::new(Ahead { tcp, seen }))
    }

    pub(in crate::proxy) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Ahead(ahead) => &ahead.tcp,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    fn tcp_mut(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(match self {
            Self::Tcp(stream) => stream,
            Self::Ahead(ahead) => &mut ahead.tcp,
            Self::Tls(stream) => stream.get_mut().0,
        })
    }

    /// Whether there may be something to be read, or an end, as far as the system has told: `false` is certain until it tells more.
    /// Wakes nobody.
    pub(in crate::proxy) fn may_have_something(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Ahead(_) | Self::Tls(_) => true,
        }
    }

    /// Completes when there may be something to be read, so that no buffer is held for nothing.
    pub(in crate::proxy) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Ahead(_) | Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads once it is [readable](Self::poll_readable). Ready with the count, zero at the end.
    pub(in crate::proxy) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        let Self::Tcp(tcp) = self else { return poll_read_buf(Pin::new(self), cx, buffer) };
        loop {
            match read_now(tcp, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_read_ready(cx))?,
                read => return Poll::Ready(read),
            }
        }
    }

    /// Whether HTTP/2 was agreed on with TLS.
    pub(in crate::proxy) fn has_agreed_on_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(HTTP2))
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
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Ahead(ahead) if !ahead.seen.is_empty() => {
                let count = ahead.seen.len().min(buffer.remaining());
                buffer.put_slice(&ahead.seen.split_to(count));
                Poll::Ready(Ok(()))
            }
            stream => stream.tcp_mut().poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => {
                let written = Pin::new(&mut **stream).poll_write(cx, data);
                with_reason(stream, written)
            }
            stream => poll_send(stream.tcp(), cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => {
                let written = Pin::new(&mut **stream).poll_write_vectored(cx, parts);
                with_reason(stream, written)
            }
            stream => stream.tcp_mut().poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_write_vectored(),
            stream => stream.tcp().is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => {
                let flushed = Pin::new(&mut **stream).poll_flush(cx);
                with_reason(stream, flushed)
            }
            stream => stream.tcp_mut().poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            stream => stream.tcp_mut().poll_shutdown(cx),
        }
    }
}

/// Reads once, from a socket that is ready. What does not fill the buffer was all there was, which the runtime is told, as it finds out
/// by itself where it does the reading: the next read waits, and is not tried in vain.
fn read_now(tcp: &TcpStream, buffer: &mut impl BufMut) -> io::Result<usize> {
    let room = buffer.chunk_mut().len();
    let mut count = 0;
    let read = tcp.try_io(Interest::READABLE, || {
        count = tcp.try_read_buf(buffer)?;
        if (1..room).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if count > 0 { Ok(count) } else { read.map(|()| 0) }
}

/// Writes, and asks the runtime only where the socket takes nothing. One that has taken a part is full, which the runtime is told.
fn poll_send(tcp: &TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        let mut count = 0;
        let sent = tcp.try_io(Interest::WRITABLE, || {
            count = send(tcp, data, PLAIN)?;
            if count < data.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match sent {
            Err(error) if count == 0 && error.kind() == io::ErrorKind::WouldBlock => {
                ready!(tcp.poll_write_ready(cx))?;
            }
            Err(error) if count == 0 => return Poll::Ready(Err(error)),
            _ => return Poll::Ready(Ok(count)),
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::Tcp(accepted.unwrap().0), connected.unwrap())
    }

    async fn filled(stream: &mut Stream, buffer: &mut BytesMut) -> usize {
        poll_fn(|cx| {
            ready!(stream.poll_readable(cx))?;
            stream.poll_fill(cx, buffer)
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn what_does_not_fill_the_buffer_was_all_there_was_and_what_comes_later_is_not_missed() {
        let (mut stream, mut peer) = pair().await;
        let mut buffer = BytesMut::with_capacity(64);
        for said in ["one", "two", "three"] {
            peer.write_all(said.as_bytes()).await.unwrap();
            assert_eq!(filled(&mut stream, &mut buffer).await, said.len());
            assert_eq!(buffer.split(), said);
            assert!(!stream.may_have_something(), "{said} was all");
        }
        peer.write_all(&[b'x'; 100]).await.unwrap();
        let mut rest = 100;
        while rest > 0 {
            let mut small = BytesMut::with_capacity(30);
            rest -= filled(&mut stream, &mut small).await;
        }
        drop(peer);
        assert_eq!(filled(&mut stream, &mut buffer).await, 0, "the end is seen");
        assert!(stream.may_have_something(), "and seen again");
        assert_eq!(filled(&mut stream, &mut buffer).await, 0);
    }

    #[tokio::test]
    async fn a_write_waits_for_a_socket_that_is_full_and_goes_on_once_it_takes_more() {
        const LENGTH: usize = 32 << 20;
        let (mut stream, mut peer) = pair().await;
        let data: Vec<u8> = (0..LENGTH).map(|at| (at / 7) as u8).collect();
        let mut is_full = false;
        let written = async {
            let mut sent = 0;
            while sent < LENGTH {
                sent += poll_fn(|cx| {
                    let polled = Pin::new(&mut stream).poll_write(cx, &data[sent..]);
                    is_full |= polled.is_pending();
                    polled
                })
                .await
                .unwrap();
            }
            Pin::new(&mut stream).shutdown().await.unwrap();
        };
        let mut read = Vec::new();
        let (_, count) = tokio::join!(written, peer.read_to_end(&mut read));
        assert_eq!(count.unwrap(), LENGTH);
        assert!(read == data, "all came, in its order");
        assert!(is_full, "the socket was full in between");
    }

    #[tokio::test]
    async fn writing_to_who_is_gone_is_an_error() {
        let (mut stream, peer) = pair().await;
        peer.set_zero_linger().unwrap();
        drop(peer);
        // It is known once the reset has come.
        while !stream.may_have_something() {
            poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        }
        let error = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"too late")).await.unwrap_err();
        assert!(
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
            "{error}"
        );
    }
}
