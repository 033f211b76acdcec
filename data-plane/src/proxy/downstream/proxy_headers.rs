//! Connections that begin with a PROXY header: whose word is taken, and what becomes of all others.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gateway_proto::Networks;
use gateway_runtime::accept::Peek;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

use super::proxy_protocol::{Beginning, Defect, MAX_HEADER, look};
use crate::proxy::errors::refusals::Reason;

/// Looked at at once. Longer headers are rare.
const LOOK: usize = 512;
/// Between two looks at a beginning that may yet become a header or something else.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Which connections begin with a PROXY header.
#[derive(Debug, Clone)]
pub struct ProxyHeaders {
    /// The peers that may send one. Nobody else's is read.
    from: Networks,
    /// Whether all connections have to be theirs, and have one.
    is_required: bool,
}

impl ProxyHeaders {
    /// Takes the word of these peers. If it `is_required`, any other connection is closed; if not, those of theirs that begin
    /// otherwise, and all others, are plain clients.
    pub fn new(from: Networks, is_required: bool) -> Self {
        Self { from, is_required }
    }

    /// Whether this peer may send one.
    pub(in crate::proxy) fn may_come_from(&self, peer: IpAddr) -> bool {
        self.from.contains(peer)
    }

    /// Whose connection it is: what its header names, else its peer. Nothing is read beyond the header.
    ///
    /// A listed peer whose beginning is not there by `deadline` is refused. Cancel safe, if the connection is given up then.
    ///
    /// # Errors
    /// When the connection is to be closed: why, unless the peer has closed it already.
    pub(in crate::proxy) async fn client_of(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<SocketAddr, Option<Reason>> {
        let plain = |why| if self.is_required { Err(Some(why)) } else { Ok(peer) };
        if !self.may_come_from(peer.ip()) {
            return plain(Reason::ProxyHeaderUnlisted);
        }
        match timeout_at(deadline, read(stream)).await {
            Ok(Ok(Ok(Read::Header(source)))) => Ok(source.unwrap_or(peer)),
            Ok(Ok(Ok(Read::Nothing))) => plain(Reason::ProxyHeaderMissing),
            Ok(Ok(Err(defect))) => {
                tracing::debug!(%defect, %peer, "a connection begins with a broken PROXY header");
                Err(Some(Reason::ProxyHeaderMalformed))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, %peer, "a connection did not begin");
                Err(None)
            }
            Err(_) => Err(Some(Reason::ProxyHeaderTimeout)),
        }
    }
}

/// What a connection begins with.
enum Read {
    Header(Option<SocketAddr>),
    /// Something else, of which nothing was taken.
    Nothing,
}

