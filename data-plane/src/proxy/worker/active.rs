//! What is under way on each worker, for those who watch an end come.
//!
//! Only the worker's own thread writes its counts, so counting is a load and a store, and no thread waits for another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{proxy::h1::PipeCounts, routing::Tick};

/// A worker looks at its deadlines several times a second. One that has not for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// Connections of clients and requests on them, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Active {
    /// Connections that were accepted and are not closed.
    pub connections: u64,
    /// Requests of which the answer has not been sent in full.
    pub requests: u64,
}

/// What is under way on all workers, for those who look from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(pub(in crate::proxy) Vec<Arc<WorkerActive>>);

impl Watch {
    pub(crate) fn active(&self) -> Active {
        sum(&self.0)
    }

    /// Pipes that are open, bytes that have passed through pipes, and times that there was none.
    pub(crate) fn pipes(&self) -> [u64; 3] {
        let counts = self.0.iter().map(|worker| worker.pipes.read());
        counts.fold([0; 3], |sum, of_one| std::array::from_fn(|index| sum[index] + of_one[index]))
    }

    /// A worker that hangs, and since when.
    pub(crate) fn fault(&self, now: Tick) -> Option<String> {
        let looked = self.0.iter().map(|worker| worker.looked.load(Relaxed)).enumerate();
        let mut silent = looked
            .filter(|(_, at)| *at != RESTS)
            .map(|(worker, at)| (worker, now.since(Tick::from_nanos(at))));
        let (worker, silence) = silent.find(|(_, silence)| *silence > HANGS_AFTER)?;
        Some(format!("worker {worker} has not come round for {:.1}s", silence.as_secs_f64()))
    }
}

/// Not begun, or ended as it should.
const RESTS: u64 = 0;

/// One worker's counts, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(in crate::proxy) struct WorkerActive {
    connections: AtomicU64,
    requests: AtomicU64,
    /// When it last looked at its deadlines, in nanoseconds of the clock.
    looked: AtomicU64,
    pipes: Arc<PipeCounts>,
}

impl WorkerActive {
    /// It comes round.
    pub(in crate::proxy) fn looks(&self, now: Tick) {
        self.looked.store(now.as_nanos().max(1), Relaxed);
    }

    /// It has ended as it should, and comes round no more.
    pub(in crate::proxy) fn rests(&self) {
        self.looked.store(RESTS, Relaxed);
    }

    /// Where it counts the pipes that bodies pass through.
    pub(in crate::proxy) fn pipes(&self) -> &Arc<PipeCounts> {
        &self.pipes
    }

    pub(in crate::proxy) fn read(&self) -> Active {
        Active { connections: self.connections.load(Relaxed), requests: self.requests.load(Relaxed) }
    }
}

/// The sum over all workers.
pub(in crate::proxy) fn sum(workers: &[Arc<WorkerActive>]) -> Active {
    let add = |sum: Active, one: Active| Active {
        connections: sum.connections + one.connections,
        requests: sum.requests + one.requests,
    };
    workers.iter().map(|worker| worker.read()).fold(Active::default(), add)
}

/// A connection that is counted for as long as this lives.
#[derive(Debug)]
pub(in crate::proxy) struct ActiveConnection(Arc<WorkerActive>);

impl ActiveConnection {
    /// To be called and dropped on the worker's own thread.
    pub(in crate::proxy) fn begin(counts: &Arc<WorkerActive>) -> Self {
        counts.connections.store(counts.connections.load(Relaxed) + 1, Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.connections.store(self.0.connections.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// A request that is counted for as long as this lives.
#[derive(Debug)]
pub(in crate::proxy) struct ActiveRequest(Arc<WorkerActive>);

impl ActiveRequest {
    /// To be called and dropped on the worker's own thread.
    pub(in crate::proxy) fn begin(counts: &Arc<WorkerActive>) -> Self {
        counts.requests.store(counts.requests.load(Relaxed) + 1, Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.requests.store(self.0.requests.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_counts_until_it_is_dropped() {
        let workers = [Arc::<WorkerActive>::default(), Arc::default()];
        let connection = ActiveConnection::begin(&workers[0]);
        let request = ActiveRequest::begin(&workers[0]);
        let other = ActiveRequest::begin(&workers[1]);
        assert_eq!(sum(&workers), Active { connections: 1, requests: 2 });
        drop((request, connection));
        assert_eq!(sum(&workers), Active { connections: 0, requests: 1 });
        drop(other);
        assert_eq!(sum(&workers), Active::default());
    }

    #[test]
    fn a_worker_that_does_not_come_round_is_a_fault_until_it_does_or_has_ended() {
        let watch = Watch(vec![Arc::default(), Arc::default()]);
        let at = |secs| Tick::ORIGIN.plus(Duration::from_secs(secs));
        assert_eq!(watch.fault(at(60)), None, "neither has begun");
        watch.0[0].looks(at(60));
        watch.0[1].looks(at(55));
        assert_eq!(watch.fault(at(65)), None);
        assert_eq!(watch.fault(at(66)).unwrap(), "worker 1 has not come round for 11.0s");
        watch.0[1].looks(at(66));
        assert_eq!(watch.fault(at(66)), None);
        watch.0[0].rests();
        watch.0[1].rests();
        assert_eq!(watch.fault(at(1000)), None);
    }
}
