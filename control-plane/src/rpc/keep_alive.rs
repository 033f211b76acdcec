//! `KeepAlive`: many leases on one stream, and changes of mode pushed back to whoever holds them.
//!
//! A stream holds up nobody but itself: it answers one message after the other, and reads no further while its client
//! does not read.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gateway_proto::{Check, Health, Invalid, LeaseId, Mode, ReplicaKey, v1};
use tokio::{
    sync::mpsc,
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until},
};
use tonic::{Status, Streaming};

use super::{MAX_REQUEST_BYTES, next_message};
use crate::{
    TURNS,
    auth::Caller,
    clock,
    edge::{Edge, HEARSAY, Renewed},
    refusal::Refusal,
    registry::{Command, Record, View},
    writer::WriteError,
};

/// Heartbeats in one message: some 100 KB.
const MAX_HEARTBEATS: usize = 1000;
/// So many are renewed before others have their turn on this thread.
const AT_A_STRETCH: usize = 64;
/// Changes of the registry that come within this time are looked through together.
const PUSH_DELAY: Duration = Duration::from_millis(20);

/// How long a client that sends too much is not read from, at most: one that owes more than that is sent away, for it may have
/// many streams.
const MAX_REST: Duration = Duration::from_secs(2);

type Outbound = mpsc::Sender<Result<v1::KeepAliveResponse, Status>>;

/// One client's stream.
struct Stream {
    edge: Arc<Edge>,
    /// As he was found out to be when the stream began; when he loses his right, the stream ends.
    caller: Caller,
    outbound: Outbound,
    /// The replicas that this stream keeps alive, with the mode that was told last.
    told: HashMap<ReplicaKey, (LeaseId, Mode)>,
    /// From this many on, it is looked which of them are kept alive still.
    forget_at: usize,
    /// Health that came with heartbeats and is not handed in yet: the latest of each replica.
    reports: HashMap<ReplicaKey, (LeaseId, Health)>,
    /// The reports that are handed in and not answered, if any.
    reporting: JoinSet<()>,
}

/// A heartbeat in checked words.
pub(super) struct Beat {
    pub(super) key: ReplicaKey,
    pub(super) lease: LeaseId,
    /// What the replica reports of itself, if it does.
    pub(super) health: Option<Health>,
}

/// Serves one stream until its client ends it, or the shutdown begins.
pub(super) async fn serve(
    edge: Arc<Edge>,
    caller: Caller,
    mut inbound: Streaming<v1::KeepAliveRequest>,
    outbound: Outbound,
) -> Result<(), Status> {
    let shutdown = edge.shutdown.clone();
    let mut head = edge.effects.publisher.subscribe();
    let mut stream = Stream {
        edge,
        caller,
        outbound,
        told: HashMap::new(),
        forget_at: 2 * MAX_HEARTBEATS,
        reports: HashMap::new(),
        reporting: JoinSet::new(),
    };
    // When the modes are looked at next. Not a time that each message would begin anew.
    let mut look_at: Option<Instant> = None;
    loop {
        tokio::select! {
            message = next_message(&mut inbound, MAX_REQUEST_BYTES) => match message? {
                Some(message) => stream.renew(message).await?,
                None => return Ok(()),
            },
            Some(reported) = stream.reporting.join_next() => {
                if let Err(Ok(panic)) = reported.map_err(|error| error.try_into_panic()) {
                    std::panic::resume_unwind(panic);
                }
                stream.report();
            }
            changed = head.changed(), if look_at.is_none() => {
                look_at = changed.is_ok().then(|| Instant::now() + PUSH_DELAY);
            }
            () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                look_at = None;
                head.mark_unchanged();
                stream.push().await?;
            }
            () = stream.outbound.closed() => return Ok(()),
            () = shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
        }
    }
}

