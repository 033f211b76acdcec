//! Everything that goes wrong, and everything that people and owners do on their own account.

mod operators;
mod people;
mod planes;

use std::time::Duration;

use crate::{
    checks::Checked,
    event::{Event, OwnerId},
    journal::note,
    world::World,
};

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    CrashControl,
    PauseControl,
    FailCommits,
    FillDisk,
    SlowDisk,
    BreakDisk,
    LoseDisk,
    CutStream,
    SeverStream,
    RepeatMessage,
    SendStaleAck,
    RestartNode,
    CrashOwner,
    StartOwner,
    RenameOwner,
    MoveOwner,
    StealId,
    OwnerLeaves,
    FreezeOwner,
    WorsenReplica,
    WorsenService,
    HealReplica,
    ReportHealth,
    ForceDeregister,
    StaleDeregister,
    StaleReport,
    StaleHeartbeat,
    CutService,
    ReplaceOwner,
    DrainByOwner,
    DrainReplica,
    Undrain,
    SetPolicy,
    DeletePolicy,
    SetRoute,
    DeleteRoute,
    SetOverride,
    EndOverride,
    ReleaseGuard,
    BlockReplica,
    BlindNode,
    LieNode,
}

impl Trouble {
    /// All but those that only runs with evictions know.
    pub(crate) const ALL: [Self; 40] = [
        Self::CrashControl,
        Self::PauseControl,
        Self::FailCommits,
        Self::FillDisk,
        Self::SlowDisk,
        Self::BreakDisk,
        Self::LoseDisk,
        Self::CutStream,
        Self::SeverStream,
        Self::RepeatMessage,
        Self::SendStaleAck,
        Self::RestartNode,
        Self::CrashOwner,
        Self::StartOwner,
        Self::RenameOwner,
        Self::MoveOwner,
        Self::StealId,
        Self::OwnerLeaves,
        Self::FreezeOwner,
        Self::WorsenReplica,
        Self::WorsenService,
        Self::HealReplica,
        Self::ReportHealth,
        Self::ForceDeregister,
        Self::StaleDeregister,
        Self::StaleReport,
        Self::StaleHeartbeat,
        Self::CutService,
        Self::ReplaceOwner,
        Self::DrainByOwner,
        Self::DrainReplica,
        Self::Undrain,
        Self::SetPolicy,
        Self::DeletePolicy,
        Self::SetRoute,
        Self::DeleteRoute,
        Self::SetOverride,
        Self::EndOverride,
        Self::ReleaseGuard,
        Self::BlockReplica,
    ];
}

impl World {
    /// Makes one piece of trouble of a kind that this run knows, and schedules the next.
    pub(crate) fn trouble(&mut self) -> Checked {
        let env = &mut self.env;
        if !env.is_troubled() {
            return Ok(());
        }
        let next = env.between(Duration::ZERO, 2 * env.plan.trouble_interval);
        env.after(next, Event::Trouble);
        let total: u32 = env.plan.troubles.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Ok(());
        }
        let mut ticket = env.below(total as usize);
        let drawn = env.plan.troubles.iter().find(|(_, weight)| {
            let hit = ticket < *weight as usize;
            ticket = ticket.saturating_sub(*weight as usize);
            hit
        });
        let trouble = drawn.map(|(trouble, _)| *trouble);
        let owner = env.below(self.owners.len());
        match trouble {
            Some(trouble) => self.make(trouble, owner),
            None => Ok(()),
        }
    }

    fn make(&mut self, trouble: Trouble, owner: OwnerId) -> Checked {
        use Trouble as T;
        note!(&mut self.env, "trouble: {trouble:?}, owner {owner}");
        match trouble {
            T::CrashControl
            | T::PauseControl
            | T::FailCommits
            | T::FillDisk
            | T::SlowDisk
            | T::BreakDisk
            | T::LoseDisk => self.trouble_control(trouble),
            T::DrainReplica
            | T::Undrain
            | T::SetPolicy
            | T::DeletePolicy
            | T::SetRoute
            | T::DeleteRoute
            | T::SetOverride
            | T::EndOverride
            | T::ReleaseGuard
            | T::BlockReplica => {
                self.operate(trouble, owner);
                Ok(())
            }
            T::CutStream
            | T::SeverStream
            | T::RepeatMessage
            | T::SendStaleAck
            | T::RestartNode
            | T::BlindNode
            | T::LieNode => {
                self.trouble_node(trouble);
                Ok(())
            }
            T::ForceDeregister | T::StaleDeregister | T::StaleReport | T::StaleHeartbeat => {
                self.meddle(trouble, owner);
                Ok(())
            }
            _ => {
                self.trouble_owner(trouble, owner);
                Ok(())
            }
        }
    }
}