/// Takes a header off the beginning of a connection.
async fn read(stream: &mut TcpStream) -> io::Result<Result<Read, Defect>> {
    let mut header = Vec::new();
    let mut pause = MIN_PAUSE;
    loop {
        let taken = header.len();
        header.resize((taken + LOOK).min(MAX_HEADER), 0);
        let is_all = stream.has_ended().await?;
        let seen = match stream.peek(&mut header[taken..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => taken + count,
        };
        match look(&header[..seen]) {
            Err(defect) => return Ok(Err(defect)),
            Ok(Beginning::None) => return Ok(Ok(Read::Nothing)),
            Ok(Beginning::Header { length, source }) => {
                stream.read_exact(&mut header[taken..length]).await?;
                return Ok(Ok(Read::Header(source)));
            }
            // All of it belongs to the header, so it can be taken, and more be waited for.
            Ok(Beginning::Part) => {
                stream.read_exact(&mut header[taken..seen]).await?;
                header.truncate(seen);
            }
            Ok(Beginning::Open) if is_all => return Ok(Ok(Read::Nothing)),
            // It may belong to what is read next. A peek does not wait for more than it has shown.
            Ok(Beginning::Open) => {
                header.truncate(taken);
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// What a connection with these bytes, sent in these pieces, comes to, and what is left of it behind the header.
    async fn begun(
        is_required: bool,
        from: &str,
        pieces: &[&[u8]],
    ) -> (Result<String, Option<Reason>>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        let headers = ProxyHeaders::new(Networks::parse(from.split(',')).unwrap(), is_required);
        let deadline = Instant::now() + Duration::from_secs(10);
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                // Until the other side had a chance to look at it.
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (client, ()) = tokio::join!(headers.client_of(&mut stream, peer, deadline), sending);
        let mut rest = String::new();
        if client.is_ok() {
            stream.read_to_string(&mut rest).await.unwrap();
        }
        let name = client.map(|client| if client == peer { "peer".into() } else { client.to_string() });
        (name, rest)
    }

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x02xx";
    const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const ANY: &str = "127.0.0.0/8";

    #[tokio::test]
    async fn a_header_names_the_client_and_nothing_behind_it_is_taken() {
        for is_required in [false, true] {
            let (client, rest) = begun(is_required, ANY, &[HEADER, GET]).await;
            assert_eq!((client.as_deref().ok(), rest.as_bytes()), (Some("192.0.2.7:4711"), GET));
            let (client, rest) = begun(is_required, ANY, &[LOCAL, GET]).await;
            assert_eq!(
                (client.as_deref().ok(), rest.as_bytes()),
                (Some("peer"), GET),
                "it speaks for itself"
            );
        }
    }

    #[tokio::test]
    async fn a_header_in_pieces_of_one_byte_is_put_together() {
        let pieces: Vec<&[u8]> = HEADER.chunks(1).chain([GET]).collect();
        let (client, rest) = begun(true, ANY, &pieces).await;
        assert_eq!((client.as_deref().ok(), rest.as_bytes()), (Some("192.0.2.7:4711"), GET));
    }

    #[tokio::test]
    async fn a_header_with_kilobytes_of_tlvs_is_taken_whole() {
        let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        long.extend(3000_u16.to_be_bytes());
        long.extend([192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb]);
        long.extend(vec![b'x'; 3000 - 12]);
        let (client, rest) = begun(true, ANY, &[&long, GET]).await;
        assert_eq!((client.as_deref().ok(), rest.as_bytes()), (Some("192.0.2.7:4711"), GET));
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_closed_and_counted_by_its_reason() {
        let closed =
            async |is_required, from, pieces: &[&[u8]]| begun(is_required, from, pieces).await.0.unwrap_err();
        assert_eq!(closed(true, ANY, &[GET]).await, Some(Reason::ProxyHeaderMissing));
        assert_eq!(closed(true, "192.0.2.0/24", &[HEADER, GET]).await, Some(Reason::ProxyHeaderUnlisted));
        assert_eq!(closed(true, ANY, &[b"PROXY TCP4 x\r\n"]).await, Some(Reason::ProxyHeaderMalformed));
        assert_eq!(closed(false, ANY, &[b"PROXY TCP4 x\r\n"]).await, Some(Reason::ProxyHeaderMalformed));
        assert_eq!(closed(true, ANY, &[&HEADER[..20]]).await, None, "the peer has gone by itself");
        assert_eq!(closed(true, ANY, &[]).await, None);
    }

    #[tokio::test]
    async fn where_headers_are_optional_a_plain_client_is_one_and_an_unlisted_ones_header_is_not_read() {
        let (client, rest) = begun(false, ANY, &[GET]).await;
        assert_eq!((client.as_deref().ok(), rest.as_bytes()), (Some("peer"), GET));
        let (client, rest) = begun(false, "192.0.2.0/24", &[HEADER]).await;
        assert_eq!((client.as_deref().ok(), rest.as_bytes()), (Some("peer"), HEADER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_is_not_waited_for_longer_than_the_first_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        client.write_all(b"PRO").await.unwrap();
        let headers = ProxyHeaders::new(Networks::parse([ANY]).unwrap(), true);
        let start = Instant::now();
        let found = headers.client_of(&mut stream, peer, start + Duration::from_secs(3)).await;
        assert_eq!((found, start.elapsed().as_secs()), (Err(Some(Reason::ProxyHeaderTimeout)), 3));
    }
}
