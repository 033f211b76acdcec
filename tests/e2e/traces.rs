//! Traces by OTLP, as a collector receives them: decoded by OpenTelemetry's own messages in Python.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_tests::{
    Act, Authority, DataPlane, Process, Scripted, authority::server, command, eventually, eventually_within,
    http1, tools,
};
use http::{Method, Request};
use serde_json::Value;
use tempfile::TempDir;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// A data plane with these replicas of `orders`, which traces to the collector.
async fn gateway(collector: SocketAddr, replicas: &[&Scripted], flags: &[&str]) -> (DataPlane, TempDir) {
    tracing_to(&format!("http://{collector}"), replicas, flags).await
}

async fn tracing_to(endpoint: &str, replicas: &[&Scripted], flags: &[&str]) -> (DataPlane, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services.toml");
    let replicas: Vec<_> =
        replicas.iter().map(|replica| format!("{:?}", replica.address().to_string())).collect();
    // Checks would have the dead out before their breakers.
    let policy = "[service.policy.health_check]\ntype = \"off\"\n";
    let text = format!("[[service]]\nname = \"orders\"\nreplicas = [{}]\n{policy}", replicas.join(", "));
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let own = ["--static", &path, "--node-id", "dp-1", "--otlp-endpoint", endpoint];
    (DataPlane::start(&[&own[..], flags].concat()).await, directory)
}

