//! Callers who are asked who they are: tokens, JWTs, their rates, and what comes of what they claim.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane::{Settings, auth_file::fingerprint};
use gateway_proto::v1::{self, keep_alive_result::Result as Outcome};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_stream::iter;
use tonic::{Code, Request};

use crate::{
    plane::{Plane, explain, request, seconds},
    rest::{Answer, send},
};

struct Locked {
    plane: Plane,
    _folder: TempDir,
}

fn entry(name: &str, rest: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{rest}\n", fingerprint(name))
}

fn entries() -> String {
    let replica = |service: &str| format!("roles = [\"replica\"]\nservices = [\"{service}\"]");
    [
        entry("ops", "roles = [\"operator\"]"),
        entry("see", "roles = [\"reader\"]"),
        entry("orders", &replica("orders")),
        entry("payments", &replica("payments")),
    ]
    .concat()
}

impl Locked {
    async fn start(text: &str, files: &[(&str, String)], rate: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let path = folder.path().join("auth.toml");
        std::fs::write(&path, text).unwrap();
        let access = Settings::default().with_auth_file(path).with_rate_limit(rate);
        let plane = Plane::start_with(|config| config.access = access).await;
        Self { plane, _folder: folder }
    }

    async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let headers = format!("authorization: Bearer {token}\ncontent-type: application/json");
        send(&self.plane, method, path, &headers, body).await
    }

    async fn lease(&self, token: &str, service: &str) -> v1::RegisterResponse {
        let wish = v1::RegisterRequest { lease_ttl: seconds(60), ..request(service, "10.0.0.1:80") };
        self.plane.registry().register(shown(token, wish)).await.unwrap().into_inner()
    }
}

