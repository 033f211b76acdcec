//! What was accepted, in a file that is committed, and how counts compare with it.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// A count may be greater by this share: what other versions of libc and valgrind make of it is less.
pub(crate) const TOLERANCE: f64 = 0.03;

/// So may one of what requests do a few times, by as much of one: what happens by the clock adds to it where requests take long.
/// What each request does more often than before, it does once more at least.
const TOLERANCE_OF_FEW: f64 = 0.4;
const FEW: f64 = 100.0;

/// What the counts were accepted with.
#[derive(Debug, PartialEq)]
pub(crate) struct Baseline {
    built: Built,
    counts: BTreeMap<String, f64>,
}

/// What else decides how many instructions there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    rustc: String,
    target: String,
    /// Who counts, and whose functions are counted beside the gateway's: by no more than the tolerance, as a rule.
    beside: String,
}

/// What a comparison comes to.
#[derive(Debug)]
pub(crate) struct Verdict {
    grown: Vec<String>,
    fallen: Vec<String>,
    /// Why nothing of it counts, if so.
    incomparable: Option<String>,
    /// The version of rustc that the baseline is of.
    accepted_by: String,
}

/// Where it is committed.
pub(crate) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/baseline.toml")
}

impl Built {
    pub(crate) fn new(rustc: &str, target: &str, beside: &str) -> Self {
        Self { rustc: rustc.into(), target: target.into(), beside: beside.into() }
    }

    /// What this compiler makes, here.
    pub(crate) fn here() -> Result<Self> {
        let said = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output();
            let output = output.with_context(|| format!("{program} {argument} says its version"))?;
            anyhow::Ok(String::from_utf8(output.stdout)?)
        };
        let text = said(&std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()), "-vV")?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("rustc -vV says its {name}"))
        };
        let (valgrind, libc) = (said("valgrind", "--version")?, said("getconf", "GNU_LIBC_VERSION"));
        let libc = libc.unwrap_or_else(|_| "another libc".into());
        let beside = format!("{} with {}", valgrind.trim(), libc.trim());
        Ok(Self::new(field("release:")?, field("host:")?, &beside))
    }

    /// Whether what was built is the same but for what is beside.
    fn is_built_like(&self, other: &Self) -> bool {
        (&self.rustc, &self.target) == (&other.rustc, &other.target)
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} for {}, {}", self.rustc, self.target, self.beside)
    }
}

impl Baseline {
    pub(crate) fn new(built: Built, counts: &[(String, f64)]) -> Self {
        Self { built, counts: counts.iter().map(|(name, count)| (name.clone(), rounded(*count))).collect() }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let document: toml::Table = fs::read_to_string(path)?.parse()?;
        let text = |name: &str| {
            document.get(name).and_then(toml::Value::as_str).with_context(|| format!("it has `{name}`"))
        };
        let counts = document.get("counts").and_then(toml::Value::as_table).context("it has [counts]")?;
        let number =
            |value: &toml::Value| value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
        let counts = counts.iter().map(|(name, value)| {
            Ok((name.clone(), number(value).with_context(|| format!("`{name}` is a number"))?))
        });
        Ok(Self {
            built: Built::new(text("rustc")?, text("target")?, text("beside")?),
            counts: counts.collect::<Result<_>>()?,
        })
    }

    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::from(
            "# What tests/bench/run counts holds counts to. Written by `tests/bench/run counts --accept`; a commit that changes it\n\
             # says why.\n",
        );
        let Self { built: Built { rustc, target, beside }, counts } = self;
        write!(text, "rustc = \"{rustc}\"\ntarget = \"{target}\"\nbeside = \"{beside}\"\n\n[counts]\n")?;
        for (name, count) in counts {
            writeln!(text, "\"{name}\" = {count}")?;
        }
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Compares, which means something only for what was built alike.
    pub(crate) fn verdict(&self, built: &Built, counts: &[(String, f64)]) -> Verdict {
        let accepted_by = self.built.rustc.clone();
        let mut verdict = Verdict { grown: Vec::new(), fallen: Vec::new(), incomparable: None, accepted_by };
        for (name, count) in counts {
            let Some(&accepted) = self.counts.get(name) else {
                verdict.grown.push(format!("{name}: {} where nothing was accepted", shown(*count)));
                continue;
            };
            let said = || {
                format!(
                    "{name}: {} → {} ({:+.1} %)",
                    shown(accepted),
                    shown(*count),
                    (count / accepted - 1.0) * 100.0
                )
            };
            let by = accepted * TOLERANCE;
            let by = if accepted < FEW { by.max(TOLERANCE_OF_FEW) } else { by };
            if *count > accepted + by {
                verdict.grown.push(said());
            } else if *count < accepted - by {
                verdict.fallen.push(said());
            }
        }
        let is_gone = |name: &&String| !counts.iter().any(|(counted, _)| counted == *name);
        verdict
            .grown
            .extend(self.counts.keys().filter(is_gone).map(|name| format!("{name}: not counted any more")));
        // What is beside decides only where it may be what has grown.
        if !built.is_built_like(&self.built) || (*built != self.built && !verdict.grown.is_empty()) {
            verdict.incomparable = Some(format!("the baseline is of {}, and this is {built}", self.built));
        }
        verdict
    }
}

impl Verdict {
    /// Whether something has grown that may not.
    pub(crate) fn fails(&self) -> bool {
        self.incomparable.is_none() && !self.grown.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ACCEPT: &str = "tests/bench/run counts --accept";
        let share = TOLERANCE * 100.0;
        if let Some(why) = &self.incomparable {
            // In the words in which tests/run lists what it has left out, and looks for here.
            writeln!(f, "SKIPPED counts of the request path ({why})")?;
            writeln!(
                f,
                "NOTHING IS HELD to tests/bench/baseline.toml, whatever a request costs. With rustup, the baseline's compiler counts: \
                 `rustup toolchain install {rustc}`\nand `RUSTUP_TOOLCHAIN={rustc} tests/bench/run counts`. For good: `{ACCEPT}`, and commit \
                 the file, on a tree of which the old compiler has nothing to say.",
                rustc = self.accepted_by
            )?;
        }
        for line in &self.fallen {
            writeln!(f, "less: {line}")?;
        }
        if !self.fallen.is_empty() {
            writeln!(f, "Keep what was won: `{ACCEPT}`, and commit tests/bench/baseline.toml.")?;
        }
        for line in &self.grown {
            writeln!(f, "MORE: {line}")?;
        }
        if self.fails() {
            writeln!(
                f,
                "A request costs more than was accepted, by over {share:.0} %. Where: `tests/bench/run counts --keep DIR`, before and \
                 after,\nthen callgrind_annotate DIR/callgrind.GET and others. If it is worth it: `{ACCEPT}`, and commit tests/bench/baseline.toml \
                 with the reason."
            )?;
        }
        Ok(())
    }
}

/// All counts beside what was accepted.
pub(crate) fn table(counts: &[(String, f64)], accepted: Option<&Baseline>) -> String {
    let mut table = String::from("| count | accepted | now |\n|---|---|---|\n");
    for (name, count) in counts {
        let before = accepted.and_then(|accepted| accepted.counts.get(name));
        let before = before.map_or("–".into(), |before| shown(*before));
        table += &format!("| {name} | {before} | {} |\n", shown(*count));
    }
    table
}

fn rounded(count: f64) -> f64 {
    (count * 100.0).round() / 100.0
}

fn shown(count: f64) -> String {
    if count >= 100.0 { format!("{count:.0}") } else { format!("{count:.2}") }
}
