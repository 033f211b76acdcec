//! Traces: what became of sampled requests, as spans, to a collector by OTLP.
//!
//! A worker hands over what it knows of a request when its answer has ended (`story`), through a bounded queue that never
//! makes it wait; a task beside the workers makes spans of it (`spans`, in the messages of `otlp`) and sends them in
//! batches (`export`). Which requests are sampled, and under which ids, is for `context`. Without an endpoint there is
//! none of this.

mod context;
mod endpoint;
mod export;
mod otlp;
mod sender;
mod spans;
mod story;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use gateway_runtime::tls::ClientTls;
use tokio::sync::{Mutex, mpsc};

pub(crate) use context::{Context, Parent, Sampling, Traceparent};
pub(crate) use endpoint::Collector;
pub use endpoint::Protocol;
pub(crate) use story::{Event, Story, Tried};

/// Requests that wait to be sent at most; each has a span, and one for each of its attempts. More are lost.
const MAX_WAITING: usize = 2048;

/// Which of a process's spans are sent where, and what came of that.
#[derive(Debug)]
pub struct Tracer {
    sampling: Sampling,
    collector: Collector,
    /// What the spans say of this process.
    node_id: String,
    queue: mpsc::Sender<Story>,
    /// Locked for a whole run, by the one task that sends.
    waiting: Mutex<mpsc::Receiver<Story>>,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    queue_full: AtomicU64,
    export_failed: AtomicU64,
    rejected: AtomicU64,
}

impl Tracer {
    /// Sends what `sampling` takes to `collector`, once [`Tracer::export`] runs.
    pub(crate) fn new(collector: Collector, sampling: Sampling, node_id: String) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        Self { sampling, collector, node_id, queue, waiting: Mutex::new(waiting), counts: Arc::default() }
    }

    /// Whom the collector is believed by, where that is in a file that may change.
    pub(crate) fn tls_with_files(&self) -> Option<Arc<ClientTls>> {
        self.collector.tls_with_files()
    }

    /// Which requests are told of.
    pub(crate) fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Hands over what became of a request. Never waits: what finds the queue full is counted and lost.
    pub(crate) fn tell(&self, story: Story) {
        let spans = story.span_count();
        if self.queue.try_send(story).is_err() {
            self.counts.queue_full.fetch_add(spans, Relaxed);
        }
    }

    /// Spans that a collector has taken.
    pub(crate) fn exported(&self) -> u64 {
        self.counts.exported.load(Relaxed)
    }

    /// Spans that were lost, by why.
    pub(crate) fn lost(&self) -> [(&'static str, u64); 3] {
        let counts = &self.counts;
        [
            ("queue_full", counts.queue_full.load(Relaxed)),
            ("export_failed", counts.export_failed.load(Relaxed)),
            ("rejected", counts.rejected.load(Relaxed)),
        ]
    }
}
