//! One run of one seed, and what it came to.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{checks::Violation, sabotage::Sabotage, world::World};

/// What a run came to.
pub(crate) struct Report {
    seed: u64,
    pub(crate) violation: Option<Violation>,
    /// Equal for equal runs.
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    last: Vec<String>,
    /// How often each kind of thing occurred.
    pub(crate) tally: BTreeMap<&'static str, u64>,
}

/// Runs a seed, with a bug if one is named.
pub(crate) fn run(seed: u64, sabotage: Option<Sabotage>) -> Report {
    finish(seed, World::new(seed, sabotage))
}

/// Runs a seed and prints every step.
pub(crate) fn run_aloud(seed: u64) -> Report {
    let mut world = World::new(seed, None);
    world.env.journal.is_loud = true;
    finish(seed, world)
}

/// Runs to the end. A panic anywhere is a violation, too.
fn finish(seed: u64, mut world: World) -> Report {
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(checked) => checked.err(),
        Err(_) => Some(Violation { invariant: "nothing_panics", detail: "its message is above".into() }),
    };
    let journal = &world.env.journal;
    Report {
        seed,
        violation,
        hash: journal.hash(),
        steps: journal.steps(),
        last: journal.last().map(str::to_owned).collect(),
        tally: journal.tally().clone(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Violation { invariant, detail }) = &self.violation else {
            return write!(f, "seed {}: {} steps, every invariant held", self.seed, self.steps);
        };
        writeln!(f, "seed {} breaks {invariant} at step {}", self.seed, self.steps)?;
        writeln!(f, "{detail}")?;
        writeln!(f, "the last steps:")?;
        for step in &self.last {
            writeln!(f, "{step}")?;
        }
        write!(
            f,
            "replay it: GW_SIM_SEED={} cargo test -p gateway-tests --test sim replay -- --nocapture",
            self.seed
        )
    }
}
