//! What one stream has sent so far: puts the parts of a full snapshot together and applies each update whole.
//!
//! Pure. One assembly lives as long as one stream, so that parts of two streams never mix.

use std::collections::{BTreeMap, BTreeSet};

use gateway_proto::{ServiceName, v1};

use super::{
    Refusal, parse,
    snapshot::{Draft, Snapshot, check_entries},
};

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// The snapshot is now at `revision`; these services are new, changed or gone.
    Applied {
        /// Services that differ from before.
        changed: BTreeSet<ServiceName>,
        /// The snapshot's revision.
        revision: i64,
    },
    /// One part of a full snapshot; nothing is applied before the last one is there.
    Partial,
    /// Nothing changed up to the snapshot's revision.
    Unchanged,
    /// The message was wrong: the snapshot is what it was, and the control plane sends a full one next.
    Refused(Refusal),
}

/// The parts of a full snapshot that have come so far.
#[derive(Debug, Default)]
pub struct Assembly(Option<Parts>);

#[derive(Debug)]
struct Parts {
    epoch: String,
    revision: i64,
    next_index: i32,
    services: BTreeMap<ServiceName, Draft>,
    /// The one service that the next part may go on with.
    last: Option<ServiceName>,
    entries: usize,
}

impl Assembly {
    /// Applies one message to `held`, wholly or not at all.
    ///
    /// Part 0 always begins anew. Anything but the next part of the same revision drops the parts that came before it.
    pub fn receive(&mut self, held: &mut Snapshot, message: v1::StreamSnapshotsResponse) -> Received {
        self.try_receive(held, message).unwrap_or_else(|refusal| {
            self.0 = None;
            Received::Refused(refusal)
        })
    }

    fn try_receive(
        &mut self,
        held: &mut Snapshot,
        message: v1::StreamSnapshotsResponse,
    ) -> Result<Received, Refusal> {
        use v1::stream_snapshots_response::Update;
        let v1::StreamSnapshotsResponse { epoch, revision, update, .. } = message;
        if epoch.is_empty() || revision < 0 {
            let why = format!("epoch {epoch:?} revision {revision} names no state of a registry");
            return Err(Refusal::InvalidResource(why));
        }
        if let (Some(parts), Some(Update::Delta(_) | Update::Bookmark(_))) = (&self.0, &update) {
            let next = parts.next_index;
            return Err(Refusal::PartsOutOfOrder(format!("part {next} is due, not a delta or a bookmark")));
        }
        match update {
            Some(Update::Full(full)) => self.receive_part(held, epoch, revision, &full),
            Some(Update::Delta(delta)) => {
                let changed = held.apply(&epoch, revision, &delta)?;
                Ok(Received::Applied { changed, revision })
            }
            Some(Update::Bookmark(v1::Bookmark { .. })) => {
                held.confirm(&epoch, revision)?;
                Ok(Received::Unchanged)
            }
            None => {
                let why = "the message holds no update this data plane knows";
                Err(Refusal::InvalidResource(why.into()))
            }
        }
    }

    fn receive_part(
        &mut self,
        held: &mut Snapshot,
        epoch: String,
        revision: i64,
        full: &v1::FullSnapshot,
    ) -> Result<Received, Refusal> {
        let mut parts = match self.0.take().filter(|_| full.part_index != 0) {
            Some(parts) => parts,
            None => Parts::new(epoch.clone(), revision),
        };
        parts.check_next(&epoch, revision, full.part_index)?;
        parts.add(full)?;
        if !full.last_part {
            self.0 = Some(parts);
            return Ok(Received::Partial);
        }
        let changed = held.replace(epoch, revision, parts.services)?;
        Ok(Received::Applied { changed, revision })
    }
}

impl Parts {
    fn new(epoch: String, revision: i64) -> Self {
        Self { epoch, revision, next_index: 0, services: BTreeMap::new(), last: None, entries: 0 }
    }

    fn check_next(&self, epoch: &str, revision: i64, index: i32) -> Result<(), Refusal> {
        if (epoch, revision, index) == (self.epoch.as_str(), self.revision, self.next_index) {
            return Ok(());
        }
        Err(Refusal::PartsOutOfOrder(format!(
            "part {index} of epoch {epoch:?} revision {revision} came where part {} of epoch {:?} revision {} was due",
            self.next_index, self.epoch, self.revision
        )))
    }

    fn add(&mut self, full: &v1::FullSnapshot) -> Result<(), Refusal> {
        self.next_index += 1;
        for (index, wire) in full.services.iter().enumerate() {
            let name = parse::service_name(&wire.service)?;
            let goes_on = index == 0 && self.last.as_ref() == Some(&name);
            if !goes_on {
                if self.services.contains_key(&name) {
                    return Err(Refusal::DuplicateKey(format!("service {name}")));
                }
                let policy = parse::policy(&name, wire.policy.as_ref())?;
                self.services.insert(name.clone(), Draft { policy, ..Draft::default() });
                self.entries += 1;
            }
            self.entries += wire.replicas.len();
            check_entries(self.entries)?;
            let draft = self.services.entry(name.clone()).or_default();
            for wire in &wire.replicas {
                let replica = parse::replica(wire)?;
                if wire.service != name.as_str() {
                    let why = format!("replica {:?}/{} came inside service {name}", wire.service, replica.id);
                    return Err(Refusal::InvalidResource(why));
                }
                if let Some(twice) = draft.replicas.insert(replica.id.clone(), replica) {
                    return Err(Refusal::DuplicateKey(format!("replica {name}/{}", twice.id)));
                }
            }
            self.last = Some(name);
        }
        Ok(())
    }
}
