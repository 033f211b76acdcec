//! What one stream has sent so far: puts the parts of a full snapshot together and applies each update whole.
//!
//! Pure. One assembly lives as long as one stream, so that parts of two streams never mix.

use std::collections::{BTreeMap, BTreeSet};

use gateway_proto::{ServiceName, v1};

use super::{
    Refusal,
    draft::{Draft, RevisedPolicy},
    overrides::{Override, Overrides},
    parse,
    routes::{RevisedRoute, RouteSet},
    snapshot::{Content, Snapshot, Update, check_entries},
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
    /// As `Unchanged`, although the content hash differs: it differs also from that of the full snapshot which was sent
    /// because it had differed. Another one would not help, so it is not compared any more on this stream.
    Disputed(Refusal),
    /// The message was wrong: the snapshot is what it was, and the control plane sends a full one next.
    Refused(Refusal),
}

/// What one stream has sent so far.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The parts of a full snapshot that have come.
    parts: Option<Parts>,
    comparison: Comparison,
}

/// Whether content hashes are compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// What is held is compared with each hash that comes.
    #[default]
    Plain,
    /// It differed: a full snapshot is due.
    Differed,
    /// It differed, and this is that full snapshot, as it came.
    Resent,
    /// It differed even then: the two sides do not mean the same by it.
    Off,
}

#[derive(Debug)]
struct Parts {
    epoch: String,
    revision: i64,
    next_index: i32,
    services: BTreeMap<ServiceName, Draft>,
    /// The one service that the next part may go on with.
    last: Option<ServiceName>,
    default_policy: Option<RevisedPolicy>,
    overrides: Overrides,
    routes: RouteSet,
    entries: usize,
}

impl Assembly {
    /// Applies one message to `held`, wholly or not at all.
    ///
    /// Part 0 always begins anew. Anything but the next part of the same revision drops the parts that came before it.
    pub fn receive(&mut self, held: &mut Snapshot, message: v1::StreamSnapshotsResponse) -> Received {
        self.receive_update(held, message).0
    }

    /// As [`Assembly::receive`], with all that an update changed.
    pub(super) fn receive_update(
        &mut self,
        held: &mut Snapshot,
        message: v1::StreamSnapshotsResponse,
    ) -> (Received, Update) {
        let mut update = Update::default();
        let received = self.try_receive(held, message, &mut update).unwrap_or_else(|refusal| {
            self.parts = None;
            Received::Refused(refusal)
        });
        (received, update)
    }

    fn try_receive(
        &mut self,
        held: &mut Snapshot,
        message: v1::StreamSnapshotsResponse,
        update: &mut Update,
    ) -> Result<Received, Refusal> {
        use v1::stream_snapshots_response::Update as Kind;
        let v1::StreamSnapshotsResponse { epoch, revision, update: kind, .. } = message;
        if epoch.is_empty() || revision < 0 {
            let why = format!("epoch {epoch:?} revision {revision} names no state of a registry");
            return Err(Refusal::InvalidResource(why));
        }
        if let (Some(parts), Some(Kind::Delta(_) | Kind::Bookmark(_))) = (&self.parts, &kind) {
            let next = parts.next_index;
            return Err(Refusal::PartsOutOfOrder(format!("part {next} is due, not a delta or a bookmark")));
        }
        *update = match kind {
            Some(Kind::Full(full)) => {
                let Some(content) = self.receive_part(epoch, revision, full)? else {
                    return Ok(Received::Partial);
                };
                let update = held.replace(content)?;
                if self.comparison == Comparison::Differed {
                    self.comparison = Comparison::Resent;
                }
                update
            }
            Some(Kind::Delta(delta)) => {
                let update = held.apply(&epoch, revision, delta)?;
                if self.comparison == Comparison::Resent {
                    self.comparison = Comparison::Plain;
                }
                update
            }
            Some(Kind::Bookmark(bookmark)) => return self.compare(held, &epoch, revision, &bookmark),
            None => {
                let why = "the message holds no update this data plane knows";
                return Err(Refusal::InvalidResource(why.into()));
            }
        };
        Ok(Received::Applied { changed: update.before.keys().cloned().collect(), revision })
    }

