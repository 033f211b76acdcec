//! Commands against a scripted control plane: what they ask, and what they make of the answers.

use clap::Parser as _;
use gateway_proto::v1;

use super::*;
use crate::{
    cli::Cli,
    commands,
    control::fake::{Fake, Script},
};

async fn run(line: &str, endpoint: &str) -> Result<(), Error> {
    let line = format!("gwctl --endpoint {endpoint} --quiet {line}");
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    commands::run(cli, Origin::Flag).await
}

mod acts;

fn replica(service: &str, id: &str) -> v1::Replica {
    v1::Replica { service: service.into(), replica_id: id.into(), ..Default::default() }
}

async fn connect(script: Script) -> (Fake, Control, String) {
    let (fake, address) = Fake::start(script).await;
    let url = format!("http://{address}");
    let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
    let endpoint = Endpoint::parse(&url, Origin::Flag).unwrap();
    (fake, Control::over(channel, endpoint, Duration::from_millis(200), false), url)
}

fn orders() -> Script {
    Script {
        services: vec![v1::Service { service: "orders".into(), ..Default::default() }],
        replicas: ["r-1", "r-2", "r-3", "r-4", "r-5"].map(|id| replica("orders", id)).into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn all_pages_become_one_response_with_the_newest_revision_and_no_token() {
    let (_, control, _) = connect(orders()).await;
    let all = control.replicas(None).await.unwrap();
    let ids: Vec<_> = all.replicas.iter().map(|r| r.replica_id.as_str()).collect();
    assert_eq!(ids, ["r-1", "r-2", "r-3", "r-4", "r-5"]);
    assert_eq!((all.revision, all.next_page_token.as_str()), (6, ""));
}

#[tokio::test]
async fn events_stop_at_the_limit() {
    let event = |id: u32| v1::Event { event_id: id.to_string(), ..Default::default() };
    let script = Script { events: (0..3000).map(event).collect(), ..Default::default() };
    let (_, control, _) = connect(script).await;
    let count = async |limit| control.events(&Scope::default(), "", limit).await.unwrap().events.len();
    assert_eq!([count(1).await, count(1500).await, count(9000).await], [1, 1500, 3000]);
}

#[tokio::test]
async fn filters_and_orders_are_passed_on_as_they_are() {
    let (fake, control, _) = connect(orders()).await;
    let query = Query { filter: "health = LOST".into(), order_by: "weight desc".into() };
    control.replicas_of(None, &query).await.unwrap();
    control.services_of(&query).await.unwrap();
    control.events(&Scope::default(), "severity >= WARNING", 10).await.unwrap();
    let asked = fake.with(|script| std::mem::take(&mut script.queries));
    // The replicas come on three pages, each asked for with the same query.
    let list = ("health = LOST".to_owned(), "weight desc".to_owned());
    let expected = [&list, &list, &list, &list, &("severity >= WARNING".to_owned(), String::new())];
    assert_eq!(asked.iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_unknown_service_names_the_one_that_was_meant() {
    let (_, _, url) = connect(orders()).await;
    let error = run("get replicas odrers", &url).await.unwrap_err();
    assert_eq!(error.headline, "service \"odrers\" is not registered");
    assert_eq!(error.hints, ["did you mean \"orders\"?", "gwctl get services"]);
    assert_eq!((error.exit, error.code.as_str()), (Exit::NotFound, "NOT_FOUND / SERVICE_NOT_FOUND"));
}

#[tokio::test]
async fn every_list_and_description_is_printed_in_every_format() {
    let (_, _, url) = connect(everything()).await;
    for command in [
        "get services",
        "get nodes",
        "get replicas orders",
        "get breakers",
        "get policies",
        "get overrides",
        "policy get orders",
        "policy get orders --resolved",
        "events",
        "describe service orders",
        "describe replica orders/r-1",
        "describe breaker orders/r-1",
        "describe node dp-1",
        "describe policy orders",
        "describe route api",
        "describe override breaker/orders/r-1",
        "describe fault *",
        "describe event 7",
    ] {
        for format in ["table", "wide", "json", "name"] {
            run(&format!("{command} -o {format}"), &url).await.expect(command);
        }
    }
}

/// One of each.
fn everything() -> Script {
    let policy = |service: &str| v1::Policy { service: service.into(), ..Default::default() };
    let end_time =
        Some(gateway_proto::time::timestamp(std::time::SystemTime::now() + Duration::from_secs(600)));
    let fault = v1::FaultPolicy { abort_ratio: Some(0.5), end_time, ..Default::default() };
    let star = v1::Policy { fault: Some(fault), ..policy("*") };
    let route = v1::Route { name: "api".into(), service: "orders".into(), ..Default::default() };
    Script {
        policies: [("*".to_owned(), star), ("orders".to_owned(), policy("orders"))].into(),
        routes: [("api".to_owned(), route)].into(),
        nodes: Some(vec![v1::Node { node_id: "dp-1".into(), ..Default::default() }]),
        overrides: vec![v1::OverrideEntry {
            override_id: "breaker/orders/r-1".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            ..Default::default()
        }],
        events: vec![v1::Event { event_id: "7".into(), ..Default::default() }],
        ..orders()
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_described_and_names_the_one_that_was_meant() {
    let (_, _, url) = connect(everything()).await;
    for (line, meant) in [
        ("describe service odrers", "did you mean \"orders\"?"),
        ("describe replica orders/q-1", "did you mean \"r-1\"?"),
        ("describe breaker orders/q-1", "did you mean \"r-1\"?"),
        ("describe node dp1", "did you mean \"dp-1\"?"),
        ("describe policy odrers", "gwctl policy get odrers --resolved   shows what holds"),
        ("describe route apu", "did you mean \"api\"?"),
        ("describe override breaker/orders/r1", "did you mean \"breaker/orders/r-1\"?"),
        ("describe fault orders", "gwctl get faults"),
        ("describe event 8", "gwctl events -o name"),
    ] {
        let error = run(line, &url).await.expect_err(line);
        assert_eq!((error.exit, error.hints[0].as_str()), (Exit::NotFound, meant), "{line}");
    }
}

#[tokio::test]
async fn filters_of_breakers_data_planes_and_policies_are_passed_on_as_they_are() {
    let (fake, _, url) = connect(everything()).await;
    for line in ["get breakers", "get nodes", "get policies"] {
        let words = ["--filter".to_owned(), "state = OPEN".to_owned()];
        let line = line.split_whitespace().map(str::to_owned);
        let start = ["gwctl", "--endpoint", &url, "--quiet"].map(str::to_owned);
        let cli = Cli::try_parse_from(start.into_iter().chain(line).chain(words)).unwrap();
        commands::run(cli, Origin::Flag).await.unwrap();
        assert_eq!(fake.with(|script| script.queries.pop().unwrap()).0, "state = OPEN");
    }
}

#[tokio::test]
async fn services_are_shown_also_where_policies_cannot_be_read_or_are_not_known() {
    for code in [Code::PermissionDenied, Code::Unimplemented] {
        let (_, _, url) = connect(Script { refuse_policies: Some(code), ..orders() }).await;
        run("get services", &url).await.unwrap();
        run("describe service orders", &url).await.unwrap();
    }
    let (_, control, _) = connect(Script { refuse_policies: Some(Code::Unimplemented), ..orders() }).await;
    let foreign = control.policies().await.unwrap_err();
    assert_eq!(foreign.exit, Exit::Unreachable, "who has answered nothing else may be anybody: {foreign:?}");
    control.services().await.unwrap();
    let older = control.policies().await.unwrap_err();
    assert!(older.headline.ends_with("is older than this gwctl: it has no ListPolicies"), "{older:?}");
}

#[tokio::test]
async fn deregister_finds_the_replica_by_its_beginning_and_forces_it_with_the_reason() {
    let (fake, _, url) = connect(Script { replicas: vec![replica("orders", "r-c0fe")], ..orders() }).await;
    run("deregister orders/r-c --reason broken", &url).await.unwrap();
    let asked = fake.with(|script| script.deregistered.pop().unwrap());
    assert_eq!((asked.replica_id.as_str(), asked.reason.as_str(), asked.force), ("r-c0fe", "broken", true));
}

#[tokio::test]
async fn register_asks_for_a_permanent_replica_with_its_labels() {
    let (fake, _, url) = connect(Script::default()).await;
    run("register orders 127.0.0.1:80 --id r-1 --weight 7 --label team=web", &url).await.unwrap();
    let asked = fake.with(|script| script.registered.pop().unwrap());
    assert!(asked.permanent);
    assert_eq!((asked.weight, asked.labels["team"].as_str()), (7, "web"));
}

#[tokio::test]
async fn a_refused_field_is_named() {
    let (_, control, _) = connect(Script::default()).await;
    let request = v1::RegisterRequest { service: "orders".into(), weight: 2000, ..Default::default() };
    let error = control.register(request).await.unwrap_err();
    assert_eq!(error.headline, "invalid registration of orders");
    assert_eq!(error.details, ["weight: 2000 is not in 1..=1000"]);
    assert_eq!(error.exit, Exit::Usage);
}

#[tokio::test]
async fn a_service_without_events_is_doubted_only_when_it_is_not_registered() {
    let (_, control, _) = connect(orders()).await;
    assert_eq!(control.doubt_about("orders").await, None);
    let doubt = async |name| control.doubt_about(name).await.unwrap();
    assert_eq!(doubt("odrers").await, "service \"odrers\" is not registered now: did you mean \"orders\"?");
    assert_eq!(doubt("mailer").await, "service \"mailer\" is not registered now");
}

#[tokio::test]
async fn a_watch_that_is_refused_ends_instead_of_trying_for_ever() {
    let (_, _, url) = connect(Script::default()).await;
    let error = run("events -w", &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::Denied, "not for you"));
}

#[tokio::test]
async fn a_control_plane_that_does_not_answer_in_time_is_unreachable() {
    let (_, control, url) = connect(Script::default()).await;
    let error = control.nodes().await.unwrap_err();
    assert_eq!(error.headline, format!("the control plane at {url} did not answer within 200ms"));
    assert_eq!((error.exit, error.code.as_str()), (Exit::Unreachable, "DEADLINE_EXCEEDED"));
}

/// Passes connections on until it is aborted, which ends them.
async fn relay(to: std::net::SocketAddr) -> (tokio::task::AbortHandle, std::net::SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let relaying = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut inbound, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut outbound = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await
            });
        }
    });
    (relaying.abort_handle(), address)
}

