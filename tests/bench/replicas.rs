//! The replicas that are registered: like those of real services in the length of what they say of themselves.

use std::time::Duration;

use anyhow::Result;
use gateway_proto::v1::{
    Endpoint, RegisterRequest, RegisterResponse, registry_service_client::RegistryServiceClient,
};

use crate::{
    callers::{connect_many, drive},
    programs::Server,
};

/// Replicas of one service.
const PER_SERVICE: usize = 100;
/// Callers that register what is there before a measurement.
const CALLERS: usize = 64;
/// No lease lapses during a measurement.
const TTL_SECS: i64 = 3600;

/// The registration of the replica with this number; no two have the same key or address.
pub(crate) fn registration(number: usize) -> RegisterRequest {
    let [_, a, b, c] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let labels = [("zone", "eu-west-1a"), ("build", "2024-05-17.3")];
    RegisterRequest {
        service: service(number),
        replica_id: format!("r-{number:08}"),
        endpoint: Some(Endpoint { address: format!("10.{a}.{b}.{c}:8080"), ..Default::default() }),
        version: "1.14.2".into(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        lease_ttl: Some(prost_types::Duration { seconds: TTL_SECS, nanos: 0 }),
        ..Default::default()
    }
}

/// The service of the replica with this number.
pub(crate) fn service(number: usize) -> String {
    format!("service-{:05}", number / PER_SERVICE)
}

/// Registers the replicas with these numbers, and yields all answers in no order.
pub(crate) async fn register(
    server: &Server,
    numbers: std::ops::Range<usize>,
) -> Result<Vec<RegisterResponse>> {
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let count = numbers.len();
    let callers = connect_many(&server.url(), CALLERS.min(count)).await?.into_iter().enumerate();
    let callers: Vec<_> = callers
        .map(|(caller, channel)| {
            let client = RegistryServiceClient::new(channel);
            let (answers, numbers) = (answers.clone(), numbers.clone());
            move |call: usize| {
                let number = numbers.start + caller + call * CALLERS.min(count);
                let (mut client, answers) = (client.clone(), answers.clone());
                let is_over = number >= numbers.end;
                async move {
                    if !is_over {
                        answers.send(client.register(registration(number)).await?.into_inner())?;
                    }
                    Ok(())
                }
            }
        })
        .collect();
    let each = count.div_ceil(callers.len());
    drive(callers, Duration::from_secs(600), each).await?;
    drop(answers);
    let mut all = Vec::with_capacity(count);
    while let Some(answer) = answered.recv().await {
        all.push(answer);
    }
    Ok(all)
}
