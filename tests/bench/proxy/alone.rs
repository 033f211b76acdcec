//! The gateway beside itself: what another setting, or a table that changes, does to what requests cost. Its rounds are interleaved
//! as those beside others are.

use std::fmt;

use anyhow::{Context, Result, ensure};

use crate::{
    Bench,
    control_plane::{ControlPlane, followed, revision},
    load,
    peers::{PATIENCE, Peer, Setting},
    results::{beside_cpu, median, of},
    scenario::{Measured, Round, Scenario},
    upstream::Replicas,
};

const WORKERS: usize = 2;
/// In the table that changes.
const SERVICES: usize = 10_000;
/// Changes a second, each a delta of its own.
const CHANGES: f64 = 100.0;

/// One way in which the gateway is measured.
struct Case<'a> {
    name: &'static str,
    peer: &'a Peer,
    scenario: Scenario,
    /// Threads of clients, each with connections of its own.
    clients: usize,
    /// Who changes the table meanwhile.
    changed_by: Option<&'a ControlPlane>,
}

/// What all rounds came to.
#[derive(Debug)]
pub(crate) struct Comparison {
    scenario: Scenario,
    rows: Vec<(&'static str, Vec<Measured>)>,
    /// What is to be read from it.
    notes: Vec<String>,
}

/// Measures one of the scenarios that are of the gateway alone.
pub(crate) fn compare(bench: &Bench<'_>, scenario: Scenario) -> Result<Comparison> {
    match scenario {
        Scenario::Workers => workers(bench),
        Scenario::Services => services(bench),
        _ => deltas(bench),
    }
}

fn workers(bench: &Bench<'_>) -> Result<Comparison> {
    let threads = bench.cores.threads_for(WORKERS);
    let replicas = Replicas::start(3, threads)?;
    bench.cores.leave_to(if threads > 1 { WORKERS } else { 1 })?;
    let bench = Bench { replicas: &replicas, ..*bench };
    let [one, two] = [1, WORKERS].map(|workers| Peer::gateway(&bench, Setting { workers, ..Setting::of(1) }));
    let (one, two) = (one?, two?);
    let case =
        |name, peer| Case { name, peer, scenario: Scenario::Get100, clients: threads, changed_by: None };
    let rows = bench.alternate(Scenario::Workers, &[case("1 worker", &one), case("2 workers", &two)])?;
    bench.cores.leave_to(1)?;
    let mut comparison = Comparison { scenario: Scenario::Workers, rows, notes: Vec::new() };
    let (cpu, rate) = (comparison.ratio(1, 0, |round| round.cpu), comparison.ratio(1, 0, |round| round.rate));
    comparison.notes = vec![
        bench.cores.verdict(WORKERS),
        format!(
            "2 workers ÷ 1: CPU for each request {cpu} (wanted: as much; 1.8 × the rate leaves 1.11), requests/s {rate} (wanted: 1.8 where cores allow)."
        ),
    ];
    Ok(comparison)
}

fn services(bench: &Bench<'_>) -> Result<Comparison> {
    let [one, hundred, many] = [1, 100, SERVICES].map(|services| Peer::gateway(bench, Setting::of(services)));
    let (one, hundred, many) = (one?, hundred?, many?);
    let case = |name, peer, scenario| Case { name, peer, scenario, clients: 1, changed_by: None };
    let rows = bench.alternate(
        Scenario::Services,
        &[
            case("1 service", &one, Scenario::Get100),
            case("10,000 services, one asked", &many, Scenario::Get100),
            case("100 services, all asked in turns", &hundred, Scenario::Services100),
            case("10,000 services, 100 asked in turns", &many, Scenario::Services10k),
        ],
    )?;
    let mut comparison = Comparison { scenario: Scenario::Services, rows, notes: Vec::new() };
    let (same, turns) =
        (comparison.ratio(1, 0, |round| round.cpu), comparison.ratio(3, 2, |round| round.cpu));
    comparison.notes = vec![format!(
        "CPU for each request, 10,000 services ÷ fewer: one asked {same}, 100 asked in turns {turns} (wanted: 0.97 to 1.03)."
    )];
    Ok(comparison)
}

fn deltas(bench: &Bench<'_>) -> Result<Comparison> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let program = bench.args.program("gw-control-plane")?;
    ensure!(program.is_file(), "no {}, whose deltas are to be followed", program.display());
    let control_plane =
        runtime.block_on(ControlPlane::start(&program, SERVICES, bench.replicas.addresses()))?;
    let setting = Setting { control_plane: Some(control_plane.url()), ..Setting::of(SERVICES) };
    let gateway = Peer::gateway(bench, setting)?;
    runtime.block_on(load::answers(gateway.at().http1, PATIENCE))?;
    let case =
        |name, changed_by| Case { name, peer: &gateway, scenario: Scenario::Paced, clients: 1, changed_by };
    let rows = bench.alternate(
        Scenario::Deltas,
        &[case("no changes", None), case("100 changes a second", Some(&control_plane))],
    )?;
    let moved: Vec<f64> =
        rows[0].1.iter().zip(&rows[1].1).map(|(still, changing)| (changing.p99 - still.p99) / 1e3).collect();
    let [least, middle, most] = [0.0, 0.5, 1.0].map(|rank| of(&moved, rank));
    let notes = vec![
        "10,000 services of one control plane; each change makes a replica unhealthy or healthy again, every tenth one of the service that is asked. \
         What takes them in shares the worker's core, and is in its CPU."
            .into(),
        format!("p99 moves by {middle:.2} ms ({least:.2} to {most:.2}; wanted: less than 1 ms)."),
    ];
    Ok(Comparison { scenario: Scenario::Deltas, rows, notes })
}

impl Bench<'_> {
    /// Measures these in interleaved rounds.
    fn alternate(
        &self,
        scenario: Scenario,
        cases: &[Case<'_>],
    ) -> Result<Vec<(&'static str, Vec<Measured>)>> {
        let mut rows: Vec<_> = cases.iter().map(|case| (case.name, Vec::new())).collect();
        let of = self.args.rounds;
        for number in self.rounds_in_time() {
            for turn in 0..cases.len() {
                let place = (number + turn) % cases.len();
                let case = &cases[place];
                let measured = self.case(case, Round { number, of });
                rows[place].1.push(measured.with_context(|| case.name)?);
            }
            eprintln!("round {} of {of} of {scenario:?}", number + 1);
        }
        Ok(rows)
    }

    fn case(&self, case: &Case<'_>, round: Round) -> Result<Measured> {
        let Some(control_plane) = case.changed_by else { return self.by_clients(case, round) };
        let before = revision(case.peer.at().admin)?;
        let changes = control_plane.change(CHANGES);
        let measured = self.by_clients(case, round)?;
        followed(case.peer.at().admin, before, changes.end()?)?;
        Ok(measured)
    }

    /// Drives the load by so many threads of clients.
    fn by_clients(&self, case: &Case<'_>, round: Round) -> Result<Measured> {
        std::thread::scope(|scope| {
            let drive = |_| scope.spawn(|| self.measure(case.scenario, case.peer, round));
            let clients: Vec<_> = (0..case.clients).map(drive).collect();
            let measured = clients.into_iter().map(|client| {
                let measured = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
                measured.context("the gateway can be asked everything")
            });
            Ok(Measured::together(&measured.collect::<Result<Vec<_>>>()?))
        })
    }
}

impl Comparison {
    /// A figure of one row over that of another, round by round: the median, and the least and most.
    fn ratio(&self, row: usize, base: usize, figure: fn(&Measured) -> f64) -> String {
        let pairs = self.rows[row].1.iter().zip(&self.rows[base].1);
        let ratios: Vec<f64> = pairs.map(|(row, base)| figure(row) / figure(base)).collect();
        let [least, middle, most] = [0.0, 0.5, 1.0].map(|rank| of(&ratios, rank));
        format!("{middle:.2} ({least:.2}–{most:.2})")
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.scenario.title())?;
        writeln!(
            f,
            "| gateway | CPU each | requests/s | p50 | p99 | p99.9 | failed | RSS |\n|---|---|---|---|---|---|---|---|"
        )?;
        for (name, rounds) in &self.rows {
            let cpu = median(rounds, |round| round.cpu);
            writeln!(f, "| {name} | {cpu:.1} µs | {} |", beside_cpu(rounds))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}\n"))
    }
}
