//! Whoever runs a replica: it registers it, keeps its lease, and answers its requests, well or badly.

use std::time::Duration;

use control_plane::registry::{Answer, Command, DrainWish, Proof, Registration, RegistryError, Said, Target};
use gateway_proto::{Address, Health, LeaseId, ReplicaId, ReplicaKey, ServiceName, Weight};

use crate::{
    env::{Env, MS, SECOND},
    event::{Ask, Call, Caller, ControlEvent, Event, Head, OwnerEvent, OwnerId, Reply},
    journal::note,
};

/// How a running replica treats requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Condition {
    Healthy,
    /// Takes requests and never answers.
    Hangs,
    /// Its machine is gone: connecting takes forever.
    Unreachable,
    /// This share of requests meets this fate.
    Sometimes(f64, Head),
}

/// A replica and its owner.
pub(crate) struct Owner {
    number: OwnerId,
    pub(crate) service: ServiceName,
    pub(crate) address: Address,
    /// The id that it registers under; without one the control plane chooses.
    pub(crate) id: Option<ReplicaId>,
    ttl: Option<Duration>,
    pub(crate) weight: Weight,
    pub(crate) is_running: bool,
    pub(crate) condition: Condition,
    /// Neither heartbeats nor answers leave it before this nanosecond.
    pub(crate) frozen_until: u64,
    /// Nothing that it says reaches the control plane before this nanosecond.
    pub(crate) cut_until: u64,
    /// Which run of the process: requests to an earlier one were cut off.
    pub(crate) life: u32,
    /// Which registration, or try at one: alarms of an earlier one are void.
    term: u32,
    /// What it believes to hold.
    pub(crate) held: Option<Held>,
    /// Every registration that it ever held.
    pub(crate) past: Vec<Held>,
    /// The call whose answer it waits for.
    serial: u64,
    waits: bool,
    /// Whether its registrations name themselves, so that a repeated one is known.
    names_requests: bool,
    /// The registration that it repeats until it is answered.
    request: Option<u128>,
}

/// A registration, as its owner was told.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) key: ReplicaKey,
    pub(crate) lease: Option<LeaseId>,
}

impl Owner {
    pub(crate) fn new(env: &mut Env, number: OwnerId, service: usize, within: usize) -> Self {
        let ttl = env.pick(&[SECOND, 2 * SECOND, 6 * SECOND]);
        let weight = if env.plan.weighted { env.pick(&[50, 100, 300]) } else { 100 };
        let names_itself = env.chance(0.7);
        Self {
            number,
            service: ServiceName::parse(&format!("s{service}")).expect("a name"),
            address: address(1000 + number),
            id: names_itself.then(|| ReplicaId::parse(&format!("r{within}")).expect("a label")),
            ttl: (!env.chance(env.plan.permanent)).then_some(ttl),
            weight: Weight::parse(weight).expect("in range"),
            is_running: false,
            condition: Condition::Healthy,
            frozen_until: 0,
            cut_until: 0,
            life: 0,
            term: 0,
            held: None,
            past: Vec::new(),
            serial: 0,
            waits: false,
            names_requests: env.chance(0.5),
            request: None,
        }
    }

    pub(crate) fn handle(&mut self, env: &mut Env, event: OwnerEvent) {
        if env.now < self.frozen_until {
            return env.at(self.frozen_until, Event::Owner(self.number, event));
        }
        match event {
            OwnerEvent::Start => self.start(env),
            OwnerEvent::Answer { serial, reply } if serial == self.serial && self.waits => {
                self.waits = false;
                self.answered(env, reply);
            }
            OwnerEvent::GiveUp { serial } if serial == self.serial && self.waits => {
                env.journal.count("an owner's call was not answered");
                self.waits = false;
                if self.held.is_none() {
                    self.register(env);
                }
            }
            OwnerEvent::Register { term } if term == self.term && self.is_running => self.register(env),
            OwnerEvent::Heartbeat { term } if term == self.term && self.is_running => self.heartbeat(env),
            // Of an earlier call or an earlier life.
            OwnerEvent::Answer { .. }
            | OwnerEvent::GiveUp { .. }
            | OwnerEvent::Register { .. }
            | OwnerEvent::Heartbeat { .. } => {}
        }
    }

    /// Starts the process, or makes the running one register anew if it holds nothing.
    pub(crate) fn start(&mut self, env: &mut Env) {
        if !self.is_running {
            self.held = None;
            self.is_running = true;
            note!(env, "owner {}: started", self.number);
        }
        if self.held.is_none() {
            self.register(env);
        }
    }

    /// Ends the process without a word.
    pub(crate) fn crash(&mut self, env: &mut Env) {
        if self.is_running {
            note!(env, "owner {}: crashed", self.number);
            self.is_running = false;
            self.request = None;
            self.life += 1;
            self.term += 1;
        }
    }

    /// Deregisters and ends.
    pub(crate) fn leave(&mut self, env: &mut Env) {
        if let Some(Held { key, lease }) = self.held.take().filter(|_| self.is_running) {
            let proof = lease.map_or(Proof::None, Proof::Lease);
            let target = Target::Key(key);
            let said = Said::because("leaving");
            self.call(env, Ask::Change(Command::Deregister { target, proof, said, block: None }));
        }
        self.crash(env);
    }

    /// Reports a health of its own.
    pub(crate) fn report(&mut self, env: &mut Env, health: Health) {
        if let Some(Held { key, lease }) = self.held.clone().filter(|_| self.is_running) {
            let (from, reason) = (None, String::new());
            let ask = Ask::Change(Command::ReportHealth { key, lease, health, reason });
            self.send(env, Call { from, ask });
        }
    }

