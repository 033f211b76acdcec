//! `gateway.v1.PolicyService`: how requests are treated, for one service or for all.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use gateway_proto::{
    Check, Invalid,
    policy::{self, field::FIELDS},
    v1::{self, policy_service_server::PolicyService},
};
use prost::Message as _;
use prost_types::FieldMask;
use tonic::{Request, Response, Status};

use super::{asked, page::Page};
use crate::{
    auth::Caller,
    edge::Edge,
    query::{Field, Filter, Read, Schema},
    refusal::Refusal,
    registry::{Answer, Command, PolicyChange, PolicyWish, RegistryError, Said, Scope, StoredPolicy},
};

/// Policies looked at while the writer waits: some microseconds.
const AT_ONCE: usize = 512;

/// What may be asked of a stored policy.
pub(super) static POLICIES: Schema<v1::Policy> = Schema {
    what: "a policy",
    fields: &[
        Field { name: "service", read: Read::Text(|policy| Cow::Borrowed(&policy.service)) },
        // As `gwctl policy set` takes them: settings.breaker.failure_ratio = 0.5.
        Field { name: "settings", read: Read::Entry(|policy, path| setting(policy, path).map(Cow::Owned)) },
        Field { name: "updated_by", read: Read::Text(|policy| Cow::Borrowed(&policy.updated_by)) },
        Field { name: "update_reason", read: Read::Text(|policy| Cow::Borrowed(&policy.update_reason)) },
        Field { name: "update_time", read: Read::Time(|policy| policy.update_time) },
        Field { name: "revision", read: Read::Number(|policy| policy.revision) },
    ],
};

/// The value of a setting, where the policy says one.
fn setting(policy: &v1::Policy, path: &str) -> Option<String> {
    let field = FIELDS.iter().find(|field| field.path() == path)?;
    Some(field.read(policy).ok()??.to_string())
}

