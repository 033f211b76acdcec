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
