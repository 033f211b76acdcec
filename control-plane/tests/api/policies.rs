use control_plane::store::StoreLocation;
use gateway_proto::v1;
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::{
    discovery::{Node, hello},
    plane::{Plane, explain, request, seconds},
};

fn ratio(service: &str, ratio: f64) -> v1::Policy {
    let breaker = v1::BreakerPolicy { failure_ratio: Some(ratio), ..Default::default() };
    v1::Policy { service: service.into(), breaker: Some(breaker), ..Default::default() }
}

fn update(policy: v1::Policy) -> v1::UpdatePolicyRequest {
    let author = "ana".into();
    v1::UpdatePolicyRequest { policy: Some(policy), allow_missing: true, author, ..Default::default() }
}

async fn set(plane: &Plane, request: v1::UpdatePolicyRequest) -> Result<v1::Policy, Status> {
    let answer = plane.policies().update_policy(request).await?.into_inner();
    Ok(answer.policy.unwrap())
}

async fn get(plane: &Plane, service: &str) -> Result<v1::Policy, Status> {
    let request = v1::GetPolicyRequest { service: service.into() };
    Ok(plane.policies().get_policy(request).await?.into_inner().policy.unwrap())
}

async fn resolve(plane: &Plane, service: &str) -> v1::ResolvePolicyResponse {
    let request = v1::ResolvePolicyRequest { service: service.into() };
    plane.policies().resolve_policy(request).await.unwrap().into_inner()
}

fn failure_ratio(policy: Option<v1::Policy>) -> Option<f64> {
    policy.and_then(|policy| policy.breaker)?.failure_ratio
}

#[tokio::test]
async fn a_stored_policy_holds_only_what_was_set_and_says_who_set_it() {
    let plane = Plane::start().await;
    let wish = v1::UpdatePolicyRequest { reason: "noisy".into(), ..update(ratio("orders", 0.25)) };
    let stored = set(&plane, wish).await.unwrap();
    assert_eq!((stored.service.as_str(), stored.revision), ("orders", 1));
    assert_eq!((stored.updated_by.as_str(), stored.update_reason.as_str()), ("ana", "noisy"));
    assert!(stored.update_time.is_some() && !stored.etag.is_empty());
    assert_eq!((stored.timeout, stored.breaker.as_ref().unwrap().window), (None, None));
    assert_eq!(get(&plane, "orders").await.unwrap(), stored);
    plane.stop().await;
}

#[tokio::test]
async fn a_value_comes_from_the_service_then_from_all_services_then_from_the_defaults() {
    let plane = Plane::start().await;
    let star = v1::Policy {
        timeout: Some(v1::TimeoutPolicy { request: seconds(5), ..Default::default() }),
        ..ratio("*", 0.75)
    };
    set(&plane, update(star)).await.unwrap();
    set(&plane, update(ratio("orders", 0.25))).await.unwrap();
    let orders = resolve(&plane, "orders").await;
    let origin = |field: &str| orders.origins[field].as_str();
    assert_eq!(origin("breaker.failure_ratio"), "orders");
    assert_eq!(origin("timeout.request"), "*");
    assert_eq!(origin("breaker.window"), "default");
    assert_eq!(failure_ratio(orders.policy), Some(0.25));
    assert_eq!(failure_ratio(resolve(&plane, "users").await.policy), Some(0.75));

    let delete = v1::DeletePolicyRequest { service: "orders".into(), ..Default::default() };
    plane.policies().delete_policy(delete.clone()).await.unwrap();
    assert_eq!(failure_ratio(resolve(&plane, "orders").await.policy), Some(0.75));
    let again = plane.policies().delete_policy(delete).await.unwrap_err();
    assert_eq!(explain(&again), (Code::NotFound, "POLICY_NOT_FOUND".into(), String::new()));
    plane.stop().await;
}