/// The service.
#[derive(Debug)]
pub(super) struct Policies(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl PolicyService for Policies {
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let scope = Scope::parse(&request.get_ref().service).map_err(Refusal::from)?;
        let stored = self.0.effects.publisher.read(|view| view.policies().get(&scope).cloned());
        let stored = stored.ok_or_else(|| Refusal::from(RegistryError::PolicyNotFound(scope)))?;
        Ok(Response::new(v1::GetPolicyResponse { policy: Some(stored.to_wire()) }))
    }

    async fn resolve_policy(
        &self,
        request: Request<v1::ResolvePolicyRequest>,
    ) -> Result<Response<v1::ResolvePolicyResponse>, Status> {
        let scope = Scope::parse(&request.get_ref().service).map_err(Refusal::from)?;
        let (star, own) = self.0.effects.publisher.read(|view| {
            let own = scope.service().and_then(|_| view.policies().get(&scope));
            (view.policies().get(&Scope::All).cloned(), own.cloned())
        });
        let partial =
            |stored: &Option<Arc<StoredPolicy>>| stored.as_ref().map(|stored| stored.partial.clone());
        let (resolved, origins) =
            policy::resolve_with_origins(partial(&star).as_ref(), partial(&own).as_ref());
        let name = |origin: policy::Origin| match origin {
            policy::Origin::Default => "default".to_owned(),
            policy::Origin::Star => "*".to_owned(),
            policy::Origin::Service => scope.to_string(),
        };
        let origins = origins.into_iter().map(|(path, origin)| (path.to_string(), name(origin))).collect();
        let policy = v1::Policy { service: scope.to_string(), ..resolved.to_wire() };
        Ok(Response::new(v1::ResolvePolicyResponse { policy: Some(policy), origins }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, &["policies", &request.filter])?;
        let filter = Filter::parse(&POLICIES, &request.filter).map_err(Refusal::from)?;
        let after =
            page.after().map(|name| Scope::parse(name).map_err(|_| Refusal::PageToken)).transpose()?;
        let mut begun_at = None;
        // Read in parts, so that the writer never waits for a filter.
        let look = |after: Option<&Scope>| {
            let (part, revision) = self.0.effects.publisher.read(|view| {
                let policies = view.policies();
                let stored: Box<dyn Iterator<Item = _>> = match after {
                    Some(after) => Box::new(policies.stored_after(after)),
                    None => Box::new(policies.stored()),
                };
                (stored.take(AT_ONCE).cloned().collect::<Vec<Arc<StoredPolicy>>>(), view.revision())
            });
            begun_at.get_or_insert(revision);
            let reached = part.last().filter(|_| part.len() == AT_ONCE).map(|last| last.scope.clone());
            (part.iter().map(|stored| stored.to_wire()).collect(), reached)
        };
        let found = page.admitted(after, look, |policy| filter.admits(policy)).await;
        let (policies, next_page_token) = page.cut(found.into_iter(), |policy| policy.service.clone());
        let revision = begun_at.unwrap_or_default();
        Ok(Response::new(v1::ListPoliciesResponse { policies, next_page_token, revision }))
    }

    async fn update_policy(
        &self,
        request: Request<v1::UpdatePolicyRequest>,
    ) -> Result<Response<v1::UpdatePolicyResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let mut check = Check::default();
        let policy = request.policy.ok_or_else(|| Invalid::new("policy", "is required"));
        let policy = check.take(policy);
        let scope = policy.as_ref().map(|policy| Scope::parse(&policy.service));
        let scope = scope.and_then(|scope| check.take(scope.map_err(|invalid| invalid.within("policy"))));
        let said = check.take(asked::said(&request.author, &request.reason, &caller));
        let wait = check.take(asked::wait(request.wait_timeout));
        if request.must_be_missing && !request.etag.is_empty() {
            let why = "excludes etag: what is missing has none";
            check.take::<()>(Err(Invalid::new("must_be_missing", why)));
        }
        check.finish().map_err(Refusal::from)?;
        let (Some(change), Some(scope), Some(said), Some(wait)) = (policy, scope, said, wait) else {
            unreachable!("nothing was refused")
        };
        let wish = PolicyWish {
            scope,
            change,
            mask: request.update_mask,
            etag: request.etag,
            allow_missing: request.allow_missing,
            must_be_missing: request.must_be_missing,
            allow_fault: self.0.allow_fault_injection,
            said,
        };
        let answer = self.0.submit(&caller, Command::UpdatePolicy(Box::new(wish)), validate_only).await?;
        let Answer::Policy(stored) = answer else { unreachable!("a policy's change is answered as such") };
        let rollout = match validate_only {
            true => None,
            false => Some(self.0.rollout(stored.revision, wait).await),
        };
        Ok(Response::new(v1::UpdatePolicyResponse { policy: Some(stored.to_wire()), rollout }))
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::DeletePolicyResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let request = request.into_inner();
        let mut check = Check::default();
        let scope = check.take(Scope::parse(&request.service));
        let said = check.take(asked::said(&request.author, &request.reason, &caller));
        check.finish().map_err(Refusal::from)?;
        let (Some(scope), Some(said)) = (scope, said) else { unreachable!("nothing was refused") };
        let command = Command::DeletePolicy { scope, etag: request.etag, said };
        match self.0.submit(&caller, command, false).await? {
            Answer::PolicyDeleted(revision) => Ok(Response::new(v1::DeletePolicyResponse { revision })),
            other => unreachable!("a policy's removal is answered as such, not by {other:?}"),
        }
    }

    async fn apply_policies(
        &self,
        request: Request<v1::ApplyPoliciesRequest>,
    ) -> Result<Response<v1::ApplyPoliciesResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let mut check = Check::default();
        let said = check.take(asked::said(&request.author, &request.reason, &caller));
        let wait = check.take(asked::wait(request.wait_timeout));
        let allow_fault = self.0.allow_fault_injection;
        let changes = check.take(parse_changes(request.changes, &said.unwrap_or_default(), allow_fault));
        check.finish().map_err(Refusal::from)?;
        let (Some(changes), Some(wait)) = (changes, wait) else { unreachable!("nothing was refused") };
        let answer = self.0.submit(&caller, Command::ApplyPolicies(changes), validate_only).await?;
        let (policies, revision) = match answer {
            Answer::Policies { policies, revision } => (policies, revision),
            // Of one change alone.
            Answer::Policy(stored) => (vec![Arc::clone(&stored)], stored.revision),
            Answer::PolicyDeleted(revision) => (Vec::new(), revision),
            other => unreachable!("a change of policies is answered as such, not by {other:?}"),
        };
        let policies = policies.iter().map(|stored| stored.to_wire());
        let response = match validate_only {
            true => {
                // Nobody knows which they will be.
                let policies =
                    policies.map(|policy| v1::Policy { etag: String::new(), revision: 0, ..policy });
                v1::ApplyPoliciesResponse { policies: policies.collect(), ..Default::default() }
            }
            false => v1::ApplyPoliciesResponse {
                policies: policies.collect(),
                revision,
                rollout: Some(self.0.rollout(revision, wait).await),
            },
        };
        Ok(Response::new(response))
    }
}

