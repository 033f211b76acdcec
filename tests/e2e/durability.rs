//! What the registry acknowledged, it keeps: also when it is killed in the middle of writing.

use std::collections::BTreeSet;

use gateway_proto::v1::{
    DeregisterRequest, Endpoint, ListReplicasRequest, RegisterRequest,
    registry_service_client::RegistryServiceClient,
};
use gateway_tests::{ControlPlane, eventually};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// How often the control plane is killed; `KILL_ROUNDS` in the environment says otherwise, up to 150.
const ROUNDS: usize = 5;
const CLIENTS: usize = 8;

/// What one client was promised: replicas that are there, and replicas that are gone.
#[derive(Debug, Default)]
struct Promised {
    registered: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// Each round has a service of its own, because one may have 10,000 replicas only.
fn service_of(round: usize) -> String {
    format!("orders-{round}")
}

/// Registers as fast as it is answered, and deregisters every fourth again, until the control plane dies.
async fn register_at_full_speed(
    mut registry: RegistryServiceClient<Channel>,
    client: usize,
    round: usize,
) -> Promised {
    let mut promised = Promised::default();
    for number in 0.. {
        let replica_id = format!("r-{round}-{client}-{number}");
        // A port for each, and addresses enough for all rounds and clients.
        let address = format!("10.{round}.{client}.{}:{}", number / 40_000 + 1, number % 40_000 + 20_000);
        let request = RegisterRequest {
            service: service_of(round),
            replica_id: replica_id.clone(),
            endpoint: Some(Endpoint { address, ..Default::default() }),
            permanent: true,
            ..Default::default()
        };
        if registry.register(request).await.is_err() {
            return promised;
        }
        promised.registered.insert(replica_id.clone());
        if number % 4 == 3 {
            // From here on it may be gone, and it must be once that is acknowledged.
            promised.registered.remove(&replica_id);
            let request = DeregisterRequest {
                service: service_of(round),
                replica_id: replica_id.clone(),
                ..Default::default()
            };
            if registry.deregister(request).await.is_err() {
                return promised;
            }
            promised.removed.insert(replica_id);
        }
    }
    promised
}

/// Replicas of one service, or of all by the name `-`.
async fn listed(control: &ControlPlane, service: String) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut request = ListReplicasRequest { service, page_size: 1000, ..Default::default() };
    loop {
        let page = match control.registry().list_replicas(request.clone()).await {
            Ok(page) => page.into_inner(),
            // Nobody has registered yet.
            Err(status) if status.code() == tonic::Code::NotFound => return ids,
            Err(status) => panic!("{status}"),
        };
        ids.extend(page.replicas.into_iter().map(|replica| replica.replica_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_control_plane_is_killed_while_it_writes() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(&directory.path().join("registry.redb")).await;
    let mut promised = Promised::default();
    let rounds = std::env::var("KILL_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    for round in 0..rounds {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(register_at_full_speed(control.registry(), client, round));
        }
        // In every round another number, so that the kill falls on ever other moments.
        let enough = 50 + round * 97 % 400;
        eventually("this round's registrations arrive", async || {
            let count = listed(&control, service_of(round)).await.len();
            if count >= enough { Ok(()) } else { Err(format!("{count} of {enough} replicas")) }
        })
        .await;
        control.kill();
        while let Some(client) = clients.join_next().await {
            let Promised { registered, removed } = client.unwrap();
            promised.registered.extend(registered);
            promised.removed.extend(removed);
        }
        control.restart().await;

        let present = listed(&control, "-".into()).await;
        let lost: Vec<_> = promised.registered.difference(&present).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        let back: Vec<_> = promised.removed.intersection(&present).collect();
        assert!(back.is_empty(), "round {round}: back from the dead {back:?}");
    }
    let Promised { registered, removed } = promised;
    println!("{rounds} kills: {} registrations kept, {} removals kept", registered.len(), removed.len());
    assert!(registered.len() > rounds * 50 / 2, "{} registrations", registered.len());
    assert!(!removed.is_empty());
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("registry.redb");
    let _first = ControlPlane::start(&store).await;
    let mut command = gateway_tests::binaries::control_plane();
    command.args(["--listen", "127.0.0.1:0", "--store", &format!("redb:{}", store.display())]);
    let second = gateway_tests::command::run(command).await;
    assert_eq!(second.code(), 1, "it may have the store when the first one is gone: {}", second.stderr);
    assert!(second.stderr.contains("--store"), "{}", second.stderr);
}

#[tokio::test]
async fn a_limit_on_the_size_of_files_is_a_full_store_and_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("registry.redb");
    // In kilobytes. A store begins with about one and a half megabytes.
    let mut control = ControlPlane::start_under("ulimit -S -f 1700", &store).await;
    let mut promised = BTreeSet::new();
    let refused = loop {
        let replica_id = format!("r-{}", promised.len());
        let request = RegisterRequest {
            service: "orders".into(),
            replica_id: replica_id.clone(),
            endpoint: Some(Endpoint {
                address: format!("10.0.0.1:{}", promised.len() + 20_000),
                ..Default::default()
            }),
            permanent: true,
            labels: (0..20).map(|number| (format!("label-{number}"), "x".repeat(60))).collect(),
            ..Default::default()
        };
        match control.registry().register(request).await {
            Ok(_) => promised.insert(replica_id),
            Err(status) => break status,
        };
        assert!(promised.len() < 9000, "there is no limit");
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("no space left"), "{refused}");
    // It serves on, what was acknowledged is there, and so it is after a restart without the limit.
    assert_eq!(listed(&control, "orders".into()).await, promised);
    control.kill();
    let control = ControlPlane::start(&store).await;
    assert_eq!(listed(&control, "orders".into()).await, promised);
}
