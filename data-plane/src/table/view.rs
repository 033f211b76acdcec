//! One service at one moment: who may be picked, in which order.

mod affinity;
mod backlog;
mod bands;
mod choice;
mod owed;
mod recovery;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use gateway_proto::{
    Policy, Priority,
    policy::{self, Algorithm},
};

pub(super) use self::bands::Band;
use self::{
    affinity::Affinity,
    bands::{Plan, Split},
    owed::Owed,
};
use super::{checks::Standing, replica::Replica};
use crate::{
    counts::Alone,
    handles::Handles,
    routing::{Change, Draw, PROBE_BODY, Permit, Rotation, State, Tick},
};

/// Why a service has nobody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// No replica takes requests: none is ready, or those that are are being drained.
    NoneReady,
    /// An operator has forced the breakers of all that take requests open.
    AllForcedOpen {
        /// How many.
        count: usize,
    },
    /// Every ready replica rests; the first one is probed at `retry_at`.
    AllOpen {
        /// How many rest, or were forced to.
        resting: usize,
        /// When the soonest probe is due.
        retry_at: Tick,
    },
    /// Every replica that could be asked was asked in this request.
    AllTried,
    /// Those that could be asked have as many requests in flight as they may, or the service has.
    AllFull,
}

/// A replica that was picked, with its breaker's permit and the transition that admitting made.
pub(super) type Choice<'view> = (&'view Arc<Replica>, Permit, Option<Change>);

/// Immutable but for its cursors: whatever changes eligibility makes a new view.
#[derive(Debug)]
pub(super) struct View {
    pub(super) policy: Policy,
    /// Whether that limits what is in flight.
    pub(super) is_limited: bool,
    /// How the traffic is split among bands of replicas.
    split: Split,
    /// Those that take turns, in the order of their ids: of the bands in use, those whose breakers let all through.
    eligible: Box<[Arc<Replica>]>,
    /// The same as requests of a worker hold them, side by side, from its first pick on.
    held: Handles<Box<[Arc<Replica>]>>,
    /// What each of them has of the traffic, relative to the others: its weight, or part of it while it starts slowly, and
    /// where several bands are in use what its band has.
    shares: Box<[u64]>,
    rotation: Rotation,
    /// Who has which keys, if the policy goes by keys.
    affinity: Option<Affinity>,
    /// When shares are other ones, because somebody starts slowly; [`Tick::NEVER`] when nobody does.
    pub(super) reshared_at: Tick,
    /// The next turn. Shared by all workers, so that the rotation is strict over all of them: the one thing that a pick has them
    /// write in turns, and so apart from what they only read.
    cursor: Alone<AtomicU64>,
    /// The same for requests that have asked somebody: what follows a failure takes no turn from those that come first, or
    /// whoever answers well would be passed over for having helped out, and whoever fails would be asked first all the more.
    retry_cursor: Alone<AtomicU64>,
    /// What the rotation is made of. As long as it stays the same, so does the rotation, and goes on.
    plan: Plan,
    owed: Owed,
    /// As eligible, of bands that are not in use, the better ones first: for requests that all of the eligible have failed.
    standby: Box<[Standby]>,
    /// Open or half-open, of the bands in use or better ones; the better ones first.
    resting: Box<[Arc<Replica>]>,
    /// Nobody among the resting is due before this tick, so most picks need not look.
    next_look: AtomicU64,
    /// How many an operator has forced open.
    forced_open: usize,
    /// Whether so few of the tier in use let traffic through that the others are asked, too.
    pub(super) fail_open: Option<FailOpen>,
    /// Whether nobody passes their checks, so that all are asked as if there were none.
    pub(super) ignores_checks: Option<FailOpen>,
    /// How many more breakers may open by their rules.
    pub(super) room: Room,
}

/// A tier of which too little lets traffic through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailOpen {
    /// How many let traffic through.
    pub letting_through: usize,
    /// Of how many that take requests and are not forced open.
    pub total: usize,
    /// Of which tier.
    pub tier: Priority,
}