#[tokio::test]
async fn which_requests_are_let_through_is_a_setting_like_the_others_and_reaches_data_planes() {
    let plane = Plane::start().await;
    let rules = |methods: &[&str]| {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        let (max_body_bytes, upgrades) = (Some(10 << 20), vec!["websocket".to_owned()]);
        let request = v1::RequestPolicy { methods, json_only: Some(true), max_body_bytes, upgrades };
        v1::Policy { service: "*".into(), request: Some(request), ..Default::default() }
    };
    let refused = set(&plane, update(rules(&["POST", "get"]))).await.unwrap_err();
    let (code, reason, field) = explain(&refused);
    assert_eq!(
        (code, reason.as_str(), field.as_str()),
        (Code::InvalidArgument, "POLICY_INVALID", "request.methods")
    );
    let stored = set(&plane, update(rules(&["POST", "GET"]))).await.unwrap();
    assert_eq!(stored.request, rules(&["GET", "POST"]).request);
    let resolved = resolve(&plane, "orders").await;
    assert_eq!(resolved.policy.unwrap().request, stored.request);
    assert_eq!(resolved.origins["request.methods"], "*");

    let mut node = Node::connect(&plane, hello("dp-1")).await;
    let told = node.full().await.1.default_policy.unwrap();
    assert_eq!(told.request, stored.request);
    plane.stop().await;
}

#[tokio::test]
async fn a_mask_changes_what_it_names_and_clears_what_is_named_and_unset() {
    let plane = Plane::start().await;
    let mut first = ratio("orders", 0.25);
    first.drain_timeout = seconds(9);
    set(&plane, update(first)).await.unwrap();
    let masked = |paths: &[&str], policy| v1::UpdatePolicyRequest {
        update_mask: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..update(policy)
    };
    let stored = set(&plane, masked(&["drain_timeout"], ratio("orders", 0.5))).await.unwrap();
    assert_eq!((stored.drain_timeout, failure_ratio(Some(stored))), (None, Some(0.25)));
    let stored = set(&plane, masked(&["breaker"], ratio("orders", 0.5))).await.unwrap();
    assert_eq!(failure_ratio(Some(stored)), Some(0.5));
    let refused = set(&plane, masked(&["breaker.failure_rate"], ratio("orders", 0.5))).await.unwrap_err();
    assert_eq!(explain(&refused).2, "update_mask");
    plane.stop().await;
}

#[tokio::test]
async fn a_bad_value_is_refused_with_its_field_and_range_and_nothing_is_stored() {
    let plane = Plane::start().await;
    let refused = set(&plane, update(ratio("orders", 50.0))).await.unwrap_err();
    assert_eq!(
        explain(&refused),
        (Code::InvalidArgument, "POLICY_INVALID".into(), "breaker.failure_ratio".into())
    );
    assert!(refused.message().contains("did you mean 0.5?"), "{}", refused.message());
    let no_service = set(&plane, update(ratio("Orders", 0.5))).await.unwrap_err();
    assert_eq!(explain(&no_service).2, "policy.service");
    let nothing = plane.policies().update_policy(v1::UpdatePolicyRequest::default()).await.unwrap_err();
    assert_eq!(explain(&nothing).2, "policy");
    assert_eq!(get(&plane, "orders").await.unwrap_err().code(), Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn a_policy_of_all_services_that_contradicts_one_of_a_service_is_refused_by_its_name() {
    let plane = Plane::start().await;
    let retry = |base, max| v1::RetryPolicy { base_backoff: base, max_backoff: max, ..Default::default() };
    let of = |service: &str, retry| v1::Policy {
        service: service.into(),
        retry: Some(retry),
        ..Default::default()
    };
    let millis = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    set(&plane, update(of("orders", retry(millis(200), None)))).await.unwrap();
    let refused = set(&plane, update(of("*", retry(None, millis(100))))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("orders"), "{}", refused.message());
    plane.stop().await;
}

#[tokio::test]
async fn a_change_from_an_old_etag_is_aborted_and_a_rehearsed_one_changes_nothing() {
    let plane = Plane::start().await;
    let missing = v1::UpdatePolicyRequest { allow_missing: false, ..update(ratio("orders", 0.25)) };
    let refused = set(&plane, missing).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::NotFound, "POLICY_NOT_FOUND".into(), String::new()));
    let rehearsed = v1::UpdatePolicyRequest { validate_only: true, ..update(ratio("orders", 0.25)) };
    assert_eq!(failure_ratio(set(&plane, rehearsed).await.ok()), Some(0.25));
    assert!(get(&plane, "orders").await.is_err());

    let first = set(&plane, update(ratio("orders", 0.25))).await.unwrap();
    let tagged =
        |ratio_| v1::UpdatePolicyRequest { etag: first.etag.clone(), ..update(ratio("orders", ratio_)) };
    set(&plane, tagged(0.5)).await.unwrap();
    let late = set(&plane, tagged(0.75)).await.unwrap_err();
    assert_eq!(explain(&late), (Code::Aborted, "ETAG_MISMATCH".into(), String::new()));
    // The same again costs no revision.
    let again = set(&plane, update(ratio("orders", 0.5))).await.unwrap();
    assert_eq!(again.revision, 2);
    plane.stop().await;
}

