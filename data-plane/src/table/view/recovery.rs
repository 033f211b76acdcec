//! How a service that has nobody comes back.

use super::View;
use crate::routing::Tick;

impl View {
    /// While nobody lets requests through, and no fallback answers them either, nobody rests for longer than at first, however
    /// long it was to rest when there were others.
    pub(in crate::table) fn hasten_probes(&self, now: Tick) {
        if self.has_closed() || self.policy.fallback.answers_all() {
            return;
        }
        let longest = self.policy.breaker.base_open;
        for replica in &self.resting {
            replica.breaker().hasten(now.plus(longest));
        }
    }
}
