//! Ends overrides when their time is over, also while no control plane is there to take them back.

use std::time::Duration;

use gateway_runtime::Shutdown;
use tokio::time::sleep;

use super::Feed;

/// The wall clock may be set meanwhile, so it is looked at this often while something has an end.
const LOOK: Duration = Duration::from_secs(10);

/// Ends each override at its time by the wall clock of this machine, until `stop` begins. Cancel safe.
pub(crate) async fn end_overrides(feed: &Feed, stop: &Shutdown) {
    let mut changes = feed.watch();
    loop {
        changes.mark_unchanged();
        let next = feed.end_overrides();
        let pause = async {
            match next {
                Some(next) => sleep(next.min(LOOK)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.begun() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use gateway_proto::v1;

    use super::*;
    use crate::{
        clock::Clock,
        discovery::{
            Assembly, Guard, Mirror, Snapshot, Source,
            tests::{delta, held, override_of},
        },
        table::Table,
    };

    /// Forces the breakers of `orders` open for this long from now on.
    fn force(feed: &Feed, revision: i64, id: &str, time: Duration) {
        let expire_time = Some((SystemTime::now() + time).into());
        let entry = v1::OverrideEntry { expire_time, ..override_of(id, "orders", "-") };
        let changes = v1::Delta { upsert_overrides: vec![entry], ..Default::default() };
        let (ack, _) = feed.receive(&mut Assembly::default(), delta(revision - 1, revision, changes));
        assert_eq!((ack.revision, ack.nack), (revision, None));
    }

    /// What forces the first replica's breaker.
    fn forced(table: &Table) -> Option<String> {
        let replicas = table.service("orders").unwrap().replicas();
        replicas[0].spec().forced.as_ref().map(|forced| forced.entry.override_id.clone())
    }

    async fn until_forced(table: &Table, expected: Option<&str>) {
        while forced(table).as_deref() != expected {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn feed(snapshot: Snapshot) -> (Arc<Feed>, Arc<Table>) {
        let (table, _transitions) = Table::new(1);
        let mirror = Mirror::new("dp-1".parse().unwrap(), snapshot, Guard::default(), SystemTime::now());
        let (feed, _view) = Feed::new(mirror, Source::Cached, Duration::ZERO, table.clone(), Clock::new());
        (Arc::new(feed), table)
    }

    #[tokio::test]
    async fn overrides_end_in_time_without_a_control_plane() {
        let (feed, table) = feed(held());
        let stop = Shutdown::new();
        let (ending, stopped) = (feed.clone(), stop.clone());
        let task = tokio::spawn(async move { end_overrides(&ending, &stopped).await });
        force(&feed, 6, "long", Duration::from_secs(3600));
        assert_eq!(forced(&table).as_deref(), Some("long"));
        // One that comes later ends sooner.
        let mut entry = override_of("short", "orders", "r-1");
        entry.expire_time = Some((SystemTime::now() + Duration::from_millis(50)).into());
        let changes = v1::Delta { upsert_overrides: vec![entry], ..Default::default() };
        feed.receive(&mut Assembly::default(), delta(6, 7, changes));
        until_forced(&table, Some("short")).await;
        until_forced(&table, Some("long")).await;
        stop.begin();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_has_ended_before_the_start_does_not_act() {
        let (feed, _table) = feed(held());
        force(&feed, 6, "over", Duration::from_millis(1));
        let snapshot = feed.watch().borrow().snapshot().clone();
        while feed.end_overrides().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
        let (_, table) = self::feed(snapshot);
        assert_eq!(forced(&table), None);
    }
}
