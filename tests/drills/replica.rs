//! A replica in this process that is well, or ill in the way that a drill wants, and remembers which POSTs it has seen.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

/// What is wrong with it; shares are of requests, 0.0..=1.0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    Unavailable(f64),
    Closes(f64),
    /// In the middle of a body.
    Resets(f64),
    Slow(Duration),
}

/// The ids of POSTs, and how often replicas saw each.
pub(crate) type Posts = Arc<Mutex<HashMap<u64, u32>>>;

#[derive(Debug)]
pub(crate) struct Replica {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    seen: Arc<AtomicU64>,
    posts: Posts,
    accepting: Option<AbortHandle>,
    /// Keeps the port while nobody listens on it.
    _reserved: Socket,
}

impl Replica {
    pub(crate) fn start(posts: &Posts) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), posts)
    }

    /// Starts one on a free port of this address.
    pub(crate) fn start_at(host: IpAddr, posts: &Posts) -> Self {
        let reserved = bound(SocketAddr::new(host, 0));
        let address =
            reserved.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound");
        let mut replica = Self {
            address,
            fault: watch::Sender::new(Fault::None),
            seen: Arc::default(),
            posts: Arc::clone(posts),
            accepting: None,
            _reserved: reserved,
        };
        replica.revive();
        replica
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    pub(crate) fn falls_ill(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Closes its port and all connections, as a process does that is killed.
    pub(crate) fn kill(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    /// Listens again.
    pub(crate) fn revive(&mut self) {
        let socket = bound(self.address);
        socket.listen(4096).expect("a bound socket can listen");
        let listener = TcpListener::from_std(socket.into()).expect("a drill runs in a tokio runtime");
        let (fault, seen, posts) = (self.fault.subscribe(), Arc::clone(&self.seen), Arc::clone(&self.posts));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (fault, seen, posts) = (fault.clone(), Arc::clone(&seen), Arc::clone(&posts));
                connections.spawn(serve(stream, fault, seen, posts));
                while connections.try_join_next().is_some() {}
            }
        });
        self.accepting = Some(accepting.abort_handle());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets");
    socket.set_reuse_address(true).expect("the option exists");
    socket.set_nonblocking(true).expect("the option exists");
    socket.bind(&address.into()).expect("the port is free or reserved by us");
    socket
}

async fn serve(mut stream: TcpStream, fault: watch::Receiver<Fault>, seen: Arc<AtomicU64>, posts: Posts) {
    let _ = stream.set_nodelay(true);
    let mut unread = Vec::new();
    loop {
        let Some(head) = read_request(&mut stream, &mut unread).await else { return };
        let number = seen.fetch_add(1, Relaxed);
        let id = head.lines().find_map(|line| line.strip_prefix("x-drill-id: ")?.trim().parse::<u64>().ok());
        if let Some(id) = id.filter(|_| head.starts_with("POST ")) {
            *lock(&posts).entry(id).or_default() += 1;
        }
        let now = *fault.borrow();
        // Evenly spread: of any ten in a row, three are struck by 0.3.
        let strikes = |share: f64| ((number + 1) as f64 * share).floor() > (number as f64 * share).floor();
        let answer: &[u8] = match now {
            Fault::Unavailable(share) if strikes(share) => {
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
            }
            Fault::Closes(share) if strikes(share) => return,
            Fault::Resets(share) if strikes(share) => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf").await;
                // So that the head is on its way before.
                sleep(Duration::from_millis(2)).await;
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
            Fault::Slow(time) => {
                sleep(time).await;
                OK
            }
            _ => OK,
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A whole request with a `content-length` or without a body: its head, in lower case but for the first line.
async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&unread[..end]).into_owned();
            let (first, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
            let fields = fields.to_ascii_lowercase().replace("\r\n", "\n");
            let length =
                fields.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let whole = end + 4 + length.unwrap_or(0_usize);
            if unread.len() >= whole {
                unread.drain(..whole);
                return Some(format!("{first}\n{fields}"));
            }
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}