fn get(target: &str, fields: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = http1::request(Method::GET, target);
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// The spans that the collector has been sent so far.
async fn spans(collector: &Scripted, directory: &TempDir) -> Vec<Value> {
    let mut bodies = Vec::new();
    for (number, seen) in collector.seen().into_iter().enumerate() {
        assert_eq!((seen.method(), seen.target()), ("POST", "/v1/traces"));
        assert_eq!(seen.values("content-type"), ["application/x-protobuf"]);
        let path = directory.path().join(format!("{number}.bin"));
        std::fs::write(&path, &seen.body).unwrap();
        bodies.push(path);
    }
    decoded(&bodies).await
}

/// The spans of these requests.
async fn decoded(bodies: &[PathBuf]) -> Vec<Value> {
    let mut decode = Command::new(tools::python());
    decode.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/otlp.py")).args(bodies);
    let decoded = command::run(decode).await.success();
    decoded.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// So many spans at least, once they have come.
async fn spans_until(count: usize, collector: &Scripted, directory: &TempDir) -> Vec<Value> {
    eventually(&format!("{count} spans come"), async || match spans(collector, directory).await {
        spans if spans.len() >= count => Ok(spans),
        spans => Err(format!("{} have: {spans:#?}", spans.len())),
    })
    .await
}

#[tokio::test]
async fn a_request_is_a_span_of_its_callers_trace_and_each_attempt_is_one_below_it_by_python() {
    let collector = Scripted::start(|_, _| Act::ok(b""));
    let bad = Scripted::start(|_, _| Act::Answer(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec()));
    let good = Scripted::start(|_, _| Act::ok(b"hello"));
    let flags = ["--otlp-header", "authorization=Bearer of-arms"];
    let (gateway, directory) = gateway(collector.address(), &[&bad, &good], &flags).await;
    let fields = [("traceparent", traceparent("01")), ("tracestate", "rojo=1,congo=2".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // One of two is sent to the replica that fails.
    for _ in 0..2 {
        let answer = http1::send(gateway.address(), get("/orders/items/7?secret=1", &fields)).await;
        assert_eq!(answer.status(), 200);
    }
    // Whose turn it is after a retry is not for this test to say.
    let spans = eventually("both requests come, with all their attempts", async || {
        let spans = spans(&collector, &directory).await;
        let servers: Vec<_> = spans.iter().filter(|span| span["kind"] == SERVER).collect();
        let attempts = |span: &&Value| span["attributes"]["gw.attempt_count"].as_u64().unwrap();
        let expected = servers.len() + servers.iter().map(attempts).sum::<u64>() as usize;
        if servers.len() == 2 && spans.len() == expected { Ok(spans) } else { Err(format!("{spans:#?}")) }
    })
    .await;
    assert_eq!(collector.seen()[0].values("authorization"), ["Bearer of-arms"]);

    let servers: Vec<_> = spans.iter().filter(|span| span["kind"] == SERVER).collect();
    let retried = servers.iter().find(|span| span["attributes"]["gw.attempt_count"] == 2).unwrap();
    for span in &servers {
        assert_eq!(
            (&span["trace"], &span["parent"], &span["name"]),
            (&TRACE.into(), &PARENT.into(), &"GET orders".into())
        );
        assert_eq!(
            (&span["flags"], &span["status"], &span["state"]),
            (&1.into(), &0.into(), &"rojo=1,congo=2".into())
        );
        assert_eq!(span["resource"]["service.name"], "gw-data-plane");
        assert_eq!(span["resource"]["service.instance.id"], "dp-1");
        let attributes = &span["attributes"];
        for (name, expected) in [
            ("http.request.method", Value::from("GET")),
            ("http.response.status_code", 200.into()),
            ("url.path", "/orders/items/7".into()),
            ("url.scheme", "http".into()),
            ("server.address", "127.0.0.1".into()),
            ("server.port", gateway.address().port().into()),
            ("client.address", "127.0.0.1".into()),
            ("network.protocol.version", "1.1".into()),
            ("gw.service", "orders".into()),
            ("gw.end", "complete".into()),
            ("http.response.body.size", 5.into()),
        ] {
            assert_eq!(attributes[name], expected, "{name}: {attributes:#}");
        }
        assert!(!span.to_string().contains("secret"), "queries may hold secrets: {span:#}");
        assert!(span["start"].as_u64() < span["end"].as_u64());
    }
    assert_eq!(retried["events"][0]["name"], "gw.retry", "{retried:#}");

    let of_retried = spans.iter().filter(|span| span["parent"] == retried["span"]);
    let mut attempts: Vec<_> = of_retried.collect();
    attempts.sort_by_key(|span| span["start"].as_u64());
    let [failed, answered] = attempts[..] else { panic!("two attempts: {attempts:#?}") };
    for (span, replica) in [(failed, &bad), (answered, &good)] {
        assert_eq!((&span["kind"], &span["trace"]), (&CLIENT.into(), &TRACE.into()));
        assert_eq!(span["attributes"]["server.port"], replica.address().port());
        let url = format!("http://{}/items/7", replica.address());
        assert_eq!(span["attributes"]["url.full"], url.as_str());
        let told = format!("00-{TRACE}-{}-01", span["span"].as_str().unwrap());
        let is_told = |seen: &gateway_tests::Seen| seen.values("traceparent") == [told.as_str()];
        assert!(replica.seen().iter().any(is_told), "the replica's own spans are below the attempt's");
        assert_eq!(replica.seen()[0].values("tracestate"), ["rojo=1,congo=2"]);
    }
    assert_eq!(failed["status"], 2);
    assert_eq!(failed["attributes"]["error.type"], "503");
    assert_eq!(failed["attributes"]["http.response.status_code"], 503);
    assert_eq!(failed["attributes"].get("http.request.resend_count"), None);
    assert_eq!(answered["status"], 0);
    assert_eq!(answered["attributes"]["http.request.resend_count"], 1);
}

#[tokio::test]
async fn a_request_whose_caller_is_not_traced_passes_as_it_came_and_one_without_a_caller_begins_a_trace_by_python()
 {
    let collector = Scripted::start(|_, _| Act::ok(b""));
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let (gateway, directory) = gateway(collector.address(), &[&replica], &[]).await;
    let unsampled = traceparent("00");
    http1::send(gateway.address(), get("/orders/a", &[("traceparent", &unsampled)])).await;
    assert_eq!(replica.seen()[0].values("traceparent"), [unsampled.as_str()]);
    http1::send(gateway.address(), get("/orders/b", &[])).await;
    let spans = spans_until(2, &collector, &directory).await;
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let server = spans.iter().find(|span| span["kind"] == SERVER).unwrap();
    assert_eq!(server["parent"], "");
    assert_ne!(server["trace"], TRACE);
    assert_eq!(server["attributes"]["url.path"], "/orders/b");
    let told = replica.seen()[1].values("traceparent")[0].to_owned();
    assert!(told.contains(server["trace"].as_str().unwrap()), "{told}");
}

#[tokio::test]
async fn what_the_gateway_answers_itself_is_an_error_with_its_reason_and_the_breakers_that_led_to_it_by_python()
 {
    let collector = Scripted::start(|_, _| Act::ok(b""));
    let dead = Scripted::refusing(|_, _| Act::ok(b""));
    let (gateway, directory) = gateway(collector.address(), &[&dead], &[]).await;
    for _ in 0..6 {
        assert!(http1::get(gateway.address(), "/orders/x").await.status().is_server_error());
    }
    let spans = spans_until(11, &collector, &directory).await;
    let failed = spans.iter().find(|span| span["kind"] == CLIENT).unwrap();
    assert_eq!(
        (&failed["attributes"]["error.type"], &failed["status"]),
        (&"connect_refused".into(), &2.into())
    );
    let servers = spans.iter().filter(|span| span["kind"] == SERVER);
    let last = servers.max_by_key(|span| span["start"].as_u64()).unwrap();
    assert_eq!((&last["status"], &last["attributes"]["error.type"]), (&2.into(), &"breaker_open".into()));
    let skip = last["events"].as_array().unwrap().iter().find(|event| event["name"] == "gw.breaker_skip");
    let skip = skip.unwrap_or_else(|| panic!("no skip: {last:#}"));
    assert_eq!(skip["gw.breaker.state"], "open");
}

#[tokio::test]
async fn a_batch_that_is_not_taken_now_is_sent_again_and_counted_once() {
    let collector = Scripted::start(|_, number| match number {
        0 => Act::Answer(b"HTTP/1.1 503 Later\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => Act::ok(b""),
    });
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let (gateway, _directory) = gateway(collector.address(), &[&replica], &[]).await;
    http1::get(gateway.address(), "/orders/x").await;
    exported(&gateway, 2).await;
    let bodies: Vec<_> = collector.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1]);
}

/// Waits until the data plane counts so many spans as exported.
async fn exported(gateway: &DataPlane, spans: u64) {
    let line = format!("gateway_trace_spans_exported_total {spans}\n");
    eventually("the spans are counted", async || {
        let text = metrics(gateway).await;
        if text.contains(&line) { Ok(()) } else { Err(gateway_trace_lines(&text)) }
    })
    .await;
}

async fn metrics(gateway: &DataPlane) -> String {
    String::from_utf8(http1::get(gateway.admin(), "/metrics").await.body().to_vec()).unwrap()
}

#[tokio::test]
async fn a_collector_that_is_gone_holds_up_no_request_and_what_is_lost_is_counted() {
    let gone = Scripted::refusing(|_, _| Act::ok(b""));
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let (gateway, _directory) = gateway(gone.address(), &[&replica], &[]).await;
    let mut client = http1::Connection::open(gateway.address()).await.unwrap();
    let began = Instant::now();
    // More than may wait.
    for _ in 0..3000 {
        assert_eq!(client.send(get("/orders/x", &[])).await.unwrap().status(), 200);
    }
    let took = began.elapsed();
    assert!(took.as_secs() < 30, "{took:?} for 3000 requests");
    let text = metrics(&gateway).await;
    let lost = text
        .lines()
        .find_map(|line| line.strip_prefix("gateway_trace_spans_lost_total{reason=\"queue_full\"} "));
    assert!(lost.unwrap().parse::<u64>().unwrap() > 100, "{text}");
}

#[tokio::test]
async fn what_waits_is_sent_before_the_end_by_python() {
    let collector = Scripted::start(|_, _| Act::ok(b""));
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let (mut gateway, directory) = gateway(collector.address(), &[&replica], &[]).await;
    http1::get(gateway.address(), "/orders/x").await;
    gateway.process().terminate();
    assert_eq!(gateway.process().exited().await.code(), Some(0));
    assert_eq!(spans(&collector, &directory).await.len(), 2);
}

#[tokio::test]
async fn a_collector_is_told_by_grpc_and_believed_by_a_file_that_is_read_again_by_python() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("collector", server(&["127.0.0.1"]));
    let taken = tempfile::tempdir().unwrap();
    let mut collector = Command::new(tools::python());
    collector.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/otlp_collector.py")).arg(taken.path());
    collector.args([ours.path("collector.pem"), ours.path("collector.key")]);
    let mut collector = Process::spawn("collector", &mut collector);
    let ready = collector.ready().await;
    let endpoint = format!("https://{}", ready["collector"].as_str().unwrap());

    let ca = theirs.folder().join("believed.pem");
    std::fs::copy(theirs.path("ca.pem"), &ca).unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let flags = ["--otlp-protocol", "grpc", "--otlp-ca", ca.to_str().unwrap()];
    let flags = [&flags[..], &["--otlp-header", "authorization=Bearer of-arms"]].concat();
    let (gateway, _directory) = tracing_to(&endpoint, &[&replica], &flags).await;
    http1::get(gateway.address(), "/orders/lost").await;
    eventually_within(Duration::from_secs(30), "it is not believed", async || {
        let text = metrics(&gateway).await;
        let is_lost = text.contains("gateway_trace_spans_lost_total{reason=\"export_failed\"} 2\n");
        if is_lost { Ok(()) } else { Err(gateway_trace_lines(&text)) }
    })
    .await;

    let new = ca.with_extension("new");
    std::fs::copy(ours.path("ca.pem"), &new).unwrap();
    std::fs::rename(&new, &ca).unwrap();
    let bodies = eventually_within(Duration::from_secs(40), "a batch is taken", async || {
        http1::get(gateway.address(), "/orders/x").await;
        let files = std::fs::read_dir(taken.path()).unwrap().map(|file| file.unwrap().path());
        let bodies: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "bin")).collect();
        if bodies.is_empty() { Err(gateway_trace_lines(&metrics(&gateway).await)) } else { Ok(bodies) }
    })
    .await;
    let spans = decoded(&bodies).await;
    let server = spans.iter().find(|span| span["kind"] == SERVER).unwrap();
    assert_eq!(server["name"], "GET orders", "{server:#}");
    assert!(
        spans.iter().any(|span| span["kind"] == CLIENT && span["parent"] == server["span"]),
        "{spans:#?}"
    );
}

fn gateway_trace_lines(metrics: &str) -> String {
    metrics.lines().filter(|line| line.contains("trace")).collect::<Vec<_>>().join("; ")
}
