use std::collections::HashMap;

use gateway_proto::v1::{self, BreakerState};
use tonic::Code;

use crate::{
    plane::{Plane, eventually, explain, request},
    reporter::{Reporter, report, row},
};

fn replica(service: &str, id: &str, weight: i32, labels: &[(&str, &str)]) -> v1::RegisterRequest {
    let port = 1 + id.bytes().fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 60_000);
    v1::RegisterRequest {
        replica_id: id.into(),
        weight,
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..request(service, &format!("10.0.0.1:{port}"))
    }
}

async fn plane() -> Plane {
    let plane = Plane::start().await;
    for wish in [
        replica("orders", "a", 10, &[("team", "red")]),
        replica("orders", "b", 30, &[("team", "blue")]),
        v1::RegisterRequest { permanent: true, priority: 1, ..replica("orders", "c", 20, &[]) },
        v1::RegisterRequest {
            initial_health: v1::HealthStatus::Starting.into(),
            locality: Some(v1::Locality { region: "eu".into(), zone: "eu-1".into() }),
            ..replica("billing", "d", 20, &[("team", "red")])
        },
        replica("client-service", "e", 5, &[]),
    ] {
        plane.register(wish).await;
    }
    plane
}

fn list(filter: &str, order_by: &str) -> v1::ListReplicasRequest {
    v1::ListReplicasRequest {
        service: "-".into(),
        filter: filter.into(),
        order_by: order_by.into(),
        ..Default::default()
    }
}

/// The ids on all pages of that size.
async fn replicas(plane: &Plane, mut list: v1::ListReplicasRequest, page_size: i32) -> String {
    list.page_size = page_size;
    let mut ids = String::new();
    loop {
        let answer = plane.registry().list_replicas(list.clone()).await.unwrap().into_inner();
        assert!(answer.replicas.len() <= usize::try_from(page_size).unwrap());
        ids.extend(answer.replicas.iter().map(|replica| replica.replica_id.as_str()));
        list.page_token = answer.next_page_token;
        if list.page_token.is_empty() {
            return ids;
        }
    }
}

#[tokio::test]
async fn replicas_are_found_by_every_field_that_the_contract_names() {
    let plane = plane().await;
    for (filter, expected) in [
        ("", "debac"),
        ("service = orders", "abc"),
        ("service : client", "e"),
        ("replica_id = a OR replica_id = d", "da"),
        ("address : \"10.0.0.1:\"", "debac"),
        ("weight >= 20", "dbc"),
        ("priority = 1", "c"),
        ("region = eu AND zone = eu-*", "d"),
        ("version : *", ""),
        ("labels.team = red", "da"),
        ("labels : team AND NOT labels.team = red", "b"),
        ("labels.team != red", "ebc"),
        ("health = STARTING", "d"),
        ("-health = HEALTH_STATUS_HEALTHY", "d"),
        ("mode = SERVING", "debac"),
        ("permanent = true", "c"),
        ("incarnation >= 1", "debac"),
        ("create_time > 2020-01-01T00:00:00Z AND update_time < 2020-01-01", ""),
        ("revision <= 2", "ab"),
    ] {
        let expected: Vec<char> = expected.chars().collect();
        for size in [1, 2, 100] {
            let mut found: Vec<char> = replicas(&plane, list(filter, ""), size).await.chars().collect();
            let mut expected = expected.clone();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{filter}");
        }
    }
    let one = v1::ListReplicasRequest { service: "orders".into(), ..list("weight > 10", "weight desc") };
    assert_eq!(replicas(&plane, one, 1).await, "bc");
}

#[tokio::test]
async fn replicas_come_in_the_order_that_was_asked_for_on_every_page() {
    let plane = plane().await;
    for (order_by, expected) in [
        ("", "deabc"),
        ("service, replica_id", "deabc"),
        ("weight", "eadcb"),
        ("weight desc", "bdcae"),
        ("weight desc, service desc", "bcdae"),
        ("labels.team desc, weight", "adbec"),
        ("permanent desc, health, replica_id desc", "cdeba"),
    ] {
        for size in [1, 2, 3, 100] {
            assert_eq!(replicas(&plane, list("", order_by), size).await, expected, "{order_by} by {size}");
        }
    }
    assert_eq!(replicas(&plane, list("labels : team", "weight desc"), 1).await, "bda");
}

