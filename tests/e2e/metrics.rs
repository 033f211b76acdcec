//! What Prometheus reads of both planes, held against docs/metrics.md in both directions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gateway_proto::v1::{
    ConcurrencyPolicy, DeregisterRequest, Endpoint, Policy, RegisterRequest, UpdatePolicyRequest,
};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Gateway, Scripted,
    authority::{Authority, client, server},
    command, eventually, http1,
};
use http::Method;
use rcgen::CertificateParams;
use tempfile::TempDir;

/// A family of series: its type, and the labels that its series have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

type Families = BTreeMap<String, Family>;

async fn scrape(address: SocketAddr) -> String {
    String::from_utf8(http1::get(address, "/metrics").await.body().to_vec()).unwrap()
}

/// The families of a scrape, by the names that queries use.
fn families(text: &str) -> Families {
    let mut families = Families::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = format!("{name}{suffix}");
            let family = Family { kind: kind.to_owned(), labels: BTreeSet::new() };
            assert!(families.insert(current.clone(), family).is_none(), "{name} is there twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current.as_str()), "{line} is not of {current}");
            families.get_mut(&current).unwrap().labels.extend(labels(line));
        }
    }
    families
}

/// The names of a series' labels. The buckets of histograms are no label of ours.
fn labels(line: &str) -> Vec<String> {
    let Some((inside, _)) = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')) else {
        return Vec::new();
    };
    let names = inside.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(name, _)| name);
    names.filter(|name| *name != "le").map(str::to_owned).collect()
}

/// The tables of the document, by the heading above each.
fn documented() -> BTreeMap<String, Families> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut tables, mut heading) = (BTreeMap::<String, Families>::new(), "");
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        } else if line.starts_with("| `") {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, meaning] = cells[..] else { panic!("four cells: {line}") };
            assert!(!meaning.is_empty(), "{line}");
            let labels = labels.split(',').map(str::trim).filter(|label| *label != "-");
            // Behind a label may be what its values are.
            let labels = labels.map(|label| label.split('`').nth(1).unwrap_or_default().to_owned()).collect();
            let family = Family { kind: kind.to_owned(), labels };
            let table = tables.entry(heading.to_owned()).or_default();
            assert!(table.insert(name.trim_matches('`').to_owned(), family).is_none(), "twice: {line}");
        }
    }
    tables
}

fn compare(plane: &str, text: &str) {
    let (scraped, documented) = (families(text), documented().remove(plane).unwrap_or_default());
    let undocumented: Vec<_> = scraped.keys().filter(|name| !documented.contains_key(*name)).collect();
    let missing: Vec<_> = documented.keys().filter(|name| !scraped.contains_key(*name)).collect();
    assert!(
        undocumented.is_empty() && missing.is_empty(),
        "{plane}: no row: {undocumented:#?}; no metric: {missing:#?}"
    );
    for (name, family) in &scraped {
        assert_eq!(family, &documented[name], "{plane}: {name} as scraped, and as documented");
    }
}

/// A service of one dead replica, whose breaker is open, and with a limit, on planes with these flags.
async fn planes(of_control: &[&str], flags: &[&str]) -> (ControlPlane, DataPlane, (TempDir, Scripted)) {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start_with(&directory.path().join("registry.redb"), of_control).await;
    let url = control.url();
    let flags = [&["--control-plane", &url, "--no-cache", "--node-id", "dp-1"][..], flags].concat();
    let data = DataPlane::start(&flags).await;
    let limit = ConcurrencyPolicy { max_per_replica: Some(5), ..Default::default() };
    let policy = Policy { service: "orders".into(), concurrency: Some(limit), ..Default::default() };
    let request = UpdatePolicyRequest { policy: Some(policy), allow_missing: true, ..Default::default() };
    control.policies().update_policy(request).await.unwrap();
    let dead = Scripted::refusing(|_, _| Act::ok(b""));
    let request = RegisterRequest {
        service: "orders".into(),
        endpoint: Some(Endpoint { address: dead.address().to_string(), ..Default::default() }),
        permanent: true,
        ..Default::default()
    };
    control.registry().register(request).await.unwrap();
    data.routes("orders").await;
    eventually("the breaker opens", async || {
        http1::get(data.address(), "/orders/x").await;
        let text = scrape(data.admin()).await;
        if text.contains("gateway_replica_breaker_state{") { Ok(()) } else { Err("it is closed".to_owned()) }
    })
    .await;
    // The port of the dead one is to stay its own.
    (control, data, (directory, dead))
}

