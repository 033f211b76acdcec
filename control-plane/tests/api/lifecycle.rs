use std::time::Duration;

use control_plane::{Config, store::StoreLocation};
use gateway_proto::v1;
use gateway_runtime::Shutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};

use crate::plane::{PATIENCE, Plane, explain, request, seconds};

#[tokio::test]
async fn registrations_leases_and_revisions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreLocation::Redb(folder.path().join("gateway.redb"));
    let plane = Plane::start_with(|config| config.store = store.clone()).await;
    let wish = v1::RegisterRequest { lease_ttl: seconds(60), ..request("orders", "10.0.0.1:80") };
    let leased = plane.register(wish).await;
    let permanent = v1::RegisterRequest { permanent: true, ..request("orders", "10.0.0.2:80") };
    plane.register(permanent).await;
    let list = v1::ListReplicasRequest { service: "-".into(), ..Default::default() };
    let strip = |mut list: v1::ListReplicasResponse| {
        for lease in list.replicas.iter_mut().filter_map(|replica| replica.lease.as_mut()) {
            (lease.expire_time, lease.last_renew_time) = (None, None);
        }
        list
    };
    let before = strip(plane.registry().list_replicas(list.clone()).await.unwrap().into_inner());
    plane.stop().await;

    let plane = Plane::start_with(|config| config.store = store).await;
    let after = strip(plane.registry().list_replicas(list).await.unwrap().into_inner());
    assert_eq!((after.revision, &after.replicas), (2, &before.replicas));
    let replica = leased.replica.unwrap();
    let beat = v1::HeartbeatRequest {
        service: replica.service,
        replica_id: replica.replica_id,
        lease_id: leased.lease_id,
        ..Default::default()
    };
    plane.registry().heartbeat(beat).await.unwrap();
    let third = plane.register(request("orders", "10.0.0.3:80")).await.replica.unwrap();
    assert_eq!(third.revision, 3);
    plane.stop().await;
}

#[tokio::test]
async fn a_taken_port_or_store_is_told_by_its_flag_and_may_be_free_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreLocation::Redb(folder.path().join("gateway.redb"));
    let plane = Plane::start_with(|config| config.store = store.clone()).await;
    let any = "127.0.0.1:0".parse().unwrap();
    let taken = plane.listen();
    let nowhere = StoreLocation::Redb(folder.path().join("no/such/folder.redb"));
    for (listen, store, flag, code) in [
        (taken, StoreLocation::Memory, "--listen ", 1),
        (any, store, "--store redb:", 1),
        (any, nowhere, "--store redb:", 2),
    ] {
        let config = Config { listen: Some(listen), store, ..Config::default() };
        let failure = control_plane::start(config, Shutdown::new()).await.unwrap_err();
        assert_eq!(failure.code(), code);
        assert!(failure.to_string().starts_with(flag), "{failure}");
    }
}

#[tokio::test]
async fn it_ends_with_streams_and_watches_open_and_tells_them() {
    let plane = Plane::start().await;
    let watch = v1::WatchEventsRequest::default();
    let mut events = plane.observability().watch_events(watch).await.unwrap().into_inner();
    let mut health = HealthClient::new(plane.channel.clone())
        .watch(HealthCheckRequest { service: "gateway.v1.DiscoveryService".into() })
        .await
        .unwrap()
        .into_inner();
    let first = health.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    plane.shutdown.begin();
    let last = timeout(PATIENCE, health.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    let status = timeout(PATIENCE, events.message()).await.unwrap().unwrap_err();
    assert_eq!(explain(&status).1, "SHUTTING_DOWN");
    // Well before busy connections would be cut off.
    timeout(Duration::from_secs(5), plane.running.finished()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_has_asked_for_nothing_does_not_hold_up_the_end() {
    let plane = Plane::start().await;
    let silent = TcpStream::connect(plane.listen()).await.unwrap();
    let mut begun = TcpStream::connect(plane.listen()).await.unwrap();
    begun.write_all(b"PRI * HT").await.unwrap();
    // Accepted in order: once this one is served, the others are waited for.
    let mut served = TcpStream::connect(plane.listen()).await.unwrap();
    served.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    served.read_exact(&mut [0; 16]).await.unwrap();
    plane.shutdown.begin();
    timeout(Duration::from_secs(5), plane.running.finished()).await.unwrap().unwrap();
    drop((silent, begun));
}

#[tokio::test]
async fn both_versions_of_reflection_know_every_service() {
    let plane = Plane::start().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answer = ServerReflectionClient::new(plane.channel.clone())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["gateway.v1.RegistryService", "gateway.v1.DiscoveryService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "gateway.v1.RegistryService".into(),
        )),
    };
    let answer = v1alpha::server_reflection_client::ServerReflectionClient::new(plane.channel.clone())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    use v1alpha::server_reflection_response::MessageResponse as Alpha;
    assert!(matches!(answer.message_response, Some(Alpha::FileDescriptorResponse(_))), "{answer:?}");
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_and_are_served_when_there_is_room() {
    let plane = Plane::start_with(|config| config.max_connections = 2).await;
    // The test's own channel holds one place, this connection the other.
    let mut holder = TcpStream::connect(plane.listen()).await.unwrap();
    holder.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 16];
    holder.read_exact(&mut answer).await.unwrap();

    let mut waiting = TcpStream::connect(plane.listen()).await.unwrap();
    waiting.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let early = timeout(Duration::from_millis(200), waiting.read_exact(&mut answer)).await;
    assert!(early.is_err(), "a third connection is served");
    drop(holder);
    timeout(PATIENCE, waiting.read_exact(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_port_is_free_again_when_it_has_finished() {
    let plane = Plane::start().await;
    let listen = plane.listen();
    plane.stop().await;
    TcpListener::bind(listen).await.unwrap();
}