fn shown<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn beat(registered: &v1::RegisterResponse) -> v1::HeartbeatRequest {
    let replica = registered.replica.clone().unwrap();
    v1::HeartbeatRequest {
        service: replica.service,
        replica_id: replica.replica_id,
        lease_id: registered.lease_id.clone(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_keep_alive_stream_renews_what_is_its_caller_s_and_nothing_else() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let ours = locked.lease("orders", "orders").await;
    let theirs = locked.lease("payments", "payments").await;
    let message = v1::KeepAliveRequest { heartbeats: vec![beat(&ours), beat(&theirs)] };
    let stream = locked.plane.registry().keep_alive(shown("orders", iter([message]))).await;
    let answer = stream.unwrap().into_inner().message().await.unwrap().unwrap();
    let [Some(Outcome::Renewed(_)), Some(Outcome::Lost(lost))] =
        [&answer.results[0].result, &answer.results[1].result]
    else {
        panic!("{answer:?}")
    };
    assert_eq!(lost.reason, "PERMISSION_DENIED");
    let refused = locked.plane.registry().heartbeat(shown("orders", beat(&theirs))).await.unwrap_err();
    assert_eq!(explain(&refused).1, "PERMISSION_DENIED");
    assert!(locked.plane.registry().heartbeat(shown("payments", beat(&theirs))).await.is_ok());
}

#[tokio::test]
async fn one_who_asks_too_often_is_told_when_to_come_back_and_others_do_not_notice() {
    let locked = Locked::start(&entries(), &[], 5).await;
    let list = async |token: &str| {
        locked.plane.registry().list_services(shown(token, v1::ListServicesRequest::default())).await
    };
    let mut refused = None;
    for _ in 0..20 {
        refused = refused.or(list("see").await.err());
    }
    let refused = refused.unwrap();
    assert_eq!((refused.code(), explain(&refused).1.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    let details = tonic_types::StatusExt::get_error_details(&refused);
    assert!(details.retry_info().unwrap().retry_delay.unwrap() <= Duration::from_secs(1));
    let rest = locked.ask("GET", "/v1/services", "see", "").await;
    assert_eq!(rest.status, 429);
    assert!(rest.head.contains("retry-after: 1"), "{}", rest.head);
    assert!(list("ops").await.is_ok());
    assert_eq!(locked.ask("GET", "/readyz", "see", "").await.status, 200, "health is not counted");
}

#[tokio::test]
async fn the_author_of_a_change_is_who_was_authenticated_whatever_he_says() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let body = json!({"timeout": {"request": "5s"}}).to_string();
    let path = "/v1/policies/orders?author=ana&allowMissing=1";
    let changed = locked.ask("PATCH", path, "ops", &body).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let events = locked.ask("GET", "/v1/events", "see", "").await.json();
    let of_type = |name: &str| {
        events["events"].as_array().unwrap().iter().find(|event| event["eventType"] == name).unwrap()
    };
    assert_eq!(of_type("POLICY_UPDATED")["actor"], "ops");
    let asked = of_type("CHANGE_ASKED");
    assert_eq!(asked["actor"], "ops");
    assert_eq!(asked["message"], "UpdatePolicy orders: done");
    assert_eq!(asked["metadata"], json!({"from": "127.0.0.1", "request": "UpdatePolicy", "outcome": "done"}));
    for _ in 0..50 {
        assert_eq!(locked.ask("PATCH", path, "see", &body).await.status, 403);
    }
    let events = locked.ask("GET", "/v1/events", "see", "").await.json();
    let denied: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["eventType"] == "ACCESS_DENIED")
        .collect();
    assert_eq!(denied.len(), 1, "like ones fold: {events}");
    let event = denied[0];
    assert_eq!((&event["actor"], &event["metadata"]["from"]), (&json!("see"), &json!("127.0.0.1")));
    let metrics = locked.ask("GET", "/metrics", "see", "").await.body;
    assert!(metrics.contains("gateway_access_denied_total{reason=\"PERMISSION_DENIED\"} 50"), "{metrics}");
}

#[tokio::test]
async fn whatever_is_sent_as_credentials_is_refused_or_known_and_never_shown() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let long = format!("authorization: Bearer {}", "x".repeat(20_000));
    for headers in [
        "authorization: Basic c2VzYW1l",
        "authorization: Bearer",
        "authorization: Bearer ",
        "authorization: sesame",
        "authorization: Bearer sesame",
        "authorization: Bearer ops\nauthorization: Bearer see",
        "authorization: Bearer a.b.c",
        "authorization: Bearer ops see",
        &long,
    ] {
        let answer = send(&locked.plane, "GET", "/v1/services", headers, "").await;
        let shown: String = headers.chars().take(60).collect();
        assert_eq!(answer.status, 401, "{shown}");
        assert_eq!(answer.json()["reason"], "CREDENTIALS_INVALID", "{shown}");
        assert!(!answer.body.contains("sesame"), "{}", answer.body);
    }
    let bearer = send(&locked.plane, "GET", "/v1/services", "authorization: bearer  see", "").await;
    assert_eq!(bearer.status, 200, "the scheme's name has no case");
    let events = locked.ask("GET", "/v1/events", "see", "").await.body;
    assert!(events.contains("ACCESS_DENIED") && !events.contains("sesame"), "{events}");
}

#[tokio::test]
async fn a_jwt_of_the_issuer_grants_what_its_claims_say_until_it_ends() {
    let key = Ed25519KeyPair::generate().unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(key.public_key().as_ref())}]});
    let text = "[jwt]\nissuer = \"https://idp.example\"\naudiences = [\"gateway\"]\njwks-file = \"jwks.json\"\n\
                [[jwt.rule]]\nclaim = \"groups\"\nvalue = \"ops-*\"\nroles = [\"operator\"]\n";
    let locked = Locked::start(text, &[("jwks.json", jwks.to_string())], 5000).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = |header: Value, claims: Value| {
        let message =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = key.sign(message.as_bytes());
        format!("{message}.{}", encode(signature.as_ref()))
    };
    let claims = |exp: u64, groups: Value| json!({"iss": "https://idp.example", "aud": ["gateway"], "sub": "ana", "exp": exp, "groups": groups});
    let header = || json!({"alg": "EdDSA", "kid": "k"});
    let good = token(header(), claims(now + 300, json!(["ops-eu"])));
    let me = locked.ask("GET", "/whoami", &good, "").await.json();
    assert_eq!(
        (&me["name"], &me["kind"], &me["grants"][0]["roles"]),
        (&json!("jwt:ana"), &json!("jwt"), &json!(["operator"]))
    );
    assert_eq!(locked.ask("GET", "/v1/services", &good, "").await.status, 200);
    for (token, status, reason) in [
        (token(header(), claims(now - 300, json!(["ops-eu"]))), 401, "CREDENTIALS_EXPIRED"),
        (token(header(), claims(now + 300, json!(["dev"]))), 403, "PERMISSION_DENIED"),
        (token(json!({"alg": "none"}), claims(now + 300, json!(["ops-eu"]))), 401, "CREDENTIALS_INVALID"),
        (good.replace(".e", ".f"), 401, "CREDENTIALS_INVALID"),
    ] {
        let answer = locked.ask("GET", "/v1/services", &token, "").await;
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)));
    }
}
