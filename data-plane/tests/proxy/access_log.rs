//! What the access log has of requests, however they end.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use data_plane::{
    config::AccessLogArgs,
    proxy::{Networks, ProxyConfig},
    routing::{Draw, retry::Stop},
};
use gateway_proto::Policy;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Act, Dead, Gateway, Replica, eventually, field, ok, read_message, respond, status},
    tunnels::{ASK, SWITCH, head, switching},
};

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    log: AccessLogArgs,
}

/// A log in a folder of its own.
pub(crate) struct Log {
    folder: TempDir,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// Has a gateway write it, with these flags.
    pub(crate) fn configure(&self, config: &mut ProxyConfig, flags: &[&str]) {
        let path = self.path().display().to_string();
        let flags = [&["test", "--access-log", &path], flags].concat();
        config.access_log = Flags::parse_from(flags).log.open().unwrap();
        config.forwarding.trusted = Networks::parse(["127.0.0.0/8"]).unwrap();
    }

    pub(crate) async fn start(&self, replicas: &[std::net::SocketAddr], policy: Policy) -> Gateway {
        Gateway::start_as(|config| self.configure(config, &[]), replicas, policy).await
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// The lines, once there are so many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        eventually("the lines are written", || self.text().lines().count() >= count).await;
        let lines: Vec<Value> = self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// The only line.
    async fn line(&self) -> Value {
        self.lines(1).await.remove(0)
    }
}

/// How long replicas were asked, and how long it took in all, in seconds.
fn times(line: &Value) -> (f64, f64) {
    (line["upstream_s"].as_f64().unwrap(), line["duration_s"].as_f64().unwrap())
}

#[tokio::test]
async fn of_a_request_that_a_resting_replica_is_asked_all_the_same_the_line_says_so() {
    let log = Log::new();
    let replica = Replica::start(|_, _| respond(500, "")).await;
    let mut policy = Policy::default();
    policy.breaker.fail_open_threshold = 1.0;
    let gateway = log.start(&[replica.address], policy).await;
    for _ in 0..6 {
        assert_eq!(status(&gateway.send("GET /orders/1 HTTP/1.1\r\nhost: gw\r\n\r\n").await), 500);
    }
    let lines = log.lines(6).await;
    let breakers: Vec<_> = lines.iter().map(|line| line["gw.breaker"].as_str().unwrap()).collect();
    assert_eq!(breakers, ["closed", "closed", "closed", "closed", "closed", "regardless"]);
}

#[tokio::test]
async fn a_request_that_went_well_has_one_line_with_all_that_is_known() {
    let log = Log::new();
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = log.start(&[replica.address], Policy::default()).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = format!(
        "PUT /orders/a%20b?secret=1 HTTP/1.1\r\nhost: gw.example:81\r\nuser-agent: test \"1\"\r\nx-request-id: id-1\r\n\
         traceparent: 00-{trace}-00f067aa0ba902b7-01\r\nx-forwarded-for: 192.0.2.7\r\ncontent-length: 3\r\n\r\nabc"
    );
    assert_eq!(status(&gateway.send(&request).await), 200);
    let line = log.line().await;
    for (name, value) in [
        ("client.address", "192.0.2.7"),
        ("network.peer.address", "127.0.0.1"),
        ("http.request.method", "PUT"),
        ("url.path", "/orders/a%20b"),
        ("server.address", "gw.example:81"),
        ("gw.service", "orders"),
        ("gw.replica", "r-0"),
        ("gw.breaker", "closed"),
        ("gw.end", "complete"),
        ("network.protocol.version", "1.1"),
        ("request_id", "id-1"),
        ("trace_id", trace),
        ("user_agent.original", "test \"1\""),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    for (name, number) in [
        ("http.response.status_code", 200),
        ("gw.attempt_count", 1),
        ("http.request.body.size", 3),
        ("http.response.body.size", 5),
    ] {
        assert_eq!(line[name], number, "{name} in {line}");
    }
    let (upstream, duration) = times(&line);
    assert!(0.0 < upstream && upstream <= duration && duration < 10.0, "{line}");
    for absent in ["url.query", "gw.attempts", "gw.stop", "gw.error", "tls.protocol.version"] {
        assert_eq!(line.get(absent), None, "{line}");
    }
}

#[tokio::test]
async fn a_retried_request_has_each_attempt_and_a_failed_one_why_there_was_no_other() {
    let log = Log::new();
    let dead = Dead::new();
    let broken = Replica::start(|_, _| respond(503, "no")).await;
    let gateway = log.start(&[dead.address, broken.address], Policy::default()).await;
    assert_eq!(status(&gateway.get("/orders/").await), 503);
    assert_eq!(status(&gateway.post("/orders/", "x").await), 503);
    let lines = log.lines(2).await;
    let mut results: Vec<_> = lines[0]["gw.attempts"].as_array().unwrap().clone();
    results.sort_by_key(|attempt| attempt["replica"].to_string());
    assert_eq!((&results[0]["replica"], &results[0]["result"]), (&"r-0".into(), &"connect_refused".into()));
    assert_eq!((&results[1]["replica"], &results[1]["result"]), (&"r-1".into(), &"503".into()));
    assert!(results.iter().all(|attempt| attempt["s"].as_f64().unwrap() > 0.0), "{results:?}");
    assert_eq!(lines[0]["gw.stop"], "no_other_replica");
    assert_eq!(lines[0].get("gw.error"), None, "it is the replica's own answer: {}", lines[0]);
    assert_eq!(lines[1]["gw.stop"], "not_idempotent");
}

#[tokio::test]
async fn why_a_retry_found_no_place_is_told_in_one_word_everywhere() {
    let log = Log::new();
    let failing = Replica::start(|_, _| respond(503, "no")).await;
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let mut policy = Policy::default();
    policy.concurrency.max_per_replica = 1;
    let gateway = log.start(&[failing.address, hanging.address], policy).await;
    let service = gateway.service();
    let tried = [service.replicas()[0].clone()];
    let taken = service.pick(0, gateway.clock.now(), &tried, Draw::default()).unwrap();
    assert_eq!(status(&gateway.get("/orders/").await), 503);
    let lines = log.lines(1).await;
    assert_eq!(lines[0]["gw.stop"], "no_other_replica", "{}", lines[0]);
    assert_eq!(service.counters().stops(Stop::NoOtherReplica), 1);
    drop(taken);
}

#[tokio::test]
async fn what_the_gateway_answers_itself_has_its_reason_and_so_has_what_cannot_be_read() {
    let log = Log::new();
    let dead = Dead::new();
    let gateway = log.start(&[dead.address], Policy::default()).await;
    gateway.get("/nobody/x").await;
    gateway.get("/orders/x").await;
    gateway.send("GET /orders/ HTTP/1.1\r\nhost : a\r\n\r\n").await;
    let lines = log.lines(3).await;
    let of = |index: usize| {
        let line: &Value = &lines[index];
        (line["http.response.status_code"].as_u64(), line["gw.error"].as_str(), line["gw.stop"].as_str())
    };
    assert_eq!(of(0), (Some(404), Some("unknown_service"), None));
    assert_eq!(of(1), (Some(502), Some("connect_refused"), Some("no_other_replica")));
    assert_eq!(of(2), (Some(400), Some("bad_request"), None));
    assert_eq!(lines[2].get("url.path"), None);
    assert!(lines.iter().all(|line| line["http.response.body.size"].as_u64().unwrap() > 0), "{lines:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_has_a_line_whether_there_was_an_answer_or_not() {
    let log = Log::new();
    let replica = Replica::start(|_, request| match request.contains("/hang") {
        true => Act::Hang,
        false => Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello".into()),
    })
    .await;
    let gateway = log.start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("it is asked", || replica.seen().len() == 1).await;
    drop(stream);
    let line = log.line().await;
    assert_eq!((&line["http.response.status_code"], &line["gw.end"]), (&499.into(), &"client_gone".into()));
    assert_eq!(line["gw.replica"], "r-0", "{line}");
    let (upstream, duration) = times(&line);
    assert!(upstream > 0.0 && upstream <= duration, "it was asked until then: {line}");
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/half HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 20];
    stream.read_exact(&mut head).await.unwrap();
    drop(stream);
    let line = log.lines(2).await.remove(1);
    assert_eq!((&line["http.response.status_code"], &line["gw.end"]), (&200.into(), &"client_gone".into()));
    assert_eq!(line["http.response.body.size"], 5);
}

#[tokio::test]
async fn time_in_which_two_replicas_were_asked_at_once_counts_once() {
    let log = Log::new();
    let hanging = [Replica::start(|_, _| Act::Hang).await, Replica::start(|_, _| Act::Hang).await];
    let mut policy = Policy::default();
    policy.retry.hedge_delay = Duration::from_millis(30);
    policy.timeout.per_try = Duration::from_millis(150);
    let gateway = log.start(&[hanging[0].address, hanging[1].address], policy).await;
    assert_eq!(status(&gateway.get("/orders/").await), 504);
    let line = log.line().await;
    let (upstream, duration) = times(&line);
    assert_eq!(line["gw.attempt_count"], 2, "{line}");
    assert!((0.15..=duration).contains(&upstream), "{line}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_from_one_that_is_whole() {
    let log = Log::new();
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
    let replica = Replica::start(move |_, _| Act::SendAndClose(half.into())).await;
    let gateway = log.start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let line = log.line().await;
    assert_eq!(
        (&line["gw.end"], &line["http.response.body.size"]),
        (&"upstream_broke_off".into(), &5.into())
    );
}

#[tokio::test]
async fn http_2_has_the_same_lines() {
    let log = Log::new();
    let replica = Replica::start(|_, request| match request.contains("/hang") {
        true => Act::Hang,
        false => ok("hello"),
    })
    .await;
    let gateway = log.start(&[replica.address], Policy::default()).await;
    let mut sender = crate::http2::connect(&gateway).await;
    let request = http::Request::post("http://gw/orders/x").body(crate::http2::whole("abc")).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(crate::http2::text(response).await, "hello");
    let line = log.line().await;
    assert_eq!((&line["network.protocol.version"], &line["gw.end"]), (&"2".into(), &"complete".into()));
    assert_eq!((&line["http.request.body.size"], &line["http.response.body.size"]), (&3.into(), &5.into()));
    let hanging = http::Request::get("http://gw/orders/hang").body(crate::http2::whole("")).unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), sender.send_request(hanging)).await;
    assert!(waiting.is_err(), "it hangs");
    drop(sender);
    let line = log.lines(2).await.remove(1);
    assert_eq!((&line["http.response.status_code"], &line["gw.end"]), (&499.into(), &"client_gone".into()));
}

#[tokio::test]
async fn nothing_that_a_client_sends_breaks_a_line_or_speaks_to_a_terminal() {
    for format in ["json", "text"] {
        let log = Log::new();
        let replica = Replica::start(|_, _| ok("hello")).await;
        let configure = |config: &mut ProxyConfig| {
            log.configure(config, &["--access-log-format", format, "--access-log-query"]);
        };
        let gateway = Gateway::start_as(configure, &[replica.address], Policy::default()).await;
        let request = "GET /orders/\u{9b}31m\"x?q=' HTTP/1.1\r\nhost: a\r\nuser-agent: \"\t\u{202e}\\\r\nreferer: \" x=y\r\n\
            x-request-id: a\"b\r\nx-forwarded-for: \" 1.1.1.1\r\n\r\n";
        assert_eq!(status(&gateway.send(request).await), 200);
        eventually("the line is written", || log.text().ends_with('\n')).await;
        let text = log.text();
        assert_eq!(text.lines().count(), 1);
        assert!(text.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
    }
}

#[tokio::test]
async fn a_sample_has_every_failed_request_and_some_of_the_others() {
    let log = Log::new();
    let replica = Replica::start(|_, request| match request.contains("/bad") {
        true => respond(500, "no"),
        false => ok("hello"),
    })
    .await;
    let configure = |config: &mut ProxyConfig| log.configure(config, &["--access-log-sample", "10"]);
    let gateway = Gateway::start_as(configure, &[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    for number in 0..20 {
        let path = if number % 10 == 9 { "bad" } else { "good" };
        let request = format!("GET /orders/{path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_message(&mut stream).await.unwrap();
        assert!(field(&answer, "x-request-id").is_some());
    }
    let lines = log.lines(4).await;
    let bad = lines.iter().filter(|line| line["http.response.status_code"] == 500).count();
    assert_eq!(bad, 2, "{lines:#?}");
}

#[tokio::test]
async fn a_tunnel_has_its_line_once_it_has_ended_with_all_that_passed() {
    let log = Log::new();
    let (address, _heads) = switching(SWITCH, |mut stream| async move {
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let gateway = log.start(&[address], Policy::default()).await;
    for (is_reset, end) in [(false, "complete"), (true, "client_gone")] {
        let mut client = gateway.connect().await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        head(&mut client).await;
        if is_reset {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        } else {
            client.write_all(b"hello").await.unwrap();
            assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 3);
            assert_eq!(log.text(), "", "it has not ended");
        }
        drop(client);
        let line = log.lines(1 + usize::from(is_reset)).await.remove(usize::from(is_reset));
        let sizes = if is_reset { [0, 0] } else { [5, 3] };
        assert_eq!(
            (&line["http.response.status_code"], &line["gw.end"]),
            (&101.into(), &end.into()),
            "{line}"
        );
        assert_eq!([&line["http.request.body.size"], &line["http.response.body.size"]], sizes, "{line}");
    }
}
