//! The registry's half of the scripted control plane.

use std::collections::HashMap;

use gateway_proto::{
    reason,
    v1::{self, registry_service_server::RegistryService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Fake, not_scripted, refusal, stream};

#[tonic::async_trait]
impl RegistryService for Fake {
    type KeepAliveStream = ReceiverStream<Result<v1::KeepAliveResponse, Status>>;
    type WatchDrainStream = ReceiverStream<Result<v1::WatchDrainResponse, Status>>;
    type WatchReplicasStream = ReceiverStream<Result<v1::WatchReplicasResponse, Status>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let streams = self.with(|script| script.keep_alive.clone()).ok_or_else(not_scripted)?;
        let (answers, receiver) = mpsc::channel(8);
        streams.send((request.into_inner(), answers)).map_err(|_| not_scripted())?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn drain_replica(
        &self,
        request: Request<v1::DrainReplicaRequest>,
    ) -> Result<Response<v1::DrainReplicaResponse>, Status> {
        let request = request.into_inner();
        self.with(|script| {
            if let Some(answer) = script.drains.pop_front() {
                script.drained.push(request);
                let status = Some(answer?);
                return Ok(Response::new(v1::DrainReplicaResponse { replica: None, status }));
            }
            if script.is_last_ready && !request.allow_last {
                return Err(refusal(
                    Code::FailedPrecondition,
                    reason::LAST_READY_REPLICA,
                    "it is the last ready replica",
                ));
            }
            let replica = script.replicas.iter().find(|replica| replica.replica_id == request.replica_id);
            // What its receipts begin with: who waits has that, however late the first of them comes.
            let begun = script.receipts.first().and_then(|receipts| receipts.first()?.status.clone());
            let status = begun.unwrap_or_else(|| v1::DrainStatus {
                rollout: Some(script.rollout.clone()),
                ..Default::default()
            });
            let replica = replica
                .cloned()
                .map(|replica| v1::Replica { mode: v1::ReplicaMode::Draining.into(), ..replica });
            script.drained.push(request);
            Ok(Response::new(v1::DrainReplicaResponse { replica, status: Some(status) }))
        })
    }

    async fn watch_drain(
        &self,
        _: Request<v1::WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        let (messages, stays_open) = self.with(|script| match script.receipts.len() {
            0 => (Vec::new(), true),
            count => (script.receipts.remove(0), count == 1),
        });
        Ok(Response::new(stream(messages, stays_open)))
    }

    async fn undrain_replica(
        &self,
        request: Request<v1::UndrainReplicaRequest>,
    ) -> Result<Response<v1::UndrainReplicaResponse>, Status> {
        self.with(|script| script.undrained.push(request.into_inner()));
        Ok(Response::new(v1::UndrainReplicaResponse::default()))
    }

    async fn release_guard(
        &self,
        request: Request<v1::ReleaseGuardRequest>,
    ) -> Result<Response<v1::ReleaseGuardResponse>, Status> {
        self.with(|script| script.released.push(request.into_inner()));
        Ok(Response::new(v1::ReleaseGuardResponse { replica_ids: vec!["r-1".into()], expire_time: None }))
    }

    async fn watch_replicas(
        &self,
        _: Request<v1::WatchReplicasRequest>,
    ) -> Result<Response<Self::WatchReplicasStream>, Status> {
        Err(not_scripted())
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        if request.weight > 1000 {
            let mut details = ErrorDetails::with_bad_request_violation("weight", "2000 is not in 1..=1000");
            details.set_error_info(reason::INVALID_FIELD, reason::DOMAIN, HashMap::new());
            return Err(Status::with_error_details(Code::InvalidArgument, "bad weight", details));
        }
        let replica = v1::Replica {
            service: request.service.clone(),
            replica_id: request.replica_id.clone(),
            ..Default::default()
        };
        let (created, refused, is_ignored) = self.with(|script| {
            script.registered.push(request);
            let refused = script.refuse_register.pop_front();
            let is_ignored = refused.is_none() && script.ignore_register > 0;
            script.ignore_register -= usize::from(is_ignored);
            (script.registered.len() == 1, refused, is_ignored)
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        if is_ignored {
            return std::future::pending().await;
        }
        Ok(Response::new(v1::RegisterResponse {
            replica: Some(replica),
            lease_id: format!("{:032x}", 7),
            heartbeat_interval: Some(gateway_proto::time::duration(std::time::Duration::from_millis(10))),
            created,
            rollout: None,
        }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        self.with(|script| script.deregistered.push(request.into_inner()));
        Ok(Response::new(v1::DeregisterResponse { removed: true, revision: 9 }))
    }

    async fn heartbeat(
        &self,
        _: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let refused = self.with(|script| {
            script.heartbeats += 1;
            script.refuse_heartbeat.take()
        });
        match refused {
            Some((code, reason)) => Err(refusal(code, reason, "scripted")),
            None => Ok(Response::new(v1::HeartbeatResponse::default())),
        }
    }

    async fn report_health(
        &self,
        _: Request<v1::ReportHealthRequest>,
    ) -> Result<Response<v1::ReportHealthResponse>, Status> {
        Err(not_scripted())
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let request = request.into_inner();
        let services = self.with(|script| {
            script.queries.push((request.filter, request.order_by));
            script.services.clone()
        });
        Ok(Response::new(v1::ListServicesResponse { services, ..Default::default() }))
    }

    async fn get_service(
        &self,
        _: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        Err(not_scripted())
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let request = request.into_inner();
        if self.with(|script| script.hides_lists) {
            self.with(|script| script.denials += 1);
            return Err(refusal(
                Code::PermissionDenied,
                reason::PERMISSION_DENIED,
                "b may not look at the registry: that takes the role reader",
            ));
        }
        let all = self.with(|script| {
            script.queries.push((request.filter.clone(), request.order_by.clone()));
            script.replicas.clone()
        });
        let fitting: Vec<_> =
            all.into_iter().filter(|r| request.service == "-" || r.service == request.service).collect();
        if fitting.is_empty() && request.service != "-" {
            return Err(refusal(Code::NotFound, reason::SERVICE_NOT_FOUND, "no such service"));
        }
        let from: usize = request.page_token.parse().unwrap_or(0);
        let next = from + 2;
        Ok(Response::new(v1::ListReplicasResponse {
            replicas: fitting.iter().skip(from).take(2).cloned().collect(),
            next_page_token: if next < fitting.len() { next.to_string() } else { String::new() },
            revision: i64::try_from(next).unwrap(),
        }))
    }

    async fn get_replica(
        &self,
        request: Request<v1::GetReplicaRequest>,
    ) -> Result<Response<v1::GetReplicaResponse>, Status> {
        let asked = request.into_inner();
        self.with(|script| script.looks.send_modify(|looks| *looks += 1));
        let is_asked = |replica: &&v1::Replica| {
            replica.service == asked.service && replica.replica_id == asked.replica_id
        };
        if let Some(found) = self.with(|script| script.replicas.iter().find(is_asked).cloned()) {
            return Ok(Response::new(v1::GetReplicaResponse { replica: Some(found) }));
        }
        if self.with(|script| script.removed.contains(&asked.replica_id.as_str())) {
            let why = "replica orders/r-1 is not registered any more: deregistered by ana";
            return Err(refusal(Code::NotFound, reason::REPLICA_REMOVED, why));
        }
        match self.with(|script| script.shown_at.clone()) {
            None => Err(Status::permission_denied("for readers")),
            Some(None) => Err(refusal(Code::NotFound, reason::REPLICA_NOT_FOUND, "it is not there")),
            Some(Some(address)) => {
                let endpoint = Some(v1::Endpoint { address, ..Default::default() });
                let replica = Some(v1::Replica { endpoint, ..Default::default() });
                Ok(Response::new(v1::GetReplicaResponse { replica }))
            }
        }
    }
}
