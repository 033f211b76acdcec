//! Load at a steady rate that no slow answer holds up, a third of it POSTs, and what became of each request.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_tests::http1::Connection;
use http::{Request, header::CONNECTION};
use tokio::{task::JoinSet, time::sleep_until};

use crate::replica::lock;

/// Requests under way at once, at most.
const CONNECTIONS: usize = 200;

/// One request's fate.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    pub(crate) is_post: bool,
    /// `None`: there was no whole answer.
    pub(crate) status: Option<u16>,
    pub(crate) body: Bytes,
    pub(crate) has_retry_after: bool,
    pub(crate) took: Duration,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Fates(pub(crate) Vec<Fate>);

/// Sends `per_second` requests for so long.
pub(crate) async fn load(address: SocketAddr, per_second: u32, lasts: Duration) -> Fates {
    load_with(address, per_second, lasts, true).await
}

/// The same, without a POST.
pub(crate) async fn load_of_gets(address: SocketAddr, per_second: u32, lasts: Duration) -> Fates {
    load_with(address, per_second, lasts, false).await
}

async fn load_with(address: SocketAddr, per_second: u32, lasts: Duration, has_posts: bool) -> Fates {
    static ID: AtomicU64 = AtomicU64::new(0);
    let began = Instant::now();
    let total = u64::from(per_second) * lasts.as_millis() as u64 / 1000;
    let (next, fates) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS.min(total as usize) {
        let (next, fates) = (Arc::clone(&next), Arc::clone(&fates));
        clients.spawn(async move {
            let mut kept = None;
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= total {
                    return;
                }
                let due = began + Duration::from_secs_f64(number as f64 / f64::from(per_second));
                sleep_until(due.into()).await;
                let is_post = has_posts && is_post(number);
                let fate = ask(&mut kept, address, ID.fetch_add(1, Relaxed), is_post).await;
                lock(&fates).push(fate);
            }
        });
    }
    while clients.join_next().await.is_some() {}
    let fates = std::mem::take(&mut *lock(&fates));
    Fates(fates)
}

/// Whether a request of a mixed load is a POST: one of each three, and never by a step of three, or with three replicas in
/// turns one of them would get all or none of them.
fn is_post(number: u64) -> bool {
    matches!(number % 9, 0 | 4 | 8)
}

/// One GET on a connection of its own.
pub(crate) async fn probe(address: SocketAddr) -> Fate {
    ask(&mut None, address, 0, false).await
}

async fn ask(kept: &mut Option<Connection>, address: SocketAddr, id: u64, is_post: bool) -> Fate {
    let at = Instant::now();
    let (method, body) =
        if is_post { ("POST", Bytes::from_static(b"a body")) } else { ("GET", Bytes::new()) };
    let request = Request::builder().method(method).uri("/orders/hello").header("x-drill-id", id.to_string());
    let request = request.body(body).expect("the request is valid");
    let answer = async {
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(Connection::open(address).await?),
        };
        connection.send(request).await
    };
    let answer = answer.await;
    let took = at.elapsed();
    if !answer.as_ref().is_ok_and(|answer| !answer.headers().contains_key(CONNECTION)) {
        *kept = None;
    }
    match answer {
        Ok(answer) => Fate {
            is_post,
            status: Some(answer.status().as_u16()),
            has_retry_after: answer.headers().contains_key("retry-after"),
            body: answer.into_body(),
            took,
        },
        Err(_) => Fate { is_post, status: None, body: Bytes::new(), has_retry_after: false, took },
    }
}

impl Fates {
    fn of(&self, is_post: bool) -> impl Iterator<Item = &Fate> {
        self.0.iter().filter(move |fate| fate.is_post == is_post)
    }

    pub(crate) fn failed(&self, is_post: bool) -> u64 {
        self.of(is_post).filter(|fate| fate.status != Some(200)).count() as u64
    }

    pub(crate) fn count(&self, is_post: bool) -> u64 {
        self.of(is_post).count() as u64
    }

    /// Answers of 200 that are not whole.
    pub(crate) fn damaged(&self) -> u64 {
        let is_damaged = |fate: &&Fate| fate.status == Some(200) && fate.body.as_ref() != b"ok";
        self.0.iter().filter(is_damaged).count() as u64
    }

    /// Of GETs.
    pub(crate) fn median(&self) -> Duration {
        percentile(self.of(false).map(|fate| fate.took).collect(), 0.5)
    }

    /// Of GETs.
    pub(crate) fn slowest(&self) -> Duration {
        self.of(false).map(|fate| fate.took).max().unwrap_or_default()
    }

    /// Of GETs.
    pub(crate) fn p99(&self) -> Duration {
        percentile(self.of(false).map(|fate| fate.took).collect(), 0.99)
    }
}

pub(crate) fn percentile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    let place = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(place).copied().unwrap_or_default()
}
