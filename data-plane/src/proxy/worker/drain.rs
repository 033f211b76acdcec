//! What a worker does about replicas that are being drained: it closes the connections to them that nobody uses, at
//! once, and cuts what is in flight at the deadline.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use gateway_proto::ReplicaKey;

use super::Worker;
use crate::{
    clock::Moment,
    routing::Tick,
    table::{DrainFollower, Drains},
};

/// When what is in flight at each draining replica is to end.
#[derive(Debug, Default)]
struct Deadlines {
    by_replica: BTreeMap<ReplicaKey, (SystemTime, Tick)>,
}

/// Acts on every list of draining replicas, until it is dropped.
pub(in crate::proxy) async fn follow(worker: &Worker, mut follower: DrainFollower) {
    let mut deadlines = Deadlines::default();
    loop {
        let next = deadlines.next_after(worker.now());
        tokio::select! {
            drains = follower.next() => {
                deadlines.follow(&drains, worker.clock().moment());
                // Those that are in use are closed when they have been.
                drains.replicas.iter().for_each(|draining| worker.pool().close(&draining.endpoint));
                follower.taken_on(&drains);
            }
            () = until(worker, next) => {}
        }
        worker.flights().cut(deadlines.passed(worker.now()));
    }
}

async fn until(worker: &Worker, tick: Option<Tick>) {
    match tick {
        Some(tick) => tokio::time::sleep_until(worker.instant(tick).into()).await,
        None => std::future::pending().await,
    }
}

impl Deadlines {
    /// Takes a new list over. A deadline that was known before keeps its tick, whatever the wall clock has done since.
    fn follow(&mut self, drains: &Drains, now: Moment) {
        let mut before = std::mem::take(&mut self.by_replica);
        for draining in &drains.replicas {
            let Some(deadline) = draining.deadline else { continue };
            let known = before.remove(&draining.key).filter(|(known, _)| *known == deadline);
            let wait = || deadline.duration_since(now.wall).unwrap_or_default();
            let entry = known.unwrap_or_else(|| (deadline, now.tick.plus(wait())));
            self.by_replica.insert(draining.key.clone(), entry);
        }
    }

    fn next_after(&self, now: Tick) -> Option<Tick> {
        self.by_replica.values().map(|(_, due)| *due).filter(|due| *due > now).min()
    }

    fn passed(&self, now: Tick) -> BTreeSet<ReplicaKey> {
        let passed = self.by_replica.iter().filter(|(_, (_, due))| *due <= now);
        passed.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::Address;

    use super::*;
    use crate::table::Draining;

    const WALL: SystemTime = SystemTime::UNIX_EPOCH;
    const SECOND: Duration = Duration::from_secs(1);

    fn key(replica: &str) -> ReplicaKey {
        ReplicaKey::parse("orders", replica).unwrap()
    }

    fn drains(replicas: &[(&str, Option<SystemTime>)]) -> Drains {
        let draining = |(replica, deadline): &(&str, Option<SystemTime>)| Draining {
            key: key(replica),
            endpoint: Address::parse("127.0.0.1:1").unwrap().into(),
            deadline: *deadline,
        };
        let mut drains = Drains::default();
        drains.replicas = replicas.iter().map(draining).collect();
        drains
    }

    fn at(secs: u64) -> Tick {
        Tick::ORIGIN.plus(SECOND * u32::try_from(secs).unwrap())
    }

    #[test]
    fn a_deadline_passes_at_its_tick_and_a_replica_without_one_has_all_time() {
        let mut deadlines = Deadlines::default();
        let list = drains(&[("a", Some(WALL + 30 * SECOND)), ("b", None), ("c", Some(WALL))]);
        deadlines.follow(&list, Moment { tick: at(100), wall: WALL + SECOND });
        assert_eq!(deadlines.passed(at(100)), BTreeSet::from([key("c")]), "it came too late");
        assert_eq!(deadlines.next_after(at(100)), Some(at(129)));
        assert_eq!(deadlines.passed(at(129)), BTreeSet::from([key("a"), key("c")]));
        assert_eq!(deadlines.next_after(at(129)), None);
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_no_deadline_and_an_operator_does() {
        let mut deadlines = Deadlines::default();
        let of_a = |secs: u32| drains(&[("a", Some(WALL + secs * SECOND))]);
        deadlines.follow(&of_a(30), Moment { tick: at(0), wall: WALL });
        deadlines.follow(&of_a(30), Moment { tick: at(1), wall: WALL + 3600 * SECOND });
        assert_eq!(deadlines.next_after(at(1)), Some(at(30)));
        deadlines.follow(&of_a(40), Moment { tick: at(2), wall: WALL + 2 * SECOND });
        assert_eq!(deadlines.next_after(at(2)), Some(at(40)));
        deadlines.follow(&drains(&[]), Moment { tick: at(3), wall: WALL });
        assert_eq!((deadlines.next_after(at(3)), deadlines.passed(at(99))), (None, BTreeSet::new()));
    }
}
