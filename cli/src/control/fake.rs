//! A scripted control plane on a free port: canned answers, and the requests it saw.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use gateway_proto::{
    reason,
    v1::{
        self, observability_service_server::ObservabilityServiceServer,
        policy_service_server::PolicyServiceServer, registry_service_server::RegistryServiceServer,
        route_service_server::RouteServiceServer,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

mod observability;
mod policies;
mod registry;
mod routes;

/// What it answers, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) services: Vec<v1::Service>,
    /// Served two on a page.
    pub(crate) replicas: Vec<v1::Replica>,
    pub(crate) breakers: Vec<v1::Breaker>,
    pub(crate) events: Vec<v1::Event>,
    pub(crate) deregistered: Vec<v1::DeregisterRequest>,
    pub(crate) registered: Vec<v1::RegisterRequest>,
    /// Answers the next heartbeat with this code and reason.
    pub(crate) refuse_heartbeat: Option<(Code, &'static str)>,
    pub(crate) heartbeats: usize,
    /// Without them, the list of data planes is never answered: for tests of deadlines.
    pub(crate) nodes: Option<Vec<v1::Node>>,
    pub(crate) overrides: Vec<v1::OverrideEntry>,
    /// There is nothing to end.
    pub(crate) has_no_overrides: bool,
    pub(crate) what_if: v1::WhatIfResponse,
    pub(crate) explained: Vec<v1::ExplainReplicaResponse>,
    pub(crate) explained_services: Vec<v1::ExplainServiceResponse>,
    pub(crate) policies: BTreeMap<String, v1::Policy>,
    /// Answers the list of policies with this code.
    pub(crate) refuse_policies: Option<Code>,
    pub(crate) routes: BTreeMap<String, v1::Route>,
    /// What every change is answered with.
    pub(crate) rollout: v1::Rollout,
    /// Refuses a drain without `allow_last`.
    pub(crate) is_last_ready: bool,
    /// What the streams of a drain's receipts send, one list for each stream. One that is followed by another ends
    /// after its list, the last one stays open.
    pub(crate) receipts: Vec<Vec<v1::WatchDrainResponse>>,
    /// Filter and order of lists, as they were asked for.
    pub(crate) queries: Vec<(String, String)>,
    pub(crate) drained: Vec<v1::DrainReplicaRequest>,
    /// What the next drains are answered with, whatever else is scripted.
    pub(crate) drains: VecDeque<Result<v1::DrainStatus, Status>>,
    /// What the next registrations are refused with.
    pub(crate) refuse_register: VecDeque<Status>,
    /// So many registrations after those have no answer.
    pub(crate) ignore_register: usize,
    /// Where a replica is shown to be registered, if it is; without it that is not for who asks.
    pub(crate) shown_at: Option<Option<String>>,
    /// Ids of replicas that were removed a short while ago.
    pub(crate) removed: Vec<&'static str>,
    /// Refuses lists of replicas.
    pub(crate) hides_lists: bool,
    /// So many of those were refused.
    pub(crate) denials: usize,
    /// So many times somebody looked at one replica.
    pub(crate) looks: watch::Sender<usize>,
    /// Streams that keep leases alive are handed out, and answered by the test. Without it there are none.
    pub(crate) keep_alive: Option<mpsc::UnboundedSender<KeptAlive>>,
    pub(crate) undrained: Vec<v1::UndrainReplicaRequest>,
    pub(crate) released: Vec<v1::ReleaseGuardRequest>,
    pub(crate) forced: Vec<v1::OverrideBreakerRequest>,
    pub(crate) reset: Vec<v1::ResetBreakerRequest>,
    pub(crate) ended: Vec<v1::EndOverrideRequest>,
    pub(crate) updated: Vec<v1::UpdatePolicyRequest>,
    /// Changes of routes, made or only checked.
    pub(crate) routed: Vec<v1::UpdateRouteRequest>,
    pub(crate) deleted: Vec<v1::DeletePolicyRequest>,
    /// Changes of several policies, and why they are refused if they are.
    pub(crate) applied: Vec<v1::ApplyPoliciesRequest>,
    pub(crate) refuse_changes: Option<Status>,
}

/// One stream that keeps leases alive: what comes on it, and where answers go.
pub(crate) type KeptAlive =
    (Streaming<v1::KeepAliveRequest>, mpsc::Sender<Result<v1::KeepAliveResponse, Status>>);

/// Shared with the running server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Script>>);

impl Fake {
    /// Serves `script` until the test's runtime ends.
    pub(crate) async fn start(script: Script) -> (Self, SocketAddr) {
        let fake = Self(Arc::new(Mutex::new(script)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(RegistryServiceServer::new(fake.clone()))
            .add_service(PolicyServiceServer::new(fake.clone()))
            .add_service(RouteServiceServer::new(fake.clone()))
            .add_service(ObservabilityServiceServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (fake, address)
    }

    /// Looks at the script or changes it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Script) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

pub(crate) fn refusal(code: Code, reason: &str, why: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, reason::DOMAIN, HashMap::new());
    Status::with_error_details(code, why, details)
}

/// A stream that sends `messages` and then ends, or stays open for as long as the test runs.
fn stream<T: Send + 'static>(messages: Vec<T>, stays_open: bool) -> ReceiverStream<Result<T, Status>> {
    let (sender, receiver) = mpsc::channel(messages.len().max(1));
    for message in messages {
        sender.try_send(Ok(message)).expect("there is room for all of them");
    }
    if stays_open {
        tokio::spawn(async move { sender.closed().await });
    }
    ReceiverStream::new(receiver)
}

fn not_scripted() -> Status {
    Status::unimplemented("not scripted")
}
