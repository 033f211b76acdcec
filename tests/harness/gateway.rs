//! A whole gateway: a control plane, a data plane that follows it, and shorthands for what tests ask of them.

use std::{net::SocketAddr, path::Path, time::Duration};

use gateway_proto::v1::{
    Breaker, BreakerState, Endpoint, HealthCheckPolicy, HealthCheckType, ListBreakersRequest,
    ListEventsRequest, ListNodesRequest, ListReplicasRequest, Node, NodeState, Policy, RegisterRequest,
    Replica, UpdatePolicyRequest,
};
use tempfile::TempDir;

use crate::{ControlPlane, DataPlane, eventually, eventually_within};

/// Both planes, with their files in a folder that goes with them.
#[derive(Debug)]
pub struct Gateway {
    /// The control plane.
    pub control: ControlPlane,
    /// The data plane, `dp-1`.
    pub data: DataPlane,
    // Last: it is removed when the processes are gone.
    directory: TempDir,
}

impl Gateway {
    /// Starts both planes.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("there is a folder for temporary files");
        let control = ControlPlane::start(&directory.path().join("registry.redb")).await;
        let data = DataPlane::following(&control, "dp-1", &directory.path().join("dp-1")).await;
        Self { control, data, directory }
    }

    /// The same, which may inject faults on purpose.
    pub async fn start_with_faults() -> Self {
        const ALLOW: &str = "--allow-fault-injection";
        Self::start_with(&[ALLOW], &[ALLOW]).await
    }

    /// The same, with further flags of each.
    pub async fn start_with(of_control: &[&str], of_data: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("there is a folder for temporary files");
        let control = ControlPlane::start_with(&directory.path().join("registry.redb"), of_control).await;
        let cache = directory.path().join("dp-1").display().to_string();
        let url = control.url();
        let mut flags = vec!["--control-plane", &url, "--node-id", "dp-1", "--cache-dir", &cache];
        flags.extend(of_data);
        let data = DataPlane::start(&flags).await;
        Self { control, data, directory }
    }

    /// The same, of which no replica is actively checked: what is out, is out by requests.
    pub async fn start_unchecked() -> Self {
        let gateway = Self::start().await;
        let off = HealthCheckPolicy { r#type: Some(HealthCheckType::Off.into()), ..Default::default() };
        let request = UpdatePolicyRequest {
            policy: Some(Policy { service: "*".into(), health_check: Some(off), ..Default::default() }),
            allow_missing: true,
            ..Default::default()
        };
        gateway.control.policies().update_policy(request).await.expect("the policy is valid");
        gateway.synced().await;
        gateway
    }

    /// Where this gateway's files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where clients connect.
    pub fn proxy(&self) -> SocketAddr {
        self.data.address()
    }

    /// Registers a replica without a lease, and waits until the data planes route by it.
    pub async fn register(&self, service: &str, replica_id: &str, address: SocketAddr) -> Replica {
        let request = RegisterRequest {
            service: service.into(),
            replica_id: replica_id.into(),
            endpoint: Some(Endpoint { address: address.to_string(), ..Default::default() }),
            permanent: true,
            ..Default::default()
        };
        let answer = self.control.registry().register(request).await.expect("the registration is valid");
        self.synced().await;
        answer.into_inner().replica.expect("an answer holds the replica")
    }

    /// Waits until every connected data plane has the registry's revision.
    pub async fn synced(&self) {
        eventually("every data plane has the registry's revision", async || {
            let request = ListNodesRequest::default();
            let answer = self.control.observability().list_nodes(request).await.map_err(|e| e.to_string())?;
            let nodes = answer.into_inner().nodes;
            // One that is on its way is known before it follows: at least one must be there.
            let mut connected =
                nodes.iter().map(Node::state).filter(|&state| state != NodeState::Disconnected).peekable();
            let is_somebody_there = connected.peek().is_some();
            let are_synced = connected.all(|state| state == NodeState::Synced);
            if is_somebody_there && are_synced { Ok(()) } else { Err(format!("{nodes:?}")) }
        })
        .await;
    }

    /// All replicas of a service; none when there is no such service.
    pub async fn replicas(&self, service: &str) -> Vec<Replica> {
        let request = ListReplicasRequest { service: service.into(), ..Default::default() };
        match self.control.registry().list_replicas(request).await {
            Ok(answer) => answer.into_inner().replicas,
            Err(status) if status.code() == tonic::Code::NotFound => Vec::new(),
            Err(status) => panic!("ListReplicas: {status}"),
        }
    }

    /// The breaker of a replica, merged over data planes, as the control plane knows it.
    pub async fn breaker(&self, service: &str, replica_id: &str) -> Option<Breaker> {
        let request = ListBreakersRequest {
            service: service.into(),
            replica_id: replica_id.into(),
            ..Default::default()
        };
        let answer = self.control.observability().list_breakers(request).await.ok()?;
        answer.into_inner().breakers.pop()
    }

    /// Waits until the control plane shows a replica's breaker in `state`.
    pub async fn breaker_becomes(
        &self,
        service: &str,
        replica_id: &str,
        state: BreakerState,
        within: Duration,
    ) -> Breaker {
        let what = format!("the breaker of {service}/{replica_id} becomes {state:?}");
        eventually_within(within, &what, async || match self.breaker(service, replica_id).await {
            Some(breaker) if breaker.state() == state => Ok(breaker),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Types of a replica's events, oldest first.
    pub async fn event_types(&self, service: &str, replica_id: &str) -> Vec<String> {
        let request = ListEventsRequest {
            service: service.into(),
            replica_id: replica_id.into(),
            ..Default::default()
        };
        let answer = self.control.observability().list_events(request).await.expect("events can be listed");
        answer.into_inner().events.into_iter().rev().map(|event| event.event_type).collect()
    }
}