#[tokio::test]
async fn policies_are_listed_with_that_of_all_services_first_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreLocation::Redb(folder.path().join("gateway.redb"));
    let plane = Plane::start_with(|config| config.store = store.clone()).await;
    for service in ["users", "*", "orders"] {
        set(&plane, update(ratio(service, 0.25))).await.unwrap();
    }
    plane.stop().await;
    let plane = Plane::start_with(|config| config.store = store).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListPoliciesRequest { page_size: 2, page_token, ..Default::default() };
        let page = plane.policies().list_policies(request).await.unwrap().into_inner();
        assert_eq!(page.revision, 3);
        names.extend(page.policies.into_iter().map(|policy| policy.service));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["*", "orders", "users"]);
    plane.stop().await;
}

#[tokio::test]
async fn data_planes_are_told_the_policy_of_all_services_once_and_only_what_changed() {
    let plane = Plane::start().await;
    for (service, port) in [("orders", 1), ("users", 2)] {
        plane.register(request(service, &format!("10.0.0.1:{port}"))).await;
    }
    let mut node = Node::connect(&plane, hello("n1")).await;
    let (_, full) = node.full().await;
    assert_eq!(failure_ratio(full.default_policy), Some(0.5));
    assert!(full.services.iter().all(|service| service.policy.is_none()));

    set(&plane, update(ratio("orders", 0.25))).await.unwrap();
    let (_, delta) = node.delta().await;
    assert_eq!((delta.default_policy, delta.upsert_services.len()), (None, 1));
    assert_eq!(failure_ratio(delta.upsert_services[0].policy.clone()), Some(0.25));

    // Who has a policy of his own inherits what it leaves open.
    set(&plane, update(ratio("*", 0.75))).await.unwrap();
    let (_, delta) = node.delta().await;
    assert_eq!(failure_ratio(delta.default_policy), Some(0.75));
    assert_eq!(delta.upsert_services.len(), 1);

    let delete = v1::DeletePolicyRequest { service: "orders".into(), ..Default::default() };
    plane.policies().delete_policy(delete).await.unwrap();
    let (_, delta) = node.delta().await;
    assert_eq!(
        (delta.upsert_services[0].service.as_str(), &delta.upsert_services[0].policy),
        ("orders", &None)
    );
    plane.stop().await;
}

fn change(policy: v1::Policy) -> v1::PolicyChange {
    v1::PolicyChange { policy: Some(policy), ..Default::default() }
}

fn gone(service: &str) -> v1::PolicyChange {
    let policy = Some(v1::Policy { service: service.into(), ..Default::default() });
    v1::PolicyChange { policy, remove: true, ..Default::default() }
}

async fn apply(
    plane: &Plane,
    changes: Vec<v1::PolicyChange>,
    validate_only: bool,
) -> Result<v1::ApplyPoliciesResponse, Status> {
    let request = v1::ApplyPoliciesRequest { changes, validate_only, ..Default::default() };
    Ok(plane.policies().apply_policies(request).await?.into_inner())
}

