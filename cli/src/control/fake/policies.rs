//! Policies in the scripted control plane: kept and resolved as the contract says.

use gateway_proto::{
    policy::{Partial, resolve_with_origins},
    reason,
    v1::{self, policy_service_server::PolicyService},
};
use tonic::{Code, Request, Response, Status};

use super::{Fake, not_scripted, refusal};

fn none_stored() -> Status {
    refusal(Code::NotFound, reason::POLICY_NOT_FOUND, "no policy is stored")
}

#[tonic::async_trait]
impl PolicyService for Fake {
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let stored = self.with(|script| script.policies.get(&request.get_ref().service).cloned());
        let policy = Some(stored.ok_or_else(none_stored)?);
        Ok(Response::new(v1::GetPolicyResponse { policy }))
    }

    async fn resolve_policy(
        &self,
        request: Request<v1::ResolvePolicyRequest>,
    ) -> Result<Response<v1::ResolvePolicyResponse>, Status> {
        let service = request.into_inner().service;
        let stored = |name: &str| self.with(|script| script.policies.get(name).cloned()).unwrap_or_default();
        let partial = |name: &str| Partial::parse(&stored(name)).unwrap();
        let (policy, origins) = resolve_with_origins(Some(&partial("*")), Some(&partial(&service)));
        let origins =
            origins.into_iter().map(|(path, from)| (path.to_owned(), from.name(&service).to_owned()));
        Ok(Response::new(v1::ResolvePolicyResponse {
            policy: Some(policy.to_wire()),
            origins: origins.collect(),
        }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        if !request.get_ref().page_token.is_empty() {
            return Err(not_scripted());
        }
        self.with(|script| script.queries.push((request.into_inner().filter, String::new())));
        match self.with(|script| script.refuse_policies) {
            Some(Code::Unimplemented) => return Err(Status::unimplemented("")),
            Some(code) => {
                return Err(refusal(code, reason::PERMISSION_DENIED, "ana may not look at policies"));
            }
            None => {}
        }
        let policies = self.with(|script| script.policies.values().cloned().collect());
        Ok(Response::new(v1::ListPoliciesResponse { policies, ..Default::default() }))
    }

    async fn update_policy(
        &self,
        request: Request<v1::UpdatePolicyRequest>,
    ) -> Result<Response<v1::UpdatePolicyResponse>, Status> {
        let request = request.into_inner();
        let change = request.policy.clone().unwrap_or_default();
        self.with(|script| {
            let stored = script.policies.get(&change.service).cloned();
            if stored.is_none() && !request.allow_missing {
                return Err(none_stored());
            }
            if stored.is_some() && request.must_be_missing {
                return Err(refusal(Code::Aborted, reason::ETAG_MISMATCH, "somebody has made one"));
            }
            let before = Partial::parse(&stored.unwrap_or_default()).unwrap();
            let after = before.updated(&change, request.update_mask.as_ref());
            let after = after.map_err(|invalid| {
                refusal(Code::InvalidArgument, reason::POLICY_INVALID, &invalid.to_string())
            })?;
            let policy = v1::Policy { service: change.service.clone(), revision: 7, ..after.to_wire() };
            if !request.validate_only {
                script.policies.insert(change.service.clone(), policy.clone());
            }
            script.updated.push(request);
            let rollout = Some(script.rollout.clone());
            Ok(Response::new(v1::UpdatePolicyResponse { policy: Some(policy), rollout }))
        })
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::DeletePolicyResponse>, Status> {
        let request = request.into_inner();
        self.with(|script| {
            script.policies.remove(&request.service).ok_or_else(none_stored)?;
            script.deleted.push(request);
            Ok(Response::new(v1::DeletePolicyResponse { revision: 8 }))
        })
    }

    async fn apply_policies(
        &self,
        request: Request<v1::ApplyPoliciesRequest>,
    ) -> Result<Response<v1::ApplyPoliciesResponse>, Status> {
        let request = request.into_inner();
        self.with(|script| {
            script.applied.push(request);
            match &script.refuse_changes {
                Some(refused) => Err(refused.clone()),
                None => Ok(Response::new(v1::ApplyPoliciesResponse {
                    revision: 9,
                    rollout: Some(script.rollout.clone()),
                    ..Default::default()
                })),
            }
        })
    }
}
