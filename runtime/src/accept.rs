//! What every listener has to find out before it can serve a connection.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::RecvFlags;
use tokio::{
    io::Interest,
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
    time::sleep,
};

/// Connections that the kernel completes before they are accepted. After a restart all clients come at once, and one
/// that finds the queue full is dropped or reset; the usual 128 are too few for that. The system may allow fewer
/// (`net.core.somaxconn`, 4096 on Linux).
pub(crate) const BACKLOG: u32 = 4096;

/// Between two looks at a beginning that is still in pieces.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// An address that is ours, where nobody listens yet: whoever connects is refused at once, and asks elsewhere instead of waiting.
#[derive(Debug)]
pub struct Bound(TcpSocket);

impl Bound {
    /// Takes an address.
    ///
    /// # Errors
    /// What the system says of it.
    pub fn at(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As the standard library does on Unix: connections of a predecessor that linger do not keep the address.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket))
    }

    /// Where that is, once the system has chosen what was left to it.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Listens there, with a queue long enough for all clients to come back at once.
    ///
    /// # Errors
    /// Somebody else listens there by now.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)
    }
}

/// Whether an accept failed because its client had gone already. Any other failure, such as `EMFILE`, would come back
/// with the next accept at once.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection whose first bytes can be seen before they are read.
pub trait Peek {
    /// Waits for its first byte, or its end. Whether the peer has closed its side, so that all it will ever send is there to be
    /// read. Cancel safe.
    ///
    /// # Errors
    /// What waiting for it yields.
    fn has_ended(&self) -> impl Future<Output = io::Result<bool>> + Send;

    /// Waits for some, and copies as many of them as there are and fit; none at the end of the connection. Cancel safe.
    ///
    /// # Errors
    /// What reading the connection yields.
    fn peek(&self, seen: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}

impl Peek for TcpStream {
    async fn has_ended(&self) -> io::Result<bool> {
        Ok(self.ready(Interest::READABLE).await?.is_read_closed())
    }

    async fn peek(&self, seen: &mut [u8]) -> io::Result<usize> {
        Self::peek(self, seen).await
    }
}

impl Peek for UnixStream {
    async fn has_ended(&self) -> io::Result<bool> {
        Ok(self.ready(Interest::READABLE).await?.is_read_closed())
    }

    async fn peek(&self, seen: &mut [u8]) -> io::Result<usize> {
        let look = || Ok(rustix::net::recv(self, &mut *seen, RecvFlags::PEEK)?.0);
        self.async_io(Interest::READABLE, look).await
    }
}

/// Whether a connection begins with `beginning`, as soon as its bytes tell; takes none of them.
///
/// Has no time limit of its own: a client that says nothing is waited for. Cancel safe.
///
/// # Errors
/// `UnexpectedEof` when the client has ended the connection, otherwise what reading it yields.
pub async fn begins_with<const N: usize>(stream: &impl Peek, beginning: &[u8; N]) -> io::Result<bool> {
    let mut seen = [0; N];
    let mut pause = MIN_PAUSE;
    loop {
        let is_all = stream.has_ended().await?;
        match stream.peek(&mut seen).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if !beginning.starts_with(&seen[..count]) => return Ok(false),
            count if count == N => return Ok(true),
            _ if is_all => return Ok(false),
            // A peek does not wait for more than it has shown. Pieces are rare, but thousands may send them on purpose,
            // so each is looked at again and again, and ever more seldom.
            _ => sleep(pause).await,
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, time::timeout};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn whoever_connects_before_anybody_listens_is_refused_at_once() {
        let bound = Bound::at("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.local_addr().unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = bound.listen().unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        TcpStream::connect(address).await.unwrap();
        assert_eq!(Bound::at(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn hundreds_of_clients_connect_before_one_of_them_is_accepted() {
        let listener = Bound::at("127.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for number in 0..400 {
            let client = timeout(Duration::from_secs(10), TcpStream::connect(address)).await;
            clients.push(client.unwrap_or_else(|_| panic!("client {number} waits")).unwrap());
        }
    }

    #[tokio::test]
    async fn it_is_told_by_the_first_bytes_that_decide_and_none_is_taken() {
        for (bytes, begins) in [(&b"PRI * "[..], true), (b"POST /", false), (b"G", false)] {
            let (mut client, server) = pair().await;
            client.write_all(bytes).await.unwrap();
            assert_eq!(begins_with(&server, b"PRI").await.unwrap(), begins);
            let mut kept = vec![0; bytes.len()];
            assert_eq!(server.peek(&mut kept).await.unwrap(), bytes.len());
            assert_eq!(kept, bytes);
        }
    }

    #[tokio::test]
    async fn of_a_unix_socket_it_is_told_in_the_same_way() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"PO").await.unwrap();
        assert!(!begins_with(&server, b"PRI").await.unwrap());
        let mut kept = [0; 2];
        server.readable().await.unwrap();
        assert_eq!(server.try_read(&mut kept).unwrap(), 2);
        drop(client);
        let error = begins_with(&server, b"PRI").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn pieces_are_put_together() {
        let (mut client, server) = pair().await;
        client.set_nodelay(true).unwrap();
        client.write_all(b"P").await.unwrap();
        let rest = async {
            server.readable().await.unwrap();
            client.write_all(b"RI").await.unwrap();
        };
        let (begins, ()) = tokio::join!(begins_with(&server, b"PRI"), rest);
        assert!(begins.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_its_side_within_the_beginning_is_not_waited_for() {
        let (mut client, server) = pair().await;
        client.write_all(b"PR").await.unwrap();
        client.shutdown().await.unwrap();
        let begins = timeout(MAX_PAUSE, begins_with(&server, b"PRI")).await;
        assert!(!begins.expect("it is waited for").unwrap());
    }

    #[tokio::test]
    async fn a_client_that_left_is_an_end_and_not_an_answer() {
        let (client, server) = pair().await;
        drop(client);
        let error = begins_with(&server, b"PRI").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
