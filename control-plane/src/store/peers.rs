//! The control planes that share a store, each under a name and a lease of its own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

/// A store that is away is not waited for: it forgets by itself who does not come back.
const PATIENCE: Duration = Duration::from_secs(2);

/// What each control plane says of itself, by its name.
pub type Known = Arc<BTreeMap<String, String>>;

/// Who else uses the store, and a way to be among them. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Peers {
    own: Arc<watch::Sender<Option<(String, String)>>>,
    known: watch::Receiver<Known>,
}

impl Peers {
    /// Handles to what is published in `own` and known by `known`.
    pub(super) fn new(own: watch::Sender<Option<(String, String)>>, known: watch::Receiver<Known>) -> Self {
        Self { own: Arc::new(own), known }
    }

    /// Says `address` of this process under the name `node` for as long as the process lives, and some seconds longer; in the
    /// place of what was said before.
    pub fn publish(&self, node: &str, address: &str) {
        self.own.send_replace(Some((node.to_owned(), address.to_owned())));
    }

    /// Takes back what was said, for good, and waits until the store has forgotten it, at most 2 s: others need not wait for a
    /// process that has ended in good order.
    pub async fn withdraw(&self) {
        if self.own.send_replace(None).is_some() {
            let _ = timeout(PATIENCE, self.own.closed()).await;
        }
    }

    /// Follows what all say, this process included. What the store says while it is out of reach is what it said last.
    pub fn follow(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }
}
