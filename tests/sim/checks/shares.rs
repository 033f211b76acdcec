//! How much of each service lapses took away lately.

use std::collections::{BTreeMap, BTreeSet};

use control_plane::registry::{Aspect, Judgement, OverrideTarget, View};
use gateway_proto::{LeaseId, ServiceName};

use super::{Checked, Ledger, claim};
use crate::env::{Env, nanos};

/// Leases that lapsed and were not held, and until when each counts.
#[derive(Default)]
pub(super) struct Shares(BTreeMap<ServiceName, BTreeMap<LeaseId, u64>>);

impl Ledger {
    /// Within one time to live, lapses take at most the guard's share of a service, or two replicas, unless somebody
    /// said otherwise or others have come. What is held is let go by other rules.
    pub(crate) fn a_service_loses_its_share_at_most(
        &mut self,
        env: &Env,
        judgement: &Judgement,
        view: &View,
    ) -> Checked {
        let Judgement { service, expire, hold, .. } = judgement;
        let Some(entry) = view.service(service) else { return Ok(()) };
        let leased = entry.replicas().filter(|record| record.lease.is_some() && record.drain.is_none());
        let leases: BTreeSet<LeaseId> =
            leased.filter_map(|record| record.lease).map(|terms| terms.id).collect();
        let recent = self.shares.0.entry(service.clone()).or_default();
        // One that is there and no suspect was heard of before the store took its removal.
        let suspects: BTreeSet<LeaseId> = expire.iter().chain(hold).map(|suspect| suspect.lease).collect();
        let is_there = |lease: &LeaseId| leases.contains(lease) && !suspects.contains(lease);
        recent.retain(|lease, until| env.now < *until && !is_there(lease));
        let going: Vec<_> = expire.iter().filter(|suspect| leases.contains(&suspect.lease)).collect();
        recent.extend(going.iter().map(|suspect| (suspect.lease, env.now + nanos(suspect.ttl))));
        let gone = recent.len();
        let expected = recent.keys().chain(&leases).collect::<BTreeSet<_>>().len();
        let policy = view.policies().resolve(Some(service)).guard;
        let target =
            OverrideTarget { aspect: Aspect::Guard, service: service.clone(), replica: None, node: None };
        let is_released = view.override_of(&target.id()).is_some_and(|entry| entry.expires_at > env.wall());
        let others_came = entry.replicas().any(|record| record.lost.is_some());
        let may = going.is_empty() || is_released || others_came || !policy.enabled;
        let is_share = gone <= 2 || gone as f64 <= policy.max_removal_ratio * expected as f64;
        claim("a_service_loses_its_share_at_most", may || is_share, || {
            format!("{gone} of {expected} of {service}: {expire:?}")
        })
    }
}