/// Whether a breaker may open by its rules, as far as others are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// However many are.
    Unbounded,
    /// Those that are must be counted.
    Some,
    /// As many are as may be.
    None,
}

/// Replicas of one band that is not in use.
#[derive(Debug)]
struct Standby {
    replicas: Box<[Arc<Replica>]>,
    /// Requests that came to this band.
    cursor: AtomicU64,
}

impl View {
    /// The view that follows `previous`, whose rotation it takes up where it stands, of all replicas that take requests.
    /// The `absent` should and do not.
    pub(super) fn new(
        policy: Policy,
        ready: Vec<Arc<Replica>>,
        absent: &[Arc<Replica>],
        previous: Option<&Self>,
        workers: usize,
        now: Tick,
    ) -> Self {
        let by_key = policy.balancing.algorithm == Algorithm::ConsistentHash;
        let before = previous.and_then(|view| Some((&*view.eligible, view.affinity.as_ref()?)));
        let ring = by_key.then(|| Affinity::ring(&ready, before.map(|(_, affinity)| affinity)));
        let all = if by_key { ready.clone() } else { Vec::new() };
        let (mut ready, mut failing) = by_checks(&policy, ready);
        let ignores_checks = ready.is_empty().then(|| nobody_passes(&failing)).flatten();
        if ignores_checks.is_some() {
            std::mem::swap(&mut ready, &mut failing);
        }
        let room = room(&policy.breaker, &ready);
        let (mut closed, mut resting, mut forced_open) = (Vec::new(), Vec::new(), Vec::new());
        for replica in ready {
            match replica.breaker().state() {
                State::Closed | State::ForcedClosed => closed.push(replica),
                State::HalfOpen | State::Open => resting.push(replica),
                State::ForcedOpen => forced_open.push(replica),
            }
        }
        failing.retain(|replica| replica.breaker().state() != State::ForcedOpen);
        let balancing = &policy.balancing;
        let band = |replica: &Arc<Replica>| Band::of(replica, balancing);
        let split =
            Split::new(balancing, &closed, resting.iter().chain(&forced_open).chain(&failing).chain(absent));
        let fail_open = fail_open(&policy, &split, &closed, &resting, &failing);
        resting.retain(|replica| match fail_open {
            Some(fail_open) => replica.priority() <= fail_open.tier,
            None => split.reaches(band(replica)),
        });
        resting.sort_by_key(band);
        let is_used = |replica: &Arc<Replica>| match fail_open {
            // There is no choosing among what is left.
            Some(fail_open) => replica.priority() == fail_open.tier,
            None => split.uses(band(replica)),
        };
        let (mut eligible, mut standby): (Vec<_>, Vec<_>) = closed.into_iter().partition(is_used);
        // Stable, so that replicas of one band stay in the order of their ids.
        standby.sort_by_key(band);
        if fail_open.is_some() {
            eligible.extend(resting.iter().chain(&failing).filter(|replica| is_used(replica)).cloned());
            eligible.sort_by(|one, other| one.key().cmp(other.key()));
        }
        let slow_start = balancing.slow_start;
        let plan = match fail_open {
            Some(_) => Split::default().plan(&eligible, balancing, now),
            None => split.plan(&eligible, balancing, now),
        };
        let owed = previous.map(|view| Owed::after(view, &eligible, split.bands()));
        let (owed, claims) = owed.unwrap_or_default();
        let (rotation, turn) = match previous.filter(|view| view.shares_out_alike(&plan, &eligible)) {
            Some(view) => (view.rotation.clone(), view.cursor.0.load(Relaxed)),
            None => (plan.rotation(&claims), 0),
        };
        // Its turns are owed to nobody, but the first in the list is not to have them all where views come and go.
        let retry_turn = previous.map_or(0, |view| view.retry_cursor.0.load(Relaxed));
        let shares = plan.shares();
        let next_steps = eligible.iter().filter_map(|replica| replica.share_grows_at(now, slow_start));
        // However many start slowly, there are few steps: each is for all of them.
        let reshared_at = next_steps.min().map(|next| next.max(now.plus(slow_start / 20)));
        let affinity = ring.map(|ring| {
            // Who starts together moves no keys by that, and who starts beside others, be these out, moves none of theirs.
            let members = || all.iter().filter(|replica| is_used(replica));
            let part = members().map(|replica| replica.part(now, slow_start)).max().unwrap_or(1);
            let full = |replica: &Arc<Replica>| u64::from(replica.weight().get()) * part;
            let largest = plan.largest(members().map(|replica| (split.place(band(replica)), full(replica))));
            let aside = Affinity::aside(&all, &eligible, before);
            Affinity::new(ring, &eligible, &shares, largest, aside)
        });
        Self {
            policy,
            is_limited: policy.concurrency.is_limited(),
            split,
            affinity,
            eligible: eligible.into(),
            held: Handles::new(workers),
            shares,
            rotation,
            reshared_at: reshared_at.unwrap_or(Tick::NEVER),
            cursor: Alone(AtomicU64::new(turn)),
            retry_cursor: Alone(AtomicU64::new(retry_turn)),
            plan,
            owed,
            standby: standby.chunk_by(|one, other| band(one) == band(other)).map(Standby::new).collect(),
            resting: resting.into(),
            next_look: AtomicU64::new(0),
            forced_open: forced_open.len(),
            fail_open,
            ignores_checks,
            room,
        }
    }