impl Stream {
    /// Renews what a message asks for, in order, and answers it.
    async fn renew(&mut self, message: v1::KeepAliveRequest) -> Result<(), Status> {
        let count = message.heartbeats.len();
        if count > MAX_HEARTBEATS {
            let why = format!("are {count}, at most {MAX_HEARTBEATS} are allowed in one message");
            return Err(Refusal::from(Invalid::new("heartbeats", why)).into());
        }
        self.rest(count).await?;
        let mut results = Vec::with_capacity(count);
        // For all of them together, or a client's old leases would hold up its new ones.
        let patience = Instant::now() + HEARSAY;
        let mut is_confirmed = false;
        // Why it could not be found out which leases are unknown. Those that are known are renewed all the same.
        let mut unknown: Option<Refusal> = None;
        for (number, wire) in message.heartbeats.into_iter().enumerate() {
            if number % AT_A_STRETCH == AT_A_STRETCH - 1 {
                yield_now().await;
            }
            let names = (wire.service.clone(), wire.replica_id.clone());
            let beat = Beat::parse(wire);
            if let Ok(beat) = &beat
                && !self.edge.hear_of(&beat.key, beat.lease, patience).await
                && !is_confirmed
            {
                if unknown.is_some() {
                    continue;
                }
                match self.edge.confirm(&self.caller, &beat.key, beat.lease).await {
                    Ok(()) => is_confirmed = true,
                    // Said of that heartbeat below.
                    Err(Refusal::Denied(_)) => {}
                    // Nobody's lease is lost by a store that does not answer, nor by others who keep it busy: the stream is.
                    Err(refusal) => {
                        unknown = Some(refusal);
                        continue;
                    }
                }
            }
            let result = match beat {
                Ok(beat) => match self.renew_one(beat) {
                    // Nobody's lease is lost by that: the stream is.
                    Err(refusal) if refusal.is_of_store() => return Err(refusal.into()),
                    Err(refusal) => lost(&refusal),
                    Ok(renewed) => renewed,
                },
                Err(invalid) => lost(&Refusal::from(invalid)),
            };
            results.push(named(names, result));
        }
        self.forget_void_leases();
        self.report();
        self.send(results).await?;
        unknown.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Waits until the client owes nothing for heartbeats before these: who sends more than he may is read more slowly, and
    /// nobody else is.
    async fn rest(&self, count: usize) -> Result<(), Status> {
        let until = Instant::now() + MAX_REST;
        while let Err(rest) = self.caller.charge_heartbeats(count) {
            if Instant::now() + rest > until {
                return Err(Refusal::from(self.caller.asks_too_often(rest)).into());
            }
            tokio::select! {
                () = sleep(rest) => {}
                () = self.edge.shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
            }
        }
        Ok(())
    }

    /// Has the health that came with heartbeats stored, all of it in one go, beside the stream: a store that is slow or
    /// away must not keep leases from being renewed. What cannot be stored now comes again with the next heartbeat.
    fn report(&mut self) {
        if self.reports.is_empty() || !self.reporting.is_empty() {
            return;
        }
        let command = |(key, (lease, health))| Command::ReportHealth {
            key,
            lease: Some(lease),
            health,
            reason: String::new(),
        };
        let (edge, caller) = (Arc::clone(&self.edge), self.caller.clone());
        let mut due: Vec<_> = self.reports.drain().map(command).collect();
        self.reporting.spawn(async move {
            while !due.is_empty() {
                // In one turn no more than one caller may have waiting.
                let rest = due.split_off(due.len().min(TURNS));
                edge.submit_admitted(&caller, std::mem::replace(&mut due, rest)).await;
            }
        });
    }

    /// Drops what is told of replicas that this stream keeps alive no more, when that has become much.
    fn forget_void_leases(&mut self) {
        if self.told.len() < self.forget_at {
            return;
        }
        let told = &mut self.told;
        self.edge.effects.publisher.read(|view| {
            told.retain(|key, (lease, _)| view.get(key).is_some_and(|record| record.is_kept_by(*lease)));
        });
        self.forget_at = (2 * self.told.len()).max(2 * MAX_HEARTBEATS);
    }

    fn renew_one(&mut self, beat: Beat) -> Result<v1::keep_alive_result::Result, Refusal> {
        match self.edge.renew(&self.caller, &beat.key, beat.lease) {
            Ok(Renewed { answer, mode, health }) => {
                self.told.insert(beat.key.clone(), (beat.lease, mode));
                if let Some(reported) = beat.health.filter(|reported| health != Some(*reported)) {
                    self.reports.insert(beat.key, (beat.lease, reported));
                }
                Ok(v1::keep_alive_result::Result::Renewed(answer))
            }
            Err(refusal) => {
                self.told.remove(&beat.key);
                self.reports.remove(&beat.key);
                Err(refusal)
            }
        }
    }

    /// Tells modes that have changed since they were told.
    async fn push(&mut self) -> Result<(), Status> {
        let changed = self.edge.effects.publisher.read(|view| self.changed_modes(view));
        let mut results = Vec::new();
        for record in changed {
            let Some(told) = self.told.get_mut(&record.key) else { continue };
            told.1 = record.mode();
            let Some(term) = self.edge.effects.leases.get(told.0) else { continue };
            let left = term.deadline.saturating_duration_since(clock::now());
            let answer = Edge::heartbeat_answer(term.ttl, clock::wall() + left, record.as_drain());
            let names = (record.key.service.to_string(), record.key.replica.to_string());
            results.push(named(names, v1::keep_alive_result::Result::Renewed(answer)));
        }
        match results.is_empty() {
            true => Ok(()),
            false => self.send(results).await,
        }
    }

    fn changed_modes(&self, view: &View) -> Vec<Arc<Record>> {
        let drained = self.told.iter().filter(|(_, (_, mode))| *mode != Mode::Serving);
        // Those that drain still are among the drains.
        let drained = drained.filter_map(|(key, _)| view.get(key)).filter(|record| record.drain.is_none());
        let is_news = |record: &&Arc<Record>| {
            self.told
                .get(&record.key)
                .is_some_and(|(lease, mode)| *mode != record.mode() && record.is_kept_by(*lease))
        };
        // One whose drain has begun may already be over, and then it is not among those that drain.
        view.drains().chain(drained).filter(is_news).cloned().collect()
    }

    async fn send(&self, results: Vec<v1::KeepAliveResult>) -> Result<(), Status> {
        let response = Ok(v1::KeepAliveResponse { results });
        tokio::select! {
            // A client that has gone needs no answer.
            _ = self.outbound.send(response) => Ok(()),
            () = self.edge.shutdown.begun() => Err(Refusal::from(WriteError::ShuttingDown).into()),
        }
    }
}

impl Beat {
    pub(super) fn parse(wire: v1::HeartbeatRequest) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let key = check.take(ReplicaKey::parse(&wire.service, &wire.replica_id));
        let lease = check.take(LeaseId::parse(&wire.lease_id));
        let health = check.take(Health::parse_reported(wire.health)).flatten();
        check.finish()?;
        let (Some(key), Some(lease)) = (key, lease) else { unreachable!("nothing was refused") };
        Ok(Self { key, lease, health })
    }
}

