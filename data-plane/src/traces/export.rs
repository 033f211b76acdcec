//! Sends spans in batches, within bounds: of time, of memory, and of patience with a collector that does not answer.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use gateway_runtime::Shutdown;
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Story, Tracer,
    otlp::{ExportRequest, Resource, ResourceSpans, Scope, ScopeSpans, attribute},
    sender::{NotTaken, Sender},
    spans::spans,
};

/// Spans of one batch, or a few more.
const BATCH_SPANS: u64 = 512;
/// How long a batch waits to be filled.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// How often a batch is sent at most.
const MAX_TRIES: u32 = 4;
/// Pause before the second try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause, whatever a collector asks for.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// At the end of the process, what is left has this long.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often it is told that spans are lost.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

impl Tracer {
    /// Sends what is handed over until `stop` begins, and then what is left. To be run once at a time.
    pub(crate) async fn export(&self, stop: Shutdown) {
        let mut waiting = self.waiting.lock().await;
        let mut sender = Sender::new(&self.collector);
        let (mut batch, mut told_at) = (Vec::new(), None);
        loop {
            tokio::select! {
                biased;
                () = stop.begun() => break,
                () = fill(&mut waiting, &mut batch) => {}
            }
            let stories = std::mem::take(&mut batch);
            let count = span_count(&stories);
            let body = self.encode(&stories);
            drop(stories);
            let mut tries = 1;
            let ended = loop {
                match sender.send(&body).await {
                    Ok(rejected) => break Ok(rejected),
                    Err(NotTaken { why, again }) => {
                        let Some(asked) = again.filter(|_| tries < MAX_TRIES) else { break Err(why) };
                        let pause = asked.unwrap_or(FIRST_PAUSE * 2_u32.pow(tries - 1)).min(MAX_PAUSE);
                        tokio::select! {
                            () = sleep(pause) => tries += 1,
                            () = stop.begun() => break Err(why),
                        }
                    }
                }
            };
            self.count(count, ended, &mut told_at);
        }
        // Whoever hands something over from now on finds nobody.
        waiting.close();
        while let Ok(story) = waiting.try_recv() {
            batch.push(story);
        }
        let deadline = Instant::now() + LAST_WORDS;
        while !batch.is_empty() {
            let rest = batch.split_off(batch_length(&batch));
            let body = self.encode(&batch);
            let ended = timeout_at(deadline, sender.send(&body)).await;
            let ended = ended.unwrap_or_else(|_| Err(NotTaken::later("no time is left")));
            self.count(span_count(&batch), ended.map_err(|not| not.why), &mut told_at);
            batch = rest;
        }
    }

    fn count(&self, spans: u64, ended: Result<u64, String>, told_at: &mut Option<Instant>) {
        let counts = &self.counts;
        let rejected = ended.as_ref().map_or(0, |rejected| *rejected).min(spans);
        match &ended {
            Ok(_) => counts.exported.fetch_add(spans - rejected, Relaxed),
            Err(_) => counts.export_failed.fetch_add(spans, Relaxed),
        };
        counts.rejected.fetch_add(rejected, Relaxed);
        let is_due = told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
        match ended {
            Err(why) if is_due => {
                tracing::warn!(collector = %self.collector, spans, %why, "spans were lost");
                *told_at = Some(Instant::now());
            }
            Ok(1..) if is_due => {
                tracing::warn!(collector = %self.collector, rejected, "the collector rejected spans");
                *told_at = Some(Instant::now());
            }
            _ => {}
        }
    }

    fn encode(&self, stories: &[Story]) -> Bytes {
        let resource = Resource {
            attributes: vec![
                attribute("service.name", "gw-data-plane"),
                attribute("service.instance.id", self.node_id.as_str()),
                attribute("service.version", env!("CARGO_PKG_VERSION")),
            ],
        };
        let scope = Scope { name: "gateway.data-plane".into(), version: env!("CARGO_PKG_VERSION").into() };
        let spans = stories.iter().flat_map(spans).collect();
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
                schema_url: String::new(),
            }],
        };
        request.encode_to_vec().into()
    }
}

fn span_count(stories: &[Story]) -> u64 {
    stories.iter().map(Story::span_count).sum()
}

/// How many of these make one batch; one at least.
fn batch_length(stories: &[Story]) -> usize {
    let mut spans = 0;
    let fits = stories.iter().take_while(|story| {
        let had_room = spans < BATCH_SPANS;
        spans += story.span_count();
        had_room
    });
    fits.count()
}

/// Completes when there is a batch: a full one, or one that has waited for long enough. What it has when it is dropped is in
/// `batch`.
async fn fill(waiting: &mut mpsc::Receiver<Story>, batch: &mut Vec<Story>) {
    let Some(first) = waiting.recv().await else { return std::future::pending().await };
    batch.push(first);
    let due = Instant::now() + BATCH_TIME;
    while span_count_is_below_limit(batch) {
        match timeout_at(due, waiting.recv()).await {
            Ok(Some(story)) => batch.push(story),
            Ok(None) | Err(_) => return,
        }
    }
}

fn span_count_is_below_limit(batch: &[Story]) -> bool {
    // Each is one span at least, so that most of the time nothing has to be added up.
    (batch.len() as u64) < BATCH_SPANS && span_count(batch) < BATCH_SPANS
}
