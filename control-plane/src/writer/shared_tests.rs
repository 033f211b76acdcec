//! Several control planes on one store, over many seeds: real writers, leases, guards and sweeps, troubles of all kinds
//! between them and the store, and a clock that only moves when everybody waits.
//!
//! Ids that writers draw are not the seed's, so a run that fails fails again only mostly.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use gateway_proto::{Address, LeaseId, ReplicaId, ReplicaKey, ServiceName};
use gateway_runtime::Shutdown;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::sleep};

use super::*;
use crate::{
    expiry,
    leases::Leases,
    observe::Observation,
    publish::Publisher,
    registry::{
        Cause, Registration, View, Write,
        arbitrary::{self, LIMITS},
    },
    store::{Loaded, simulated::Cluster},
};

const SEEDS: u64 = 40;
const MS: Duration = Duration::from_millis(1);
const TTL: Duration = Duration::from_secs(3);

/// A control plane, as far as it writes.
struct Plane {
    effects: Effects,
    commands: Commands,
    shutdown: Shutdown,
    tasks: Vec<JoinHandle<()>>,
}

impl Plane {
    async fn start(cluster: &Cluster) -> Self {
        let mut store = cluster.join();
        let Loaded { epoch, revision, items, kept, .. } = loop {
            if let Ok(loaded) = store.load().await {
                break loaded;
            }
        };
        let effects = Effects {
            publisher: Arc::new(Publisher::new(epoch, View::new(revision, items))),
            leases: Arc::new(Leases::with_outlet(clock::now(), store.outlet())),
            observation: Arc::new(Observation::new(9)),
            metrics: Arc::new(Metrics::new()),
        };
        effects.grant_all(&kept);
        let limits = Limits { replicas: 2 * LIMITS.replicas, replicas_per_service: 2 * LIMITS.replicas };
        let (mut writer, commands, _) = Writer::new(store, effects.clone(), limits, 100);
        let shutdown = Shutdown::new();
        let expiring = tokio::spawn(expiry::run(effects.clone(), commands.clone(), shutdown.clone()));
        let writing = tokio::spawn(async move {
            assert_eq!(writer.run(&CancellationToken::new()).await, Ok(()));
        });
        Self { effects, commands, shutdown, tasks: vec![expiring, writing] }
    }

    /// `kill -9`.
    fn kill(&self) {
        self.shutdown.begin();
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    fn view(&self) -> View {
        self.effects.publisher.read(View::clone)
    }
}

struct World {
    random: StdRng,
    cluster: Cluster,
    planes: Vec<Plane>,
    /// Registered, and renewed for as long as the world turns.
    faithful: Vec<(ReplicaKey, LeaseId)>,
    promised: Vec<Revision>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let cluster = Cluster::new(seed);
        tokio::spawn(cluster.clone().lapse());
        let mut planes = Vec::new();
        for _ in 0..3 {
            planes.push(Plane::start(&cluster).await);
        }
        let random = StdRng::seed_from_u64(seed ^ 0xfeed);
        Self { random, cluster, planes, faithful: Vec::new(), promised: Vec::new() }
    }

    fn any(&mut self) -> usize {
        self.random.random_range(0..self.planes.len())
    }

    /// A replica whose owner never falls silent. Its service is no other command's.
    async fn register_faithful(&mut self) {
        for number in 0..3_u16 {
            let wish = Registration {
                replica: Some(ReplicaId::parse(&format!("f{number}")).unwrap()),
                ttl: Some(TTL),
                ..Registration::permanent(
                    ServiceName::parse("faithful").unwrap(),
                    Address::parse(&format!("10.0.9.1:{}", 80 + number)).unwrap(),
                )
            };
            loop {
                let plane = self.any();
                let commands = self.planes[plane].commands.clone();
                let mut asking = std::pin::pin!(commands.submit(Command::Register(wish.clone())));
                let answer = loop {
                    // With a store that fails, the others may take longer than a lease lasts.
                    self.renew_all();
                    tokio::select! {
                        answer = &mut asking => break answer,
                        () = sleep(TTL / 6) => {}
                    }
                };
                if let Ok(Answer::Registered { record, .. }) = answer {
                    self.promised.push(record.revision);
                    self.faithful.push((record.key.clone(), record.lease.unwrap().id));
                    break;
                }
                sleep(50 * MS).await;
            }
        }
    }

