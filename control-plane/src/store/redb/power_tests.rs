//! The power fails at any moment, while clients change the registry through its writer: what was acknowledged is there.

use std::{collections::HashSet, sync::Arc};

use gateway_proto::{Address, LeaseId, ReplicaId, ReplicaKey, ServiceName};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Place, Redb, create_in, volatile_disk::Disk};
use crate::{
    clock,
    effects::Effects,
    leases::Leases,
    metrics::Metrics,
    observe::Observation,
    publish::Publisher,
    registry::{Answer, Command, Limits, Proof, Registration, Revision, Said, Target, View},
    store::Store,
    writer::{Commands, WriteError, Writer},
};

const CLIENTS: u16 = 8;
/// Replicas that each client registers and removes.
const REPLICAS: u16 = 25;
const LIMITS: Limits = Limits { replicas: 1000, replicas_per_service: 1000 };

/// What the owner of a replica was told last.
#[derive(Debug, Clone, Copy)]
enum Told {
    Registered(LeaseId),
    Removed,
    /// Nothing: the power failed before the answer to his last command.
    Nothing,
}

/// A client, and what it knows of its replicas.
struct Client {
    number: u16,
    told: Vec<Told>,
    random: StdRng,
    acknowledged: u64,
    /// The greatest that it has heard of.
    revision: Revision,
}

impl Client {
    fn new(number: u16, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed ^ u64::from(number) << 32);
        let told = vec![Told::Removed; REPLICAS.into()];
        Self { number, told, random, acknowledged: 0, revision: 0 }
    }

    fn key(&self, replica: usize) -> ReplicaKey {
        ReplicaKey {
            service: ServiceName::parse("orders").unwrap(),
            replica: ReplicaId::parse(&format!("r-{}-{replica}", self.number)).unwrap(),
        }
    }

    fn command(&self, replica: usize) -> Command {
        let key = self.key(replica);
        match self.told[replica] {
            Told::Registered(lease) => {
                let said = Said { author: "owner".into(), reason: "done".into() };
                let (target, proof) = (Target::Key(key), Proof::Lease(lease));
                Command::Deregister { target, proof, said, block: None }
            }
            Told::Removed | Told::Nothing => {
                let address = Address::parse(&format!("10.0.{}.{}:80", self.number, replica + 1)).unwrap();
                let wish = Registration::permanent(key.service, address);
                let (replica, ttl) = (Some(key.replica), Some(Registration::DEFAULT_TTL));
                Command::Register(Registration { replica, ttl, ..wish })
            }
        }
    }

    /// Registers and removes until there is no answer.
    async fn work(mut self, commands: Commands) -> Self {
        loop {
            let replica = self.random.random_range(0..self.told.len());
            let answer = commands.submit(self.command(replica)).await;
            let (told, revision) = match answer {
                Ok(Answer::Registered { record, .. }) => {
                    (Told::Registered(record.lease.unwrap().id), record.revision)
                }
                Ok(Answer::Deregistered { revision, .. }) => (Told::Removed, revision),
                Err(WriteError::StoreUnavailable | WriteError::Interrupted) => {
                    self.told[replica] = Told::Nothing;
                    return self;
                }
                other => panic!("{other:?}"),
            };
            self.told[replica] = told;
            self.acknowledged += 1;
            self.revision = self.revision.max(revision);
        }
    }

    /// Compares with what is there: how much was lost, and how much is back. Learns what it was not told.
    fn compare(&mut self, view: &View) -> (u64, u64) {
        let (mut lost, mut back) = (0, 0);
        for replica in 0..self.told.len() {
            let found = view.get(&self.key(replica)).map(|record| record.lease.unwrap().id);
            match (self.told[replica], found) {
                (Told::Registered(lease), found) => lost += u64::from(found != Some(lease)),
                (Told::Removed, found) => back += u64::from(found.is_some()),
                (Told::Nothing, _) => {}
            }
            self.told[replica] = found.map_or(Told::Removed, Told::Registered);
        }
        (lost, back)
    }
}

