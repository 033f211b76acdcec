//! Where a worker's clients connect, and what all of their connections have from there.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use gateway_runtime::tls::Tls;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::limits::Limits;

/// Where some of a worker's clients connect, with TLS or without.
#[derive(Debug)]
pub(in crate::proxy) struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    unread_timeout: Duration,
    /// Whether all that is accepted from now on came when the socket was set up, and has that from it.
    inherits: Cell<bool>,
}

/// A connection of a client.
#[derive(Debug)]
pub(in crate::proxy) struct Accepted {
    pub(in crate::proxy) stream: TcpStream,
    pub(in crate::proxy) address: SocketAddr,
    /// If it is to be with TLS.
    pub(in crate::proxy) tls: Option<Arc<Tls>>,
}

impl Listener {
    /// Accepts at this socket, which is [set up](set_up) as each of its connections is to be: they inherit it, which saves the
    /// calls for each. Those that wait already do not.
    pub(in crate::proxy) fn new(socket: TcpListener, tls: Option<Arc<Tls>>, limits: &Limits) -> Self {
        let unread_timeout = limits.unread_timeout;
        set_up(&SockRef::from(&socket), unread_timeout);
        Self { socket, tls, unread_timeout, inherits: Cell::new(false) }
    }

    /// The next connection.
    pub(in crate::proxy) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self.socket.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(accepted.map(|accepted| self.accepted(accepted))),
            Poll::Pending if self.inherits.get() => Poll::Pending,
            // The runtime need not know yet of those that wait.
            Poll::Pending => match self.accept_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                accepted => Poll::Ready(accepted),
            },
        }
    }

    /// A connection that waits to be accepted, by what the system says now and not by what the runtime knows of it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none, otherwise what accepting it yields.
    pub(in crate::proxy) fn accept_now(&self) -> io::Result<Accepted> {
        let accepted = SockRef::from(&self.socket).accept();
        if matches!(&accepted, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            // Whoever came before the socket was set up is served by now.
            self.inherits.set(true);
        }
        let (socket, address) = accepted?;
        socket.set_nonblocking(true)?;
        let address = address.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(self.accepted((TcpStream::from_std(socket.into())?, address)))
    }

    fn accepted(&self, (stream, address): (TcpStream, SocketAddr)) -> Accepted {
        if !self.inherits.get() {
            set_up(&SockRef::from(&stream), self.unread_timeout);
        }
        Accepted { stream, address, tls: self.tls.clone() }
    }
}

/// Sets what holds for all connections from clients. Where the system refuses one of it, they work without.
fn set_up(socket: &SockRef<'_>, unread_timeout: Duration) {
    if let Err(error) = socket.set_tcp_nodelay(true) {
        tracing::debug!(%error, "cannot disable Nagle's algorithm");
    }
    limit_unread(socket, unread_timeout);
}

/// Cuts a client off that takes nothing of what is sent to it for this time, whether it is gone or only does not read: it
/// keeps a replica's connection from others. The kernel counts, and only Linux offers it.
#[cfg(target_os = "linux")]
fn limit_unread(socket: &SockRef<'_>, limit: Duration) {
    if let Err(error) = socket.set_tcp_user_timeout(Some(limit)) {
        tracing::debug!(%error, "cannot limit how long a client may read nothing");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_unread(_: &SockRef<'_>, _: Duration) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn limits() -> Limits {
        Limits { unread_timeout: Duration::from_millis(300), ..Limits::default() }
    }

    async fn accept(listener: &Listener) -> TcpStream {
        poll_fn(|cx| listener.poll_accept(cx)).await.expect("it accepts").stream
    }

    #[tokio::test]
    async fn connections_are_set_up_whether_they_came_before_the_listener_or_after() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let _early = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let listener = Listener::new(socket, None, &limits());
        let is_set_up = |stream: &TcpStream| {
            let socket = SockRef::from(stream);
            socket.tcp_nodelay().unwrap()
                && socket.tcp_user_timeout().unwrap() == Some(limits().unread_timeout)
        };
        for _ in 0..2 {
            assert!(is_set_up(&accept(&listener).await));
            assert!(!listener.inherits.get(), "another may wait that came before");
        }
        let (late, _client) = tokio::join!(accept(&listener), TcpStream::connect(address));
        assert!(is_set_up(&late) && listener.inherits.get());
        let (later, _client) = tokio::join!(accept(&listener), TcpStream::connect(address));
        assert!(is_set_up(&later), "it has nothing but what it inherits");
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_off() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener::new(socket, None, &limits());
        assert!(listener.accept_now().is_err(), "nobody has come");
        let (mut stream, _client) = tokio::join!(accept(&listener), TcpStream::connect(address));
        let endless = async { while stream.write_all(&[0; 65536]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), endless).await.expect("it is waited for without end");
    }
}