    fn compare(
        &mut self,
        held: &mut Snapshot,
        epoch: &str,
        revision: i64,
        bookmark: &v1::Bookmark,
    ) -> Result<Received, Refusal> {
        use Comparison::{Differed, Off, Plain, Resent};
        let hash = if self.comparison == Off { "" } else { bookmark.content_hash.as_str() };
        match (held.confirm(epoch, revision, hash), self.comparison) {
            (Ok(()), Off) => Ok(Received::Unchanged),
            (Ok(()), _) => {
                self.comparison = Plain;
                Ok(Received::Unchanged)
            }
            (Err(mismatch @ Refusal::ContentMismatch(_)), Resent) => {
                self.comparison = Off;
                held.confirm(epoch, revision, "")?;
                Ok(Received::Disputed(mismatch))
            }
            (Err(mismatch @ Refusal::ContentMismatch(_)), _) => {
                self.comparison = Differed;
                Err(mismatch)
            }
            (Err(refusal), _) => Err(refusal),
        }
    }

    /// Takes one part in, and yields the snapshot when it is the last one.
    fn receive_part(
        &mut self,
        epoch: String,
        revision: i64,
        full: v1::FullSnapshot,
    ) -> Result<Option<Content>, Refusal> {
        let mut parts = match self.parts.take().filter(|_| full.part_index != 0) {
            Some(parts) => parts,
            None => Parts::new(epoch.clone(), revision),
        };
        parts.check_next(&epoch, revision, full.part_index)?;
        let is_last = full.last_part;
        parts.add(full)?;
        if !is_last {
            self.parts = Some(parts);
            return Ok(None);
        }
        let Parts { services, default_policy, overrides, routes, .. } = parts;
        Ok(Some(Content { epoch, revision, services, default_policy, overrides, routes }))
    }
}

impl Parts {
    fn new(epoch: String, revision: i64) -> Self {
        Self {
            epoch,
            revision,
            next_index: 0,
            services: BTreeMap::new(),
            last: None,
            default_policy: None,
            overrides: Overrides::default(),
            routes: RouteSet::new(),
            entries: 0,
        }
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

    fn add(&mut self, full: v1::FullSnapshot) -> Result<(), Refusal> {
        if self.next_index > 0 && (full.default_policy.is_some() || !full.overrides.is_empty()) {
            let why =
                format!("part {} brings what belongs into part 0: policies or overrides", self.next_index);
            return Err(Refusal::InvalidResource(why));
        }
        self.next_index += 1;
        self.default_policy = match full.default_policy {
            Some(wire) => parse::policy("the default policy", Some(&wire))?,
            None => self.default_policy,
        };
        for wire in full.overrides {
            self.add_override(wire)?;
        }
        for wire in &full.routes {
            let entry = RevisedRoute::parse(wire)?;
            self.count(1)?;
            if let Some(twice) = self.routes.insert(entry.route.name.clone(), entry.into()) {
                return Err(Refusal::DuplicateKey(format!("route {}", twice.route.name)));
            }
        }
        for (index, wire) in full.services.iter().enumerate() {
            self.add_service(wire, index == 0)?;
        }
        Ok(())
    }

    fn add_override(&mut self, wire: v1::OverrideEntry) -> Result<(), Refusal> {
        let entry = Override::parse(wire)?;
        if self.overrides.get(entry.id()).is_some() {
            return Err(Refusal::DuplicateKey(format!("override {:?}", entry.id())));
        }
        self.count(1)?;
        self.overrides.insert(entry.into());
        Ok(())
    }

    /// The first service of a part may go on with the last one of the part before.
    fn add_service(&mut self, wire: &v1::ServiceSnapshot, is_first: bool) -> Result<(), Refusal> {
        let name = parse::service_name(&wire.service)?;
        let goes_on = is_first && self.last.as_ref() == Some(&name);
        if !goes_on {
            if self.services.contains_key(&name) {
                return Err(Refusal::DuplicateKey(format!("service {name}")));
            }
            let mut draft = Draft::new(name.clone());
            draft.set_policy(parse::policy(&format!("service {name}"), wire.policy.as_ref())?);
            self.services.insert(name.clone(), draft);
            self.count(1)?;
        }
        self.count(wire.replicas.len())?;
        let draft = self.services.entry(name.clone()).or_insert_with(|| Draft::new(name.clone()));
        for wire in &wire.replicas {
            let replica = parse::replica(wire)?;
            if wire.service != name.as_str() {
                let why = format!("replica {:?}/{} came inside service {name}", wire.service, replica.id);
                return Err(Refusal::InvalidResource(why));
            }
            if let Some(twice) = draft.put(replica) {
                return Err(Refusal::DuplicateKey(format!("replica {name}/{}", twice.id)));
            }
        }
        self.last = Some(name);
        Ok(())
    }

    fn count(&mut self, entries: usize) -> Result<(), Refusal> {
        self.entries += entries;
        check_entries(self.entries)
    }
}
