//! Those who have not shown who they are, where that is asked: what is open to them, and how much of it they may have this
//! process hold.

use std::time::{Duration, Instant};

use gateway_proto::v1::{self, registry_service_client::RegistryServiceClient};
use tokio::{task::JoinSet, time::timeout};
use tokio_stream::pending;
use tonic::{
    Code, Request, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_prost::ProstCodec;

use crate::{
    access::{Locked, entries, shown},
    plane::explain,
};

/// As many as one connection may have under way.
const FEW: usize = 8;
const BRIEF: Duration = Duration::from_secs(5);

async fn watch(channel: &Channel) -> Result<Streaming<HealthCheckResponse>, Status> {
    let mut watching =
        HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await?.into_inner();
    assert!(watching.message().await?.is_some(), "its state at once");
    Ok(watching)
}

async fn check(channel: &Channel) -> Result<(), Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(drop)
}

/// A check whose message never comes.
async fn hang(channel: Channel) -> Status {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    client.client_streaming(Request::new(pending()), path, codec).await.map(drop).unwrap_err()
}

fn is_quota(refused: &Status) -> bool {
    refused.code() == Code::ResourceExhausted && explain(refused).1 == "QUOTA_EXCEEDED"
}

#[tokio::test]
async fn a_connection_of_strangers_has_a_few_requests_under_way_until_somebody_on_it_is_known() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let channel = locked.plane.connect().await;
    let mut watches = Vec::new();
    for _ in 0..FEW {
        watches.push(watch(&channel).await.unwrap());
    }
    let refused = watch(&channel).await.unwrap_err();
    assert!(is_quota(&refused) && refused.message().contains("has shown who he is"), "{refused}");
    assert!(is_quota(&check(&channel).await.unwrap_err()));
    assert!(check(&locked.plane.connect().await).await.is_ok(), "on another connection");
    watches.pop();
    let end = Instant::now() + BRIEF;
    while check(&channel).await.is_err() {
        assert!(Instant::now() < end, "one has ended");
    }
    let mut registry = RegistryServiceClient::new(channel.clone());
    registry.list_services(shown("see", v1::ListServicesRequest::default())).await.unwrap();
    for _ in 0..2 * FEW {
        watches.push(watch(&channel).await.unwrap());
    }
}

#[tokio::test]
async fn strangers_at_one_address_have_half_of_the_places_to_watch_health_and_may_still_check_it() {
    const HALF: usize = 512;
    let locked = Locked::start(&entries(), &[], 5000).await;
    let mut held = Vec::new();
    let (channel, refused) = 'full: loop {
        let channel = locked.plane.connect().await;
        for _ in 0..FEW {
            match watch(&channel).await {
                Ok(watching) => held.push(watching),
                Err(refused) => break 'full (channel, refused),
            }
        }
    };
    assert!(is_quota(&refused), "{refused}");
    assert_eq!(held.len(), HALF);
    assert!(check(&channel).await.is_ok());
    let known = HealthClient::new(channel).watch(shown("see", HealthCheckRequest::default())).await;
    assert!(
        known.unwrap().into_inner().message().await.unwrap().is_some(),
        "who is known needs no such place"
    );
}

#[tokio::test]
async fn a_stranger_whose_message_does_not_come_in_time_is_told_so() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let told = timeout(Duration::from_secs(20), hang(locked.plane.connect().await)).await.expect("in time");
    assert_eq!(told.code(), Code::DeadlineExceeded);
    assert!(told.message().contains("no whole message came"), "{told}");
}

#[tokio::test]
async fn a_stranger_has_no_room_for_long_heads_and_messages() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let channel = locked.plane.connect().await;
    let mut padded = Request::new(HealthCheckRequest::default());
    padded.metadata_mut().insert("x-padding", "a".repeat(5000).parse().unwrap());
    let refused = HealthClient::new(channel.clone()).check(padded).await.unwrap_err();
    assert!(is_quota(&refused) && refused.message().contains("in the head"), "{refused}");
    let long = HealthCheckRequest { service: "a".repeat(5000) };
    let refused = HealthClient::new(channel.clone()).check(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("larger than 4096 bytes"), "{refused}");
    assert!(check(&channel).await.is_ok());
}

#[tokio::test]
async fn of_calls_that_a_stranger_begins_at_once_few_are_and_the_others_wait_until_somebody_is_known() {
    const CALLS: usize = 100;
    let locked = Locked::start(&entries(), &[], 5000).await;
    let mut registry = RegistryServiceClient::new(locked.plane.connect().await);
    let mut refused = JoinSet::new();
    for _ in 0..CALLS {
        let mut registry = registry.clone();
        refused.spawn(async move {
            let status = registry.list_services(v1::ListServicesRequest::default()).await.unwrap_err();
            explain(&status).1
        });
    }
    assert_eq!(refused.join_next().await.unwrap().unwrap(), "CREDENTIALS_REQUIRED");
    // Whatever was begun together with that one is counted by then.
    let metrics = locked.ask("GET", "/metrics", "see", "").await;
    let (_, counted) =
        metrics.body.split_once("gateway_access_denied_total{reason=\"CREDENTIALS_REQUIRED\"} ").unwrap();
    let begun: usize = counted.lines().next().unwrap().parse().unwrap();
    assert!(begun < CALLS / 2, "{begun}");
    // It stands behind all of them, and is waited for no longer than a lease lasts.
    let known = registry.list_services(shown("see", v1::ListServicesRequest::default()));
    timeout(Duration::from_secs(60), known).await.expect("in time").unwrap();
    assert_eq!(refused.join_all().await.len(), CALLS - 1);
}
