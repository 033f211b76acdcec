//! What the systems before this gateway did, each by the figure that shows it. docs/predecessors.md says which test holds which of
//! their features; where another file holds one already, it is not held here again.

mod breakers;
mod failures;
mod operation;
mod outcomes;
mod shares;

use gateway_proto::v1::{Breaker, BreakerState};
use gateway_tests::{Act, Gateway, Scripted, command, eventually, http1, http1::Connection};
use http::Method;
use serde_json::Value;

/// An answer without a body.
fn status(code: u16) -> Act {
    Act::Answer(format!("HTTP/1.1 {code} Status\r\ncontent-length: 0\r\n\r\n").into_bytes())
}

/// A replica that answers with the status that its request's target ends in.
fn obedient() -> Scripted {
    Scripted::start(|seen, _| status(seen.target().rsplit('/').next().unwrap().parse().unwrap()))
}

/// Sets a policy as an operator does, and waits until the data planes go by it.
async fn set(gateway: &Gateway, service: &str, settings: &[&str]) {
    let args = [&["policy", "set", service][..], settings].concat();
    command::gwctl(&gateway.control.url(), &args).await.success();
    gateway.synced().await;
}

async fn ask(client: &mut Connection, target: &str) -> u16 {
    client.send(http1::request(Method::GET, target)).await.unwrap().status().as_u16()
}

/// Waits until the control plane shows a breaker as it is wanted.
async fn shows(gateway: &Gateway, service: &str, what: &str, is_it: impl Fn(&Breaker) -> bool) -> Breaker {
    eventually(&format!("{service}: {what}"), async || match gateway.breaker(service, "r-1").await {
        Some(breaker) if is_it(&breaker) => Ok(breaker),
        other => Err(format!("{other:?}")),
    })
    .await
}

fn is_closed(breaker: &Breaker) -> bool {
    breaker.state() == BreakerState::Closed
}

/// A breaker as its data plane has it at this moment.
async fn live(gateway: &Gateway, service: &str) -> Value {
    let answer = http1::get(gateway.data.admin(), "/breakers").await;
    let list: Value = serde_json::from_slice(answer.body()).unwrap();
    let rows = list["breakers"].as_array().unwrap();
    rows.iter().find(|row| row["service"] == service).unwrap_or_else(|| panic!("{list}")).clone()
}
