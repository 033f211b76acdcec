//! Counts of tunnels, which the task that moves their bytes makes.

use crate::counts::{Count, PerWorker};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client to a replica.
    Upstream,
    /// From a replica to a client.
    Downstream,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Upstream, Self::Downstream];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["upstream", "downstream"][self as usize]
    }
}

#[derive(Debug, Default)]
struct TunnelCell {
    opened: Count,
    closed: Count,
    bytes: [Count; Direction::ALL.len()],
}

/// The tunnels of one service. Each method is to be called by `worker` only.
#[derive(Debug)]
pub struct TunnelCounts(PerWorker<TunnelCell>);

impl TunnelCounts {
    pub(in crate::table) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// Counts one that begins.
    pub fn opened(&self, worker: usize) {
        self.0.of(worker).opened.add_one();
    }

    /// Counts one that has ended.
    pub fn closed(&self, worker: usize) {
        self.0.of(worker).closed.add_one();
    }

    /// Counts bytes that were passed on.
    pub fn moved(&self, worker: usize, direction: Direction, bytes: u64) {
        self.0.of(worker).bytes[direction as usize].add(bytes);
    }

    /// How many have begun since the start, and how many of them have not ended.
    pub fn totals(&self) -> (u64, u64) {
        let closed = self.0.sum(|cell| cell.closed.get());
        let opened = self.0.sum(|cell| cell.opened.get());
        (opened, opened.saturating_sub(closed))
    }

    /// How many bytes were passed on since the start.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.0.sum(|cell| cell.bytes[direction as usize].get())
    }
}