#[tokio::test]
async fn pages_in_another_order_neither_repeat_nor_hide_what_stays_while_others_come_and_go() {
    let plane = plane().await;
    // In this order: e 5, a 10, d 20, c 20, b 30.
    let first = v1::ListReplicasRequest { page_size: 2, ..list("", "weight") };
    let answer = plane.registry().list_replicas(first.clone()).await.unwrap().into_inner();
    let ids = |answer: &v1::ListReplicasResponse| {
        answer.replicas.iter().map(|replica| replica.replica_id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&answer), ["e", "a"]);
    // The last one seen goes; one comes before the place and one after it.
    let leave = v1::DeregisterRequest {
        service: "orders".into(),
        replica_id: "a".into(),
        force: true,
        ..Default::default()
    };
    plane.registry().deregister(leave).await.unwrap();
    plane.register(replica("orders", "early", 1, &[])).await;
    plane.register(replica("orders", "late", 25, &[])).await;
    let rest = v1::ListReplicasRequest { page_token: answer.next_page_token, page_size: 100, ..first };
    let answer = plane.registry().list_replicas(rest).await.unwrap().into_inner();
    assert_eq!(ids(&answer), ["d", "c", "late", "b"]);
}

#[tokio::test]
async fn services_are_found_and_sorted_by_their_counts() {
    let plane = plane().await;
    let _node = Reporter::connect(&plane, report("n1", &[("a", BreakerState::Open)])).await;
    let services = async |filter: &str, order_by: &str, page_size| {
        let mut list = v1::ListServicesRequest {
            filter: filter.into(),
            order_by: order_by.into(),
            page_size,
            ..Default::default()
        };
        let mut names = Vec::new();
        loop {
            let answer = plane.registry().list_services(list.clone()).await.unwrap().into_inner();
            names.extend(answer.services.into_iter().map(|service| service.service));
            list.page_token = answer.next_page_token;
            if list.page_token.is_empty() {
                return names;
            }
        }
    };
    eventually(async || (services("open_breaker_count > 0", "", 9).await == ["orders"]).then_some(())).await;
    for size in [1, 100] {
        assert_eq!(services("", "", size).await, ["billing", "client-service", "orders"]);
        assert_eq!(services("service : \"client\"", "", size).await, ["client-service"]);
        assert_eq!(services("ready_replica_count = 0", "", size).await, ["billing"]);
        assert_eq!(
            services("NOT service = orders", "service desc", size).await,
            ["client-service", "billing"]
        );
        let sorted = services("", "open_breaker_count desc, ready_replica_count desc", size).await;
        assert_eq!(sorted, ["orders", "client-service", "billing"]);
        assert_eq!(services("lost_replica_count > 0 OR draining_replica_count > 0", "", size).await, [""; 0]);
    }
}

#[tokio::test]
async fn breakers_data_planes_and_policies_are_found_by_their_fields_page_by_page() {
    let plane = plane().await;
    let regardless = v1::Breaker { asked_regardless: true, ..row("a", BreakerState::Open) };
    let mut first = report("n1", &[("b", BreakerState::Closed)]);
    first.breakers.push(regardless);
    let _one = Reporter::connect(&plane, first).await;
    let _two = Reporter::connect(&plane, report("n2", &[("a", BreakerState::Closed)])).await;

    let breakers = async |filter: &str, per_node: bool, page_size: i32| {
        let mut list =
            v1::ListBreakersRequest { filter: filter.into(), per_node, page_size, ..Default::default() };
        let mut names = Vec::new();
        loop {
            let answer = plane.observability().list_breakers(list.clone()).await.unwrap().into_inner();
            names
                .extend(answer.breakers.into_iter().map(|row| format!("{}@{}", row.replica_id, row.node_id)));
            list.page_token = answer.next_page_token;
            if list.page_token.is_empty() {
                return names;
            }
        }
    };
    eventually(async || (breakers("", true, 9).await.len() == 3).then_some(())).await;
    for size in [1, 100] {
        assert_eq!(breakers("state = OPEN", false, size).await, ["a@"]);
        assert_eq!(breakers("node_id = n2 OR asked_regardless = true", true, size).await, ["a@n1", "a@n2"]);
        assert_eq!(breakers("state = CLOSED AND trip_count > 100", true, size).await, [""; 0]);
    }
    let get = v1::GetServiceRequest { service: "orders".into() };
    let service = plane.registry().get_service(get).await.unwrap().into_inner().service.unwrap();
    assert_eq!(service.fail_open_node_count, 1);
    let question = v1::ExplainServiceRequest { service: "orders".into() };
    let explained = plane.observability().explain_service(question).await.unwrap().into_inner();
    assert_eq!(explained.fail_open_node_count, 1);
    assert!(
        explained.summary.contains("PANIC: too few let traffic through on 1 data plane"),
        "{explained:?}"
    );

    let nodes = async |filter: &str| {
        let list = v1::ListNodesRequest { filter: filter.into(), ..Default::default() };
        let nodes = plane.observability().list_nodes(list).await.unwrap().into_inner().nodes;
        nodes.into_iter().map(|node| node.node_id).collect::<Vec<_>>()
    };
    assert_eq!(nodes("").await, ["n1", "n2"]);
    assert_eq!(nodes("open_breaker_count > 0").await, ["n1"]);

    for (service, ratio) in [("*", 0.5), ("orders", 0.25), ("users", 0.75)] {
        let breaker = v1::BreakerPolicy { failure_ratio: Some(ratio), ..Default::default() };
        let policy = v1::Policy { service: service.into(), breaker: Some(breaker), ..Default::default() };
        let update = v1::UpdatePolicyRequest {
            policy: Some(policy),
            allow_missing: true,
            author: if service == "users" { "ben" } else { "ana" }.into(),
            ..Default::default()
        };
        plane.policies().update_policy(update).await.unwrap();
    }
    let policies = async |filter: &str, page_size| {
        let mut list = v1::ListPoliciesRequest { filter: filter.into(), page_size, ..Default::default() };
        let mut names = Vec::new();
        loop {
            let answer = plane.policies().list_policies(list.clone()).await.unwrap().into_inner();
            names.extend(answer.policies.into_iter().map(|policy| policy.service));
            list.page_token = answer.next_page_token;
            if list.page_token.is_empty() {
                return names;
            }
        }
    };
    for size in [1, 100] {
        assert_eq!(policies("updated_by = ana", size).await, ["*", "orders"]);
        assert_eq!(policies("settings.breaker.failure_ratio = 0.25", size).await, ["orders"]);
        assert_eq!(policies("settings : timeout.request", size).await, [""; 0]);
        assert_eq!(policies("NOT settings : timeout.request", size).await, ["*", "orders", "users"]);
    }
}

