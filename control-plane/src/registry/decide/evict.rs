//! Removals of replicas that data planes cannot reach.

use std::time::SystemTime;

use super::{Decision, commit};
use crate::registry::{Answer, Cause, Eviction, Key, View, mutation::RecordWrite};

/// Removes the replica, if it is still the one that was judged and nobody has asked for its drain meanwhile.
pub(super) fn evict(view: &View, eviction: &Eviction, at: SystemTime) -> Decision {
    let record = view.get(&eviction.key);
    let record = record.filter(|record| record.incarnation == eviction.incarnation);
    match record.filter(|record| record.drain.is_none() && record.lost.is_none()) {
        Some(record) => {
            let cause = Cause::Evicted { why: eviction.why.clone() };
            commit(RecordWrite::remove(Key::Replica(record.key.clone()), record.revision, cause), at)
        }
        None => Decision::Nothing(Answer::Moot),
    }
}
