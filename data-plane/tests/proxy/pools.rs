//! What becomes of idle connections to a replica that is gone without a word, or gets nothing any more.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_proto::{Policy, policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Barrier,
};

use crate::harness::{Gateway, eventually, raw_replica, read_message, status};

const CONNECTIONS: usize = 4;

/// A replica whose first requests come all at once, each on a connection of its own.
struct Pooled {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    /// From then on it reads and says nothing.
    is_dark: Arc<AtomicBool>,
}

impl Pooled {
    async fn start(answer: &'static str) -> Self {
        let (open, is_dark) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let together = Arc::new(Barrier::new(CONNECTIONS));
        let (counted, dark) = (Arc::clone(&open), Arc::clone(&is_dark));
        let address = raw_replica(move |mut stream| {
            let (open, is_dark, together) = (Arc::clone(&counted), Arc::clone(&dark), Arc::clone(&together));
            async move {
                open.fetch_add(1, Relaxed);
                let mut is_first = true;
                while read_message(&mut stream).await.is_some() {
                    if is_dark.load(Relaxed) {
                        let _ = stream.read(&mut [0]).await;
                        break;
                    }
                    if std::mem::take(&mut is_first) {
                        together.wait().await;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                open.fetch_sub(1, Relaxed);
            }
        })
        .await;
        Self { address, open, is_dark }
    }

    /// Has as many requests answered at once.
    async fn fill(&self, gateway: &Gateway) {
        let ask = || gateway.get("/orders/x");
        tokio::join!(ask(), ask(), ask(), ask());
        assert_eq!(self.open.load(Relaxed), CONNECTIONS);
    }
}

#[tokio::test]
async fn connections_as_old_as_one_that_died_without_a_word_are_not_tried_one_by_one() {
    let replica = Pooled::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let timeout = policy::Timeouts { per_try: Duration::from_millis(200), ..policy::Timeouts::default() };
    let gateway = Gateway::start(&[replica.address], Policy { timeout, ..Policy::default() }).await;
    replica.fill(&gateway).await;
    replica.is_dark.store(true, Relaxed);
    assert_eq!(status(&gateway.get("/orders/x").await), 504);
    eventually("all of them are closed", || replica.open.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn nothing_is_kept_idle_to_a_replica_whose_breaker_is_open() {
    let replica = Pooled::start("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n").await;
    let hour = Duration::from_secs(3600);
    let breaker = policy::Breaker {
        consecutive_failure_count: 4,
        base_open: hour,
        max_open: hour,
        ..policy::Breaker::default()
    };
    let gateway = Gateway::start(&[replica.address], Policy { breaker, ..Policy::default() }).await;
    replica.fill(&gateway).await;
    eventually("all of them are closed", || replica.open.load(Relaxed) == 0).await;
}