#[tokio::test]
async fn a_wrong_filter_of_breakers_data_planes_or_policies_says_what_may_be_meant() {
    let plane = plane().await;
    let breakers = v1::ListBreakersRequest { filter: "stat = OPEN".into(), ..Default::default() };
    let nodes = v1::ListNodesRequest { filter: "state = SYNCD".into(), ..Default::default() };
    let policies = v1::ListPoliciesRequest { filter: "servce = a".into(), ..Default::default() };
    for (refused, why) in [
        (plane.observability().list_breakers(breakers).await.err(), "did you mean state"),
        (plane.observability().list_nodes(nodes).await.err(), "did you mean SYNCED"),
        (plane.policies().list_policies(policies).await.err(), "did you mean service"),
    ] {
        let refused = refused.unwrap();
        assert_eq!(explain(&refused), (Code::InvalidArgument, "INVALID_FIELD".into(), "filter".into()));
        assert!(refused.message().contains(why), "{}", refused.message());
    }
}

#[tokio::test]
async fn a_wrong_filter_or_order_is_refused_with_what_is_wrong_and_what_may_be_meant() {
    let plane = plane().await;
    for (filter, order_by, field, why) in [
        ("helth = HEALTHY", "", "filter", "at 1: \"helth\" is no field of a replica: did you mean health"),
        ("health = HEALTY", "", "filter", "did you mean HEALTHY"),
        ("weight >", "", "filter", "at 9: expected a value, found the end"),
        ("", "weigth", "order_by", "did you mean weight"),
        ("", "weight up", "order_by", "expected asc, desc or a comma after weight, found \"up\""),
    ] {
        let status = plane.registry().list_replicas(list(filter, order_by)).await.unwrap_err();
        assert_eq!(explain(&status), (Code::InvalidArgument, "INVALID_FIELD".into(), field.into()));
        assert!(status.message().contains(why), "{}", status.message());
    }
    let list = v1::ListServicesRequest { filter: "weight = 1".into(), ..Default::default() };
    let status = plane.registry().list_services(list).await.unwrap_err();
    assert!(status.message().contains("is no field of a service"), "{}", status.message());
}

#[tokio::test]
async fn a_page_token_is_of_one_filter_and_one_order() {
    let plane = plane().await;
    let token = async |filter: &str, order_by: &str| {
        let list = v1::ListReplicasRequest { page_size: 1, ..list(filter, order_by) };
        plane.registry().list_replicas(list).await.unwrap().into_inner().next_page_token
    };
    let tokens: HashMap<_, _> = [
        (("", ""), token("", "").await),
        (("weight > 1", ""), token("weight > 1", "").await),
        (("", "weight"), token("", "weight").await),
        (("", "weight desc"), token("", "weight desc").await),
    ]
    .into();
    for (asked, token) in &tokens {
        for other in tokens.keys() {
            let next = v1::ListReplicasRequest { page_token: token.clone(), ..list(other.0, other.1) };
            let answer = plane.registry().list_replicas(next).await;
            match other == asked {
                true => assert!(!answer.unwrap().into_inner().replicas.is_empty()),
                false => assert_eq!(explain(&answer.unwrap_err()).1, "PAGE_TOKEN_INVALID"),
            }
        }
    }
}
