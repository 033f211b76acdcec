use gateway_proto::v1;
use http::Method;
use prost::Name;
use prost_reflect::ReflectMessage;
use serde_json::json;

use super::{super::paths::Found, *};

/// A request as it comes: its target, headers and body.
struct Sent {
    method: Method,
    target: &'static str,
    headers: HeaderMap,
    body: Option<Value>,
}

fn sent(method: Method, target: &'static str) -> Sent {
    Sent { method, target, headers: HeaderMap::new(), body: None }
}

impl Sent {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    fn bind(&self) -> Result<DynamicMessage, Invalid> {
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        let Found::One(operation, texts) = Operation::find(&self.method, path) else {
            panic!("{} leads nowhere", self.target)
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let body = self.body.as_ref();
        bind(operation, &Inputs { path: &texts, query: &query, headers: &self.headers, body })
    }

    /// The RPC's request.
    fn is<M: prost::Message + Name + Default>(&self) -> M {
        let message = self.bind().unwrap_or_else(|invalid| panic!("{}: {invalid}", self.target));
        assert_eq!(message.descriptor().full_name(), M::full_name());
        message.transcode_to().unwrap()
    }

    /// Its faults, one line each.
    fn faults(&self) -> Vec<String> {
        let invalid = self.bind().map(|_| ()).unwrap_err();
        invalid.violations().iter().map(|v| format!("{}: {}", v.field, v.description)).collect()
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn a_registration_is_its_path_and_its_body() {
    let body = json!({"endpoint": {"address": ":8080"}, "leaseTtl": "30s", "labels": {"team": "web"}});
    let request: v1::RegisterRequest = sent(Method::POST, "/v1/services/orders/replicas").body(body).is();
    assert_eq!(request.service, "orders");
    assert_eq!(request.endpoint.unwrap().address, ":8080");
    assert_eq!((request.lease_ttl, &request.labels["team"]), (seconds(30), &"web".to_owned()));
}

#[test]
fn headers_carry_what_is_about_the_request_and_not_about_its_subject() {
    let key = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    for quoted in [key.to_owned(), format!("\"{key}\"")] {
        let request: v1::RegisterRequest =
            sent(Method::POST, "/v1/services/orders/replicas").header("idempotency-key", &quoted).is();
        assert_eq!(request.request_id, key);
    }
    let heartbeat: v1::HeartbeatRequest =
        sent(Method::PUT, "/v1/services/orders/replicas/r-1/lease").header("x-gw-lease", "secret").is();
    assert_eq!((heartbeat.replica_id.as_str(), heartbeat.lease_id.as_str()), ("r-1", "secret"));
    let update: v1::UpdatePolicyRequest = sent(Method::PATCH, "/v1/policies/orders?dryRun=1")
        .header("if-match", "\"abc\"")
        .body(json!({}))
        .is();
    assert_eq!((update.etag.as_str(), update.validate_only), ("abc", true));
    let any: v1::DeletePolicyRequest =
        sent(Method::DELETE, "/v1/policies/orders").header("if-match", "*").is();
    assert_eq!(any.etag, "");
}

#[test]
fn a_condition_that_cannot_be_looked_at_is_refused() {
    let bad = |value: &str| {
        let request = sent(Method::DELETE, "/v1/policies/orders").header("if-match", value);
        request.faults()
    };
    for value in ["abc", "W/\"abc\"", "\"a\", \"b\"", "\"\""] {
        assert_eq!(
            bad(value),
            ["if-match: must be one etag in quotes, as in the ETag of an answer"],
            "{value}"
        );
    }
    let unknown = sent(Method::DELETE, "/v1/services/orders/replicas/r-1").header("if-match", "\"abc\"");
    assert_eq!(unknown.faults(), ["if-match: is not known here: what this changes has no etag"]);
}

#[test]
fn a_verb_takes_its_fields_from_the_body_or_needs_none() {
    let plain: v1::DrainReplicaRequest = sent(Method::POST, "/v1/services/orders/replicas/r-1:drain").is();
    assert_eq!((plain.service.as_str(), plain.replica_id.as_str()), ("orders", "r-1"));
    let body = json!({"drainTimeout": "5s", "allowLast": true, "waitTimeout": "60s"});
    let full: v1::DrainReplicaRequest =
        sent(Method::POST, "/v1/services/orders/replicas/r-1:drain?dryRun=true").body(body).is();
    assert_eq!((full.drain_timeout, full.wait_timeout), (seconds(5), seconds(60)));
    assert!(full.allow_last && full.validate_only);
    let forced: v1::OverrideBreakerRequest = sent(Method::POST, "/v1/breakers/orders/-:override")
        .body(json!({"state": "FORCED_OPEN", "ttl": "600s", "reason": "bad disk"}))
        .is();
    assert_eq!((forced.replica_id.as_str(), forced.state()), ("-", v1::BreakerState::ForcedOpen));
    let released: v1::ReleaseGuardRequest = sent(Method::POST, "/v1/services/orders:releaseGuard").is();
    assert_eq!(released.service, "orders");
}

#[test]
fn lists_take_their_fields_from_the_query() {
    let breakers: v1::ListBreakersRequest = sent(
        Method::GET,
        "/v1/breakers?service=orders&states=OPEN&states=BREAKER_STATE_HALF_OPEN&per_node=1&pageSize=7",
    )
    .is();
    assert_eq!((breakers.service.as_str(), breakers.page_size, breakers.per_node), ("orders", 7, true));
    assert_eq!(breakers.states, [3, 2]);
    let events: v1::ListEventsRequest =
        sent(Method::GET, "/v1/events?startTime=2026-11-28T09:00:00Z&filter=severity>INFO").is();
    assert_eq!(events.start_time.unwrap().seconds, 1_795_856_400);
    let stats: v1::WatchStatsRequest = sent(Method::GET, "/v1/stats:watch?interval=2.5s").is();
    assert_eq!(stats.interval.unwrap().nanos, 500_000_000);
}

#[test]
fn a_removal_takes_its_fields_from_the_query_and_its_secret_from_a_header() {
    let request: v1::DeregisterRequest = sent(
        Method::DELETE,
        "/v1/services/orders/replicas/r-1?force=true&blockReregisterTtl=60s&reason=gone",
    )
    .is();
    assert!(request.force);
    assert_eq!((request.block_reregister_ttl, request.reason.as_str()), (seconds(60), "gone"));
    let secret = sent(Method::DELETE, "/v1/services/orders/replicas/r-1?leaseId=x");
    assert_eq!(secret.faults(), ["leaseId: is a secret and not a query parameter: send X-GW-Lease"]);
}

fn patched(method: Method, body: Value) -> (v1::Policy, Vec<String>, bool) {
    let request: v1::UpdatePolicyRequest = sent(method, "/v1/policies/orders").body(body).is();
    (request.policy.unwrap(), request.update_mask.unwrap().paths, request.allow_missing)
}

#[test]
fn a_patch_changes_what_it_names_and_null_clears() {
    let (policy, mut mask, allow_missing) = patched(
        Method::PATCH,
        json!({
            "timeout": {"connect": "2s", "perTry": null},
            "breaker": {"failureRatio": 0.25, "max_open": "60s"},
            "retry": null,
            "drainTimeout": null,
            "guard": {},
        }),
    );
    mask.sort();
    assert_eq!(
        mask,
        [
            "breaker.failure_ratio",
            "breaker.max_open",
            "drain_timeout",
            "retry",
            "timeout.connect",
            "timeout.per_try"
        ]
    );
    assert_eq!(policy.service, "orders");
    assert_eq!(policy.timeout.unwrap(), v1::TimeoutPolicy { connect: seconds(2), ..Default::default() });
    assert_eq!((policy.breaker.unwrap().failure_ratio, policy.retry), (Some(0.25), None));
    assert!(!allow_missing);
}

#[test]
fn what_was_read_may_be_sent_back_with_a_change_in_it() {
    let (_, mask, _) = patched(
        Method::PATCH,
        json!({
            "service": "orders", "etag": "abc", "revision": "7", "updateTime": "2026-11-28T09:00:00Z",
            "updatedBy": "ann", "updateReason": "slow", "drainTimeout": "10s",
        }),
    );
    assert_eq!(mask, ["drain_timeout"]);
    let other = sent(Method::PATCH, "/v1/policies/orders").body(json!({"service": "carts"}));
    assert_eq!(other.faults(), ["service: in the body differs from the one in the path"]);
}

#[test]
fn a_put_is_all_of_a_policy_and_may_be_the_first() {
    let (policy, mask, allow_missing) = patched(Method::PUT, json!({"drainTimeout": "10s"}));
    assert_eq!((mask, allow_missing, policy.drain_timeout), (vec!["*".to_owned()], true, seconds(10)));
    let request: v1::UpdatePolicyRequest =
        sent(Method::PATCH, "/v1/policies/*?allowMissing=1&waitTimeout=5s&author=ann").body(json!({})).is();
    assert_eq!(request.policy.unwrap().service, "*");
    assert!(request.allow_missing);
    assert_eq!((request.wait_timeout, request.author.as_str()), (seconds(5), "ann"));
}

#[test]
fn every_fault_of_path_query_headers_and_body_is_named_at_once() {
    let request = sent(Method::PATCH, "/v1/policies/orders?waitTimeout=soon&alowMissing=1&etag=x")
        .header("if-match", "x")
        .body(json!({"breaker": {"failureRatoi": 1}, "retry": 7}));
    assert_eq!(
        request.faults(),
        [
            "breaker.failureRatoi: is unknown; did you mean failureRatio?",
            "retry: must be an object, not a number",
            "waitTimeout: \"soon\" is not a duration in seconds such as \"30s\" or \"0.5s\"",
            "alowMissing: is unknown; did you mean allowMissing?",
            "etag: is not a query parameter: send If-Match",
            "if-match: must be one etag in quotes, as in the ETag of an answer",
        ]
    );
}

#[test]
fn unknown_and_repeated_and_misplaced_parameters_are_refused() {
    for (target, fault) in [
        ("/v1/nodes?size=1", "size: is unknown; the query parameters are pageSize, pageToken, filter"),
        ("/v1/nodes?pageSize=1&page_size=2", "pageSize: is there twice"),
        ("/v1/services/orders?service=x", "service: is not a query parameter"),
        ("/v1/services/orders?x=1", "x: is unknown; there are no query parameters here"),
        (
            "/v1/breakers?states=broken",
            "states: \"broken\" is none of CLOSED, HALF_OPEN, OPEN, FORCED_OPEN, FORCED_CLOSED",
        ),
    ] {
        assert_eq!(sent(Method::GET, target).faults(), [fault]);
    }
    let in_query = sent(Method::POST, "/v1/services/orders/replicas/r-1:drain?reason=x").body(json!({}));
    assert_eq!(in_query.faults(), ["reason: is not a query parameter: send it in the body"]);
    let twice = sent(Method::PUT, "/v1/services/orders/replicas/r-1/lease")
        .header("x-gw-lease", "a")
        .body(json!({"leaseId": "b"}));
    assert_eq!(twice.faults(), ["x-gw-lease: differs from leaseId in the body"]);
    assert_eq!(sent(Method::PATCH, "/v1/policies/orders").faults(), ["body: is required"]);
}

#[test]
fn a_stream_goes_on_where_its_last_event_was_whatever_the_query_says() {
    let events: v1::WatchEventsRequest =
        sent(Method::GET, "/v1/events:watch?afterEventId=1").header("last-event-id", "7").is();
    assert_eq!(events.after_event_id, "7");
    let replicas: v1::WatchReplicasRequest =
        sent(Method::GET, "/v1/services/-/replicas:watch?resumeEpoch=old&resumeRevision=1")
            .header("last-event-id", "e:f:42")
            .is();
    assert_eq!((replicas.resume_epoch.as_str(), replicas.resume_revision), ("e:f", 42));
    let strange = sent(Method::GET, "/v1/services/-/replicas:watch").header("last-event-id", "7");
    assert_eq!(strange.faults(), ["last-event-id: is not the id of an event of this stream"]);
}

#[test]
fn violations_of_the_rpc_are_told_in_the_words_of_rest() {
    let path = |method: Method, target: &str, field: &str| match Operation::find(&method, target) {
        Found::One(operation, _) => rest_path(operation, field),
        _ => panic!("{target} leads nowhere"),
    };
    let register = |field: &str| path(Method::POST, "/v1/services/orders/replicas", field);
    assert_eq!(register("lease_ttl"), "leaseTtl");
    assert_eq!(register("endpoint.address"), "endpoint.address");
    assert_eq!(register("labels.my_key"), "labels.my_key");
    assert_eq!(register("address_of_nobody"), "address_of_nobody");
    let update = |field: &str| path(Method::PATCH, "/v1/policies/orders", field);
    assert_eq!(update("policy.breaker.failure_ratio"), "breaker.failureRatio");
    assert_eq!(update("breaker.failure_ratio"), "breaker.failureRatio");
    assert_eq!(update("wait_timeout"), "waitTimeout");
}
