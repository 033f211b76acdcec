//! Keeps one replica in the registry as its supervisor wants it: registered while it is ready, unhealthy the moment it dies,
//! draining before it ends, and gone after that.
//!
//! A control plane that is away stops nothing: the program runs, and this goes on trying, with jittered pauses.
//!
//! A registration that is given up without an answer may be carried out late, by a control plane that stood still, for an address at
//! which nobody is any more. So whatever is registered before there is an answer has the same request id, of which the registry
//! carries out one. Who is thrown out all the same, by another process, does not throw that out in turn, and is back once it has gone.

use std::{collections::HashMap, time::Duration};

use gateway_proto::{
    Address, Endpoint, Mode, Protocol, ReplicaKey, reason,
    time::{duration, non_negative},
    v1::{
        self, DrainReplicaRequest, DrainStatus, GetReplicaRequest, GetReplicaResponse, HealthStatus,
        HeartbeatRequest, Locality, RegisterRequest, RegisterResponse, ReportHealthRequest,
        registry_service_client::RegistryServiceClient,
    },
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    lines::{Lines, Prefix},
    renewals::{Renewals, Word},
};
use crate::lease::{self, CALL_TIMEOUT, FIRST_PAUSE, Lost, MAX_PAUSE, jittered, within};
use crate::link::Link;
use crate::terminal::printable;

/// The longest wait that the registry takes, less what the answer may need.
const MAX_WAIT: Duration = Duration::from_secs(59);
/// How long it takes at most to hear that no data plane has come back to a control plane that has just started.
const SETTLING_WAIT: Duration = Duration::from_secs(1);
/// The longest reason that the registry takes, in characters.
const MAX_REASON: usize = 256;

/// What is registered beside the address.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) ttl: Duration,
    pub(crate) protocol: Protocol,
    pub(crate) weight: u16,
    pub(crate) priority: u8,
    pub(crate) locality: Locality,
    pub(crate) version: String,
    pub(crate) labels: HashMap<String, String>,
}

impl Described {
    /// The registration of a replica where it is reached.
    pub(crate) fn request(&self, key: &ReplicaKey, reached: &Endpoint) -> RegisterRequest {
        RegisterRequest {
            service: key.service.to_string(),
            replica_id: key.replica.to_string(),
            endpoint: Some(reached.to_wire()),
            weight: self.weight.into(),
            priority: self.priority.into(),
            locality: Some(self.locality.clone()),
            version: self.version.clone(),
            labels: self.labels.clone(),
            lease_ttl: Some(duration(self.ttl)),
            ..Default::default()
        }
    }
}

/// What the supervisor wants.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// It has not been ready yet.
    Absent,
    /// Ready, at this address.
    Up(Address),
    /// Dead, for this reason.
    Down(String),
    /// To be left in peace, within this time and for this reason.
    Drained(Duration, String),
    /// To be forgotten, until then.
    Gone(Instant),
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Under,
    /// Nothing is sent to it any more, as far as anybody can tell.
    Drained,
}

/// A handle to the task that does it.
#[derive(Debug)]
pub(crate) struct Registration {
    wanted: watch::Sender<Wanted>,
    stage: watch::Receiver<Stage>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Begins, with nothing to register yet.
    pub(crate) fn start(
        key: ReplicaKey,
        described: Described,
        channel: Link,
        renewals: Renewals,
        voice: (Lines, Prefix),
    ) -> Self {
        let (wanted, wants) = watch::channel(Wanted::Absent);
        let (stage, reached) = watch::channel(Stage::Under);
        let client = RegistryServiceClient::new(channel);
        let keeper = Keeper {
            key,
            described,
            client,
            renewals,
            voice,
            wants,
            stage,
            unanswered: None,
            superseded: None,
        };
        Self { wanted, stage: reached, task: tokio::spawn(keeper.run()) }
    }

    /// It is ready at an address.
    pub(super) fn up(&self, address: Address) {
        self.wanted.send_replace(Wanted::Up(address));
    }

