//! What the task does that comes back to what time decides: lapsed leases, drains, overrides.

use control_plane::{
    leases::SWEEP_INTERVAL,
    registry::{Command, Suspect},
};

use super::{Control, Running, writer::Waiting};
use crate::{
    checks::{Checked, Ledger},
    env::Env,
    event::{ControlEvent, Event},
    journal::note,
    sabotage::Sabotage,
};

impl Control {
    pub(super) fn sweep(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        let Some(running) = &mut self.running else { return Ok(()) };
        env.after(SWEEP_INTERVAL, Event::Control(ControlEvent::Sweep { run: self.run }));
        if running.leases.sweep(env.instant()).stalled_for.is_some() {
            env.journal.count("a stall renewed all leases");
        }
        ledger.swept(env.now);
        running.publisher.read(|view| {
            ledger.no_lease_outlives_its_time(env.now, view)?;
            ledger.what_has_an_end_ends(env.now, env.wall(), view)
        })?;
        // Those of an earlier sweep that the store has not taken yet hold up the next ones, and not the sweeps.
        if running.own == 0 {
            let due = running.due(env, ledger)?;
            running.own = due.len();
            running.waiting.extend(due.into_iter().map(Waiting::own));
        }
        if running.own > 0 {
            self.schedule_turn(env);
        }
        Ok(())
    }
}

impl Running {
    /// What is to be changed now.
    fn due(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked<Vec<Command>> {
        let (now, wall) = (env.instant(), env.wall());
        let suspects = self.leases.suspects(now);
        let mut judged = self.publisher.read(|view| self.guard.judge(view, suspects, now, wall));
        if env.has(Sabotage::NeverExpire) {
            judged.clear();
        }
        if env.has(Sabotage::BelieveEveryLapse) {
            judged.iter_mut().for_each(|judgement| judgement.expire.append(&mut judgement.hold));
        }
        let is_idle = env.chance(0.1);
        let mut due = self.publisher.read(|view| {
            let found = view.lost().filter(|_| !env.has(Sabotage::NeverFind)).filter_map(|record| {
                let lease = record.lease?.id;
                self.leases.get(lease).map(|_| Command::Recover { key: record.key.clone(), lease })
            });
            let drained = view.drains().filter_map(|record| {
                let drain = record.drain.as_deref().filter(|drain| !drain.is_over)?;
                let (key, begun) = (record.key.clone(), drain.begun);
                (is_idle || drain.deadline <= wall).then_some(Command::FinishDrain { key, begun, is_idle })
            });
            let ended = view.overrides().filter(|entry| entry.expires_at <= wall);
            let ended = ended.filter(|_| !env.has(Sabotage::KeepOverrides));
            let ended = ended.map(|entry| Command::EndOverride { id: entry.id(), by: Err(entry.revision) });
            found.chain(drained).chain(ended).collect::<Vec<_>>()
        });
        for judgement in judged {
            self.publisher.read(|view| ledger.a_service_loses_its_share_at_most(env, &judgement, view))?;
            for Suspect { key, lease, silent_for, .. } in judgement.expire {
                if self.leases.get(lease).is_none() {
                    note!(env, "control plane: the guard lets {key} go");
                    due.push(Command::Expire { key, lease, silent_for });
                }
            }
            for Suspect { key, lease, silent_for, .. } in judgement.hold {
                let is_lost =
                    self.publisher.read(|view| view.get(&key).is_some_and(|record| record.lost.is_some()));
                if self.leases.hold(lease) {
                    ledger.held(&key, lease)?;
                    if !is_lost {
                        note!(env, "control plane: the guard holds {key}");
                        due.push(Command::Hold { key, lease, silent_for });
                    }
                }
            }
        }
        Ok(due)
    }
}
