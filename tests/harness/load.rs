//! Steady traffic beside a test, and how it fared.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, header::CONNECTION};
use tokio::{
    sync::RwLock,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{ends_within, http1::Connection};

/// Connections that share the load.
const CONNECTIONS: u32 = 8;
/// Every so many requests one is a POST.
const POST_EVERY: u64 = 3;
/// Longest that a request may be without an answer: longer than the gateway takes for any.
const PATIENCE: Duration = Duration::from_secs(60);
/// Failures kept with their reason; more are only counted.
const MAX_REASONS: usize = 10;

/// Requests sent at a steady rate until [`Load::stop`]: two GETs, then a POST with a body, on kept-alive connections.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<()>,
    shared: Arc<Shared>,
}

/// How long a connection of a load is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Connections,
    Nothing,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    tally: Mutex<Tally>,
    /// Held for reading by every POST in flight.
    posting: RwLock<()>,
}

/// What became of the load.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests with a whole answer, or without.
    pub sent: u64,
    /// Those that were not answered with 200.
    pub failed: u64,
    /// Why the first of them failed.
    pub reasons: Vec<String>,
    /// The longest any of them took.
    pub slowest: Duration,
}

impl Load {
    /// Begins to send `per_second` requests for `target`.
    pub fn start(address: SocketAddr, target: &str, per_second: u32) -> Self {
        Self::begin(address, target, per_second, Keep::Connections)
    }

    /// The same, with a connection for each request.
    pub fn start_connecting(address: SocketAddr, target: &str, per_second: u32) -> Self {
        Self::begin(address, target, per_second, Keep::Nothing)
    }

    fn begin(address: SocketAddr, target: &str, per_second: u32, keep: Keep) -> Self {
        let shared = Arc::new(Shared::default());
        let period = Duration::from_secs(1) * CONNECTIONS / per_second;
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            clients.spawn(client(address, target.to_owned(), period, keep, Arc::clone(&shared)));
        }
        Self { clients, shared }
    }

    /// What has become of it so far.
    pub fn tally(&self) -> Tally {
        self.shared.tally().clone()
    }

    /// Does something while no POST is under way: whoever had one would rightly lose it to a killed replica.
    pub async fn between_posts(&self, act: impl FnOnce()) {
        let _nobody = self.shared.posting.write().await;
        act();
    }

    /// Ends it once every request is answered.
    pub async fn stop(mut self) -> Tally {
        self.shared.is_over.store(true, Relaxed);
        // Each waits for one answer at most.
        ends_within(2 * PATIENCE, "the last requests of a load are answered", async {
            while let Some(client) = self.clients.join_next().await {
                client.expect("clients do not panic");
            }
        })
        .await;
        self.tally()
    }
}

impl Tally {
    /// # Panics
    /// When a request failed, or nothing was sent.
    pub fn assert_flawless(&self) {
        assert!(self.sent > 0, "no load");
        assert_eq!(self.failed, 0, "of {} requests: {:?}", self.sent, self.reasons);
    }
}

impl Shared {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn client(address: SocketAddr, target: String, period: Duration, keep: Keep, shared: Arc<Shared>) {
    let mut ticks = interval(period);
    // A slow answer is not followed by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    for number in 0.. {
        ticks.tick().await;
        if shared.is_over.load(Relaxed) {
            return;
        }
        if keep == Keep::Nothing {
            connection = None;
        }
        let began = Instant::now();
        let sent = async {
            if number % POST_EVERY == POST_EVERY - 1 {
                let _posting = shared.posting.read().await;
                send(&mut connection, address, Method::POST, &target).await
            } else {
                send(&mut connection, address, Method::GET, &target).await
            }
        };
        let result = timeout(PATIENCE, sent).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        let mut tally = shared.tally();
        tally.sent += 1;
        tally.slowest = tally.slowest.max(began.elapsed());
        if let Err(why) = result {
            connection = None;
            tally.failed += 1;
            if tally.reasons.len() < MAX_REASONS {
                tally.reasons.push(why);
            }
        }
    }
}

/// One request, on the connection that is there or a new one.
async fn send(
    kept: &mut Option<Connection>,
    address: SocketAddr,
    method: Method,
    target: &str,
) -> Result<(), String> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open(address).await?),
    };
    let body = if method == Method::POST { Bytes::from_static(b"a body") } else { Bytes::new() };
    let shown = format!("{method} {target}");
    let request =
        Request::builder().method(method).uri(target).body(body).map_err(|error| error.to_string())?;
    let answer = connection.send(request).await.map_err(|why| format!("{shown}: {why}"))?;
    if answer.headers().contains_key(CONNECTION) {
        // It says that the connection ends.
        *kept = None;
    }
    if answer.status() == 200 {
        return Ok(());
    }
    Err(format!("{shown}: {} {}", answer.status(), String::from_utf8_lossy(answer.body())))
}
