//! Those who have not shown who they are, where that is asked: what is open to them, and how much of it they may have this
//! process hold.

use std::time::{Duration, Instant};

use gateway_proto::v1;
use tokio::time::timeout;
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

async fn connection(locked: &Locked) -> Channel {
    let url = format!("http://{}", locked.plane.listen());
    Channel::from_shared(url).unwrap().connect().await.unwrap()
}

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
    let channel = connection(&locked).await;
    let mut watches = Vec::new();
    for _ in 0..FEW {
        watches.push(watch(&channel).await.unwrap());
    }
    let refused = watch(&channel).await.unwrap_err();
    assert!(is_quota(&refused) && refused.message().contains("has shown who he is"), "{refused}");
    assert!(is_quota(&check(&channel).await.unwrap_err()));
    assert!(check(&connection(&locked).await).await.is_ok(), "on another connection");
    watches.pop();
    let end = Instant::now() + BRIEF;
    while check(&channel).await.is_err() {
        assert!(Instant::now() < end, "one has ended");
    }
    let mut registry = v1::registry_service_client::RegistryServiceClient::new(channel.clone());
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
        let channel = connection(&locked).await;
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
    let told = timeout(Duration::from_secs(20), hang(connection(&locked).await)).await.expect("in time");
    assert_eq!(told.code(), Code::DeadlineExceeded);
    assert!(told.message().contains("no whole message came"), "{told}");
}

#[tokio::test]
async fn a_stranger_has_no_room_for_long_heads_and_messages() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let channel = connection(&locked).await;
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
