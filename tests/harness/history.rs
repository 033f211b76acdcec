//! Whether what several clients were told of one replica can have happened one after the other.
//!
//! A replica is registered by somebody or not there; that is all of its state here. Each operation takes effect at one moment
//! between its call and its return. One whose outcome nobody knows takes effect at a moment after its call, however late, or
//! never. A history is *linearizable* (Herlihy and Wing, 1990) when there are such moments for all of its operations.
//!
//! The search is that of Wing and Gong (1993): of the operations that could be the next one, each is tried, and what was
//! reached before is not entered again (Lowe, 2017). An operation that only looks is taken as soon as it fits, which loses
//! nothing: whatever comes after it would find the same.
//!
//! Pure: times are numbers of whatever unit the caller counts in.

use std::collections::HashSet;

/// Names one registration. No two registrations of a history have the same.
pub type Write = u64;

/// What an operation did, or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It registered the replica, in the place of whoever was there.
    Registers(Write),
    /// It removed what this registration had put there, and nothing else.
    Removes(Write),
    /// It found the replica as this registration had put it there: a look, or a renewal that was taken.
    Finds(Write),
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

/// What became of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains it.
    Explained,
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

/// Who is registered.
type State = Option<Write>;

/// A set of operations by their places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Places(Vec<u64>);

/// Looks for an order that explains a history which begins with nobody registered, in at most `limit` steps.
///
/// A step is a set of operations that have taken effect, with what they led to. Histories of hundreds of operations take some
/// hundreds, and twice as many for each operation whose outcome is unknown.
pub fn judge(operations: &[Operation], limit: usize) -> Verdict {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| (operation.called, operation.returned));
    let start = (Places::none(operations.len()), None);
    let mut reached = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut furthest: Option<(usize, Vec<Operation>)> = None;
    while let Some((done, state)) = open.pop() {
        let next = candidates(&operations, &done);
        if next.iter().all(|&place| operations[place].returned.is_none()) {
            return Verdict::Explained;
        }
        let steps = steps(&operations, &next, state);
        if steps.is_empty() {
            let explained = done.count();
            if furthest.as_ref().is_none_or(|(most, _)| explained > *most) {
                furthest = Some((explained, next.iter().map(|&place| operations[place]).collect()));
            }
        }
        for (place, state) in steps {
            let step = (done.with(place), state);
            if !reached.contains(&step) {
                if reached.len() >= limit {
                    return Verdict::Undecided;
                }
                reached.insert(step.clone());
                open.push(step);
            }
        }
    }
    let (explained, then) = furthest.unwrap_or_default();
    Verdict::Contradictory { explained, then }
}

/// The operations that may be the next to take effect: those that were called before any that is not done returned.
fn candidates(operations: &[Operation], done: &Places) -> Vec<usize> {
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
    open
}

/// Which of them can come next, and what each leads to. The last one is tried first.
fn steps(operations: &[Operation], next: &[usize], state: State) -> Vec<(usize, State)> {
    let can = |&place: &usize| after(operations[place].fact, state).map(|then| (place, then));
    let mut steps: Vec<_> = next.iter().filter_map(can).collect();
    // Nothing that could come before a look makes it fit any better.
    if let Some(look) = steps.iter().find(|(_, then)| *then == state) {
        return vec![*look];
    }
    steps.sort_by_key(|(place, _)| std::cmp::Reverse(operations[*place].returned.unwrap_or(u64::MAX)));
    steps
}

/// What a fact leads to; `None`: it cannot be so.
fn after(fact: Fact, state: State) -> Option<State> {
    match fact {
        Fact::Registers(write) => Some(Some(write)),
        Fact::Removes(write) => (state == Some(write)).then_some(None),
        Fact::Finds(write) => (state == Some(write)).then_some(state),
        Fact::FindsAnother(write) => state.is_some_and(|other| other != write).then_some(state),
        Fact::FindsNobody => state.is_none().then_some(state),
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