#[tokio::test]
async fn each_metric_of_both_planes_is_documented_with_its_type_and_labels_and_no_other_is() {
    let log = tempfile::tempdir().unwrap();
    let path = log.path().join("access.log").display().to_string();
    let ours = Authority::new("ours");
    ours.sign("peer", client("peer", None));
    ours.sign("clients", server(&["gw.example"]));
    let (certificate, key) = (ours.path("clients.pem"), ours.path("clients.key"));
    let (control, data, _kept) = planes(
        &["--peer-cert", &ours.path("peer.pem"), "--peer-key", &ours.path("peer.key")],
        &[
            &["--access-log", &path, "--otlp-endpoint", "http://127.0.0.1:9"][..],
            &["--tls-listen", "127.0.0.1:0", "--tls-certificate", &certificate, "--tls-key", &key],
        ]
        .concat(),
    )
    .await;
    compare("Data plane", &scrape(data.admin()).await);
    // By another one, for it asks who its callers are.
    let hash = control_plane::auth_file::fingerprint("gwt_ci");
    let entry = format!(
        "[[token]]\nname = \"ci\"\nsha256 = \"{hash}\"\nroles = [\"reader\"]\nexpires = \"2100-01-01T00:00:00Z\"\n"
    );
    let auth = log.path().join("auth.toml");
    std::fs::write(&auth, entry).unwrap();
    let flags = ["--auth-file", auth.to_str().unwrap(), "--open-metrics"];
    let locked = ControlPlane::start_on("memory:".into(), &flags).await;
    let told = scrape(locked.address()).await;
    let ends = told.lines().filter(|line| line.contains("gateway_auth_token_not_after_timestamp_seconds"));
    let ends = ends.collect::<Vec<_>>().join("\n");
    assert!(ends.contains("{token=\"ci\"} 4102444800"), "{told}");
    compare("Control plane", &format!("{}{ends}", scrape(control.address()).await));
}

#[tokio::test]
async fn when_certificates_end_is_told_of_each_use_and_a_check_tells_of_those_that_do_soon() {
    let ours = Authority::new("ours");
    let now = SystemTime::now();
    let until = |mut params: CertificateParams, days: u64| {
        params.not_after = (now + Duration::from_secs(days * 86_400)).into();
        params
    };
    ours.sign("peer", until(client("peer", None), 5));
    ours.sign("clients", until(server(&["gw.example"]), 6));
    ours.sign("node", until(client("node", None), 90));
    let path = |name: &str| ours.path(name);
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("registry.redb");
    let of_control = ["--peer-cert", &path("peer.pem"), "--peer-key", &path("peer.key")];
    let control = ControlPlane::start_with(&store, &of_control).await;
    let data = DataPlane::start(&[
        "--control-plane",
        &control.url(),
        "--no-cache",
        "--tls-listen",
        "127.0.0.1:0",
        "--tls-certificate",
        &path("clients.pem"),
        "--tls-key",
        &path("clients.key"),
        "--upstream-certificate",
        &path("node.pem"),
        "--upstream-key",
        &path("node.key"),
        "--control-plane-ca",
        &path("ca.pem"),
    ])
    .await;
    let ends_in = |text: &str, of: &str, name: &str| {
        let labels = format!("{{use=\"{of}\",file=\"{}\"}}", path(name));
        let at = value(text, &format!("gateway_certificate_not_after_timestamp_seconds{labels}"));
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        // What was signed is cut to whole seconds.
        at.map(|at| ((at - now) / 86_400.0).round())
    };
    let of_data = scrape(data.admin()).await;
    assert_eq!(ends_in(&of_data, "listener", "clients.pem"), Some(6.0), "{of_data}");
    assert_eq!(ends_in(&of_data, "replicas", "node.pem"), Some(90.0), "{of_data}");
    for of in ["listener", "replicas", "control_plane"] {
        let unusable = format!("gateway_certificate_files_unusable{{use=\"{of}\"}}");
        assert_eq!(value(&of_data, &unusable), Some(0.0), "{of_data}");
    }
    let of_control = scrape(control.address()).await;
    assert_eq!(ends_in(&of_control, "peers", "peer.pem"), Some(5.0), "{of_control}");

    let admin = format!("http://{}", data.admin());
    let check = command::gwctl(&control.url(), &["check", "--data-plane", &admin]).await.success();
    let clients = format!("{admin}: the certificate in {} (listener) ends in 5days", path("clients.pem"));
    assert!(check.contains(&clients), "{check}");
    let peer = format!("the certificate in {} (peers) ends in 4days", path("peer.pem"));
    assert!(check.contains(&peer) && !check.contains("node.pem"), "{check}");
}

