//! What happened in a run: a hash over all of it, the last steps in words, and how often each kind of thing occurred.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Steps shown with a failure.
const SHOWN: usize = 50;

/// The run's log.
pub(crate) struct Journal {
    hash: u64,
    steps: u64,
    last: VecDeque<String>,
    tally: BTreeMap<&'static str, u64>,
    /// Whether each step is printed as it happens.
    pub(crate) is_loud: bool,
}

impl Default for Journal {
    fn default() -> Self {
        // The offset basis of FNV-1a.
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            last: VecDeque::new(),
            tally: BTreeMap::new(),
            is_loud: false,
        }
    }
}

impl Journal {
    /// Writes one step down.
    pub(crate) fn write(&mut self, now: u64, step: &str) {
        self.steps += 1;
        let line = format!("{:>12.6}s  {step}", Duration::from_nanos(now).as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.is_loud {
            println!("{line}");
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Counts a kind of occurrence, by which the tests know what a run has gone through.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Equal for two runs whose every step was equal.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }

    pub(crate) fn tally(&self) -> &BTreeMap<&'static str, u64> {
        &self.tally
    }
}

/// Writes a step of the given environment down, in the words of `format!`.
macro_rules! note {
    ($env:expr, $($words:tt)+) => {{
        let step = format!($($words)+);
        let env = &mut *$env;
        env.journal.write(env.now, &step);
    }};
}
pub(crate) use note;