    /// It is dead.
    pub(super) fn down(&self, reason: String) {
        self.wanted.send_replace(Wanted::Down(reason));
    }

    /// Waits until nothing is sent to it any more, at most this long.
    pub(super) async fn drained(&mut self, within: Duration, reason: String) {
        self.wanted.send_replace(Wanted::Drained(within, reason));
        let reached = self.stage.wait_for(|stage| *stage == Stage::Drained);
        // An error says that the task has ended: it cannot be drained any more.
        let _ = tokio::time::timeout(within, reached).await;
    }

    /// Removes it, and waits at most this long for that.
    pub(super) async fn gone(mut self, within: Duration) {
        self.wanted.send_replace(Wanted::Gone(Instant::now() + within));
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Why there is nothing more to do with a lease.
enum Left {
    /// It is lost or drained, or it is wanted at another address: register anew when it is ready.
    Anew,
    /// For good.
    Over,
}

#[derive(Debug)]
struct Keeper {
    key: ReplicaKey,
    described: Described,
    client: RegistryServiceClient<Link>,
    renewals: Renewals,
    voice: (Lines, Prefix),
    wants: watch::Receiver<Wanted>,
    stage: watch::Sender<Stage>,
    /// The last registration that nobody has answered, and that may have been carried out, or still be.
    unanswered: Option<RegisterRequest>,
    /// The lease that is void because another process has registered the replica.
    superseded: Option<String>,
}

impl Keeper {
    async fn run(mut self) {
        // Without an error as long as somebody may want something else.
        while self.wants.has_changed().is_ok() {
            let wanted = self.wants.borrow_and_update().clone();
            match wanted {
                Wanted::Up(address) => {
                    if !self.has_its_place().await {
                        continue;
                    }
                    let Some(granted) = self.register(&address).await else { continue };
                    if matches!(self.keep(&address, granted).await, Left::Over) {
                        return;
                    }
                    continue;
                }
                // Nobody sends to what is not registered.
                Wanted::Drained(..) => drop(self.stage.send_replace(Stage::Drained)),
                Wanted::Gone(until) => return self.take_back(until).await,
                Wanted::Absent | Wanted::Down(_) => {}
            }
            if self.wants.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until no other process has the replica; false when something else is wanted before.
    async fn has_its_place(&mut self) -> bool {
        while let Some(lease_id) = self.superseded.clone() {
            // Of a lease that is void it says why: because another keeps the replica, or because nobody does.
            let (service, replica_id) = (self.key.service.to_string(), self.key.replica.to_string());
            let asked = HeartbeatRequest { service, replica_id, lease_id, ..Default::default() };
            let answer = within(CALL_TIMEOUT, self.client.heartbeat(asked)).await;
            if answer.map_or_else(|status| Lost::of(&status) == Some(Lost::Gone), |_| true) {
                self.superseded = None;
                break;
            }
            tokio::select! {
                _ = self.wants.changed() => return false,
                // As often as leases are renewed, about.
                () = jittered(self.described.ttl * 2 / 3) => {}
            }
        }
        true
    }

    /// Registers, however long it takes; `None` when something else is wanted meanwhile.
    ///
    /// Until there is an answer it is one request that comes again: one that was given up here and arrives late would void the
    /// lease which its repetition was granted.
    async fn register(&mut self, address: &Address) -> Option<RegisterResponse> {
        let reached = Endpoint { address: address.clone(), protocol: self.described.protocol.clone() };
        let mut request = self.described.request(&self.key, &reached);
        // That of one for another address, too, where that has no answer: one of the two is refused then, whichever comes later.
        request.request_id =
            self.unanswered.as_ref().map_or_else(lease::request_id, |other| other.request_id.clone());
        let mut pause = FIRST_PAUSE;
        let mut told = None;
        loop {
            let status = match self.ask_to_register(&request).await? {
                Ok(granted) => {
                    // The drain of a predecessor ends with that, where it was not an operator's.
                    self.stage.send_replace(Stage::Under);
                    self.say(&format!("{} registered at {address}", self.key));
                    return Some(granted);
                }
                Err(status) => status,
            };
            lease::prepare_again(&mut request, &status);
            let why = plain(&status);
            if told.as_ref() != Some(&why) {
                self.say(&format!("{} is not registered: {why}; trying again", self.key));
                told = Some(why);
            }
            tokio::select! {
                changed = self.wants.changed() => {
                    if changed.is_err() || *self.wants.borrow() != Wanted::Up(address.clone()) {
                        return None;
                    }
                }
                () = jittered(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Asks once, and notes whether it is unknown what came of it. `None` when the end is wanted before there is an answer: the time
    /// that is left is for [taking it back](Self::take_back).
    async fn ask_to_register(
        &mut self,
        request: &RegisterRequest,
    ) -> Option<Result<RegisterResponse, Status>> {
        let before = self.unanswered.replace(request.clone());
        let mut wants = self.wants.clone();
        let answer = tokio::select! {
            biased;
            answer = register_once(&mut self.client, request) => answer,
            _ = wants.wait_for(|wanted| matches!(wanted, Wanted::Gone(_))) => return None,
        };
        match &answer {
            Ok(_) => self.unanswered = None,
            Err(status) if lease::is_spent(status) => self.unanswered = None,
            Err(status) if is_open(status) => {}
            // Which says nothing of one before.
            Err(_) => self.unanswered = before,
        }
        Some(answer)
    }

    /// Removes what a registration without an answer has come to, or would come to yet: asked for once more it is carried out once,
    /// and has a lease to end it by. Refused, it has been another's, or is gone.
    ///
    /// A request that never was carried out is carried out now, whoever has registered the replica since. So the registry is asked
    /// first who is there, and [`may_take_back`] says no where that is somebody else. Who has registered it at the same address
    /// cannot be told from this one, nor who comes between question and request: they are thrown out, and a supervisor like this one
    /// registers again once this has gone.
    async fn take_back(&mut self, until: Instant) {
        let Some(request) = self.unanswered.take() else { return };
        let (service, replica_id) = (request.service.clone(), request.replica_id.clone());
        let asked =
            within(CALL_TIMEOUT, self.client.get_replica(GetReplicaRequest { service, replica_id })).await;
        let left = until.saturating_duration_since(Instant::now());
        if may_take_back(&request, &asked, left)
            && let Ok(granted) = register_once(&mut self.client, &request).await
        {
            self.deregister(granted.lease_id).await;
        }
    }

    /// Holds the lease and does what is wanted, until it is lost or not wanted any more.
    async fn keep(&mut self, address: &Address, granted: RegisterResponse) -> Left {
        let every = granted.heartbeat_interval.and_then(non_negative).unwrap_or(self.described.ttl / 3);
        let lease = granted.lease_id;
        let mut word =
            self.renewals.hold(&self.key, lease.clone(), every.max(Duration::from_millis(100))).await;
        // It was registered as healthy: what is wanted may have changed since.
        let mut reported = Wanted::Up(address.clone());
        let mut is_drained = false;
        loop {
            let wanted = self.wants.borrow_and_update().clone();
            match &wanted {
                now if *now == reported => {}
                Wanted::Up(now) if now != address || is_drained => {
                    // What is heard of this lease from now on must not be taken for a word on the next one.
                    self.renewals.release(&self.key).await;
                    return Left::Anew;
                }
                Wanted::Up(_) => {
                    if self.report(&lease, HealthStatus::Healthy, "it is ready").await {
                        reported = wanted;
                    }
                }
                Wanted::Down(reason) => {
                    if self.report(&lease, HealthStatus::Unhealthy, reason).await {
                        reported = wanted;
                    }
                }
                Wanted::Drained(within, reason) => {
                    self.drain(&lease, *within, reason).await;
                    self.stage.send_replace(Stage::Drained);
                    (reported, is_drained) = (wanted, true);
                }
                Wanted::Gone(_) => {
                    self.renewals.release(&self.key).await;
                    self.deregister(lease).await;
                    return Left::Over;
                }
                Wanted::Absent => {}
            }
            tokio::select! {
                changed = self.wants.changed() => {
                    if changed.is_err() {
                        return Left::Over;
                    }
                }
                changed = word.changed() => {
                    let now = word.borrow_and_update().clone();
                    match (changed, now) {
                        (_, Word::Lost(reason)) => return self.lost(lease, &reason),
                        (Err(_), _) => return Left::Over,
                        (Ok(()), Word::Kept(_)) if is_drained => {}
                        (Ok(()), Word::Kept(mode)) => self.tell_of(mode),
                    }
                }
            }
        }
    }

    fn lost(&mut self, lease: String, reason: &str) -> Left {
        if reason == reason::LEASE_MISMATCH {
            self.say(&format!(
                "{} was registered by another process, which owns it now: this one leaves it alone until that has gone",
                self.key
            ));
            self.superseded = Some(lease);
        } else {
            self.say(&format!("{} has lost its lease ({reason}); registering anew", self.key));
        }
        Left::Anew
    }

    fn tell_of(&self, mode: Mode) {
        if matches!(*self.wants.borrow(), Wanted::Drained(..) | Wanted::Gone(_)) {
            return;
        }
        match mode {
            Mode::Serving => self.say(&format!("{} gets requests again", self.key)),
            Mode::Draining => self.say(&format!("{} is being drained: it gets no new requests", self.key)),
            Mode::Drained => {
                self.say(&format!("{} is drained; gwctl undrain {} ends that", self.key, self.key))
            }
        }
    }

    /// Reports its health until that is heard; false when something else is wanted before.
    async fn report(&mut self, lease: &str, health: HealthStatus, reason: &str) -> bool {
        let request = ReportHealthRequest {
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            lease_id: lease.to_owned(),
            health: health.into(),
            reason: printable(reason).chars().take(MAX_REASON).collect(),
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match within(CALL_TIMEOUT, self.client.report_health(request.clone())).await {
                Ok(_) => return true,
                // Whatever keeps the lease alive hears of that, too.
                Err(status) if Lost::of(&status).is_some() => return false,
                Err(_) => {}
            }
            tokio::select! {
                // What is new is looked at by the caller.
                _ = self.wants.changed() => {
                    self.wants.mark_changed();
                    return false;
                }
                () = jittered(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Asks for a drain and waits for its end, at most this long. A control plane that is away cannot be waited for.
    async fn drain(&mut self, lease: &str, longest: Duration, reason: &str) {
        let began = Instant::now();
        let deadline = began + longest;
        let ask = (lease, reason, deadline);
        let Some(mut status) = self.ask_for_drain(ask, Duration::ZERO).await else { return };
        if status.inflight_request_count > 0 {
            self.say(&format!("{} draining: {} in flight", self.key, status.inflight_request_count));
        }
        while !status.is_idle && Instant::now() < deadline {
            let longest_wait = match status.rollout.as_ref().map_or(0, |rollout| rollout.node_count) {
                // Data planes that still route may be on their way back to a control plane that has just started.
                0 if status.is_settling => SETTLING_WAIT,
                0 => {
                    // Nobody can be told, so nothing would come of waiting.
                    self.say(&format!("{} drained: no data plane is connected", self.key));
                    return;
                }
                _ => MAX_WAIT,
            };
            let wait = deadline.saturating_duration_since(Instant::now()).min(longest_wait);
            let Some(next) = self.ask_for_drain(ask, wait).await else { return };
            status = next;
        }
        let took = began.elapsed().as_secs_f64();
        if status.is_idle {
            self.say(&format!("{} drained: nothing in flight ({took:.1}s)", self.key));
        } else {
            self.say(&format!("{} is not drained after {took:.1}s: what is in flight is cut", self.key));
        }
    }

    /// Asks for a drain until a control plane takes it, or the time is over. `None` when it comes to nothing, which is said, or
    /// something else is wanted meanwhile.
    async fn ask_for_drain(
        &mut self,
        (lease, reason, deadline): (&str, &str, Instant),
        wait: Duration,
    ) -> Option<DrainStatus> {
        let mut pause = FIRST_PAUSE;
        let mut told = None;
        loop {
            let request = DrainReplicaRequest {
                service: self.key.service.to_string(),
                replica_id: self.key.replica.to_string(),
                drain_timeout: Some(duration(deadline.saturating_duration_since(Instant::now()))),
                reason: reason.chars().take(MAX_REASON).collect(),
                allow_last: true,
                lease_id: lease.to_owned(),
                wait_timeout: (!wait.is_zero()).then(|| duration(wait)),
                ..Default::default()
            };
            let answer = tokio::select! {
                answer = within(CALL_TIMEOUT + wait, self.client.drain_replica(request)) => answer,
                _ = self.wants.changed() => return self.turn_to_what_is_wanted(),
            };
            let status = match answer {
                Ok(answer) => return Some(answer.status.unwrap_or_default()),
                Err(status) => status,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let rest = lease::rest_after(&status, pause).filter(|rest| *rest < left);
            let Some(rest) = rest else {
                self.say(&format!("{} cannot be drained: {}", self.key, plain(&status)));
                return None;
            };
            let why = plain(&status);
            if told.as_ref() != Some(&why) {
                self.say(&format!(
                    "{} cannot be drained yet: {why}; trying for {:.0}s more",
                    self.key,
                    left.as_secs_f64()
                ));
                told = Some(why);
            }
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = self.wants.changed() => return self.turn_to_what_is_wanted(),
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Has the caller look at what is wanted now.
    fn turn_to_what_is_wanted<T>(&mut self) -> Option<T> {
        self.wants.mark_changed();
        None
    }

    /// Leaves the registry; a control plane that does not hear it lets the lease lapse.
    async fn deregister(&mut self, lease_id: String) {
        match within(CALL_TIMEOUT, self.client.deregister(lease::leaving(&self.key, lease_id))).await {
            Ok(_) => self.say(&format!("{} deregistered", self.key)),
            Err(status) => {
                self.say(&format!("{} is not deregistered: {}; its lease lapses", self.key, plain(&status)))
            }
        }
    }

    fn say(&self, text: &str) {
        self.voice.0.say(&self.voice.1, text);
    }
}

/// Registers, or hears why not, within the time that a call has.
async fn register_once(
    client: &mut RegistryServiceClient<Link>,
    request: &RegisterRequest,
) -> Result<RegisterResponse, Status> {
    let mut call = tonic::Request::new(request.clone());
    // A control plane that comes to it later knows that nobody waits for it.
    call.set_timeout(CALL_TIMEOUT);
    within(CALL_TIMEOUT, client.register(call)).await
}

/// Whether to take a registration back that has no answer, by what the registry shows of its replica, with so much time left.
fn may_take_back(
    request: &RegisterRequest,
    shown: &Result<GetReplicaResponse, Status>,
    left: Duration,
) -> bool {
    match shown {
        Ok(GetReplicaResponse { replica }) => {
            let address = |endpoint: &v1::Endpoint| endpoint.address.clone();
            let there = replica.as_ref().and_then(|replica| replica.endpoint.as_ref()).map(address);
            there == request.endpoint.as_ref().map(address)
        }
        // It may be carried out yet, which its repetition prevents, if there is time for its removal, too: what is registered and
        // not removed would be worse than what it is to prevent.
        Err(status) if status.code() == Code::NotFound => left >= CALL_TIMEOUT,
        // Who does not answer this does not answer the rest.
        Err(status) => !is_open(status),
    }
}

/// Whether a call that failed so may have been carried out, or still be.
fn is_open(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(status.code(), Cancelled | DeadlineExceeded | Internal | Unavailable | Unknown)
}

/// Why a call failed, for people, with the fields that are wrong.
fn plain(status: &Status) -> String {
    let details = status.get_error_details();
    let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    if let Some(first) = violations.first() {
        return format!("{}: {}", first.field, first.description);
    }
    if status.code() == Code::Unavailable && details.error_info().is_none() {
        return "the control plane cannot be reached".into();
    }
    status.message().to_owned()
}

#[cfg(test)]
mod tests;