#[tokio::test]
async fn several_policies_become_what_was_asked_at_one_revision_and_data_planes_get_them_in_one_update() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:1")).await;
    let before = v1::Policy {
        timeout: Some(v1::TimeoutPolicy { request: seconds(5), ..Default::default() }),
        ..ratio("orders", 0.25)
    };
    let etag = set(&plane, update(before)).await.unwrap().etag;
    let mut node = Node::connect(&plane, hello("n1")).await;
    node.full().await;
    let changes = || {
        vec![
            change(ratio("*", 0.75)),
            v1::PolicyChange { etag: etag.clone(), ..change(ratio("orders", 0.5)) },
        ]
    };
    let asked = apply(&plane, changes(), true).await.unwrap();
    assert_eq!((asked.policies.len(), asked.revision, asked.rollout), (2, 0, None));
    assert!(asked.policies.iter().all(|policy| policy.etag.is_empty() && policy.revision == 0));
    assert_eq!(failure_ratio(Some(get(&plane, "orders").await.unwrap())), Some(0.25), "it was a question");

    let applied = apply(&plane, changes(), false).await.unwrap();
    let stored: Vec<_> = applied.policies.iter().map(|policy| (&*policy.service, policy.revision)).collect();
    assert_eq!(stored, [("*", applied.revision), ("orders", applied.revision)]);
    assert_eq!(applied.rollout.unwrap().node_count, 1);
    let orders = get(&plane, "orders").await.unwrap();
    assert_eq!(
        (failure_ratio(Some(orders.clone())), orders.timeout),
        (Some(0.5), None),
        "what is not said is cleared"
    );
    let (_, delta) = node.delta().await;
    assert_eq!(failure_ratio(delta.default_policy), Some(0.75));
    assert_eq!(failure_ratio(delta.upsert_services[0].policy.clone()), Some(0.5));

    let again = apply(&plane, changes(), false).await.unwrap_err();
    assert_eq!(explain(&again), (Code::Aborted, "ETAG_MISMATCH".into(), String::new()));
    let pruned = apply(&plane, vec![gone("orders"), gone("*")], false).await.unwrap();
    assert_eq!((pruned.policies, pruned.revision), (Vec::new(), applied.revision + 1));
    plane.stop().await;
}

#[tokio::test]
async fn several_policies_that_are_not_one_change_each_are_refused_by_their_places() {
    let plane = Plane::start().await;
    let nameless = v1::Policy::default();
    let both = v1::PolicyChange { must_be_missing: true, etag: "1".into(), ..change(ratio("orders", 0.5)) };
    let out_of_range = change(ratio("carts", 7.0));
    let large = v1::PolicyChange { etag: "é".repeat(2000), ..change(ratio("orders", 0.5)) };
    for (changes, reason, field) in [
        (Vec::new(), "INVALID_FIELD", "changes"),
        (vec![change(ratio("orders", 0.5)); 101], "INVALID_FIELD", "changes"),
        // More than any store takes in one transaction.
        (vec![large; 100], "INVALID_FIELD", "changes"),
        (vec![change(ratio("orders", 0.5)), gone("orders")], "INVALID_FIELD", "changes[1].policy.service"),
        (vec![change(nameless)], "INVALID_FIELD", "changes[0].policy.service"),
        (vec![v1::PolicyChange::default()], "INVALID_FIELD", "changes[0].policy"),
        (vec![gone("carts"), both], "INVALID_FIELD", "changes[1].must_be_missing"),
        (
            vec![change(ratio("orders", 0.5)), out_of_range],
            "POLICY_INVALID",
            "changes[1].policy.breaker.failure_ratio",
        ),
    ] {
        let refused = apply(&plane, changes, false).await.unwrap_err();
        assert_eq!(explain(&refused), (Code::InvalidArgument, reason.into(), field.into()), "{refused}");
    }
    let missing = apply(&plane, vec![change(ratio("orders", 0.5)), gone("carts")], false).await.unwrap_err();
    assert_eq!(explain(&missing), (Code::NotFound, "POLICY_NOT_FOUND".into(), String::new()));
    assert!(get(&plane, "orders").await.is_err(), "nothing of it was done");
    plane.stop().await;
}

#[tokio::test]
async fn rest_applies_several_policies_as_one() {
    let plane = Plane::start().await;
    let policy = |service: &str| {
        format!(r#"{{"policy": {{"service": "{service}", "breaker": {{"failureRatio": 0.5}}}}}}"#)
    };
    let body = |last: &str| format!(r#"{{"changes": [{}, {last}], "reason": "rollout"}}"#, policy("*"));
    let refused = r#"{"policy": {"service": "carts"}, "remove": true}"#;
    let (status, _, told) = plane.http_json("POST", "/v1/policies:apply", &body(refused)).await;
    assert_eq!(status, 404, "{told}");
    assert!(get(&plane, "*").await.is_err());
    let (status, _, told) =
        plane.http_json("POST", "/v1/policies:apply?dryRun=true", &body(&policy("orders"))).await;
    assert_eq!(status, 200, "{told}");
    assert!(get(&plane, "*").await.is_err());
    let (status, _, told) = plane.http_json("POST", "/v1/policies:apply", &body(&policy("orders"))).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(get(&plane, "orders").await.unwrap().update_reason, "rollout");
    assert_eq!(get(&plane, "*").await.unwrap().revision, 1);
    plane.stop().await;
}