    /// Whether replicas are asked that would not be if there were more of the others.
    pub(super) fn fails_open(&self) -> Option<FailOpen> {
        self.fail_open.or(self.ignores_checks)
    }

    /// Picks the next replica that `tried` lacks and whose breaker admits an attempt.
    ///
    /// A resting replica whose probe is due goes first; the first probe is a request that may be sent twice, if one comes in time
    /// ([`Breaker::spares_until`](crate::routing::Breaker::spares_until)). One that may not keeps away from where this `worker`'s requests
    /// pile up, while another takes it. `inflight` says what the service has in flight, if that is asked. The third of the
    /// returned values is the transition that admitting it made, if any.
    #[inline]
    pub(super) fn pick(
        &self,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
        inflight: impl FnOnce() -> u64,
    ) -> Result<Choice<'_>, Unavailable> {
        if !self.resting.is_empty()
            && let Some(probe) = self.probe(now, tried, draw)
        {
            return Ok(probe);
        }
        if let Some(choice) = self.choose(worker, now, tried, draw, inflight) {
            return Ok(choice);
        }
        self.pick_of_the_rest(worker, now, tried, draw)
    }

    /// The eligible as requests of this worker hold them.
    #[inline]
    fn eligible_of(&self, worker: usize) -> &[Arc<Replica>] {
        let held = || self.eligible.iter().map(|replica| Arc::clone(replica.held_by(worker))).collect();
        self.held.of(worker, held).map_or(&*self.eligible, |held| &**held)
    }

    /// Whoever takes the request when those whose turn it was do not.
    #[cold]
    fn pick_of_the_rest(
        &self,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
    ) -> Result<Choice<'_>, Unavailable> {
        // Weights and chance may have shown the same replicas again: look at each one. Where turns are not the rule,
        // nobody is always the first to be looked at.
        let count = self.eligible.len();
        let first = draw.bits().checked_rem(count as u64).unwrap_or(0) as usize;
        let positions = || (first..count).chain(0..first);
        let rest =
            positions().find_map(|position| self.admit_unless_piled_up(position, worker, now, tried, draw));
        // Nobody else takes it: then it goes where others wait.
        let eligible = self.eligible_of(worker);
        let piled_up =
            || positions().find_map(|position| self.admit_eligible(&eligible[position], now, tried, draw));
        let rest = rest.or_else(|| draw.is_unrepeatable.then(piled_up).flatten());
        let rest = rest.or_else(|| self.stand_in(now, tried, draw));
        // Who seemed to take it has just been taken out: better a probe than nobody.
        let spent = || self.probe(now, tried, Draw { is_unrepeatable: false, ..draw });
        let rest = rest.or_else(|| draw.is_unrepeatable.then(spent).flatten());
        rest.ok_or_else(|| self.unavailable(now, tried))
    }

    /// Whether a replica that could be asked is not, because a better tier or a nearer one takes all that there is.
    pub(super) fn stands_by(&self, replica: &Replica) -> bool {
        let is_worse = match self.fail_open {
            Some(fail_open) => replica.priority() > fail_open.tier,
            None => !self.split.reaches(Band::of(replica, &self.policy.balancing)),
        };
        is_worse && replica.takes_requests()
    }

    /// Those that get probes only; nobody while it fails open.
    pub(super) fn resting(&self) -> &[Arc<Replica>] {
        if self.fail_open.is_some() { &[] } else { &self.resting }
    }

    /// Whether a pick for a request that has `tried` some would find another.
    pub(super) fn has_untried(&self, now: Tick, tried: &[Arc<Replica>]) -> bool {
        self.untried(now, tried).next().is_some()
    }

    /// Whom such a pick may find, as far as breakers are concerned.
    pub(super) fn untried<'a>(
        &'a self,
        now: Tick,
        tried: &'a [Arc<Replica>],
    ) -> impl Iterator<Item = &'a Arc<Replica>> {
        let is_due =
            move |replica: &&Arc<Replica>| replica.breaker().next_probe_at().is_some_and(|due| due <= now);
        let askable = self.closed().chain(self.resting.iter().filter(is_due));
        askable.filter(move |replica| !is_among(tried, replica))
    }

    /// A replica of the next band that has one, for a request that everybody of the better ones has failed.
    fn stand_in(&self, now: Tick, tried: &[Arc<Replica>], draw: Draw) -> Option<Choice<'_>> {
        self.standby.iter().find_map(|Standby { replicas, cursor }| {
            // Each request begins with another one, or the first would get all.
            let is_first = !replicas.iter().any(|replica| is_among(tried, replica));
            let turn = cursor.fetch_add(u64::from(is_first), Relaxed);
            let turn = draw.key.filter(|_| self.affinity.is_some()).unwrap_or(turn);
            let (before, from) = replicas.split_at((turn % replicas.len() as u64) as usize);
            from.iter().chain(before).find_map(|replica| self.admit(replica, now, tried, draw))
        })
    }

    /// Lets the next pick look at the resting replicas: to be called after a probe has ended.
    pub(super) fn look_again(&self) {
        self.next_look.store(0, Release);
    }

    fn probe(&self, now: Tick, tried: &[Arc<Replica>], draw: Draw) -> Option<Choice<'_>> {
        if now.as_nanos() < self.next_look.load(Acquire) {
            return None;
        }
        // Another will do as well for a while, and its failure costs nobody anything.
        let is_spared = draw.is_unrepeatable
            && self.closed().any(|replica| !is_among(tried, replica) && self.has_place(replica));
        let policy = &self.policy.breaker;
        let mut askable =
            self.resting.iter().filter(|replica| !is_spared || replica.breaker().spares_until(policy) <= now);
        let probe = askable.find_map(|replica| self.admit(replica, now, tried, draw));
        if probe.is_none() {
            let next = self.soonest_probe();
            if next <= now.as_nanos() {
                // One is due, and spared, or taken by another: an older tick does as well.
                return None;
            }
            self.next_look.swap(next, AcqRel);
            // A probe that ended since may have called for another look, which this has just overwritten. Whoever
            // overwrote it sees that probe's end; whoever did not is overwritten by the call.
            if self.soonest_probe() < next {
                self.look_again();
            }
        }
        probe
    }

    /// A permit for one of the eligible, of which there are open ones while it fails open.
    fn admit_eligible<'view>(
        &'view self,
        replica: &'view Arc<Replica>,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
    ) -> Option<Choice<'view>> {
        let admitted = self.admit(replica, now, tried, draw);
        if admitted.is_some()
            || self.fail_open.is_none()
            || is_among(tried, replica)
            || !self.has_place(replica)
        {
            return admitted;
        }
        Some((replica, replica.breaker().admit_regardless()?, None))
    }

    fn admit<'view>(
        &'view self,
        replica: &'view Arc<Replica>,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
    ) -> Option<Choice<'view>> {
        if is_among(tried, replica) || !self.has_place(replica) {
            return None;
        }
        if draw.is_beside && !replica.breaker().state().lets_all_through() {
            return None;
        }
        let admission = replica.breaker().admit(now, self.probe_lease()).ok()?;
        Some((replica, admission.permit, admission.change))
    }

    /// How long a replica that has the whole request may take to its response head, and to what of its body a probe is judged
    /// by, with time for whoever looks at that. A probe whose client sends slowly may lose its place to another; its result is void then.
    fn probe_lease(&self) -> Duration {
        self.policy.timeout.connect + self.policy.timeout.per_try + 2 * PROBE_BODY
    }

    /// Whether the replica may have another request in flight.
    pub(super) fn has_place(&self, replica: &Replica) -> bool {
        !self.is_limited || replica.counts().inflight() < replica.limit(&self.policy.concurrency)
    }

    /// Whether there is anybody whose breaker lets all through.
    pub(super) fn has_closed(&self) -> bool {
        self.closed().next().is_some()
    }

    /// Whether no other replica lets requests through, and no fallback answers them either: then probes are worth more than
    /// patience.
    pub(super) fn has_nobody_but(&self, replica: &Replica) -> bool {
        !self.policy.fallback.answers_all() && self.closed().all(|other| other.key() == replica.key())
    }

    /// How many more requests its replicas may have in flight.
    pub(super) fn free_places(&self) -> u64 {
        let free = |replica: &Arc<Replica>| {
            replica.limit(&self.policy.concurrency).saturating_sub(replica.counts().inflight())
        };
        self.closed().map(free).fold(0, u64::saturating_add)
    }

    /// How many requests those may have in flight that take turns; [`u64::MAX`] without a limit.
    pub(super) fn limit(&self) -> u64 {
        let limit = |replica: &Arc<Replica>| replica.limit(&self.policy.concurrency);
        if self.eligible.is_empty() {
            u64::MAX
        } else {
            self.eligible.iter().map(limit).fold(0, u64::saturating_add)
        }
    }

    /// Why nobody is asked while the service has all it may have in flight, or others go before.
    pub(super) fn none_free(&self, now: Tick, tried: &[Arc<Replica>]) -> Unavailable {
        if self.closed().any(|replica| !is_among(tried, replica)) {
            return Unavailable::AllFull;
        }
        self.unavailable(now, tried)
    }

    fn unavailable(&self, now: Tick, tried: &[Arc<Replica>]) -> Unavailable {
        let is_full = |replica: &Arc<Replica>| {
            let is_closed = matches!(replica.breaker().state(), State::Closed | State::ForcedClosed);
            (is_closed || self.fail_open.is_some()) && !is_among(tried, replica) && !self.has_place(replica)
        };
        if self.is_limited && self.closed().any(is_full) {
            return Unavailable::AllFull;
        }
        if !tried.is_empty() {
            return Unavailable::AllTried;
        }
        let askable = || self.resting.iter().chain(self.closed());
        let retry_at = askable().map(|replica| replica.retry_at(now, &self.policy.breaker)).min();
        match retry_at {
            Some(retry_at) => {
                Unavailable::AllOpen { resting: askable().count() + self.forced_open, retry_at }
            }
            None if self.forced_open > 0 => Unavailable::AllForcedOpen { count: self.forced_open },
            None => Unavailable::NoneReady,
        }
    }

    /// Whose breaker lets all through, of all tiers.
    pub(super) fn closed(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.eligible.iter().chain(self.standby.iter().flat_map(|band| &band.replicas))
    }

    /// Before this tick, in nanoseconds, no resting replica takes a probe.
    fn soonest_probe(&self) -> u64 {
        let due = self.resting.iter().filter_map(|replica| replica.breaker().next_probe_at());
        due.min().map_or(u64::MAX, Tick::as_nanos)
    }

    /// Whether these would have the same turns by that plan.
    fn shares_out_alike(&self, plan: &Plan, eligible: &[Arc<Replica>]) -> bool {
        let keys = eligible.iter().map(|replica| replica.key());
        self.plan == *plan && self.eligible.iter().map(|replica| replica.key()).eq(keys)
    }
}

