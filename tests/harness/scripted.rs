//! A replica in this process that sees every byte, and answers or misbehaves as a script says.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes, and the connection stays open.
    Answer(Vec<u8>),
    /// The same, later.
    AnswerAfter(Duration, Vec<u8>),
    /// These bytes, and the connection is closed.
    AnswerAndClose(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing, for as long as the other side waits.
    Hang,
}

impl Act {
    /// 200 with a body.
    pub fn ok(body: &[u8]) -> Self {
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(body);
        Self::Answer(answer)
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and fields, up to the empty line.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// When all of it was there.
    pub arrived: Instant,
    /// When the script was done with it.
    pub ended: Option<Instant>,
}

impl Seen {
    /// The method.
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// Path and query, byte for byte.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field, whose name is given in lower case.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

type Script = Arc<dyn Fn(&Seen, usize) -> Act + Send + Sync>;

/// The replica. Dropping it closes its port and its connections.
pub struct Scripted {
    address: SocketAddr,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: Option<JoinHandle<()>>,
    /// Keeps the port while nobody listens on it.
    _reserved: Socket,
}

impl Scripted {
    /// Listens on a free port. `script` is asked for each request, with its number from 0.
    pub fn start(script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let mut replica = Self::refusing(script);
        replica.listen();
        replica
    }

    /// Has a port, but refuses connections until [`Scripted::listen`].
    pub fn refusing(script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let reserved = bound("127.0.0.1:0".parse().expect("an address"));
        let address = reserved.local_addr().ok().and_then(|address| address.as_socket());
        let address = address.expect("a bound socket has an address");
        Self { address, script: Arc::new(script), seen: Arc::default(), accepting: None, _reserved: reserved }
    }

    /// Accepts connections.
    pub fn listen(&mut self) {
        let socket = bound(self.address);
        socket.listen(1024).expect("a bound socket can listen");
        let listener = TcpListener::from_std(socket.into()).expect("the test runs in a tokio runtime");
        let (script, seen) = (Arc::clone(&self.script), Arc::clone(&self.seen));
        self.accepting = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        }));
    }

    /// Closes all connections and refuses new ones, as a process that died does.
    pub async fn refuse(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Its sockets are closed once it is gone.
            let _ = accepting.await;
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far, in the order of their arrival.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets");
    socket.set_reuse_address(true).expect("the option exists");
    socket.set_nonblocking(true).expect("the option exists");
    socket.bind(&address.into()).expect("the port is free or reserved by us");
    socket
}

/// Serves one connection until either side ends it.
async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut unread = Vec::new();
    while let Ok(Some(request)) = read_request(&mut stream, &mut unread).await {
        let number = {
            let mut seen = lock(&seen);
            seen.push(request.clone());
            seen.len() - 1
        };
        let act = script(&request, number);
        if let Act::AnswerAfter(delay, _) = &act {
            tokio::time::sleep(*delay).await;
        }
        let (answer, stays_open) = match act {
            Act::Answer(bytes) | Act::AnswerAfter(_, bytes) => (bytes, true),
            Act::AnswerAndClose(bytes) => (bytes, false),
            Act::Close => (Vec::new(), false),
            Act::Reset => {
                // Closing with a linger time of zero sends RST.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                (Vec::new(), false)
            }
            Act::Hang => {
                let _ = stream.read(&mut [0]).await;
                (Vec::new(), false)
            }
        };
        // Before the answer leaves: the next request may arrive before this line would run after it.
        lock(&seen)[number].ended = Some(Instant::now());
        if stream.write_all(&answer).await.is_err() || !stays_open {
            return;
        }
    }
}

/// Reads one request with its body; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<Seen>> {
    let head_end = loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    };
    let rest = unread.split_off(head_end);
    let head = String::from_utf8_lossy(unread).into_owned();
    *unread = rest;
    let mut request = Seen { head, body: Vec::new(), arrived: Instant::now(), ended: None };
    if request.values("transfer-encoding") == ["chunked"] {
        while let Some(chunk) = read_chunk(stream, unread).await? {
            request.body.extend(chunk);
        }
    } else if let Some(length) = request.values("content-length").first().and_then(|text| text.parse().ok()) {
        request.body = take(stream, unread, length).await?;
    }
    request.arrived = Instant::now();
    Ok(Some(request))
}

/// One chunk; `None` after the last one and the empty line behind it.
async fn read_chunk(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(take(stream, unread, 1).await?);
    }
    let size = String::from_utf8_lossy(&line);
    let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
    let chunk = take(stream, unread, size).await?;
    take(stream, unread, 2).await?;
    Ok((size > 0).then_some(chunk))
}

/// Exactly `length` bytes.
async fn take(stream: &mut TcpStream, unread: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while unread.len() < length {
        if stream.read_buf(unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = unread.split_off(length);
    Ok(std::mem::replace(unread, rest))
}
