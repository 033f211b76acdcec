//! What operators see of data planes that are not as they should be, and of rules that are not in force: resets, refusals, versions,
//! replays.

use std::sync::atomic::Ordering;

use gateway_proto::v1::{
    Ack, BreakerPolicy, Hello, LeftControlPlane, Nack, NodeIdentity, Policy, StreamSnapshotsRequest,
    StreamSnapshotsResponse, UpdatePolicyRequest, discovery_service_client::DiscoveryServiceClient,
    stream_snapshots_request::Message,
};
use gateway_tests::Gateway;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::World;

/// A data plane that follows the registry, and acks what the test wants.
struct Odd {
    requests: mpsc::Sender<StreamSnapshotsRequest>,
    responses: Streaming<StreamSnapshotsResponse>,
}

impl Odd {
    async fn connect(world: &World) -> Self {
        let mut client = DiscoveryServiceClient::connect(world.gateway.control.url()).await.unwrap();
        let (requests, sent) = mpsc::channel(8);
        let node = NodeIdentity {
            node_id: "dp-odd".into(),
            version: "0.0.9".into(),
            process_id: "one".into(),
            ..Default::default()
        };
        let left = LeftControlPlane {
            url: "http://control-b:7400".into(),
            reason: "outdated".into(),
            ..Default::default()
        };
        let hello =
            Hello { node: Some(node), services: vec!["*".into()], left: Some(left), ..Default::default() };
        requests.send(StreamSnapshotsRequest { message: Some(Message::Hello(hello)) }).await.unwrap();
        let responses = client.stream_snapshots(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn heard(&mut self) -> StreamSnapshotsResponse {
        self.responses.message().await.unwrap().expect("the stream goes on")
    }

    async fn answer(&self, ack: Ack) {
        self.requests.send(StreamSnapshotsRequest { message: Some(Message::Ack(ack)) }).await.unwrap();
    }
}

#[tokio::test]
async fn data_planes_that_lag_refuse_run_another_version_or_fall_silent_are_told_apart_by_playwright() {
    let world = World::start(1).await;
    world.go("#/nodes").await;
    world.says("SYNCED").await;
    let mut odd = Odd::connect(&world).await;
    let first = odd.heard().await;
    // It has been sent what there is, and has not said that it took it.
    world
        .run(
            "const row = page.locator('tr', { hasText: 'dp-odd' });
             await row.getByText('LAGGING').waitFor();
             await row.getByText('0.0.9').waitFor();
             await row.getByText('http://control-b:7400: it had lost touch with its store').waitFor();
             await page.locator('main').getByText(/2 versions run at once: .*0\\.0\\.9 on 1/).waitFor();
             await page.locator('tr', { hasText: 'dp-1' }).getByText('SYNCED').waitFor()",
        )
        .await;
    let nack =
        Nack { reason: "INVALID_RESOURCE".into(), message: "<b>replica r-1 has no address</b>".into() };
    odd.answer(Ack { nonce: first.nonce, revision: 0, nack: Some(nack) }).await;
    world
        .run(
            "await page.locator('tr', { hasText: 'dp-odd' }).getByText('REFUSED').waitFor();
             const refusal = page.locator('section', { hasText: 'dp-odd refused what it was sent' });
             await refusal.getByText('<b>replica r-1 has no address</b>').waitFor();
             await refusal.getByText('INVALID_RESOURCE').waitFor();
             // The worst stands first, and the strip of the overview counts it.
             const first = await page.locator('tbody tr').first().innerText();
             if (!first.includes('dp-odd')) throw new Error(first);
             await page.evaluate(() => { location.hash = '#/'; });
             await page.locator('.strip').getByText('1/2').waitFor();
             await page.evaluate(() => { location.hash = '#/nodes'; })",
        )
        .await;
    // Told again, in full; taken this time.
    let again = odd.heard().await;
    odd.answer(Ack { nonce: again.nonce, revision: again.revision, nack: None }).await;
    world
        .run(
            "await page.locator('tr', { hasText: 'dp-odd' }).getByText('SYNCED').waitFor();
             await page.getByText('dp-odd refused what it was sent').waitFor({ state: 'detached' })",
        )
        .await;
    drop(odd);
    world.run("await page.locator('tr', { hasText: 'dp-odd' }).getByText(/SILENT for/).waitFor()").await;
    let breaches = world.run("return await breaches(page)").await;
    assert_eq!(breaches, json!([]));
    world.is_flawless().await;
}

/// Sets breaker rules of `orders`.
async fn set_rules(world: &World, breaker: BreakerPolicy) {
    let request = UpdatePolicyRequest {
        policy: Some(Policy { service: "orders".into(), breaker: Some(breaker), ..Default::default() }),
        allow_missing: true,
        ..Default::default()
    };
    world.gateway.control.policies().update_policy(request).await.expect("the rules are valid");
    world.gateway.synced().await;
}

#[tokio::test]
async fn a_breaker_that_opened_by_its_rules_is_reset_and_nothing_offers_to_take_that_back_by_playwright() {
    let world = World::start(2).await;
    // By itself it would not be probed for ten minutes.
    let rest = prost_types::Duration { seconds: 600, nanos: 0 };
    set_rules(&world, BreakerPolicy { base_open: Some(rest), max_open: Some(rest), ..Default::default() })
        .await;
    let load = world.load();
    world.fails.store(true, Ordering::Relaxed);
    world.go("#/breakers").await;
    world
        .run(
            "const tile = page.locator('.tile-breaker', { hasText: 'r-1' });
             await tile.getByText('OPEN', { exact: true }).waitFor();
             await tile.getByText(/consecutive_failures \\d+ >= 5|failure_ratio/).first().waitFor();
             await tile.getByText(/next probe in/).waitFor()",
        )
        .await;
    world.fails.store(false, Ordering::Relaxed);
    world
        .run(
            "await page.getByRole('button', { name: 'Reset: orders/r-1 on dp-1' }).click();
             const dialog = page.getByRole('dialog');
             await dialog.getByText('This cannot be undone.').waitFor();
             await dialog.getByText('On dp-1 only.').waitFor();
             await dialog.getByLabel('Why').fill('disk replaced');
             await dialog.getByText(/breaker reset orders\\/r-1 --node dp-1 --reason 'disk replaced'/).waitFor();
             await dialog.getByRole('button', { name: 'Reset it' }).click();
             await page.locator('#toasts').getByText('The breaker of orders/r-1 was reset. 1 of 1 data plane has it.').waitFor();
             if (await page.locator('#toasts').getByRole('button', { name: /^Undo/ }).count()) throw new Error('a reset is offered to be undone')",
        )
        .await;
    world.says("Every breaker is closed").await;
    world.go("#/events").await;
    world.run("await page.locator('.timeline li').getByText('breaker reset').first().waitFor()").await;
    let events = world.gateway.event_types("orders", "r-1").await;
    assert!(events.contains(&"BREAKER_RESET".to_owned()), "{events:?}");
    load.stop().await;
    world.is_flawless().await;
}

#[tokio::test]
async fn proposed_rules_are_replayed_in_the_policy_editor_before_they_hold_by_playwright() {
    let world = World::start_in(Gateway::start_with(&[], &["--record-outcomes", "1000"]).await, 2).await;
    // What fails now opens nothing by the rules that hold.
    let rules = BreakerPolicy {
        consecutive_failure_count: Some(1000),
        min_request_count: Some(100_000),
        ..Default::default()
    };
    set_rules(&world, rules).await;
    world.fails.store(true, Ordering::Relaxed);
    let load = world.load();
    world.go("#/policy/orders").await;
    world
        .run(
            "const replay = page.getByRole('button', { name: 'What if? Replay the last minutes' });
             if (!(await replay.isDisabled())) throw new Error('there is nothing to replay');
             await until('it has failed often enough', async () => {
               const { breakers } = await (await fetch(`${url}/v1/breakers`)).json();
               return breakers.some(({ replicaId, failureCount }) => replicaId === 'r-1' && Number(failureCount) > 20);
             });
             await page.getByLabel('consecutive_failure_count', { exact: true }).fill('3');
             await until('it can be asked', async () => !(await replay.isDisabled()));
             await replay.click();
             const answer = page.locator('.replay');
             await answer.waitFor();
             const [before, then] = await answer.locator('dd').allInnerTexts();
             if (!/^0 trips/.test(before)) throw new Error(`as it is: ${before}`);
             if (!/^[1-9]\\d* trip/.test(then)) throw new Error(`as proposed: ${then}`)",
        )
        .await;
    // Asking changes nothing.
    let stored = world.policy().await.unwrap().breaker.unwrap();
    assert_eq!(stored.consecutive_failure_count, Some(1000));
    let breaches = world.run("return await breaches(page)").await;
    assert_eq!(breaches, json!([]));
    load.stop().await;
    world.is_flawless().await;
}

#[tokio::test]
async fn a_service_that_fails_open_is_marked_where_it_is_listed_and_on_its_own_page_by_playwright() {
    let world = World::start(2).await;
    let rules = BreakerPolicy {
        consecutive_failure_count: Some(1),
        fail_open_threshold: Some(0.9),
        base_open: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    };
    set_rules(&world, rules).await;
    world.fails.store(true, Ordering::Relaxed);
    let load = world.load();
    world
        .run("await page.locator('tr', { hasText: 'orders' }).getByText('PANIC', { exact: true }).waitFor()")
        .await;
    world.go("#/service/orders").await;
    world.run("await page.locator('main .bar-row').getByText('PANIC', { exact: true }).waitFor()").await;
    world.says("PANIC: too few let traffic through on 1 data plane").await;
    assert_eq!(world.run("return await breaches(page)").await, json!([]));
    load.stop().await;
    world.is_flawless().await;
}
