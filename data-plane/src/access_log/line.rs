//! What a line says. docs/access-log.md has every field.
//!
//! Pure: an entry in, bytes out. Whatever is from outside is escaped, and cut to a length that a line can bear.

use std::{
    fmt,
    io::Write,
    time::{Duration, SystemTime},
};

use http::{Method, Version};

use super::escape;

const MAX_PATH: usize = 2048;
const MAX_HOST: usize = 256;
const MAX_AGENT: usize = 512;

/// One request's story, ready to be written.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// When its head was there.
    pub(crate) time: SystemTime,
    /// From then to the end of its answer.
    pub(crate) duration: Duration,
    /// `None` for what could not be read as a request.
    pub(crate) request: Option<Request<'a>>,
    /// Of the answer; 499 if there was none before the client was gone.
    pub(crate) status: u16,
    /// What came of it, if it was a call of gRPC, and that was said.
    pub(crate) grpc_status: Option<u8>,
    /// How the answer ended.
    pub(crate) end: &'static str,
    /// The service that was found, once it was.
    pub(crate) service: Option<&'a str>,
    /// The first attempts; a request for which nobody listens has thousands at most, a line has not.
    pub(crate) attempts: &'a [Attempted<'a>],
    /// How many there were.
    pub(crate) attempt_count: usize,
    /// Time that replicas took to their response heads, or to their failures.
    pub(crate) upstream: Option<Duration>,
    /// Why a failed attempt was the last one.
    pub(crate) stop: Option<&'static str>,
    /// Who answered in place of a failure.
    pub(crate) fallback: Option<&'static str>,
    /// What was done to it on purpose.
    pub(crate) fault: Option<&'static str>,
    /// Why the gateway made the answer itself, if it did.
    pub(crate) error: Option<&'static str>,
    /// What a breaker had to do with it.
    pub(crate) breaker: Option<&'static str>,
    /// Bytes of the request's body that were taken from the client.
    pub(crate) received: u64,
    /// Bytes of the answer's body that were sent.
    pub(crate) sent: u64,
    /// The client, as far as it is known through trusted proxies.
    pub(crate) client: &'a str,
    /// Who connected.
    pub(crate) peer: &'a str,
    /// The version of TLS, if there was any.
    pub(crate) tls: Option<&'static str>,
    pub(crate) request_id: &'a str,
}

/// What was asked, as it came.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    /// If lines have it.
    pub(crate) query: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    pub(crate) version: Version,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) referer: Option<&'a [u8]>,
}

/// One attempt at a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempted<'a> {
    pub(crate) replica: &'a str,
    pub(crate) result: Outcome,
    pub(crate) time: Duration,
}

/// What became of an attempt: a status, or a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Word(&'static str),
}

impl Entry<'_> {
    /// Whether somebody should look at it, whatever the sample: the gateway or a replica failed, or somebody went away.
    pub(crate) fn has_failed(&self) -> bool {
        self.status >= 499 || self.end != "complete" || self.grpc_status.is_some_and(is_of_the_server)
    }

    /// Who answered, or was the last to be asked. An answer is not forgotten for a later attempt that got none.
    fn replica(&self) -> Option<&str> {
        let has_answered = |attempt: &&Attempted<'_>| matches!(attempt.result, Outcome::Status(_));
        let answered = self.attempts.iter().rev().find(has_answered).filter(|_| self.error.is_none());
        answered.or(self.attempts.last()).map(|attempt| attempt.replica)
    }
}

/// Whether a call's status says that its server failed it, as OpenTelemetry has them: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
/// INTERNAL, UNAVAILABLE and DATA_LOSS.
fn is_of_the_server(grpc_status: u8) -> bool {
    matches!(grpc_status, 2 | 4 | 12..=15)
}

