use gateway_proto::{
    Address, Policy, ReplicaId, ServiceName,
    policy::{CheckMethod, CheckType, HealthCheck},
};
use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;
use crate::{
    health::check::Verdict,
    routing::{Draw, Fault, Outcome, State},
    table::{
        ReplicaSpec, ServiceSpec,
        changing::{Changing, Step, steps},
    },
};

const FAST: Duration = Duration::from_millis(100);

/// A service of replicas at these addresses, checked as often as may be.
fn spec(addresses: &[String], change: impl FnOnce(&mut HealthCheck)) -> ServiceSpec {
    let mut policy = Policy::default();
    policy.health_check =
        HealthCheck { interval: FAST, fast_interval: FAST, slow_interval: FAST, ..policy.health_check };
    change(&mut policy.health_check);
    let replicas = addresses.iter().zip(1..).map(|(address, number)| {
        let id = ReplicaId::parse(&format!("r-{number}")).unwrap();
        ReplicaSpec::listed(id, Address::parse(address).unwrap())
    });
    ServiceSpec { name: ServiceName::parse("orders").unwrap(), policy, replicas: replicas.collect() }
}

struct World {
    table: Arc<Table>,
    clock: Clock,
    counts: Arc<CheckCounts>,
    stop: Shutdown,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    fn start() -> Self {
        Self::start_at(Rate::new(1000.0, 100))
    }

    fn start_at(rate: Rate) -> Self {
        let (table, _transitions) = Table::new(1);
        let (clock, counts, stop) = (Clock::new(), Arc::new(CheckCounts::default()), Shutdown::new());
        let journal = Arc::new(Journal::new(table.clone()));
        let (tls, counted) = (Arc::default(), counts.clone());
        let checker =
            Checker { table: table.clone(), journal, clock, counts: counted, rate, tls, admin: None };
        let stopped = stop.clone();
        let running = tokio::spawn(async move { checker.run(&stopped).await });
        Self { table, clock, counts, stop, running }
    }

    fn apply(&self, spec: &ServiceSpec) {
        self.table.apply(std::slice::from_ref(spec), &[], self.clock.now());
    }

    fn verdict(&self, id: &str) -> Verdict {
        let service = self.table.service("orders").unwrap();
        service.replica(&ReplicaId::parse(id).unwrap()).unwrap().check().verdict()
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it does not come about");
    }

    /// Whom so many requests are sent to.
    fn asked(&self, times: usize) -> Vec<String> {
        let service = self.table.service("orders").unwrap();
        let ask = |_| {
            let picked = service.pick(0, self.clock.now(), &[], Draw::default()).unwrap();
            picked.replica.key().replica.to_string()
        };
        let mut asked: Vec<_> = (0..times).map(ask).collect();
        asked.sort_unstable();
        asked.dedup();
        asked
    }