#[tokio::test]
async fn of_several_control_planes_the_first_that_answers_is_asked_and_another_one_when_it_has_gone() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_one, behind) = Fake::start(orders()).await;
    let (relay, first) = relay(behind).await;
    let (_other, second) = Fake::start(orders()).await;
    let urls = format!("http://{dead},http://{first},http://{second}");
    let endpoint = Endpoint::parse(&urls, Origin::Flag).unwrap();
    let channel = endpoint.places.channel();
    let channel = link::connect(&channel, &endpoint.places, &Default::default()).await.unwrap();
    let control = Control::over(channel, endpoint, Duration::from_secs(9), false);
    assert_eq!(control.replicas(None).await.unwrap().replicas.len(), 5);
    assert_eq!(control.endpoint().to_string(), format!("http://{first}"));
    relay.abort();
    // The call that finds the connection gone may fail; the next one makes another.
    let goes_on = async {
        while control.replicas(None).await.is_err()
            || control.endpoint().to_string() != format!("http://{second}")
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), goes_on).await.expect("another one answers");
}

#[tokio::test]
async fn where_none_of_several_answers_each_is_named_with_its_reason() {
    let gone = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (one, other) = (gone(), gone());
    let error = run("get services", &format!("http://{one},http://{other}")).await.unwrap_err();
    assert!(error.headline.starts_with("cannot reach any control plane: "), "{error:?}");
    for address in [one, other] {
        assert!(error.headline.contains(&format!("http://{address} (")), "{error:?}");
    }
    assert_eq!(error.headline.matches("refused").count(), 2, "{error:?}");
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_named_with_the_origin_of_its_endpoint() {
    // A listener that is gone leaves a port that refuses.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run("get services", &format!("http://{address}")).await.unwrap_err();
    assert_eq!(
        error.headline,
        format!("cannot reach the control plane at http://{address} (connection refused)")
    );
    assert_eq!(error.details, ["the endpoint comes from --endpoint"]);
    assert_eq!(error.hints[0], "start one with  gwctl dev");
    assert_eq!((error.exit, error.code.as_str()), (Exit::Unreachable, "UNAVAILABLE"));
}