/// One JSON object, with a line break. What is not known is left out.
pub(crate) fn json(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let mut object = Object { out };
    let time = humantime::format_rfc3339_micros(entry.time);
    object.out.extend_from_slice(b"{\"time\":\"");
    object.print(format_args!("{time}\""));
    object.text("client.address", entry.client.as_bytes(), MAX_HOST);
    if entry.peer != entry.client {
        object.text("network.peer.address", entry.peer.as_bytes(), MAX_HOST);
    }
    if let Some(request) = &entry.request {
        object.text("http.request.method", request.method.as_str().as_bytes(), 32);
        object.text("url.path", request.path.as_bytes(), MAX_PATH);
        if let Some(query) = request.query {
            object.text("url.query", query.as_bytes(), MAX_PATH);
        }
        if let Some(host) = request.host {
            object.text("server.address", host.as_bytes(), MAX_HOST);
        }
    }
    object.number("http.response.status_code", entry.status.into());
    if let Some(status) = entry.grpc_status {
        object.number("rpc.grpc.status_code", status.into());
    }
    object.seconds("duration_s", entry.duration);
    if let Some(upstream) = entry.upstream {
        object.seconds("upstream_s", upstream);
    }
    for (name, value) in [("gw.service", entry.service), ("gw.replica", entry.replica())] {
        if let Some(value) = value {
            object.text(name, value.as_bytes(), MAX_HOST);
        }
    }
    object.number("gw.attempt_count", entry.attempt_count as u64);
    if entry.attempt_count > 1 {
        object.attempts(entry.attempts);
    }
    let words = [
        ("gw.stop", entry.stop),
        ("gw.fallback", entry.fallback),
        ("gw.error", entry.error),
        ("gw.fault", entry.fault),
        ("gw.breaker", entry.breaker),
    ];
    for (name, value) in words.into_iter().chain([("gw.end", Some(entry.end))]) {
        if let Some(value) = value {
            object.text(name, value.as_bytes(), MAX_HOST);
        }
    }
    object.number("http.request.body.size", entry.received);
    object.number("http.response.body.size", entry.sent);
    if let Some(request) = &entry.request {
        object.text("network.protocol.version", version(request.version).as_bytes(), 3);
    }
    if let Some(tls) = entry.tls {
        object.text("tls.protocol.version", tls.as_bytes(), 3);
    }
    object.text("request_id", entry.request_id.as_bytes(), 128);
    if let Some(request) = &entry.request {
        if let Some(id) = request.trace_id {
            object.text("trace_id", id.as_bytes(), 32);
        }
        if let Some(agent) = request.user_agent {
            object.text("user_agent.original", agent, MAX_AGENT);
        }
    }
    out.extend_from_slice(b"}\n");
}

/// Writes the members of an object that has one already.
struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn print(&mut self, arguments: fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(arguments);
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &[u8], max: usize) {
        self.name(name);
        self.out.push(b'"');
        escape::json(self.out, value, max);
        self.out.push(b'"');
    }

    fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        self.print(format_args!("{number}"));
    }

    fn seconds(&mut self, name: &str, time: Duration) {
        self.name(name);
        self.print(format_args!("{}", Seconds(time)));
    }

    fn attempts(&mut self, attempts: &[Attempted<'_>]) {
        self.out.extend_from_slice(b",\"gw.attempts\":[");
        for (index, attempt) in attempts.iter().enumerate() {
            self.out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
            self.out.extend_from_slice(b"\"replica\":\"");
            escape::json(self.out, attempt.replica.as_bytes(), MAX_HOST);
            let time = Seconds(attempt.time);
            match attempt.result {
                Outcome::Status(status) => {
                    self.print(format_args!("\",\"result\":\"{status}\",\"s\":{time}}}"))
                }
                Outcome::Word(word) => self.print(format_args!("\",\"result\":\"{word}\",\"s\":{time}}}")),
            }
        }
        self.out.push(b']');
    }
}

/// Seconds with six digits behind the point, cut off there.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

