//! What time brings about, by a clock that stands still until everybody waits.

use std::{collections::HashSet, sync::Arc};

use gateway_proto::{Address, Health, Mode, NodeId, ReplicaId, ReplicaKey};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    leases::Leases,
    metrics::Metrics,
    observe::{Cursor, Observation},
    publish::Publisher,
    registry::{
        Aspect, DrainWish, Limits, OverrideKind, OverrideTarget, OverrideWish, Proof, Record, Registration,
        Said,
    },
    store::{Memory, Store},
    writer::Writer,
};

const TTL: Duration = Duration::from_secs(15);
const MS: Duration = Duration::from_millis(1);

struct Bench {
    effects: Effects,
    commands: Commands,
    shutdown: Shutdown,
    tasks: Vec<JoinHandle<()>>,
}

impl Bench {
    async fn new() -> Self {
        let mut store = Memory::new();
        let loaded = store.load().await.unwrap();
        let effects = Effects {
            publisher: Arc::new(Publisher::new(loaded.epoch, View::new(loaded.revision, loaded.items))),
            leases: Arc::new(Leases::new(clock::now())),
            observation: Arc::new(Observation::new(100)),
            metrics: Arc::new(Metrics::new()),
        };
        let limits = Limits { replicas: 1000, replicas_per_service: 1000 };
        let (mut writer, commands, _) = Writer::new(store, effects.clone(), limits, 100);
        let shutdown = Shutdown::new();
        let expiry = tokio::spawn(run(effects.clone(), commands.clone(), shutdown.clone()));
        let writing = tokio::spawn(async move {
            let ended = writer.run(&CancellationToken::new()).await;
            assert_eq!(ended, Ok(()));
        });
        Self { effects, commands, shutdown, tasks: vec![expiry, writing] }
    }

    async fn run(&self, command: Command) -> Answer {
        self.commands.submit(command).await.unwrap()
    }

    /// Registers leased replicas with these numbers.
    async fn register(&self, numbers: impl IntoIterator<Item = u16>) {
        for number in numbers {
            let address = Address::parse(&format!("10.0.0.1:{}", number + 1)).unwrap();
            let wish = Registration {
                replica: Some(ReplicaId::parse(&format!("r-{number}")).unwrap()),
                ttl: Some(TTL),
                ..Registration::permanent(ServiceName::parse("orders").unwrap(), address)
            };
            self.run(Command::Register(wish)).await;
        }
    }

    fn get(&self, number: u16) -> Option<Arc<Record>> {
        self.effects.publisher.read(|view| view.get(&key(number)).cloned())
    }

    fn renew(&self, number: u16) -> bool {
        let lease = self.get(number).unwrap().lease.unwrap().id;
        self.effects.leases.renew(lease, &key(number), clock::now()).is_some()
    }