    async fn end(self) {
        self.stop.begin();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_replica_is_out_by_its_first_check_and_back_when_it_listens_again() {
    let world = World::start();
    let (alive, dead) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addresses = [&alive, &dead].map(|listener| listener.local_addr().unwrap().to_string());
    drop(dead);
    world.apply(&spec(&addresses, |_| {}));
    world
        .until(|world| world.verdict("r-2") == Verdict::Failing && world.verdict("r-1") == Verdict::Passing)
        .await;
    assert_eq!(world.asked(4), ["r-1"]);
    let _back = TcpListener::bind(&addresses[1]).await.unwrap();
    world.until(|world| world.verdict("r-2") == Verdict::Passing).await;
    assert_eq!(world.asked(4), ["r-1", "r-2"]);
    assert!(world.counts.read(Kind::Check(CheckMethod::Tcp), Ended::Failed) >= 1);
    assert!(world.counts.read(Kind::Check(CheckMethod::Tcp), Ended::Passed) >= 3);
    world.end().await;
}

#[tokio::test]
async fn many_dead_replicas_cost_no_more_checks_than_the_rate_and_it_shows_how_late_they_are() {
    let (per_second, at_once) = (50, 5);
    let world = World::start_at(Rate::new(per_second.into(), at_once));
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let began = std::time::Instant::now();
    world.apply(&spec(&vec![dead; 40], |_| {}));
    let failed = |world: &World| world.counts.read(Kind::Check(CheckMethod::Tcp), Ended::Failed);
    world.until(|world| failed(world) >= 60).await;
    let (count, took) = (failed(&world), began.elapsed());
    assert!(
        count as f64 <= f64::from(at_once) + f64::from(per_second) * took.as_secs_f64() + 1.0,
        "{count}: {took:?}"
    );
    let (checked, _, late) = world.counts.load();
    assert!(checked == 40 && late > FAST, "{late:?}");
    world.end().await;
}

#[tokio::test]
async fn a_policy_that_changes_is_followed_at_once_and_without_checks_nothing_is_known() {
    let world = World::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [listener.local_addr().unwrap().to_string()];
    let slow = |policy: &mut HealthCheck| {
        policy.interval = Duration::from_secs(3600);
        policy.fast_interval = Duration::from_secs(3600);
    };
    world.apply(&spec(&addresses, slow));
    world.until(|world| world.verdict("r-1") == Verdict::Passing).await;
    // It accepts, and never answers; the next check would be in an hour.
    world.apply(&spec(&addresses, |policy| {
        slow(policy);
        (policy.r#type, policy.fall, policy.timeout) = (CheckType::Http, 1, Duration::from_millis(20));
    }));
    world.until(|world| world.verdict("r-1") == Verdict::Failing).await;
    world.apply(&spec(&addresses, |policy| policy.r#type = CheckType::Off));
    assert_eq!(world.verdict("r-1"), Verdict::Pending);
    world.until(|world| world.counts.load().0 == 0).await;
    world.end().await;
}

#[tokio::test]
async fn a_leased_replica_is_not_checked_unless_the_policy_says_so() {
    let world = World::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [listener.local_addr().unwrap().to_string()];
    let leased = |kind| {
        let mut spec = spec(&addresses, |policy| policy.r#type = kind);
        spec.replicas[0].is_permanent = false;
        spec
    };
    world.apply(&leased(CheckType::Auto));
    world.apply(&leased(CheckType::Tcp));
    world.until(|world| world.verdict("r-1") == Verdict::Passing).await;
    world.apply(&leased(CheckType::Auto));
    assert_eq!(world.verdict("r-1"), Verdict::Pending);
    world.end().await;
}

#[tokio::test]
async fn what_a_check_of_before_a_change_shows_says_nothing_after_it() {
    let world = World::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [listener.local_addr().unwrap().to_string()];
    let http = |path: &str| {
        spec(&addresses, |policy| {
            (policy.r#type, policy.timeout) = (CheckType::Http, Duration::from_secs(20));
            (policy.path, policy.fall) = (path.parse().unwrap(), 1);
        })
    };
    world.apply(&http("/of-yesterday"));
    let (mut first, _) = listener.accept().await.unwrap();
    world.apply(&http("/ready"));
    first.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await.unwrap();
    let (mut second, _) = listener.accept().await.unwrap();
    assert_eq!(world.counts.read(Kind::Check(CheckMethod::Http), Ended::Failed), 1);
    assert_eq!(world.verdict("r-1"), Verdict::Pending, "it was not asked for this");
    second.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    world.until(|world| world.verdict("r-1") == Verdict::Passing).await;
    world.end().await;
}

proptest! {
    #[test]
    fn those_are_checked_whom_a_look_at_the_whole_table_would_have_checked(steps in steps()) {
        let mut changing = Changing::new();
        let table = changing.table.clone();
        let checker = Checker {
            table: table.clone(),
            journal: Arc::new(Journal::new(table.clone())),
            clock: Clock::new(),
            counts: Arc::default(),
            rate: Rate::new(1000.0, 100),
            tls: Arc::default(),
            admin: None,
        };
        let (mut schedule, mut seen) = (Schedule::new(checker.rate), Seen::default());
        for step in steps.into_iter().chain([Step::Look]) {
            // Some checks are under way when something changes.
            let under_way = schedule.begin(checker.clock.now());
            if changing.step(step) {
                checker.look(&mut schedule, &mut seen);
                let key = |service: &Service, replica| ReplicaKey { service: service.name().clone(), replica };
                let all = table.services();
                let of_all = all.values().flat_map(|service| {
                    let of_one = |(id, incarnation, mark)| (key(service, id), incarnation, mark);
                    wanted(service).into_iter().map(of_one).collect::<Vec<_>>()
                });
                prop_assert_eq!(schedule.wanted(), of_all.collect());
            }
            if let Some(key) = under_way {
                schedule.ended(&key, checker.clock.now(), checker.clock.now());
            }
        }
    }
}

#[tokio::test]
async fn a_replica_that_nobody_reached_is_probed_soon_after_its_port_accepts_and_not_before() {
    let world = World::start();
    let (alive, dead) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addresses = [&alive, &dead].map(|listener| listener.local_addr().unwrap().to_string());
    drop(dead);
    let mut spec = spec(&addresses, |_| {});
    spec.policy.breaker.base_open = Duration::from_secs(60);
    spec.replicas.iter_mut().for_each(|replica| replica.is_permanent = false);
    world.apply(&spec);
    let service = world.table.service("orders").unwrap();
    let replica = service.replica(&ReplicaId::parse("r-2").unwrap()).unwrap();
    let view = || replica.breaker_view(world.clock.now(), &service.policy().breaker);
    let ask = || {
        let picked = service.pick(0, world.clock.now(), &[], Draw::default()).unwrap();
        let is_up = picked.replica.key() != replica.key() || world.counts.read(Kind::Port, Ended::Passed) > 0;
        let outcome = if is_up { Outcome::Success } else { Outcome::Failure(Fault::ConnectRefused) };
        service.settle(0, &picked.replica, picked.permit, outcome, world.clock.now(), 0.5);
    };
    while view().state == State::Closed {
        ask();
    }
    world.until(|world| world.counts.read(Kind::Port, Ended::Failed) > 0).await;
    assert!(view().until.unwrap().since(world.clock.now()) > Duration::from_secs(30));
    let _back = TcpListener::bind(&addresses[1]).await.unwrap();
    world.until(|world| view().until.is_some_and(|until| until <= world.clock.now())).await;
    assert_eq!((view().state, view().trip_count), (State::Open, 1), "a request decides");
    ask();
    ask();
    assert_eq!(view().state, State::Closed);
    world.until(|world| world.counts.load().0 == 0).await;
    world.end().await;
}