/// The combined log format, and behind it what it has no place for: `-` for what is not known.
pub(crate) fn text(out: &mut Vec<u8>, entry: &Entry<'_>) {
    escape::text(out, entry.client.as_bytes(), MAX_HOST);
    let _ = write!(out, " - - [{}] \"", common_date(entry.time));
    match &entry.request {
        Some(request) => {
            escape::text(out, request.method.as_str().as_bytes(), 32);
            out.push(b' ');
            escape::text(out, request.path.as_bytes(), MAX_PATH);
            if let Some(query) = request.query {
                out.push(b'?');
                escape::text(out, query.as_bytes(), MAX_PATH);
            }
            let _ = write!(out, " HTTP/{}", version(request.version));
        }
        None => out.push(b'-'),
    }
    let _ = write!(out, "\" {} {} \"", entry.status, entry.sent);
    let request = entry.request.as_ref();
    escape::text(out, request.and_then(|request| request.referer).unwrap_or(b"-"), MAX_PATH);
    out.extend_from_slice(b"\" \"");
    escape::text(out, request.and_then(|request| request.user_agent).unwrap_or(b"-"), MAX_AGENT);
    out.push(b'"');
    let _ = write!(out, " duration_s={}", Seconds(entry.duration));
    match entry.upstream {
        Some(upstream) => {
            let _ = write!(out, " upstream_s={}", Seconds(upstream));
        }
        None => out.extend_from_slice(b" upstream_s=-"),
    }
    word(out, "service", entry.service);
    word(out, "replica", entry.replica());
    let _ = write!(out, " attempts={}", entry.attempt_count);
    word(out, "stop", entry.stop);
    word(out, "fallback", entry.fallback);
    word(out, "error", entry.error);
    if entry.fault.is_some() {
        word(out, "fault", entry.fault);
    }
    word(out, "breaker", entry.breaker);
    word(out, "end", Some(entry.end));
    if let Some(status) = entry.grpc_status {
        let _ = write!(out, " grpc={status}");
    }
    let _ = write!(out, " received={}", entry.received);
    word(out, "tls", entry.tls);
    word(out, "peer", Some(entry.peer));
    word(out, "host", request.and_then(|request| request.host));
    word(out, "request_id", Some(entry.request_id));
    word(out, "trace_id", request.and_then(|request| request.trace_id));
    out.push(b'\n');
}

/// In quotes if it would not be one word otherwise.
fn word(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let _ = write!(out, " {name}=");
    let value = value.filter(|value| !value.is_empty()).unwrap_or("-");
    let is_word = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]/+".contains(&byte));
    if is_word && value.len() <= MAX_HOST {
        out.extend_from_slice(value.as_bytes());
    } else {
        out.push(b'"');
        escape::text(out, value.as_bytes(), MAX_HOST);
        out.push(b'"');
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_11 => "1.1",
        _ => "1.0",
    }
}

