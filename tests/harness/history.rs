//! Whether what several clients were told of one replica can have happened one after the other.
//!
//! A replica is registered by somebody or not there, and its lease may have lapsed before it goes; that is all of its state
//! here. Each operation takes effect at one moment between its call and its return. One whose outcome nobody knows takes effect
//! at a moment after its call, however late, or never. A history is *linearizable* (Herlihy and Wing, 1990) when there are such
//! moments for all of its operations.
//!
//! Where a registration has a [`Lease`], its replica may also go by itself: the lease lapses at a moment that nobody asked for,
//! no renewal is taken from then on, and a moment later the replica is gone.
//!
//! The search is that of Wing and Gong (1993): of the operations that could be the next one, each is tried, and what was
//! reached before is not entered again (Lowe, 2017). An operation that only looks is taken as soon as it fits, which loses
//! nothing: whatever comes after it would find the same. A lease that lapses is no operation but another step that the state may
//! take, so that it makes no more than three of each set of operations, however many leases there are.
//!
//! Pure: times are numbers of whatever unit the caller counts in.

use std::collections::{BTreeMap, HashSet};

/// Names one registration. No two registrations of a history have the same.
pub type Write = u64;

/// What an operation did, or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It registered the replica, in the place of whoever was there.
    Registers(Write),
    /// It removed what this registration had put there, and nothing else.
    Removes(Write),
    /// It found the replica as this registration had put it there.
    Finds(Write),
    /// It was taken as a renewal of this registration's lease, which has not lapsed.
    Renews(Write),
    /// It was told that this registration's lease has lapsed, or that nobody is there: what has lapsed may be there for a moment.
    FindsLapsed(Write),
    /// It found that somebody else is there than whom this registration had put there.
    FindsAnother(Write),
    /// It found nobody.
    FindsNobody,
}

/// One operation of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked for. It takes effect no sooner.
    pub called: u64,
    /// When its outcome was known, no sooner than `called`; `None`: nobody knows whether it took effect.
    pub returned: Option<u64>,
    /// What it did or found; where nobody knows, what it does if it takes effect.
    pub fact: Fact,
}

/// When the lease of a registration may, and when it must, have kept its replica no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// It lapses no sooner.
    pub lasts_until: u64,
    /// Its replica is gone at this moment, which is no sooner than the registration returned; [`u64::MAX`]: whenever it likes.
    pub gone_by: u64,
}

/// The leases that may lapse. A registration that is not among them stays until somebody changes that.
pub type Leases = BTreeMap<Write, Lease>;

/// What became of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains it.
    Explained {
        /// How many leases lapse in it.
        lapsed: usize,
    },
    /// There is none.
    Contradictory {
        /// How many operations the longest order explains that there is.
        explained: usize,
        /// Those that would have had to come next, none of which can.
        then: Vec<Operation>,
    },
    /// The search went over its limit, and nothing is known.
    Undecided,
}

/// Who is registered, and whether its lease has lapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct State {
    there: Option<Write>,
    has_lapsed: bool,
}

/// What may come next: an operation, by its place, or a lease that lapses or whose replica goes.
type Step = (Option<usize>, State);

/// A set of operations by their places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Places(Vec<u64>);