    /// Commands of all kinds at all control planes at once, while the faithful are heard of here and there.
    async fn turn(&mut self) {
        let plane = self.any();
        let view = self.planes[plane].view();
        let commands = (0..self.random.random_range(1..6)).map(|_| {
            let choice = (
                self.random.random_range(0..29_u8),
                self.random.random_range(0..2),
                self.random.random_range(0..4),
                self.random.random(),
            );
            arbitrary::command(&view, choice)
        });
        let commands: Vec<_> = commands.collect();
        let other = self.any();
        let (here, there) = commands.split_at(commands.len() / 2);
        let (mine, others) = (self.planes[plane].commands.clone(), self.planes[other].commands.clone());
        let pause = MS.mul_f64(self.random.random_range(1.0..400.0));
        let asking = async {
            let answers = tokio::join!(mine.submit_all(here.to_vec()), others.submit_all(there.to_vec()));
            sleep(pause).await;
            answers
        };
        let mut asking = std::pin::pin!(asking);
        let (here, there) = loop {
            self.renew_all();
            tokio::select! {
                answers = &mut asking => break answers,
                () = sleep(TTL / 6) => {}
            }
        };
        for answer in here.into_iter().chain(there).flatten() {
            if let Answer::Registered { record, .. } | Answer::Replica(record) = answer {
                self.promised.push(record.revision);
            }
        }
    }

    /// Each owner is heard of somewhere: a control plane that does not know of it yet, or is cut off, says so, and it asks
    /// the next one.
    fn renew_all(&mut self) {
        for (key, lease) in self.faithful.clone() {
            let first = self.any();
            for plane in (first..).take(self.planes.len()).map(|plane| plane % self.planes.len()) {
                let Effects { leases, publisher, .. } = &self.planes[plane].effects;
                let now = clock::now();
                let is_known = |view: &View| view.get(&key).is_some_and(|record| record.is_kept_by(lease));
                if leases.are_in_touch(now) && publisher.read(is_known) {
                    let renewed = leases.renew(lease, &key, now);
                    assert!(renewed.is_some(), "plane {plane} told {key} that its lease is lost: {leases:?}");
                    break;
                }
            }
        }
    }

    async fn replace_one(&mut self) {
        let plane = self.any();
        self.planes[plane].kill();
        self.planes[plane] = Plane::start(&self.cluster).await;
    }

    /// All know the same, and that is what is stored.
    async fn agree(&mut self) {
        self.cluster.calm();
        // Longer than any lease, for the random ones, and than a sweep.
        for _ in 0..30 {
            self.renew_all();
            sleep(TTL / 6).await;
        }
        // Sweeps may still find something to do: whoever did it, the others hear of it within a moment.
        for _ in 0..100 {
            if self.differs().is_none() {
                return;
            }
            sleep(20 * MS).await;
        }
        assert_eq!(self.differs(), None);
    }

    /// The first control plane that knows something else than what is stored.
    fn differs(&self) -> Option<String> {
        let (head, items) = self.cluster.content();
        let stored = View::new(head, items);
        let differing = self.planes.iter().map(Plane::view).find(|view| {
            view.revision() != stored.revision()
                || !view.items().eq(stored.items())
                || view.replicas_hash() != stored.replicas_hash()
        });
        differing.map(|view| format!("{} is stored, {} is known", stored.revision(), view.revision()))
    }

    /// One history, in which every rule holds at each step, and which has all that was promised.
    fn check_history(&self) {
        let mut view = View::new(1, Vec::<crate::registry::Item>::new());
        let mut revisions = HashSet::new();
        for (previous, committed) in self.cluster.commits() {
            assert_eq!(previous, view.revision(), "each commit is made on the one before");
            for entry in committed {
                for write in entry.mutation.writes() {
                    let is_faithful =
                        write.key.as_replica().is_some_and(|key| key.service.as_str() == "faithful");
                    let is_loss = is_faithful && write.write == Write::Remove;
                    assert!(!is_loss, "its owner was heard of all the time: {write:?}");
                    assert!(!is_faithful || !matches!(write.cause, Cause::Held { .. }), "{write:?}");
                }
                revisions.insert(entry.revision);
                view.apply(entry);
            }
            for (name, service) in view.services() {
                let addresses: BTreeSet<_> =
                    service.replicas().map(|record| record.endpoint.address.to_string()).collect();
                assert_eq!(
                    addresses.len(),
                    service.replicas().len(),
                    "two replicas of {name} have one address"
                );
            }
        }
        for promised in &self.promised {
            assert!(revisions.contains(promised), "revision {promised} was promised");
        }
    }
}

#[test]
fn several_writers_make_one_history_that_all_of_them_know_and_lose_nobody_who_is_heard_of() {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let mut world = World::new(seed).await;
            world.register_faithful().await;
            for step in 0..60 {
                world.turn().await;
                if step % 25 == 24 {
                    world.replace_one().await;
                }
            }
            world.agree().await;
            world.check_history();
        });
    }
}
