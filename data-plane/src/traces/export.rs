//! Sends spans in batches, within bounds: of time, of memory, and of patience with a collector that does not answer.

use std::{
    fmt,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gateway_runtime::{Shutdown, root_cause};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    Story, Tracer,
    endpoint::Collector,
    otlp::{ExportRequest, ExportResponse, Resource, ResourceSpans, Scope, ScopeSpans, attribute},
    spans::spans,
};

/// Spans of one batch, or a few more.
const BATCH_SPANS: u64 = 512;
/// How long a batch waits to be filled.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// How long one try to send a batch may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is sent at most.
const MAX_TRIES: u32 = 4;
/// Pause before the second try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause, whatever a collector asks for.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// At the end of the process, what is left has this long.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Of an answer, at most so much is read.
const MAX_ANSWER: usize = 64 * 1024;
/// How often it is told that spans are lost.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

const USER_AGENT: &str = concat!("gw-data-plane/", env!("CARGO_PKG_VERSION"));
const PROTOBUF: &str = "application/x-protobuf";

/// Why a batch was not taken.
#[derive(Debug, PartialEq, Eq)]
struct NotTaken {
    why: String,
    /// Whether it may be taken later, and after how long if the collector says so.
    again: Option<Option<Duration>>,
}

impl NotTaken {
    fn later(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), again: Some(None) }
    }
}

impl Tracer {
    /// Sends what is handed over until `stop` begins, and then what is left. To be run once at a time.
    pub(crate) async fn export(&self, stop: Shutdown) {
        let mut waiting = self.waiting.lock().await;
        let mut sender = Sender { collector: &self.collector, link: None };
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

/// Sends batches on a connection that is kept as long as it works.
struct Sender<'a> {
    collector: &'a Collector,
    link: Option<SendRequest<Full<Bytes>>>,
}

impl Sender<'_> {
    /// Sends one batch once. Yields how many of its spans were rejected.
    async fn send(&mut self, body: &Bytes) -> Result<u64, NotTaken> {
        let sent = timeout(SEND_TIMEOUT, self.ask(body)).await;
        let sent =
            sent.unwrap_or_else(|_| Err(NotTaken::later(format_args!("no answer in {SEND_TIMEOUT:?}"))));
        if sent.is_err() {
            self.link = None;
        }
        sent
    }

    async fn ask(&mut self, body: &Bytes) -> Result<u64, NotTaken> {
        let is_usable = match &mut self.link {
            Some(link) => link.ready().await.is_ok(),
            None => false,
        };
        if !is_usable {
            self.link = Some(connect(self.collector).await.map_err(NotTaken::later)?);
        }
        let link = self.link.as_mut().ok_or_else(|| NotTaken::later("no connection"))?;
        let answered = link.send_request(request(self.collector, body)).await;
        let (head, body) = answered.map_err(|error| NotTaken::later(root_cause(&error)))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map(|body| body.to_bytes());
        match head.status {
            StatusCode::OK => {
                // One that cannot be read says nothing of rejected spans.
                let answer = body.ok().and_then(|body| ExportResponse::decode(body).ok());
                let rejected =
                    answer.and_then(|answer| answer.partial_success).map_or(0, |it| it.rejected_spans);
                Ok(u64::try_from(rejected).unwrap_or(0))
            }
            status => Err(NotTaken {
                why: format!("answered {status}"),
                // Those that OTLP says may be sent again.
                again: matches!(status.as_u16(), 429 | 502..=504)
                    .then(|| retry_after(&head.headers, SystemTime::now())),
            }),
        }
    }
}

fn request(collector: &Collector, body: &Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = collector.path.parse().unwrap_or_default();
    let fields = request.headers_mut();
    fields.clone_from(&collector.headers);
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PROTOBUF));
    fields.entry(header::USER_AGENT).or_insert(header::HeaderValue::from_static(USER_AGENT));
    if let Ok(host) = collector.authority.parse() {
        fields.insert(header::HOST, host);
    }
    request
}

/// How long a collector wants to be left alone: seconds, or a date.
fn retry_after(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = fields.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

async fn connect(collector: &Collector) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect((collector.host.as_str(), collector.port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    // At worst it is slower.
    let _ = stream.set_nodelay(true);
    match &collector.tls {
        None => shake_hands(stream).await,
        Some(tls) => {
            let name = ServerName::try_from(collector.host.clone());
            let name = name.map_err(|_| "its name is none that a certificate can be for".to_owned())?;
            let connector = TlsConnector::from(tls.config().await?);
            let stream = connector.connect(name, stream).await;
            shake_hands(stream.map_err(|error| format!("no TLS: {error}"))?).await
        }
    }
}

async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, String> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| root_cause(&error))?;
    // Ends with the sender; errors reach that through its requests.
    tokio::spawn(connection);
    Ok(sender)
}