/// What a number of power losses came to.
#[derive(Debug, Default)]
struct Tally {
    losses: u32,
    /// Of those, while a file was opened.
    at_opening: u32,
    acknowledged: u64,
    lost: u64,
    back: u64,
    reversed: u64,
    /// Why a file could not be opened although there was power.
    refused: Option<String>,
}

impl Tally {
    fn is_clean(&self) -> bool {
        (self.lost, self.back, self.reversed) == (0, 0, 0) && self.refused.is_none()
    }
}

/// Ten power losses and more, until so much was acknowledged, or the file cannot be opened any more.
async fn lose_power(seed: u64, acknowledged: u64, is_honest: bool) -> Tally {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = Disk::new(seed);
    disk.power_on(u64::MAX);
    drop(create_in(disk.attach().unwrap()).unwrap());
    if !is_honest {
        disk.ignore_syncs();
    }
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| Client::new(number, seed)).collect();
    let mut tally = Tally::default();
    while tally.losses < 10 || tally.acknowledged < acknowledged {
        tally.losses += 1;
        // Now and then it lasts for a part of what opening takes only.
        let calls = if random.random_bool(0.5) { 20 } else { 2000 };
        disk.power_on(random.random_range(0..calls));
        let opened = match Redb::open_at(Place::Disk(disk.clone())).await {
            Ok(mut store) => store.load().await.map(|loaded| (store, loaded)),
            Err(error) => Err(error),
        };
        let (store, loaded) = match opened {
            Ok(opened) => opened,
            Err(_) if !disk.has_power() => {
                tally.at_opening += 1;
                continue;
            }
            Err(error) => {
                tally.refused = Some(error.to_string());
                return tally;
            }
        };
        let view = View::new(loaded.revision, loaded.items);
        let heard_of = clients.iter().map(|client| client.revision).max().unwrap_or_default();
        tally.reversed += u64::from(view.revision() < heard_of);
        for client in &mut clients {
            let (lost, back) = client.compare(&view);
            (tally.lost, tally.back) = (tally.lost + lost, tally.back + back);
        }
        clients = work(store, loaded.epoch, view, clients).await;
        assert!(!disk.has_power());
        tally.acknowledged = clients.iter().map(|client| client.acknowledged).sum();
    }
    tally
}

/// Runs a control plane's writer until its store fails.
async fn work(store: Redb, epoch: String, view: View, clients: Vec<Client>) -> Vec<Client> {
    let effects = Effects {
        publisher: Arc::new(Publisher::new(epoch, view)),
        leases: Arc::new(Leases::new(clock::now())),
        observation: Arc::new(Observation::new(1)),
        metrics: Arc::new(Metrics::new()),
    };
    effects.grant_all(&HashSet::new());
    let (mut writer, commands, _available) = Writer::new(store, effects, LIMITS, 100);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let writing = tokio::spawn(async move { writer.run(&stopping).await });
    let mut working: JoinSet<_> = clients.into_iter().map(|client| client.work(commands.clone())).collect();
    let mut clients = Vec::new();
    while let Some(client) = working.join_next().await {
        clients.push(client.unwrap());
    }
    stop.cancel();
    writing.await.unwrap().unwrap();
    clients
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_whenever_the_power_fails() {
    for seed in 0..2 {
        let tally = lose_power(seed, 5000, true).await;
        println!("seed {seed}: {tally:?}");
        assert!(tally.is_clean(), "seed {seed}: {tally:?}");
        assert!(tally.at_opening > 0, "seed {seed}: {tally:?}");
    }
}

#[tokio::test]
async fn a_disk_that_syncs_nothing_loses_what_was_acknowledged_and_the_power_test_sees_it() {
    for seed in 0..4 {
        let tally = lose_power(seed, 2000, false).await;
        println!("seed {seed}: {tally:?}");
        assert!(!tally.is_clean(), "seed {seed}: {tally:?}");
    }
}