    /// Asks for no more requests.
    pub(crate) fn drain(&mut self, env: &mut Env, timeout: Duration) {
        let held = self.held.clone().filter(|_| self.is_running);
        if let Some(Held { key, lease: Some(lease) }) = held {
            let wish = DrainWish {
                key,
                proof: Proof::Lease(lease),
                timeout: Some(timeout),
                etag: String::new(),
                allow_last: false,
                said: Said::because("going"),
            };
            self.send(env, Call { from: None, ask: Ask::Change(Command::Drain(Box::new(wish))) });
        }
    }

    pub(crate) fn register(&mut self, env: &mut Env) {
        self.held = None;
        if self.request.is_some() {
            env.journal.count("a registration was repeated");
        } else if self.names_requests {
            self.request = Some(env.bits().1);
        }
        let ask = Ask::Change(Command::Register(Registration {
            request: self.request,
            replica: self.id.clone(),
            weight: self.weight,
            ttl: self.ttl,
            ..Registration::permanent(self.service.clone(), self.address.clone())
        }));
        self.call(env, ask);
    }

    fn heartbeat(&mut self, env: &mut Env) {
        let Some(Held { key, lease: Some(lease) }) = self.held.clone() else { return };
        self.call(env, Ask::Heartbeat { key, lease });
        self.schedule_heartbeat(env);
    }

    fn schedule_heartbeat(&self, env: &mut Env) {
        if let Some(ttl) = self.ttl {
            env.after(ttl / 3, Event::Owner(self.number, OwnerEvent::Heartbeat { term: self.term }));
        }
    }

    fn call(&mut self, env: &mut Env, ask: Ask) {
        self.serial += 1;
        self.waits = true;
        let caller = Caller { owner: self.number, serial: self.serial };
        env.after(SECOND, Event::Owner(self.number, OwnerEvent::GiveUp { serial: self.serial }));
        self.send(env, Call { from: Some(caller), ask });
    }

    fn send(&self, env: &mut Env, call: Call) {
        if env.now >= self.cut_until {
            send(env, call);
        }
    }

    fn answered(&mut self, env: &mut Env, reply: Reply) {
        if !self.is_running {
            return;
        }
        if matches!(reply, Reply::Done(Answer::Registered { .. }) | Reply::Refused(_)) {
            self.request = None;
        }
        let soon = env.between(50 * MS, 500 * MS);
        let again = Event::Owner(self.number, OwnerEvent::Register { term: self.term });
        match reply {
            Reply::Done(Answer::Registered { record, .. }) => {
                let held = Held { key: record.key.clone(), lease: record.lease.map(|terms| terms.id) };
                note!(env, "owner {}: is {} incarnation {}", self.number, held.key, record.incarnation);
                self.past.push(held.clone());
                self.held = Some(held);
                self.term += 1;
                self.schedule_heartbeat(env);
            }
            // It comes to live with the identity that the address has.
            Reply::Refused(RegistryError::AddressInUse { .. }) => {
                self.id = None;
                env.after(soon, again);
            }
            Reply::Refused(_) | Reply::Unavailable if self.held.is_none() => env.after(soon, again),
            Reply::LeaseEnded => self.register(env),
            // Somebody else is this replica now.
            Reply::LeaseMismatch => self.held = None,
            Reply::Done(_) | Reply::Alive | Reply::Refused(_) | Reply::Unavailable => {}
        }
    }

    /// What becomes of a request that reaches it, and after how long.
    pub(crate) fn serve(&self, env: &mut Env) -> (Head, Option<Duration>) {
        let good = Head::Status { status: 200, retry_after: false, whole: true };
        let mut takes = Some(env.between(MS, 40 * MS));
        if self.is_slow(env) {
            takes = takes.map(|takes| takes + 220 * MS);
        }
        if env.now < self.frozen_until {
            return (good, None);
        }
        match self.condition {
            Condition::Unreachable => (Head::ConnectTimeout, None),
            _ if !self.is_running => (Head::Refused, Some(Duration::ZERO)),
            Condition::Hangs => (good, None),
            Condition::Sometimes(share, fate) if env.chance(share) => (fate, takes),
            Condition::Healthy | Condition::Sometimes(..) => (good, takes),
        }
    }

    /// Whether it takes a connection now.
    pub(crate) fn accepts(&self, env: &Env) -> bool {
        self.is_running && self.condition != Condition::Unreachable && env.now >= self.frozen_until
    }

    /// Whether it has one of its slow spells, where policies care: some seconds in twenty, of trouble only. Not drawn by
    /// lot, so that it changes nothing else.
    fn is_slow(&self, env: &Env) -> bool {
        let cares = !env.plan.policy.breaker.slow_threshold.is_zero();
        let spell = env.now / 5_000_000_000 + self.address.to_string().bytes().map(u64::from).sum::<u64>();
        cares && env.is_troubled() && spell.is_multiple_of(4)
    }
}

/// Sends a call, which may get lost.
pub(crate) fn send(env: &mut Env, call: Call) {
    if env.is_troubled() && env.chance(env.plan.call_loss / 2.0) {
        env.journal.count("a call was lost");
        return;
    }
    let latency = env.latency();
    env.after(latency, Event::Control(ControlEvent::Call(call)));
}

/// The address with this port.
pub(crate) fn address(port: usize) -> Address {
    Address::parse(&format!("10.0.0.1:{port}")).expect("an address")
}
