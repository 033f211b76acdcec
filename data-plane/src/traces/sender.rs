//! Sends one batch to a collector, by OTLP over HTTP or over gRPC, on a connection that is kept as long as it works.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use gateway_proto::{code_name, time::non_negative};
use gateway_runtime::root_cause;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::{
    endpoint::{Collector, Protocol},
    otlp::{ExportResponse, RetryInfo, RpcStatus},
};

/// How long one try to send a batch may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer, at most so much is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Of what a collector says is wrong, at most so much is told.
const MAX_CHARS: usize = 200;

const USER_AGENT: &str = concat!("gw-data-plane/", env!("CARGO_PKG_VERSION"));

/// Why a batch was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotTaken {
    pub(super) why: String,
    /// Whether it may be taken later, and after how long if the collector says so.
    pub(super) again: Option<Option<Duration>>,
}

impl NotTaken {
    pub(super) fn later(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), again: Some(None) }
    }
}

/// Sends batches.
pub(super) struct Sender<'a> {
    collector: &'a Collector,
    link: Option<Link>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(collector: &'a Collector) -> Self {
        Self { collector, link: None }
    }

    /// Sends one batch once. Yields how many of its spans were rejected.
    pub(super) async fn send(&mut self, body: &Bytes) -> Result<u64, NotTaken> {
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
            Some(link) => link.is_ready().await,
            None => false,
        };
        if !is_usable {
            self.link = Some(connect(self.collector).await.map_err(NotTaken::later)?);
        }
        let link = self.link.as_mut().ok_or_else(|| NotTaken::later("no connection"))?;
        let answered = link.send(request(self.collector, body)).await;
        let (head, body) = answered.map_err(|error| NotTaken::later(root_cause(&error)))?.into_parts();
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        if head.status != StatusCode::OK {
            let status = head.status;
            return Err(NotTaken {
                why: format!("answered {status}"),
                // Those that OTLP says may be sent again.
                again: matches!(status.as_u16(), 429 | 502..=504)
                    .then(|| retry_after(&head.headers, SystemTime::now())),
            });
        }
        match (self.collector.protocol, whole) {
            (Protocol::Http, whole) => {
                // One that cannot be read says nothing of rejected spans.
                Ok(whole.map_or(0, |whole| rejected(&whole.to_bytes())))
            }
            // Without its end, nobody knows whether it was taken.
            (Protocol::Grpc, Err(error)) => Err(NotTaken::later(format_args!("a broken answer: {error}"))),
            (Protocol::Grpc, Ok(whole)) => {
                // Where there is no message, the status comes with the head.
                judge(whole.trailers().filter(|own| own.contains_key(STATUS)).unwrap_or(&head.headers))?;
                // One byte of flags and four of length stand before the message.
                Ok(whole.to_bytes().split_first_chunk::<5>().map_or(0, |(_, message)| rejected(message)))
            }
        }
    }
}

/// How many spans an answer says were rejected.
fn rejected(message: &[u8]) -> u64 {
    let partial = ExportResponse::decode(message).ok().and_then(|answer| answer.partial_success);
    u64::try_from(partial.map_or(0, |partial| partial.rejected_spans)).unwrap_or(0)
}

const STATUS: &str = "grpc-status";

/// Whether the status of a call is OK, and if not, whether OTLP lets the batch be sent again.
fn judge(fields: &HeaderMap) -> Result<(), NotTaken> {
    let Some(status) = fields.get(STATUS) else { return Err(NotTaken::later("an answer without a status")) };
    let code = Code::from_bytes(status.as_bytes());
    let pause = retry_delay(fields);
    let again = match code {
        Code::Ok => return Ok(()),
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Some(pause),
        // Without a time to wait for, it stays exhausted.
        Code::ResourceExhausted => pause.map(Some),
        _ => None,
    };
    let message = fields.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    let message: String = message.chars().take(MAX_CHARS).collect();
    let colon = if message.is_empty() { "" } else { ": " };
    Err(NotTaken { why: format!("answered {}{colon}{message}", code_name(code)), again })
}

