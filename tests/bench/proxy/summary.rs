//! One table of all scenarios: what each proxy needs for a request, and the gateway's part of it beside what is wanted.

use std::fmt;

use crate::{
    peers::GATEWAY,
    results::{Results, median, memory},
    scenario::{BEST, Measured, Scenario},
};

/// What of each row stands where a proxy has no figure.
const NONE: &str = "–";

/// All scenarios that were measured beside others, in their order.
#[derive(Debug, Default)]
pub(crate) struct Summary(Vec<Results>);

impl Summary {
    pub(crate) fn add(&mut self, results: Results) {
        self.0.push(results);
    }

    /// All proxies, in the order in which they came.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.0.iter().flat_map(Results::rows) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        // Rounds begin with another one each; the gateway and its builds are first, the relay is last.
        names.sort_by_key(|name| (*name != GATEWAY, !name.starts_with(GATEWAY), *name == "relay", *name));
        names
    }
}

/// The gateway's CPU for each request as a part of that of another one, or of the best of them.
fn part(results: &Results, of: &str) -> Option<f64> {
    let ratio = |rounds: &Vec<Measured>| results.ratios(rounds).map(|[_, median, _]| median);
    let rivals = results.rows().iter().filter(|(name, _)| match of {
        BEST => !name.starts_with(GATEWAY) && name != "relay",
        _ => name == of,
    });
    // Beside whom it is greatest needs least.
    rivals.filter_map(|(_, rounds)| ratio(rounds)).max_by(f64::total_cmp)
}

/// What is wanted of the gateway, and whether it is so.
fn wanted(results: &Results) -> String {
    let verdict = |&(of, most): &(&str, f64)| {
        let missed = match part(results, of) {
            None => ": not measured".into(),
            Some(part) if part > most => format!(": MISSED, {part:.2}"),
            Some(_) => String::new(),
        };
        format!("{most:.2} of {of}{missed}")
    };
    let mut verdicts: Vec<_> = results.scenario().wanted().iter().map(verdict).collect();
    if results.scenario() == Scenario::Paced {
        let p50 = |(_, rounds): &(String, Vec<Measured>)| median(rounds, |round| round.p50);
        let rivals = results.rows().iter().filter(|(name, _)| !name.starts_with(GATEWAY) && name != "relay");
        let best = rivals.map(p50).fold(f64::INFINITY, f64::min);
        let is_missed = results.of(GATEWAY).is_some_and(|rounds| median(rounds, |round| round.p50) > best);
        verdicts.push(format!("p50 not above the best{}", if is_missed { ": MISSED" } else { "" }));
    }
    verdicts.join("; ")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        writeln!(
            f,
            "CPU for each request in µs, and in brackets the gateway's as a part of it: medians of {} interleaved rounds.\n",
            self.0.iter().flat_map(Results::rows).map(|(_, rounds)| rounds.len()).max().unwrap_or_default(),
        )?;
        writeln!(f, "| scenario | {} | wanted |", names.join(" | "))?;
        writeln!(f, "|---|{}---|", "---|".repeat(names.len()))?;
        for results in &self.0 {
            let mut row = |title: &str, cell: &dyn Fn(&str, &[Measured]) -> String, wanted: &str| {
                let cell = |name: &&str| results.of(name).map_or(NONE.into(), |rounds| cell(name, rounds));
                let cells: Vec<_> = names.iter().map(cell).collect();
                writeln!(f, "| {title} | {} | {wanted} |", cells.join(" | "))
            };
            if results.scenario() == Scenario::Idle {
                row("memory at rest, MiB", &|_, rounds| format!("{:.1}", memory(rounds)[1]), "10 at most")?;
                row(
                    "for each of 5,000 idle connections, KiB",
                    &|_, rounds| format!("{:.2}", memory(rounds)[0]),
                    "1.5 at most",
                )?;
                row("with those, MiB", &|_, rounds| format!("{:.1}", memory(rounds)[2]), "")?;
                continue;
            }
            let cpu = |name: &str, rounds: &[Measured]| {
                let cpu = median(rounds, |round| round.cpu);
                let part = results.ratios(rounds).filter(|_| name != GATEWAY);
                format!("{cpu:.1}{}", part.map_or(String::new(), |[_, part, _]| format!(" ({part:.2})")))
            };
            row(results.scenario().title(), &cpu, &wanted(results))?;
            if results.scenario() == Scenario::Paced {
                let p50 =
                    |_: &str, rounds: &[Measured]| format!("{:.2}", median(rounds, |round| round.p50) / 1e3);
                let p99 =
                    |_: &str, rounds: &[Measured]| format!("{:.2}", median(rounds, |round| round.p99) / 1e3);
                row("the same: p50, ms", &p50, "")?;
                row("the same: p99, ms", &p99, "")?;
            }
        }
        for results in &self.0 {
            let failed = results.rows().iter().filter_map(|(name, rounds)| {
                let failures = rounds.iter().map(|round| round.failures).sum::<f64>();
                (failures > 0.0).then(|| format!("{failures:.0} through {name}"))
            });
            let failed: Vec<_> = failed.collect();
            if !failed.is_empty() {
                writeln!(f, "\nFailed, {}: {}.", results.scenario().title(), failed.join(", "))?;
            }
            results.tell_who_gave_up(f)?;
        }
        Ok(())
    }
}
