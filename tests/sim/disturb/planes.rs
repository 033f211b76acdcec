//! What goes wrong with the planes, their disks and the network between them.

use crate::{
    checks::Checked,
    durable::CommitFault,
    env::{MS, SECOND, nanos},
    node::Cache,
    world::World,
};

use super::Trouble;

impl World {
    pub(super) fn trouble_control(&mut self, trouble: Trouble) -> Checked {
        let env = &mut self.env;
        match trouble {
            Trouble::PauseControl => {
                let pause = env.pick(&[300 * MS, SECOND, 3 * SECOND, 8 * SECOND]);
                let until = env.now + nanos(env.between(pause / 2, pause));
                self.control.pause(env, until);
            }
            Trouble::FailCommits => {
                for _ in 0..=env.below(3) {
                    let fault = env.pick(&[CommitFault::Nothing, CommitFault::AnswerLost]);
                    self.control.durable.faults.push_back(fault);
                }
            }
            Trouble::FillDisk => {
                let time = env.between(100 * MS, 3 * SECOND);
                self.control.durable.full_until = env.now + nanos(time);
            }
            Trouble::SlowDisk => {
                let time = env.between(100 * MS, 3 * SECOND);
                self.control.durable.slow_until = env.now + nanos(time);
            }
            Trouble::BreakDisk => {
                let time = env.between(100 * MS, 3 * SECOND);
                self.control.durable.unreadable_until = env.now + nanos(time);
                self.control.durable.faults.push_back(CommitFault::AnswerLost);
            }
            // A new disk is seldom enough.
            Trouble::LoseDisk if env.chance(0.2) => self.control.lose_disk(env, &mut self.ledger)?,
            _ if env.chance(0.5) => self.control.is_doomed = true,
            _ => self.control.crash(env, &mut self.ledger)?,
        }
        Ok(())
    }

    pub(super) fn trouble_node(&mut self, trouble: Trouble) {
        let env = &mut self.env;
        let number = env.below(self.nodes.len());
        let node = &mut self.nodes[number];
        match trouble {
            Trouble::CutStream => node.cut(env),
            Trouble::SeverStream => self.control.sever(env, number),
            Trouble::RepeatMessage => self.control.send_again(env, number),
            Trouble::SendStaleAck => node.send_stale_ack(env),
            Trouble::BlindNode => {
                env.journal.count("a data plane reached nobody by its checks");
                node.blind_until = env.now + nanos(env.between(SECOND, 10 * SECOND));
            }
            Trouble::LieNode => {
                env.journal.count("a data plane lied");
                node.lies_until = env.now + nanos(env.between(SECOND, 10 * SECOND));
            }
            _ => {
                let cache = env.pick(&[Cache::Saved, Cache::Lost]);
                node.restart(env, cache);
            }
        }
    }
}