/// How long a collector wants to be left alone, by `google.rpc.RetryInfo`.
fn retry_delay(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get("grpc-status-details-bin")?.as_bytes();
    let unpadded = text.split(|byte| *byte == b'=').next()?;
    let status = RpcStatus::decode(&*STANDARD_NO_PAD.decode(unpadded).ok()?).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    RetryInfo::decode(&*info.value).ok()?.retry_delay.and_then(non_negative)
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

fn request(collector: &Collector, body: &Bytes) -> Request<Full<Bytes>> {
    let (uri, content_type, body) = match collector.protocol {
        Protocol::Http => (collector.path.clone(), "application/x-protobuf", body.clone()),
        // HTTP/2 has the authority in the request's own head.
        Protocol::Grpc => (collector.call(), "application/grpc", framed(body)),
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.parse().unwrap_or_default();
    let fields = request.headers_mut();
    fields.clone_from(&collector.headers);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    match collector.protocol {
        Protocol::Http => {
            if let Ok(host) = collector.authority.parse() {
                fields.insert(header::HOST, host);
            }
        }
        Protocol::Grpc => {
            fields.insert(header::TE, HeaderValue::from_static("trailers"));
            let time = format!("{}S", SEND_TIMEOUT.as_secs());
            fields.insert("grpc-timeout", time.parse().expect("digits and a letter"));
        }
    }
    request
}

/// As gRPC has messages: not compressed, and with their length before them.
fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// A connection to a collector.
enum Link {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Link {
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(link) => link.ready().await.is_ok(),
            Self::Http2(link) => link.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(link) => link.send_request(request).await,
            Self::Http2(link) => link.send_request(request).await,
        }
    }
}

async fn connect(collector: &Collector) -> Result<Link, String> {
    let stream = TcpStream::connect((collector.host.as_str(), collector.port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    // At worst it is slower.
    let _ = stream.set_nodelay(true);
    match &collector.tls {
        None => shake_hands(stream, collector.protocol).await,
        Some(tls) => {
            let name = ServerName::try_from(collector.host.clone());
            let name = name.map_err(|_| "its name is none that a certificate can be for".to_owned())?;
            let connector = TlsConnector::from(tls.config().await?);
            let stream = connector.connect(name, stream).await;
            shake_hands(stream.map_err(|error| format!("no TLS: {error}"))?, collector.protocol).await
        }
    }
}

async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
) -> Result<Link, String> {
    let stream = TokioIo::new(stream);
    // Both connections end with the sender; errors reach that through its requests.
    match protocol {
        Protocol::Http => {
            let (sender, connection) = http1::handshake(stream).await.map_err(|error| root_cause(&error))?;
            tokio::spawn(connection);
            Ok(Link::Http1(sender))
        }
        Protocol::Grpc => {
            let shaken = http2::handshake(TokioExecutor::new(), stream).await;
            let (sender, connection) = shaken.map_err(|error| root_cause(&error))?;
            tokio::spawn(connection);
            Ok(Link::Http2(sender))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        net::SocketAddr,
        sync::{Arc, Mutex},
    };

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use prost_types::Any;
    use tokio::net::TcpListener;

    use super::{super::otlp::PartialSuccess, *};

    type Seen = Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>;

    /// A collector that answers every call with this status, and what it was sent.
    async fn collector(status: &'static str, rejected_spans: i64) -> (SocketAddr, Seen) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let noted = Arc::clone(&seen);
        let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
            let noted = Arc::clone(&noted);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                noted.lock().unwrap().push((head, body));
                let partial = PartialSuccess { rejected_spans, error_message: String::new() };
                let message = ExportResponse { partial_success: Some(partial) }.encode_to_vec().into();
                let mut trailers = HeaderMap::new();
                trailers.insert(STATUS, status.parse().unwrap());
                let mut frames: Vec<Result<_, Infallible>> = vec![Ok(Frame::trailers(trailers))];
                if status == "0" {
                    frames.insert(0, Ok(Frame::data(framed(&message))));
                }
                Response::builder().body(StreamBody::new(tokio_stream::iter(frames)))
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer.clone());
                tokio::spawn(serving);
            }
        });
        (address, seen)
    }

    fn at(address: SocketAddr) -> Collector {
        let headers = ["authorization=Bearer of-arms".to_owned()];
        Collector::parse(&format!("http://{address}"), &headers, None, Protocol::Grpc).unwrap()
    }

    #[tokio::test]
    async fn a_batch_by_grpc_is_a_call_with_its_status_behind_the_answer() {
        let (address, seen) = collector("0", 3).await;
        let collector = at(address);
        let mut sender = Sender::new(&collector);
        for _ in 0..2 {
            assert_eq!(sender.send(&Bytes::from_static(b"spans")).await, Ok(3));
        }
        let seen = seen.lock().unwrap();
        let (head, body) = &seen[1];
        assert_eq!(
            head.uri.to_string(),
            format!("http://{address}/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        );
        let field = |name: &str| head.headers[name].to_str().unwrap();
        assert_eq!((field("content-type"), field("te")), ("application/grpc", "trailers"));
        assert_eq!((field("authorization"), field("grpc-timeout")), ("Bearer of-arms", "10S"));
        assert_eq!(&body[..], b"\0\0\0\0\x05spans");
    }

    #[tokio::test]
    async fn what_is_not_taken_by_grpc_is_sent_again_as_otlp_allows() {
        for (status, code, again) in [
            ("14", "UNAVAILABLE", true),
            ("4", "DEADLINE_EXCEEDED", true),
            ("8", "RESOURCE_EXHAUSTED", false),
            ("16", "UNAUTHENTICATED", false),
            ("12", "UNIMPLEMENTED", false),
        ] {
            let (address, _) = collector(status, 0).await;
            let not = Sender::new(&at(address)).send(&Bytes::new()).await.unwrap_err();
            assert_eq!((not.why, not.again), (format!("answered {code}"), again.then_some(None)));
        }
    }

    #[tokio::test]
    async fn a_collector_that_speaks_no_http_2_is_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        });
        let not = Sender::new(&at(address)).send(&Bytes::new()).await.unwrap_err();
        assert_eq!(not.again, Some(None), "{}", not.why);
    }

    #[test]
    fn the_time_that_a_collector_asks_for_is_read_from_the_details_of_its_status() {
        let delay = prost_types::Duration { seconds: 7, nanos: 0 };
        let info = Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: RetryInfo { retry_delay: Some(delay) }.encode_to_vec(),
        };
        let status = RpcStatus { details: vec![Any::default(), info] };
        let text = STANDARD_NO_PAD.encode(status.encode_to_vec());
        let judged = |details: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(STATUS, "8".parse().unwrap());
            fields.insert("grpc-message", "too much".parse().unwrap());
            fields.insert("grpc-status-details-bin", details.parse().unwrap());
            judge(&fields).unwrap_err()
        };
        for text in [text.clone(), format!("{text}==")] {
            let not = judged(&text);
            assert_eq!(
                (not.why.as_str(), not.again),
                ("answered RESOURCE_EXHAUSTED: too much", Some(Some(Duration::from_secs(7))))
            );
        }
        assert_eq!(judged("?").again, None);
        assert_eq!(judge(&HeaderMap::new()).unwrap_err().again, Some(None));
    }
}
