//! What proves who somebody is, guessed by the thousand: ids of leases, tokens, signatures, and names that are another one's.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gateway_proto::v1::{
    DeregisterRequest, HeartbeatRequest, Hello, ListServicesRequest, NodeIdentity, StreamSnapshotsRequest,
    discovery_service_client::DiscoveryServiceClient, registry_service_client::RegistryServiceClient,
    stream_snapshots_request::Message,
};
use rand::random;
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};

use super::{
    caller::registration,
    greedy::{MODEST, usual},
    locked::{Locked, channel, connect, shown, with_bearer},
};
use crate::{Size, figures::Figures, process, stage::SECOND};

const ENTRIES: &str = "[[token]]\nname = \"orders\"\ntoken-file = \"orders\"\nroles = [\"replica\"]\nservices = [\"orders\"]\n\
     [[token]]\nname = \"payments\"\ntoken-file = \"payments\"\nroles = [\"replica\"]\nservices = [\"payments\"]\n\
     [[token]]\nname = \"edge\"\ntoken-file = \"edge\"\nroles = [\"data-plane\"]\nnodes = [\"edge-*\"]\n\
     [jwt]\nissuer = \"https://idp.example\"\naudiences = [\"gateway\"]\njwks-file = \"jwks.json\"\n\
     [[jwt.rule]]\nclaim = \"groups\"\nvalue = \"ops\"\nroles = [\"operator\"]\n";

/// Guesses that are under way at once: on so many connections, so many on each. On one, a stranger is heard seven times a second.
const CONNECTIONS: usize = 64;
const ON_EACH: usize = 4;
/// What the control plane may use its processors for, for one guess.
const COST: Duration = Duration::from_millis(1);

/// Who guesses what.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Guess {
    /// The lease of a replica, by somebody who may register others only.
    LeaseOfAnotherService,
    /// The lease of a replica, by somebody who may register the like.
    Lease,
    Token,
    /// That of a JWT.
    Signature,
    /// A data plane says that it is another one.
    Node,
}

impl Guess {
    const ALL: [(Self, &'static str); 5] = [
        (Self::LeaseOfAnotherService, "the lease of another's replica"),
        (Self::Lease, "the lease of a replica of one's own service"),
        (Self::Token, "a token"),
        (Self::Signature, "the signature of a JWT"),
        (Self::Node, "the node id of another data plane"),
    ];

    /// What a wrong one is answered with.
    fn refusal(self) -> Code {
        match self {
            Self::LeaseOfAnotherService | Self::Node => Code::PermissionDenied,
            Self::Lease => Code::FailedPrecondition,
            Self::Token | Self::Signature => Code::Unauthenticated,
        }
    }

    /// Where it is counted: the beginning of metrics with their labels.
    fn counted_in(self) -> &'static [&'static str] {
        match self {
            // It is what an owner may meet, too, and no question of who he is.
            Self::Lease => &[
                "grpc_server_handled_total{grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Heartbeat\",grpc_code=\"FAILED_PRECONDITION\"}",
                "grpc_server_handled_total{grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Deregister\",grpc_code=\"FAILED_PRECONDITION\"}",
                "gateway_access_denied_total{reason=\"RATE_LIMITED\"}",
            ],
            _ => &["gateway_access_denied_total{"],
        }
    }

    async fn try_once(self, channel: Channel, number: usize) -> Result<(), Status> {
        let mut registry = RegistryServiceClient::new(channel.clone());
        let token = if self == Self::Lease { "orders" } else { "payments" };
        match self {
            Self::LeaseOfAnotherService | Self::Lease => {
                let lease_id = format!("{:032x}", random::<u128>());
                let (service, replica_id) = ("orders".into(), "r-1".into());
                if number.is_multiple_of(2) {
                    let heartbeat = HeartbeatRequest { service, replica_id, lease_id, ..Default::default() };
                    return registry.heartbeat(shown(token, heartbeat)).await.map(drop);
                }
                let removal = DeregisterRequest { service, replica_id, lease_id, ..Default::default() };
                registry.deregister(shown(token, removal)).await.map(drop)
            }
            Self::Token | Self::Signature => {
                let token = match self {
                    Self::Token => format!("gwt_{}", encoded(&random::<[u8; 32]>())),
                    _ => format!("{}.{}", claims(), encoded(&[random::<[u8; 32]>(), random()].concat())),
                };
                registry.list_services(with_bearer(&token, ListServicesRequest::default())).await.map(drop)
            }
            Self::Node => {
                let node = NodeIdentity { node_id: format!("dp-{number}"), ..Default::default() };
                let hello = Hello { node: Some(node), services: vec!["*".into()], ..Default::default() };
                let hello = StreamSnapshotsRequest { message: Some(Message::Hello(hello)) };
                let said = shown("edge", tokio_stream::once(hello));
                let mut stream =
                    DiscoveryServiceClient::new(channel).stream_snapshots(said).await?.into_inner();
                stream.message().await.map(drop)
            }
        }
    }
}

