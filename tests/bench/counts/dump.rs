//! What callgrind writes (its format is in valgrind's manual), as far as it is asked here: what a batch cost, how often what
//! was called, and in whom system calls were made.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

/// One batch.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    pub(crate) instructions: u64,
    /// Blocks taken of the allocator, and grown.
    pub(crate) allocations: u64,
    /// By the function that makes them.
    system_calls: BTreeMap<String, u64>,
}

/// What Rust's allocator calls of mimalloc. Whatever it calls itself is not counted again.
const ALLOCATES: [&str; 6] =
    ["mi_malloc", "mi_malloc_aligned", "mi_zalloc", "mi_zalloc_aligned", "mi_realloc", "mi_realloc_aligned"];

/// Under valgrind every look at the clock is a system call, which it is not elsewhere.
const CLOCK: &str = "clock_gettime";

impl Dump {
    /// Reads a file that was written with `--compress-strings=no --compress-pos=no`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("callgrind wrote {}", path.display()))?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Reads what such a file has.
    ///
    /// # Errors
    /// When it counts nothing, or is none of callgrind's.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut dump = Self::default();
        let (mut events, mut function, mut called) = (None, "", "");
        let mut is_of_callee = false;
        for line in text.lines() {
            if let Some(names) = line.strip_prefix("events: ") {
                let place = |event| names.split(' ').position(|name| name == event);
                events = Some((place("Ir").context("instructions are counted")?, place("sysCount")));
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = name;
            } else if let Some(calls) = line.strip_prefix("calls=") {
                // What the callee cost follows, which it says of itself, too.
                is_of_callee = true;
                let times: u64 = calls.split(' ').next().context("a number of calls")?.parse()?;
                if ALLOCATES.contains(&called)
                    && !function.starts_with("mi_")
                    && !function.starts_with("_mi_")
                {
                    dump.allocations += times;
                }
            } else if line.starts_with(|letter: char| letter.is_ascii_digit()) {
                if std::mem::take(&mut is_of_callee) {
                    continue;
                }
                let (instructions, system_calls) = events.context("events are named before costs")?;
                let cost = |place: usize| -> Result<u64> {
                    Ok(line.split(' ').nth(place + 1).unwrap_or("0").parse()?)
                };
                dump.instructions += cost(instructions)?;
                let made = system_calls.map_or(Ok(0), cost)?;
                if made > 0 {
                    *dump.system_calls.entry(function.to_owned()).or_default() += made;
                }
            }
        }
        ensure!(dump.instructions > 0, "callgrind counted nothing");
        Ok(dump)
    }

    /// All but the looks at the clock.
    pub(crate) fn system_calls(&self) -> u64 {
        self.system_calls.iter().filter(|(function, _)| !is_clock(function)).map(|(_, made)| made).sum()
    }

    pub(crate) fn looks_at_the_clock(&self) -> u64 {
        self.system_calls.iter().filter(|(function, _)| is_clock(function)).map(|(_, made)| made).sum()
    }
}

fn is_clock(function: &str) -> bool {
    function.contains(CLOCK)
}
