//! The gRPC edge: the services of `gateway.v1`, health checking and reflection.

mod access;
mod asked;
mod breakers;
mod discovery;
mod drains;
mod explain;
mod handled;
mod keep_alive;
mod observability;
mod overrides;
mod page;
mod peers;
mod policies;
mod question;
mod registry;
mod remainder;
mod routes;
mod store;
mod watch_replicas;
mod what_if;

use std::{sync::Arc, time::Duration};

use axum::Router;
use gateway_proto::{
    Invalid, NodeId,
    v1::{
        self, observability_service_server::ObservabilityServiceServer,
        peer_service_server::PeerServiceServer, policy_service_server::PolicyServiceServer,
        registry_service_server::RegistryServiceServer, route_service_server::RouteServiceServer,
        store_service_server::StoreServiceServer,
    },
};
use tonic::{Code, Status, Streaming, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

pub(crate) use self::discovery::MAX_PARTS_UNDER_WAY;
use self::{
    discovery::Discovery, observability::Observability, peers::Peers, policies::Policies, registry::Registry,
    store::Stores,
};
use crate::{
    edge::Edge,
    observe::Identity,
    panics::{self, Containment, Handler},
    refusal::Refusal,
    registry::text_within,
};

/// The largest request but for reports. The largest that makes sense is a `Hello` with a thousand names, 65 KiB.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// The largest report: some ten thousand breakers. A data plane with more sends them in several messages.
const MAX_REPORT_BYTES: usize = 4 * 1024 * 1024;
/// The largest question that is open to strangers: the name of a service, of a file or of a symbol.
const MAX_OPEN_BYTES: usize = 4 * 1024;
/// How long a stream may be open without saying whose it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// What data planes may say of their version.
const MAX_VERSION_CHARS: usize = 63;
/// What a process calls itself beside its data plane's id.
const MAX_PROCESS_CHARS: usize = 63;

/// All gRPC services as one router.
pub(crate) fn router(edge: &Arc<Edge>, health: HealthReporter) -> Router {
    let registry = RegistryServiceServer::new(Registry(Arc::clone(edge)));
    let discovery = Discovery(Arc::clone(edge));
    let policies = PolicyServiceServer::new(Policies(Arc::clone(edge)));
    let routes = RouteServiceServer::new(routes::Routes(Arc::clone(edge)));
    let observability = ObservabilityServiceServer::new(Observability(Arc::clone(edge)));
    let peers = PeerServiceServer::new(Peers(Arc::clone(edge)));
    let stores = StoreServiceServer::new(Stores(Arc::clone(edge)));
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(gateway_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // With these, a client that knows nothing of us can read the details of an error.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    // Either version lists itself only, unless it is told of the other.
    let (v1, v1alpha) =
        (tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    const VALID: &str = "descriptors that the build wrote are valid";
    let reflection_v1 = reflection().register_encoded_file_descriptor_set(v1alpha).build_v1().expect(VALID);
    let reflection_v1alpha =
        reflection().register_encoded_file_descriptor_set(v1).build_v1alpha().expect(VALID);
    let containment = Containment { panics: edge.panics.clone(), handler: Handler::Grpc };
    Routes::new(registry.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(policies.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(routes.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(discovery)
        .add_service(observability.max_decoding_message_size(MAX_REPORT_BYTES))
        .add_service(peers.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(stores.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(health.max_decoding_message_size(MAX_OPEN_BYTES))
        .add_service(reflection_v1.max_decoding_message_size(MAX_OPEN_BYTES))
        .add_service(reflection_v1alpha.max_decoding_message_size(MAX_OPEN_BYTES))
        .into_axum_router()
        .layer(axum::middleware::from_fn_with_state(Arc::clone(edge), access::check))
        // Outside of the gate: it refuses by the head, and the message is on its way.
        .layer(axum::middleware::from_fn_with_state(remainder::Readers::new(), remainder::read))
        // Inside of what counts, so that a panic is counted as the INTERNAL that its caller gets.
        .layer(axum::middleware::from_fn_with_state(containment, panics::contain))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&edge.effects.metrics), handled::count))
}

/// Tells health checkers whether changes are taken: of the whole server and of each service.
pub(crate) async fn report_health(health: &HealthReporter, is_serving: bool) {
    let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in health_names() {
        health.set_service_status(service, status).await;
    }
}

/// Ends every health watch: they would hold up the end of the process.
pub(crate) async fn end_health(health: &mut HealthReporter) {
    for service in health_names() {
        health.clear_service_status(service).await;
    }
}

fn health_names() -> [&'static str; 8] {
    [
        "",
        RegistryServiceServer::<Registry>::NAME,
        Discovery::NAME,
        PolicyServiceServer::<Policies>::NAME,
        RouteServiceServer::<routes::Routes>::NAME,
        ObservabilityServiceServer::<Observability>::NAME,
        PeerServiceServer::<Peers>::NAME,
        StoreServiceServer::<Stores>::NAME,
    ]
}

/// The next message of a stream; cancel safe. A message over the service's limit is a refusal of ours, not tonic's.
async fn next_message<T>(inbound: &mut Streaming<T>, limit: usize) -> Result<Option<T>, Status> {
    inbound.message().await.map_err(|status| match status.code() {
        Code::OutOfRange => Refusal::TooLarge { limit }.into(),
        _ => status,
    })
}

/// Reads who a data plane says it is.
fn identity(wire: v1::NodeIdentity, address: String) -> Result<Identity, Invalid> {
    let id = NodeId::parse(&wire.node_id)?;
    text_within("version", &wire.version, MAX_VERSION_CHARS)?;
    text_within("process_id", &wire.process_id, MAX_PROCESS_CHARS)?;
    Ok(Identity {
        id,
        version: wire.version,
        process: wire.process_id,
        address,
        stream_number: wire.stream_number,
    })
}
