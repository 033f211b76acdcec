//! What the task does that judges by data planes' reports: who is evicted because nobody reaches it.

use control_plane::{
    observe::{Matrix, Report},
    registry::{Command, Eviction, Evictions, Sight, Why},
};
use gateway_proto::{NodeId, ReplicaKey, v1};
use std::collections::BTreeMap;

use super::{Control, Running, writer::Waiting};
use crate::{
    checks::{Checked, Ledger},
    env::{Env, SECOND},
    event::{ControlEvent, Event},
    journal::note,
    sabotage::Sabotage,
};

/// A data plane that has said nothing for so long is not heard.
pub(crate) const SILENT: u64 = 3_000_000_000;

/// What the process has heard, and what it makes of it.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) matrix: Matrix,
    /// When each data plane was heard last.
    last: BTreeMap<NodeId, u64>,
    evictions: Evictions,
}

impl Control {
    /// A data plane's report arrives.
    pub(super) fn report(
        &mut self,
        env: &mut Env,
        ledger: &mut Ledger,
        node: usize,
        breakers: Vec<v1::Breaker>,
    ) -> Checked {
        let Some(running) = &mut self.running else { return Ok(()) };
        let id = NodeId::parse(&format!("n{node}")).expect("a name");
        ledger.reported(env.now, node, &breakers);
        let wire = v1::ReportNodeStatusRequest { full: true, breakers, ..Default::default() };
        let report = Report::parse(&id, wire, env.wall()).expect("a good report");
        running.heard.matrix.report(&id, report.breakers, env.wall());
        running.heard.last.insert(id, env.now);
        Ok(())
    }

    /// Judges who is to be evicted.
    pub(super) fn evict(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        let Some(running) = &mut self.running else { return Ok(()) };
        env.after(SECOND, Event::Control(ControlEvent::Evict { run: self.run }));
        let due = running.evictions_due(env, ledger)?;
        // As with sweeps: those before come first.
        if running.own == 0 && !due.is_empty() {
            for eviction in &due {
                note!(env, "control plane: evicts {}: {}", eviction.key, eviction.why);
                env.journal.count("a replica was to be evicted");
                running.heard.evictions.evicted(eviction, env.instant());
                ledger.evicting(env.now, eviction);
            }
            running.own = due.len();
            running.waiting.extend(due.into_iter().map(Command::Evict).map(Waiting::own));
            self.schedule_turn(env);
        }
        Ok(())
    }
}

impl Running {
    fn evictions_due(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked<Vec<Eviction>> {
        let (now, instant, wall) = (env.now, env.instant(), env.wall());
        let Heard { matrix, last, evictions } = &mut self.heard;
        let is_heard = |node: &NodeId| last.get(node).is_some_and(|at| now - at < SILENT);
        let mut sights = matrix.suspects(is_heard);
        if env.has(Sabotage::BelieveOneDataPlane) {
            sights.values_mut().for_each(believe_whoever_fails);
        }
        let judged = self.publisher.read(|view| {
            let mut judged = evictions.judge(view, &sights, instant, wall);
            for sentence in &mut judged {
                if let Some((_, held)) = sentence.held {
                    env.journal.count("an eviction was held");
                    note!(env, "control plane: nobody of {} is evicted: {held}", sentence.service);
                    if env.has(Sabotage::EvictWhatIsHeld) {
                        let of_service = |key: &&ReplicaKey| key.service == sentence.service;
                        sentence.evict = sights
                            .keys()
                            .filter(of_service)
                            .filter_map(|key| {
                                let incarnation = view.get(key)?.incarnation;
                                let why = Why::FailuresInARow { count: u64::MAX, threshold: 1 };
                                Some(Eviction { key: key.clone(), incarnation, why })
                            })
                            .collect();
                    }
                }
            }
            ledger.evictions_are_few(env, view, &judged)?;
            Ok(judged)
        })?;
        let due: Vec<_> = judged.into_iter().flat_map(|sentence| sentence.evict).collect();
        for eviction in &due {
            ledger.only_what_nobody_reaches_is_evicted(env.now, eviction)?;
        }
        ledger.judged(now);
        Ok(due)
    }
}

fn believe_whoever_fails(sight: &mut Sight) {
    if sight.failing > 0 {
        (sight.checking, sight.silent) = (sight.failing, 0);
    }
}