/// `10/Oct/2000:13:55:36 +0000`, made of `Tue, 10 Oct 2000 13:55:36 GMT`.
fn common_date(time: SystemTime) -> String {
    let date = httpdate::fmt_http_date(time);
    let (day, month, year, clock) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
    format!("{day}/{month}/{year}:{clock} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Attempted<'static> = Attempted {
        replica: "r-1",
        result: Outcome::Word("connect_refused"),
        time: Duration::from_micros(250),
    };
    const SECOND: Attempted<'static> =
        Attempted { replica: "r-2", result: Outcome::Status(200), time: Duration::from_millis(12) };

    fn request() -> Request<'static> {
        Request {
            method: &Method::GET,
            path: "/orders/7",
            query: None,
            host: Some("gw:81"),
            version: Version::HTTP_11,
            trace_id: None,
            user_agent: Some(b"curl/8"),
            referer: None,
        }
    }

    fn entry<'a>(request: Option<Request<'a>>, attempts: &'a [Attempted<'a>]) -> Entry<'a> {
        Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_micros(971_186_136_000_042),
            duration: Duration::from_micros(13_500),
            request,
            status: 200,
            grpc_status: None,
            end: "complete",
            service: Some("orders"),
            attempts,
            attempt_count: attempts.len(),
            upstream: Some(Duration::from_micros(12_250)),
            stop: None,
            fallback: None,
            fault: None,
            error: None,
            breaker: Some("closed"),
            received: 3,
            sent: 5,
            client: "192.0.2.7",
            peer: "192.0.2.7",
            tls: None,
            request_id: "id-1",
        }
    }

    fn line(write: fn(&mut Vec<u8>, &Entry<'_>), entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_of_json_has_what_is_known() {
        let attempts = [FIRST, SECOND];
        let line = line(json, &entry(Some(request()), &attempts));
        let expected = concat!(
            "{\"time\":\"2000-10-10T13:55:36.000042Z\",\"client.address\":\"192.0.2.7\",",
            "\"http.request.method\":\"GET\",\"url.path\":\"/orders/7\",\"server.address\":\"gw:81\",",
            "\"http.response.status_code\":200,\"duration_s\":0.013500,\"upstream_s\":0.012250,",
            "\"gw.service\":\"orders\",\"gw.replica\":\"r-2\",\"gw.attempt_count\":2,",
            "\"gw.attempts\":[{\"replica\":\"r-1\",\"result\":\"connect_refused\",\"s\":0.000250},",
            "{\"replica\":\"r-2\",\"result\":\"200\",\"s\":0.012000}],",
            "\"gw.breaker\":\"closed\",\"gw.end\":\"complete\",",
            "\"http.request.body.size\":3,\"http.response.body.size\":5,\"network.protocol.version\":\"1.1\",",
            "\"request_id\":\"id-1\",\"user_agent.original\":\"curl/8\"}\n",
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_of_text_is_a_combined_one_with_more_behind_it() {
        let attempts = [SECOND];
        let line = line(text, &entry(Some(request()), &attempts));
        let expected = concat!(
            "192.0.2.7 - - [10/Oct/2000:13:55:36 +0000] \"GET /orders/7 HTTP/1.1\" 200 5 \"-\" \"curl/8\"",
            " duration_s=0.013500 upstream_s=0.012250 service=orders replica=r-2 attempts=1 stop=- fallback=- error=-",
            " breaker=closed end=complete received=3 tls=- peer=192.0.2.7 host=gw:81 request_id=id-1 trace_id=-\n",
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn what_could_not_be_read_has_a_line_too() {
        let unreadable = Entry {
            status: 400,
            error: Some("bad_request"),
            service: None,
            upstream: None,
            ..entry(None, &[])
        };
        let read: serde_json::Value = serde_json::from_str(&line(json, &unreadable)).unwrap();
        assert_eq!((&read["gw.error"], read.get("url.path")), (&"bad_request".into(), None));
        assert!(line(text, &unreadable).contains("\"-\" 400 5 \"-\" \"-\" duration_s"));
    }

    #[test]
    fn whatever_a_client_sends_makes_one_line_of_printable_text() {
        let long = format!("/{}", "\u{e4}\u{1b}".repeat(3000));
        let hostile = Request {
            path: &long,
            query: Some("a\"b c"),
            host: Some("\u{9b}31m\" end=complete"),
            user_agent: Some(b"\r\n127.0.0.1 - - \x1b[2J\xff"),
            referer: Some(b"\"\\\n"),
            ..request()
        };
        let mut entry = entry(Some(hostile), &[]);
        entry.request_id = "a\" request_id=b";
        for write in [json, text] {
            let line = line(write, &entry);
            assert!(line.len() < 24_000, "{}", line.len());
            let (last, rest) = line.as_bytes().split_last().unwrap();
            assert!(*last == b'\n' && rest.iter().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
        }
        let read: serde_json::Value = serde_json::from_str(&line(json, &entry)).unwrap();
        assert_eq!(read["request_id"], "a\" request_id=b");
        assert!(line(text, &entry).contains(r#"host="\xc2\x9b31m\" end=complete""#));
    }

    #[test]
    fn what_failed_is_told_from_what_is_merely_refused() {
        for (status, end, has_failed) in [
            (200, "complete", false),
            (404, "complete", false),
            (499, "client_gone", true),
            (503, "complete", true),
            (200, "upstream_broke_off", true),
        ] {
            assert_eq!(Entry { status, end, ..entry(None, &[]) }.has_failed(), has_failed, "{status} {end}");
        }
    }
}