/// Head and claims of a JWT that would make its owner an operator.
fn claims() -> String {
    let claims = json!({
        "iss": "https://idp.example", "aud": "gateway", "sub": "ana", "groups": ["ops"], "exp": 99_999_999_999_u64
    });
    format!("{}.{}", encoded(br#"{"alg":"EdDSA","kid":"k"}"#), encoded(claims.to_string().as_bytes()))
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) async fn guessed(size: Size, figures: &mut Figures) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made");
    let jwks =
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encoded(key.public_key_raw())}]});
    let entries = [MODEST, ENTRIES].concat();
    let files = [("jwks.json", jwks.to_string())];
    let mut locked = Locked::start_beside(&entries, &files, &["--open-metrics"]).await;
    let (url, pid) = (locked.control.url(), locked.control.process().pid());
    let mut owner = connect(&url).await;
    let wish = registration("orders", "r-1", "10.200.0.1:80", 600 * SECOND);
    let lease = owner.register(shown("orders", wish)).await;
    let lease = lease.expect("it can be registered").into_inner().lease_id;
    let bits = lease.len() * 4;
    figures.hold(
        "the id of a lease has 128 bits",
        bits,
        bits >= 128 && u128::from_str_radix(&lease, 16).is_ok(),
    );

    let lasts = SECOND * size.of(5, 2);
    // What is needed once is there before it is measured.
    usual(&url, SECOND, 0).await;
    let before = process::resident_kib(pid);
    let count = size.of(10_000, 500);
    for (turn, (guess, what)) in (1..).zip(Guess::ALL) {
        let (counted, used) = (counted(&locked, guess).await, process::cpu(pid));
        let (outcomes, beside) = tokio::join!(guess_all(&url, guess, count), usual(&url, lasts, turn));
        let used = (process::cpu(pid) - used) / u32::try_from(count).expect("it is small");
        let counted = self::counted(&locked, guess).await - counted;
        let is_right = |code: &Code| *code == guess.refusal() || *code == Code::ResourceExhausted;
        let wrong: usize = outcomes.iter().filter(|(code, _)| !is_right(code)).map(|(_, count)| count).sum();
        let told: Vec<_> = outcomes.iter().map(|(code, count)| format!("{count} {code:?}")).collect();
        figures.hold(
            &format!("{what}: taken, or told something else, of {count} <= 0"),
            format!("{wrong} {told:?}"),
            wrong == 0,
        );
        figures.hold(&format!("{what}: all are counted"), counted, counted >= count as u64);
        figures.swift(&format!("{what}: processor for each, with what is usual beside"), COST, used);
        beside.hold_served(figures, what);
    }
    let growth = process::resident_kib(pid).saturating_sub(before) / 1024;
    figures.at_most("MiB more than before", 16, growth);
    // Whoever has it renews it all the same: it was taken from nobody.
    let renewal = HeartbeatRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        lease_id: lease,
        ..Default::default()
    };
    let renewed = owner.heartbeat(shown("orders", renewal)).await;
    figures.hold("its owner renews the lease", renewed.is_ok(), renewed.is_ok());
}

/// How often that was counted.
async fn counted(locked: &Locked, guess: Guess) -> u64 {
    let mut sum = 0;
    for prefix in guess.counted_in() {
        sum += locked.counted(prefix).await;
    }
    sum
}

/// Guesses so often, as fast as it is answered. Yields the answers, and how often each was given.
async fn guess_all(url: &str, guess: Guess, count: usize) -> Vec<(Code, usize)> {
    let mut guessing = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = channel(url).await;
        for first in 0..ON_EACH {
            let channel = channel.clone();
            let numbers = (connection * ON_EACH + first..count).step_by(CONNECTIONS * ON_EACH);
            guessing.spawn(async move {
                let mut answers = Vec::new();
                for number in numbers {
                    let answer = guess.try_once(channel.clone(), number).await;
                    answers.push(answer.map_or_else(|status| status.code(), |()| Code::Ok));
                }
                answers
            });
        }
    }
    let mut outcomes = BTreeMap::new();
    for code in guessing.join_all().await.into_iter().flatten() {
        outcomes.entry(i32::from(code)).or_insert((code, 0)).1 += 1;
    }
    outcomes.into_values().collect()
}