fn lost(refusal: &Refusal) -> v1::keep_alive_result::Result {
    v1::keep_alive_result::Result::Lost(v1::LeaseLost {
        reason: refusal.reason().to_owned(),
        message: refusal.to_string(),
    })
}

fn named(
    (service, replica_id): (String, String),
    result: v1::keep_alive_result::Result,
) -> v1::KeepAliveResult {
    v1::KeepAliveResult { service, replica_id, result: Some(result) }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use gateway_proto::reason;
    use tonic_types::StatusExt;

    use super::*;
    use crate::{
        effects::Effects,
        leases::Leases,
        metrics::Metrics,
        observe::Observation,
        publish::Publisher,
        registry::{LeaseTerms, Limits},
        store::Memory,
        writer::{Conditions, Writer},
    };

    fn key(id: &str) -> ReplicaKey {
        ReplicaKey::parse("orders", id).unwrap()
    }

    /// What heartbeats of an unknown lease and of a known one are answered with, once `hinder` has its way with the edge, whose writer does not
    /// run and has one place in its queue.
    async fn renew(hinder: impl FnOnce(&mut Edge)) -> (Result<(), Status>, Vec<(String, bool)>) {
        let (key, address) = (key("r-2"), gateway_proto::Address::parse("10.0.0.1:80").unwrap());
        let terms = LeaseTerms::new(LeaseId::from_random(2), Duration::from_secs(15));
        let known = Record { lease: Some(terms), ..Record::plain(key.clone(), address, UNIX_EPOCH) };
        let effects = Effects {
            publisher: Arc::new(Publisher::new("e".into(), View::new(1, [known]))),
            leases: Arc::new(Leases::new(clock::now())),
            observation: Arc::new(Observation::new(1)),
            metrics: Arc::new(Metrics::new()),
        };
        effects.leases.grant(terms.id, key, terms.ttl(), clock::now());
        let limits = Limits { replicas: 1, replicas_per_service: 1 };
        let (_writer, commands, refusing) = Writer::new(Memory::new(), effects.clone(), limits, 1);
        let mut edge = Edge::around(effects, commands, refusing);
        hinder(&mut edge);
        let (outbound, mut answers) = mpsc::channel(9);
        let mut stream = Stream {
            edge: Arc::new(edge),
            caller: Caller::anybody(None),
            outbound,
            told: HashMap::new(),
            forget_at: 9,
            reports: HashMap::new(),
            reporting: JoinSet::new(),
        };
        let heartbeats = [1, 2].map(|number| v1::HeartbeatRequest {
            service: "orders".into(),
            replica_id: format!("r-{number}"),
            lease_id: LeaseId::from_random(number).reveal(),
            ..Default::default()
        });
        let ended = stream.renew(v1::KeepAliveRequest { heartbeats: heartbeats.into() }).await;
        let told = answers.try_recv().map(|told| told.unwrap().results).unwrap_or_default();
        let told = told.into_iter().map(|told| {
            let is_renewed = matches!(told.result, Some(v1::keep_alive_result::Result::Renewed(_)));
            (told.replica_id, is_renewed)
        });
        (ended, told.collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_not_told_as_lost_by_a_control_plane_that_has_too_much_to_do_to_find_out_and_others_are_renewed()
     {
        let (ended, told) = renew(|edge| {
            edge.is_store_shared = true;
            let commands = edge.commands.clone();
            tokio::spawn(async move {
                let asked = Command::Recover { key: key("r-3"), lease: LeaseId::from_random(3) };
                commands.submit_in(Default::default(), asked, Conditions::default()).await
            });
        })
        .await;
        assert_eq!(told, [("r-2".to_owned(), true)]);
        assert_eq!(ended.unwrap_err().get_details_error_info().unwrap().reason, reason::OVERLOADED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_not_told_as_lost_where_the_registry_was_whatever_else_is_wrong_with_its_store() {
        let (ended, told) = renew(|edge| {
            edge.effects.leases.leave(clock::now());
            edge.refusing = tokio::sync::watch::channel(Some(WriteError::StoreFull)).1;
        })
        .await;
        assert_eq!(told, []);
        assert_eq!(ended.unwrap_err().get_details_error_info().unwrap().reason, reason::STORE_UNAVAILABLE);
    }
}