#[tokio::test]
async fn a_service_has_as_many_series_as_documented_from_its_first_moment_and_none_once_it_is_gone() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let registered = gateway.register("orders", "r-1", replica.address()).await;
    let of_orders = async || {
        let text = scrape(gateway.data.admin()).await;
        text.lines().filter(|line| line.contains("service=\"orders\"")).count()
    };
    let document = include_str!("../../docs/metrics.md");
    assert!(document.contains("34 more for its two histograms, 118 in all"));
    assert_eq!(of_orders().await, 118, "before its first request");
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    assert_eq!(of_orders().await, 118, "after it");
    let request = DeregisterRequest {
        service: "orders".into(),
        replica_id: registered.replica_id,
        ..Default::default()
    };
    gateway.control.registry().deregister(request).await.unwrap();
    eventually("its series are gone", async || match of_orders().await {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    })
    .await;
}

#[tokio::test]
async fn requests_are_counted_as_they_ended_and_their_durations_as_often() {
    let gateway = Gateway::start_unchecked().await;
    let good = Scripted::start(|_, _| Act::ok(b"hello"));
    let bad = Scripted::refusing(|_, _| Act::ok(b""));
    gateway.register("orders", "r-1", good.address()).await;
    gateway.register("orders", "r-2", bad.address()).await;
    for _ in 0..4 {
        assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    }
    eventually("all requests have ended", async || {
        let text = scrape(gateway.data.admin()).await;
        let of = |series: &str| value(&text, series).unwrap_or_else(|| panic!("no {series} in {text}"));
        let attempts = |result: &str| {
            of(&format!("gateway_upstream_attempts_total{{service=\"orders\",result=\"{result}\"}}"))
        };
        // Whose turn it is after a retry is not for this test to say.
        let failed = attempts("connect_error");
        let recovered = of("gateway_retries_total{service=\"orders\",result=\"recovered\"}");
        let expected = [
            (of("gateway_requests_total{service=\"orders\",code_class=\"2xx\",outcome=\"success\"}"), 4.0),
            (of("gateway_request_duration_seconds_count{service=\"orders\"}"), 4.0),
            (of("gateway_requests_inflight{service=\"orders\"}"), 0.0),
            (attempts("success"), 4.0),
            (of("gateway_upstream_attempt_duration_seconds_count{service=\"orders\"}"), 4.0 + failed),
            (of("gateway_upstream_retries_total{service=\"orders\"}"), failed),
            (recovered, failed),
        ];
        let is_met = failed >= 2.0 && expected.iter().all(|(count, expected)| count == expected);
        if is_met { Ok(()) } else { Err(format!("{failed} failed, {expected:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_before_its_answer_is_counted_and_in_flight_until_then() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::Hang);
    gateway.register("orders", "r-1", replica.address()).await;
    let mut client = http1::Connection::open(gateway.proxy()).await.unwrap();
    let inflight = "gateway_requests_inflight{service=\"orders\"}";
    let aborted = "gateway_requests_total{service=\"orders\",code_class=\"4xx\",outcome=\"client_abort\"}";
    let becomes = async |series: &str, expected: f64| {
        eventually(&format!("{series} becomes {expected}"), async || {
            let text = scrape(gateway.data.admin()).await;
            let value = value(&text, series);
            if value == Some(expected) { Ok(()) } else { Err(format!("it is {value:?}")) }
        })
        .await;
    };
    {
        let waits = client.send(http1::request(Method::GET, "/orders/x"));
        tokio::select! {
            answer = waits => panic!("it hangs: {answer:?}"),
            () = becomes(inflight, 1.0) => {}
        }
    }
    drop(client);
    becomes(aborted, 1.0).await;
    becomes(inflight, 0.0).await;
}

#[tokio::test]
async fn with_more_services_than_the_flag_says_histograms_are_of_all_together() {
    let (_control, data, _kept) = planes(&[], &["--metrics-histogram-services", "0"]).await;
    let text = scrape(data.admin()).await;
    for histogram in ["gateway_request_duration_seconds", "gateway_upstream_attempt_duration_seconds"] {
        assert!(value(&text, &format!("{histogram}_count{{service=\"*\"}}")).unwrap() >= 5.0, "{text}");
        assert!(!text.contains(&format!("{histogram}_count{{service=\"orders\"}}")), "{text}");
    }
    let requests = "gateway_breakers{service=\"orders\",state=\"closed\"}";
    assert_eq!(value(&text, requests), Some(0.0), "other series are of each service");
}

/// A series' value.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