impl Standby {
    fn new(replicas: &[Arc<Replica>]) -> Self {
        Self { replicas: replicas.into(), cursor: AtomicU64::new(0) }
    }
}

/// Those that are asked, as far as checks are concerned, and those that fail. Who has to pass a check first is neither.
fn by_checks(policy: &Policy, ready: Vec<Arc<Replica>>) -> (Vec<Arc<Replica>>, Vec<Arc<Replica>>) {
    let mut failing = Vec::new();
    let mut asked = ready;
    asked.retain(|replica| match replica.standing(&policy.health_check) {
        Standing::Asked => true,
        Standing::Waiting => false,
        Standing::Failing => {
            failing.push(Arc::clone(replica));
            false
        }
    });
    (asked, failing)
}

fn nobody_passes(failing: &[Arc<Replica>]) -> Option<FailOpen> {
    let tier = failing.iter().map(|replica| replica.priority()).min()?;
    let total = failing.iter().filter(|replica| replica.priority() == tier).count();
    Some(FailOpen { letting_through: 0, total, tier })
}

/// Whether the tier in use fails open: too little of it lets traffic through, and the other tiers do not bear the rest. By the
/// factor of the policy they do so together; without one, a tier does that is above the threshold.
fn fail_open(
    policy: &Policy,
    split: &Split,
    closed: &[Arc<Replica>],
    resting: &[Arc<Replica>],
    failing: &[Arc<Replica>],
) -> Option<FailOpen> {
    if policy.breaker.fail_open_threshold == 0.0 || split.bears_all {
        return None;
    }
    let mut tiers = BTreeMap::<Priority, FailOpen>::new();
    let letting_through = closed.iter().map(|replica| (replica.priority(), 1));
    let out = resting.iter().chain(failing).map(|replica| (replica.priority(), 0));
    for (tier, count) in letting_through.chain(out) {
        let counts = tiers.entry(tier).or_insert(FailOpen { letting_through: 0, total: 0, tier });
        counts.letting_through += count;
        counts.total += 1;
    }
    let is_short = |tier: &FailOpen| policy.breaker.fails_open(tier.letting_through, tier.total);
    if policy.balancing.overprovisioning_factor == 0.0 && !tiers.values().all(is_short) {
        return None;
    }
    let best = |replicas: &[Arc<Replica>]| replicas.iter().map(|replica| replica.priority()).min();
    let tier = best(closed).or_else(|| best(resting)).or_else(|| best(failing))?;
    tiers.get(&tier).filter(|tier| is_short(tier)).copied()
}

/// Whether another breaker of those that take requests may open by its rules. Who is forced open is not counted.
pub(super) fn room<'a>(policy: &policy::Breaker, ready: impl IntoIterator<Item = &'a Arc<Replica>>) -> Room {
    if policy.max_open_ratio >= 1.0 {
        return Room::Unbounded;
    }
    let (mut out, mut total) = (0, 0);
    for replica in ready {
        let state = replica.breaker().state();
        out += usize::from(matches!(state, State::Open | State::HalfOpen));
        total += usize::from(state != State::ForcedOpen);
    }
    if out < policy.max_open_count(total) { Room::Some } else { Room::None }
}

fn is_among(tried: &[Arc<Replica>], replica: &Replica) -> bool {
    tried.iter().any(|other| other.key() == replica.key())
}
