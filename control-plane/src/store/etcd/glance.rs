//! A glance at etcd now and then: whether it answers, whether it is what it was, and which change is its last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_proto::etcd::RangeRequest;
use tokio::{sync::watch, time::sleep};

use super::{client::Client, keys::Keys, transaction::one};
use crate::registry::Revision;

/// Without any other, etcd gives a sign of life so often.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What one has shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Glance {
    pub(super) cluster: u64,
    /// The last commit, if there is one.
    pub(super) head: Option<Revision>,
    /// Whether etcd has forgotten what it had told by then.
    pub(super) has_gone_back: bool,
}

/// Casts them for ever. etcd's revision up to which all was told is in `seen`.
pub(super) async fn run(client: Client, keys: Keys, seen: Arc<AtomicI64>, glances: watch::Sender<Glance>) {
    loop {
        sleep(INTERVAL).await;
        let known = seen.load(Relaxed);
        // The quorum's answer, whichever member gives it: one that has fallen behind has none.
        match client.range(RangeRequest { keys_only: true, ..one(keys.head()) }).await {
            Ok(response) => {
                let header = response.header.unwrap_or_default();
                let head = response.kvs.first().map(|kv| kv.mod_revision);
                let has_gone_back = header.revision < known;
                glances.send_replace(Glance { cluster: header.cluster_id, head, has_gone_back });
            }
            Err(status) => tracing::debug!(message = status.message(), "etcd gives no sign of life"),
        }
    }
}
