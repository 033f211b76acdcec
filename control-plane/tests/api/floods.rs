//! One client that asks for far more than its share, and what others notice of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use control_plane::{
    registry::{Mutation, Revision},
    store::{Commit, Loaded, Memory, Store, StoreError},
};
use gateway_proto::v1::{self, keep_alive_result::Result as Outcome};
use tokio::{task::JoinSet, time::sleep};
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::{Code, transport::Channel};

use crate::{
    access::{Locked, beat, entries, shown},
    plane::{Plane, eventually, explain, request, seconds},
};

/// As slow as an etcd that has much to do, and as small its groups.
const COMMIT: Duration = Duration::from_millis(100);
const GROUP: usize = 30;

struct Slow {
    memory: Memory,
    /// How many groups it has been given.
    groups: Arc<AtomicUsize>,
}

impl Store for Slow {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.memory.load().await
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        sleep(COMMIT).await;
        self.groups.fetch_add(1, Relaxed);
        self.memory.commit(base, &group[..group.len().min(GROUP)]).await
    }

    fn max_group(&self) -> usize {
        GROUP
    }
}

fn permanent(service: &str, number: usize) -> v1::RegisterRequest {
    let address = format!("10.0.{}.{}:80", number / 256, number % 256);
    v1::RegisterRequest { permanent: true, ..request(service, &address) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_hundreds_of_changes_at_once_has_nobody_wait_behind_all_of_them() {
    let groups = Arc::new(AtomicUsize::new(0));
    let plane = Plane::start_on(Slow { memory: Memory::new(), groups: Arc::clone(&groups) }).await;
    let mut flood = JoinSet::new();
    for number in 0..900 {
        let mut registry = plane.registry();
        flood.spawn(async move { registry.register(permanent("flood", number)).await });
    }
    eventually(async || (groups.load(Relaxed) >= 3).then_some(())).await;
    // Somebody else, on a connection of his own.
    let endpoint = Channel::from_shared(format!("http://{}", plane.listen())).unwrap();
    let mut other =
        v1::registry_service_client::RegistryServiceClient::new(endpoint.connect().await.unwrap());
    let began = Instant::now();
    other.register(permanent("orders", 0)).await.unwrap();
    let took = began.elapsed();
    // What is under way and his own are two commits, and the flood's turns before his may be a third; the others are for a machine
    // that has much else to do. All of the flood would be thirty, less those before.
    assert!(took < 10 * COMMIT, "{took:?}");
    for registered in flood.join_all().await {
        assert!(registered.is_ok(), "he is slowed down, and not refused: {registered:?}");
    }
}

#[tokio::test]
async fn one_identity_renews_no_more_than_it_may_however_many_streams_it_opens() {
    let locked = Locked::start(&entries(), &[], 100).await;
    let ours = locked.lease("orders", "orders").await;
    let mut streams = JoinSet::new();
    for _ in 0..20 {
        let message = v1::KeepAliveRequest { heartbeats: vec![beat(&ours); 1000] };
        let mut registry = locked.plane.registry();
        streams.spawn(async move {
            let requests = iter([message]).chain(pending());
            let mut answers = registry.keep_alive(shown("orders", requests)).await?.into_inner();
            answers.message().await
        });
    }
    let (mut renewed, mut refused) = (0, 0);
    for outcome in streams.join_all().await {
        match outcome {
            Ok(Some(answer)) => {
                let is_renewed =
                    |result: &v1::KeepAliveResult| matches!(result.result, Some(Outcome::Renewed(_)));
                renewed += answer.results.iter().filter(|result| is_renewed(result)).count();
            }
            Err(status) => {
                assert_eq!(
                    (status.code(), explain(&status).1.as_str()),
                    (Code::ResourceExhausted, "RATE_LIMITED")
                );
                refused += 1;
            }
            Ok(None) => panic!("the stream has ended without a word"),
        }
    }
    assert_eq!((renewed, refused), (1000, 19), "one message more than there was left");
    // Others do not notice.
    let theirs = locked.lease("payments", "payments").await;
    assert!(locked.plane.registry().heartbeat(shown("payments", beat(&theirs))).await.is_ok());
}

#[tokio::test]
async fn one_who_registers_without_end_is_refused_at_the_bound_of_his_service_and_others_register_on() {
    let text = entries();
    let locked =
        Locked::start_within(&text, 1_000_000, |config| config.limits.replicas_per_service = 500).await;
    let mut flood = JoinSet::new();
    for number in 0..2000 {
        let mut registry = locked.plane.registry();
        let wish = v1::RegisterRequest {
            lease_ttl: seconds(60),
            ..request("orders", &permanent("", number).endpoint.unwrap().address)
        };
        flood.spawn(async move { registry.register(shown("orders", wish)).await });
    }
    let outcomes = flood.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 500);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    locked.lease("payments", "payments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_again_as_soon_as_he_is_refused_is_no_faster_than_his_answers() {
    let locked = Locked::start(&entries(), &[], 10).await;
    let began = Instant::now();
    let mut flood = JoinSet::new();
    let told = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        let (mut registry, told) = (locked.plane.registry(), Arc::clone(&told));
        flood.spawn(async move {
            let mut refused = 0_u32;
            while began.elapsed() < Duration::from_secs(3) {
                let wish = request("orders", "10.0.0.1:80");
                let Err(status) = registry.register(shown("orders", wish)).await else { continue };
                assert_eq!(explain(&status), (Code::ResourceExhausted, "RATE_LIMITED".into(), String::new()));
                refused += 1;
                told.fetch_add(1, Relaxed);
            }
            refused
        });
    }
    // Somebody who is refused for the first time is told at once, though the other one is not.
    eventually(async || (told.load(Relaxed) >= 500).then_some(())).await;
    let endpoint = Channel::from_shared(format!("http://{}", locked.plane.listen())).unwrap();
    let mut other =
        v1::registry_service_client::RegistryServiceClient::new(endpoint.connect().await.unwrap());
    let mut asked = 0;
    let refused_in = loop {
        let at = Instant::now();
        let wish = v1::RegisterRequest { service: "payments".into(), ..request("", "10.0.0.1:80") };
        if other.register(shown("payments", wish)).await.is_err() {
            break at.elapsed();
        }
        asked += 1;
    };
    assert!(asked >= 20 && refused_in < Duration::from_millis(100), "{asked}, {refused_in:?}");
    let refused: u32 = flood.join_all().await.into_iter().sum();
    // A thousand at once, and five hundred in a second.
    assert!((1000..4000).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_thousands_of_messages_are_refused_by_their_heads_goes_on() {
    let locked = Locked::start(&entries(), &[], 1_000_000).await;
    let mut flood = JoinSet::new();
    for _ in 0..50 {
        let mut registry = locked.plane.registry();
        flood.spawn(async move {
            for _ in 0..40 {
                // Some frames long, and of a reader: nobody waits for it.
                let wish = v1::RegisterRequest {
                    version: "x".repeat(64 * 1024),
                    ..request("orders", "10.0.0.1:80")
                };
                let refused = registry.register(shown("see", wish)).await.unwrap_err();
                assert_eq!(explain(&refused).1, "PERMISSION_DENIED", "{refused}");
            }
        });
    }
    flood.join_all().await;
    locked.lease("orders", "orders").await;
}
