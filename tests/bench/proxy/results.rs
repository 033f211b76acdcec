//! One table a scenario: medians of the rounds, and what the gateway needs relative to each of the others.

use std::fmt;

use crate::{
    peers::GATEWAY,
    scenario::{Measured, Scenario},
};

/// All rounds of one scenario, by proxy, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Results {
    scenario: Scenario,
    rows: Vec<(String, Vec<Measured>)>,
    /// Who did not come to the end of it, and why.
    gave_up: Vec<(String, String)>,
}

impl Results {
    pub(crate) fn new(scenario: Scenario) -> Self {
        Self { scenario, rows: Vec::new(), gave_up: Vec::new() }
    }

    pub(crate) fn add(&mut self, peer: &str, measured: Measured) {
        match self.rows.iter_mut().find(|(name, _)| name == peer) {
            Some((_, rounds)) => rounds.push(measured),
            None => self.rows.push((peer.to_owned(), vec![measured])),
        }
        // The gateway first, then its other builds, whoever began.
        self.rows.sort_by_key(|(name, _)| (name != GATEWAY, !name.starts_with(GATEWAY)));
    }

    /// Leaves a proxy out that failed in a round, and says so beneath the table.
    pub(crate) fn gave_up(&mut self, peer: &str, why: &anyhow::Error) {
        self.rows.retain(|(name, _)| name != peer);
        self.gave_up.push((peer.to_owned(), format!("{why:#}")));
    }

    pub(crate) fn scenario(&self) -> Scenario {
        self.scenario
    }

    pub(crate) fn rows(&self) -> &[(String, Vec<Measured>)] {
        &self.rows
    }

    /// All rounds of one proxy.
    pub(crate) fn of(&self, peer: &str) -> Option<&[Measured]> {
        self.rows.iter().find(|(name, _)| name == peer).map(|(_, rounds)| rounds.as_slice())
    }

    /// The gateway's CPU for each request over that of another, round by round: least, median, most.
    pub(crate) fn ratios(&self, other: &[Measured]) -> Option<[f64; 3]> {
        let ours = self.of(GATEWAY)?;
        let ratios = ours
            .iter()
            .zip(other)
            .filter(|(_, other)| other.cpu > 0.0)
            .map(|(ours, other)| ours.cpu / other.cpu);
        let ratios: Vec<f64> = ratios.collect();
        (!ratios.is_empty()).then(|| [0.0, 0.5, 1.0].map(|rank| of(&ratios, rank)))
    }
}

impl Results {
    pub(crate) fn tell_who_gave_up(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gave_up.iter().try_for_each(|(name, why)| writeln!(f, "\nWithout {name}: {why}"))
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.scenario.title())?;
        if self.scenario == Scenario::Idle {
            writeln!(f, "| proxy | for each connection | RSS at rest | RSS |\n|---|---|---|---|")?;
            for (name, rounds) in &self.rows {
                let [each, at_rest, resident] = memory(rounds);
                writeln!(f, "| {name} | {each:.2} KiB | {at_rest:.1} MiB | {resident:.1} MiB |")?;
            }
            return self.tell_who_gave_up(f);
        }
        writeln!(
            f,
            "| proxy | CPU each | gateway ÷ it (least–most) | requests/s | p50 | p99 | p99.9 | failed | RSS |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for (name, rounds) in &self.rows {
            let ratio = self.ratios(rounds).filter(|_| name != GATEWAY);
            let ratio = ratio
                .map_or("–".into(), |[least, median, most]| format!("{median:.2} ({least:.2}–{most:.2})"));
            let cpu = median(rounds, |round| round.cpu);
            writeln!(f, "| {name} | {cpu:.1} µs | {ratio} | {} |", beside_cpu(rounds))?;
        }
        self.tell_who_gave_up(f)
    }
}

/// What stands in a row beside the CPU: rate, latencies, failures and memory.
pub(crate) fn beside_cpu(rounds: &[Measured]) -> String {
    let median = |value: fn(&Measured) -> f64| median(rounds, value);
    format!(
        "{:.0} | {:.2} ms | {:.2} ms | {:.2} ms | {:.0} | {:.1} MiB",
        median(|round| round.rate),
        median(|round| round.p50) / 1e3,
        median(|round| round.p99) / 1e3,
        median(|round| round.p999) / 1e3,
        rounds.iter().map(|round| round.failures).sum::<f64>(),
        median(|round| round.resident),
    )
}

/// KiB for each idle connection, and MiB before there was one and with all of them.
pub(crate) fn memory(rounds: &[Measured]) -> [f64; 3] {
    // Memory once taken is seldom given back: the first round tells what connections need, and what there was without.
    let each = rounds.iter().map(|round| round.per_connection).fold(0.0, f64::max);
    let at_rest = rounds.iter().map(|round| round.at_rest).fold(f64::INFINITY, f64::min);
    [each, at_rest, median(rounds, |round| round.resident)]
}

pub(crate) fn median(rounds: &[Measured], value: fn(&Measured) -> f64) -> f64 {
    of(&rounds.iter().map(value).collect::<Vec<_>>(), 0.5)
}

pub(crate) fn of(values: &[f64], rank: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(rank * (sorted.len() - 1) as f64).round() as usize]
}
