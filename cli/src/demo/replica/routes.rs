//! What the demo service answers. Any method is accepted on every route but `/fault`.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};

use super::{
    fault::{self, Fault, Kind},
    messages,
    stats::Stats,
};

const SLOW: Duration = Duration::from_secs(20);
/// Bodies up to this size come back in `/echo`'s answer; of longer ones only length and checksum do.
const MAX_ECHOED_BYTES: usize = 16 << 10;

/// An answer's body: made here, or the request's own on its way back.
type AnswerBody = Either<Full<Bytes>, Incoming>;

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Answer {
    Response(Response<AnswerBody>),
    /// Reset the connection without a byte of an answer.
    Reset,
}

/// One replica's state over all of its connections.
#[derive(Debug)]
pub(super) struct Service {
    id: String,
    fault: Mutex<Option<Fault>>,
    flaky_calls: AtomicU64,
    stats: Stats,
}

impl Service {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            fault: Mutex::default(),
            flaky_calls: AtomicU64::default(),
            stats: Stats::default(),
        }
    }

    /// Answers one request. `random` draws a number in 0.0..1.0.
    pub(super) async fn answer(&self, request: Request<Incoming>, mut random: impl FnMut() -> f64) -> Answer {
        let path = request.uri().path().to_owned();
        match path.split('/').skip(1).collect::<Vec<_>>()[..] {
            ["fault"] => return self.json(StatusCode::OK, &self.fault_now()),
            ["fault", name] => return self.set_fault(request.method(), name, query(&request)),
            ["stats"] => return self.json(StatusCode::OK, &self.stats.to_json()),
            _ => self.stats.count(request.method().as_str(), &path),
        }
        let fault = *self.fault.lock().expect("no code that holds the fault panics");
        match fault.and_then(|fault| fault.strike(Instant::now(), random())) {
            Some(Kind::Down) => return self.text(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable"),
            Some(Kind::Reset) => return Answer::Reset,
            Some(Kind::Hang) => {
                // The caller's patience ends first; this only bounds how long it is held.
                tokio::time::sleep(fault::MAX_SPAN).await;
                return Answer::Reset;
            }
            Some(Kind::Slow(delay)) => tokio::time::sleep(delay).await,
            None => {}
        }
        let default_delay =
            if matches!(path.as_str(), "/messages/slow" | "/slow") { SLOW } else { Duration::ZERO };
        match fault::duration(query(&request), "delay", default_delay) {
            Ok(delay) if delay.is_zero() => {}
            Ok(delay) => tokio::time::sleep(delay).await,
            Err(why) => return self.text(StatusCode::BAD_REQUEST, &why),
        }
        self.route(&path, request, random).await
    }

    async fn route(&self, path: &str, request: Request<Incoming>, mut random: impl FnMut() -> f64) -> Answer {
        const FAILED: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
        // The routes that fail by design can be asked for with or without the folder of the messages.
        let path = match path {
            "/slow" | "/down" | "/unreliable" | "/flaky" | "/fallback" => format!("/messages{path}"),
            _ => path.to_owned(),
        };
        let path = path.as_str();
        match path {
            "/" | "/hello" => self.text(StatusCode::OK, &format!("Hello from {}", self.id)),
            "/messages" | "/messages/slow" => self.json(StatusCode::OK, &messages::all()),
            "/messages/down" => self.text(FAILED, "Service unavailable"),
            "/messages/unreliable" if random() < 0.5 => self.text(FAILED, "Random failure"),
            // A cycle of two failures and a success.
            "/messages/flaky" if self.flaky_calls.fetch_add(1, Ordering::Relaxed) % 3 < 2 => {
                self.text(FAILED, "Flaky failure")
            }
            "/messages/unreliable" | "/messages/flaky" => self.json(StatusCode::OK, &messages::all()),
            "/messages/fallback" => self.json(StatusCode::OK, &messages::fallback()),
            "/echo/stream" => self.stream_back(request),
            _ if path == "/echo" || path.starts_with("/echo/") => self.echo(request).await,
            _ => match path.strip_prefix("/status/").and_then(|code| code.parse::<StatusCode>().ok()) {
                Some(status) if status.as_u16() >= 200 => self.text(status, ""),
                _ => self.text(StatusCode::NOT_FOUND, "no such route"),
            },
        }
    }

    /// Describes the request as it arrived: names of headers in lower case, all else byte for byte.
    async fn echo(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let Ok(body) = Received::read(body).await else {
            // The sender has broken off: there is nobody to answer.
            return Answer::Reset;
        };
        let headers: Vec<Value> = head
            .headers
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        let text = (body.length <= MAX_ECHOED_BYTES).then(|| String::from_utf8(body.start).ok()).flatten();
        self.json(
            StatusCode::OK,
            &json!({
                "replica": self.id,
                "method": head.method.as_str(),
                "target": head.uri.to_string(),
                "version": format!("{:?}", head.version),
                "headers": headers,
                "bodyLength": body.length,
                "bodyCrc32": format!("{:08x}", body.crc32),
                "body": text,
            }),
        )
    }

    /// Sends the request's body back as it comes in.
    fn stream_back(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let mut response = Response::new(Either::Right(body));
        if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
            response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        self.signed(response)
    }

    /// The fault that it has, whoever set it; null without one.
    fn fault_now(&self) -> Value {
        let fault = *self.fault.lock().expect("no code that holds the fault panics");
        fault.and_then(|fault| fault.to_json(Instant::now())).unwrap_or(Value::Null)
    }

    fn set_fault(&self, method: &Method, name: &str, query: &str) -> Answer {
        if method != Method::POST {
            let answer = self.text(StatusCode::METHOD_NOT_ALLOWED, "faults are set with POST");
            let Answer::Response(mut response) = answer else { return answer };
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return Answer::Response(response);
        }
        let now = Instant::now();
        match fault::parse(name, query, now) {
            Err(why) => self.text(StatusCode::BAD_REQUEST, &why),
            Ok(fault) => {
                *self.fault.lock().expect("no code that holds the fault panics") = fault;
                let text = match fault.and_then(|fault| fault.left(now)) {
                    Some(left) => {
                        format!("{}: {name} for {}", self.id, humantime::format_duration(left))
                    }
                    None => format!("{}: no fault", self.id),
                };
                self.text(StatusCode::OK, &text)
            }
        }
    }

    fn text(&self, status: StatusCode, text: &str) -> Answer {
        let line = if text.is_empty() { String::new() } else { format!("{text}\n") };
        self.made(status, "text/plain; charset=utf-8", line)
    }

    fn json(&self, status: StatusCode, value: &Value) -> Answer {
        self.made(status, "application/json", format!("{value}\n"))
    }

    fn made(&self, status: StatusCode, kind: &'static str, body: String) -> Answer {
        let mut response = Response::new(Either::Left(Full::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        self.signed(response)
    }

    /// Names this replica, so that a caller behind the proxy can see who answered.
    fn signed(&self, mut response: Response<AnswerBody>) -> Answer {
        let id = HeaderValue::from_str(&self.id).expect("a replica id is visible ASCII");
        response.headers_mut().insert("x-demo-replica", id);
        Answer::Response(response)
    }
}

fn query(request: &Request<Incoming>) -> &str {
    request.uri().query().unwrap_or_default()
}

/// A body, of which only the beginning is kept.
#[derive(Debug)]
struct Received {
    length: usize,
    crc32: u32,
    start: Vec<u8>,
}

impl Received {
    async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Self, B::Error> {
        let mut checksum = crc32fast::Hasher::new();
        let (mut length, mut start) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            checksum.update(&data);
            length += data.len();
            let room = MAX_ECHOED_BYTES - start.len();
            start.extend_from_slice(&data[..data.len().min(room)]);
        }
        Ok(Self { length, crc32: checksum.finalize(), start })
    }
}