/// Reads what is to become of several policies.
fn parse_changes(
    wire: Vec<v1::PolicyChange>,
    said: &Said,
    allow_fault: bool,
) -> Result<Vec<PolicyChange>, Invalid> {
    let (count, most) = (wire.len(), PolicyChange::MAX);
    if !(1..=most).contains(&count) {
        return Err(Invalid::new("changes", format!("are {count}: 1 to {most} are made in one transaction")));
    }
    let said_bytes = said.author.len() + said.reason.len();
    let bytes = wire.iter().map(|change| change.encoded_len() + said_bytes).sum::<usize>();
    if bytes > PolicyChange::MAX_BYTES {
        let most = PolicyChange::MAX_BYTES;
        let why = format!(
            "are {bytes} bytes with their reason: {most} go into one transaction, so apply them in parts"
        );
        return Err(Invalid::new("changes", why));
    }
    let (mut check, mut changes, mut scopes) = (Check::default(), Vec::with_capacity(count), BTreeSet::new());
    for (index, change) in wire.into_iter().enumerate() {
        let at = format!("changes[{index}]");
        let change = parse_change(change, said, allow_fault).map_err(|invalid| invalid.within(&at));
        let Some(change) = check.take(change) else { continue };
        if !scopes.insert(change.scope().clone()) {
            let why = format!("{} is changed twice", change.scope());
            check.take::<()>(Err(Invalid::new(format!("{at}.policy.service"), why)));
        }
        changes.push(change);
    }
    check.finish()?;
    Ok(changes)
}

fn parse_change(wire: v1::PolicyChange, said: &Said, allow_fault: bool) -> Result<PolicyChange, Invalid> {
    let v1::PolicyChange { policy, remove, etag, must_be_missing } = wire;
    let mut check = Check::default();
    let policy = check.take(policy.ok_or_else(|| Invalid::new("policy", "is required")));
    let scope = policy.as_ref().map(|policy| Scope::parse(&policy.service));
    let scope = scope.and_then(|scope| check.take(scope.map_err(|invalid| invalid.within("policy"))));
    if must_be_missing && (remove || !etag.is_empty()) {
        let why = "excludes remove and etag: what is missing cannot be removed and has no etag";
        check.take::<()>(Err(Invalid::new("must_be_missing", why)));
    }
    check.finish()?;
    let (Some(change), Some(scope)) = (policy, scope) else { unreachable!("nothing was refused") };
    let said = said.clone();
    if remove {
        return Ok(PolicyChange::Delete { scope, etag, said });
    }
    // All fields: those that are not set are cleared.
    let mask = Some(FieldMask { paths: vec!["*".into()] });
    let allow_missing = true;
    Ok(PolicyChange::Update(Box::new(PolicyWish {
        scope,
        change,
        mask,
        etag,
        allow_missing,
        must_be_missing,
        allow_fault,
        said,
    })))
}