/// Looks for an order that explains a history which begins with nobody registered, in at most `limit` steps.
///
/// A step is a set of operations that have taken effect, with what they led to. Histories of hundreds of operations take some
/// hundreds, and twice as many for each operation whose outcome is unknown.
pub fn judge(operations: &[Operation], leases: &Leases, limit: usize) -> Verdict {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| (operation.called, operation.returned));
    let start = (Places::none(operations.len()), State::default());
    let mut reached = HashSet::from([start.clone()]);
    let mut open = vec![(start, 0)];
    let mut furthest: Option<(usize, Vec<Operation>)> = None;
    while let Some(((done, state), lapsed)) = open.pop() {
        let (next, until) = candidates(&operations, &done);
        if next.iter().all(|&place| operations[place].returned.is_none()) {
            return Verdict::Explained { lapsed };
        }
        let steps = steps(&operations, leases, &next, until, state);
        if steps.is_empty() {
            let explained = done.count();
            if furthest.as_ref().is_none_or(|(most, _)| explained > *most) {
                furthest = Some((explained, next.iter().map(|&place| operations[place]).collect()));
            }
        }
        for (place, then) in steps {
            let lapsed = lapsed + usize::from(!state.has_lapsed && then.has_lapsed);
            let step = (place.map_or_else(|| done.clone(), |place| done.with(place)), then);
            if !reached.contains(&step) {
                if reached.len() >= limit {
                    return Verdict::Undecided;
                }
                reached.insert(step.clone());
                open.push((step, lapsed));
            }
        }
    }
    let (explained, then) = furthest.unwrap_or_default();
    Verdict::Contradictory { explained, then }
}

/// The operations that may be the next to take effect, and the moment until which something has to: those that were called
/// before any that is not done returned.
fn candidates(operations: &[Operation], done: &Places) -> (Vec<usize>, u64) {
    let (mut open, mut first_return) = (Vec::new(), u64::MAX);
    for (place, operation) in operations.iter().enumerate() {
        // Whatever is called later returns later, too.
        if operation.called > first_return {
            break;
        }
        if !done.has(place) {
            first_return = first_return.min(operation.returned.unwrap_or(u64::MAX));
            open.push(place);
        }
    }
    open.retain(|&place| operations[place].called <= first_return);
    (open, first_return)
}

/// What can come next, and what each leads to. The last one is tried first.
fn steps(operations: &[Operation], leases: &Leases, next: &[usize], until: u64, state: State) -> Vec<Step> {
    let lease = state.there.and_then(|write| leases.get(&write));
    let gone_by = lease.map_or(u64::MAX, |lease| lease.gone_by);
    let can = |&place: &usize| {
        let Operation { called, fact, .. } = operations[place];
        let then = if called <= gone_by { after(fact, state) } else { None };
        then.map(|then| (Some(place), then))
    };
    let mut steps: Vec<_> = next.iter().filter_map(can).collect();
    // Nothing that could come before a look makes it fit any better.
    if let Some(look) = steps.iter().find(|(_, then)| *then == state) {
        return vec![*look];
    }
    let returned = |step: &Step| step.0.and_then(|place| operations[place].returned);
    steps.sort_by_key(|step| std::cmp::Reverse(returned(step).unwrap_or(u64::MAX)));
    // After what is known to have been done, and before what may never have been.
    if lease.is_some_and(|lease| lease.lasts_until <= until) {
        let then = if state.has_lapsed { State::default() } else { State { has_lapsed: true, ..state } };
        steps.insert(steps.iter().filter(|step| returned(step).is_none()).count(), (None, then));
    }
    steps
}

/// What a fact leads to; `None`: it cannot be so.
fn after(fact: Fact, state: State) -> Option<State> {
    let State { there, has_lapsed } = state;
    match fact {
        Fact::Registers(write) => Some(State { there: Some(write), has_lapsed: false }),
        Fact::Removes(write) => (there == Some(write)).then(State::default),
        Fact::Finds(write) => (there == Some(write)).then_some(state),
        Fact::Renews(write) => (there == Some(write) && !has_lapsed).then_some(state),
        Fact::FindsLapsed(write) => there.is_none_or(|other| other == write && has_lapsed).then_some(state),
        Fact::FindsAnother(write) => there.is_some_and(|other| other != write).then_some(state),
        Fact::FindsNobody => there.is_none().then_some(state),
    }
}

impl Places {
    fn none(of: usize) -> Self {
        Self(vec![0; of.div_ceil(64)])
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    fn with(&self, place: usize) -> Self {
        let mut more = self.clone();
        more.0[place / 64] |= 1 << (place % 64);
        more
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}