    /// Waits until it is so, and yields for how long.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) -> Duration {
        let began = clock::now();
        while !is_so(self) {
            assert!(clock::now() - began < Duration::from_secs(60), "it never is so");
            sleep(MS).await;
        }
        clock::now() - began
    }

    /// Lets time pass, during which these renew as they should.
    async fn renewing(&self, numbers: impl IntoIterator<Item = u16> + Clone, time: Duration) {
        let end = clock::now() + time;
        while clock::now() < end {
            numbers.clone().into_iter().for_each(|number| assert!(self.renew(number), "{number}"));
            sleep((TTL / 3).min(end - clock::now())).await;
        }
    }

    fn events(&self, event_type: &str) -> Vec<String> {
        self.effects.observation.read_events(|timeline| {
            let events = timeline.since(Cursor::Foreign, usize::MAX).events;
            let of_type = events.iter().filter(|event| event.event_type == event_type);
            of_type.map(|event| event.message.clone()).collect()
        })
    }

    /// Of how many services the metric says that replicas are held.
    fn holding(&self) -> String {
        const NAME: &str = "gateway_registry_guard_holding_services ";
        let text = self.effects.metrics.text(
            &self.effects.publisher,
            &self.effects.observation,
            Duration::ZERO,
            clock::wall(),
        );
        text.lines().find_map(|line| line.strip_prefix(NAME)).unwrap().to_owned()
    }

    fn lost(&self) -> usize {
        self.effects.publisher.read(|view| view.lost().count())
    }

    async fn end(self) {
        self.shutdown.begin();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn key(number: u16) -> ReplicaKey {
    ReplicaKey::parse("orders", &format!("r-{number}")).unwrap()
}

fn orders(aspect: Aspect) -> OverrideTarget {
    OverrideTarget { aspect, service: key(0).service, replica: None, node: None::<NodeId> }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_falls_silent_alone_goes_after_its_time_and_one_sweep() {
    let bench = Bench::new().await;
    bench.register(0..5).await;
    bench.renewing(0..5, TTL).await;
    assert!((0..5).all(|number| bench.renew(number)));
    let silent = clock::now();
    while bench.get(4).is_some() {
        (0..4).for_each(|number| assert!(bench.renew(number)));
        assert_eq!(bench.lost(), 0);
        sleep(MS).await;
    }
    let took = clock::now() - silent;
    assert!((TTL..TTL + SWEEP_INTERVAL + 10 * MS).contains(&took), "{took:?}");
    assert_eq!(bench.events("LEASE_EXPIRED").len(), 1);
    assert!(bench.events("GUARD_HOLDING").is_empty());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn replicas_that_fall_silent_together_are_held_told_and_found_again() {
    let bench = Bench::new().await;
    bench.register(0..10).await;
    let took = bench.until(|bench| bench.lost() == 10).await;
    assert!((TTL - MS..TTL + SWEEP_INTERVAL + 10 * MS).contains(&took), "{took:?}");
    let message = "the leases of 10 of 10 replicas lapsed together: holding them as LOST, still routable";
    assert_eq!(bench.events("GUARD_HOLDING"), [message]);
    assert_eq!((bench.events("REPLICA_LOST").len(), bench.holding()), (10, "1".to_owned()));
    // However long it lasts, it is told once, and nobody goes.
    sleep(20 * TTL).await;
    assert_eq!((bench.lost(), bench.events("GUARD_HOLDING").len()), (10, 1));
    assert!(bench.events("GUARD_CLEARED").is_empty());
    // Each is found by its next renewal.
    assert!((0..10).all(|number| bench.renew(number)));
    let took = bench.until(|bench| bench.lost() == 0).await;
    assert!(took < SWEEP_INTERVAL + 10 * MS, "{took:?}");
    assert!((0..10).all(|number| bench.get(number).unwrap().shown_health() == Health::Healthy));
    bench.until(|bench| !bench.events("GUARD_CLEARED").is_empty()).await;
    assert_eq!((bench.events("REPLICA_FOUND").len(), bench.holding()), (10, "0".to_owned()));
    assert!(bench.events("LEASE_EXPIRED").is_empty());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_goes_on_an_operators_word_and_the_guard_says_that_it_is_over() {
    let bench = Bench::new().await;
    bench.register(0..10).await;
    bench.until(|bench| bench.lost() == 10).await;
    bench.renew(0);
    bench.until(|bench| bench.lost() == 9).await;
    let (ttl, kind) = (Duration::from_secs(600), OverrideKind::GuardReleased);
    let wish = OverrideWish { target: orders(Aspect::Guard), kind, ttl, said: Said::default() };
    bench.run(Command::Override(Box::new(wish))).await;
    bench.until(|bench| bench.events("LEASE_EXPIRED").len() == 9).await;
    assert!(bench.get(0).is_some());
    bench.until(|bench| bench.events("GUARD_CLEARED").len() == 1).await;
    assert_eq!(bench.holding(), "0");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_the_longest_time_goes_although_the_wall_clock_stands_still() {
    let bench = Bench::new().await;
    bench.register(0..3).await;
    bench.until(|bench| bench.lost() == 3).await;
    // The default: one hour.
    let lost = clock::now();
    while bench.get(0).is_some() {
        sleep(SWEEP_INTERVAL).await;
    }
    let took = clock::now() - lost;
    assert!(took.as_secs().abs_diff(3600) <= 1, "{took:?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_before_the_start_can_be_heard_of_before_it_goes() {
    let bench = Bench::new().await;
    bench.register(0..10).await;
    bench.until(|bench| bench.lost() == 10).await;
    bench.shutdown.begin();
    // Another process takes over, in which an operator's word is in force already.
    let (ttl, kind) = (Duration::from_secs(600), OverrideKind::GuardReleased);
    let wish = OverrideWish { target: orders(Aspect::Guard), kind, ttl, said: Said::default() };
    bench.run(Command::Override(Box::new(wish))).await;
    let effects = bench.effects.clone();
    effects.grant_all(&HashSet::new());
    let started = clock::now();
    let shutdown = Shutdown::new();
    let task = tokio::spawn(run(effects.clone(), bench.commands.clone(), shutdown.clone()));
    sleep(TTL / 2).await;
    let found = bench.get(0).unwrap();
    assert!(effects.leases.renew(found.lease.unwrap().id, &key(0), clock::now()).is_some());
    while bench.get(1).is_some() {
        sleep(MS).await;
    }
    assert!(clock::now() - started >= TTL);
    assert_eq!(bench.get(0).unwrap().lost, None);
    shutdown.begin();
    task.await.unwrap();
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_past_its_deadline_is_over() {
    let bench = Bench::new().await;
    bench.register(0..2).await;
    let wish = DrainWish {
        key: key(0),
        proof: Proof::Force,
        // By the wall clock, which the test does not move.
        timeout: Some(Duration::ZERO),
        etag: String::new(),
        allow_last: false,
        said: Said::default(),
    };
    bench.run(Command::Drain(Box::new(wish))).await;
    bench.until(|bench| bench.get(0).unwrap().mode() == Mode::Drained).await;
    assert_eq!(bench.events("REPLICA_DRAINED"), ["its time to drain is over"]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_override_past_its_time_ends() {
    let bench = Bench::new().await;
    bench.register(0..1).await;
    for (ttl, kind) in [(Duration::ZERO, OverrideKind::BreakerOpen), (TTL * 100, OverrideKind::BreakerReset)]
    {
        let aspect = if ttl.is_zero() { Aspect::Breaker } else { Aspect::BreakerReset };
        let wish = OverrideWish { target: orders(aspect), kind, ttl, said: Said::default() };
        bench.run(Command::Override(Box::new(wish))).await;
    }
    let count = |bench: &Bench| bench.effects.publisher.read(|view| view.overrides().len());
    bench.until(|bench| count(bench) == 1).await;
    assert_eq!(
        bench.events("OVERRIDE_ENDED"),
        ["its time is over: breaker forced open of every replica of orders"]
    );
    bench.end().await;
}
