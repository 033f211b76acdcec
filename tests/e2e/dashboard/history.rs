//! What happened, along a line of time: zoomed, and with an address for each moment.

use std::sync::atomic::Ordering;

use gateway_proto::v1::{Policy, RetryPolicy, TimeoutPolicy, UpdatePolicyRequest};

use super::World;

#[tokio::test]
async fn what_happened_is_zoomed_and_each_moment_has_an_address_by_playwright() {
    let world = World::start(2).await;
    let load = world.load();
    world.fails.store(true, Ordering::Relaxed);
    world.go("#/replica/orders/r-1").await;
    world.says("breaker opened").await;
    // When it is closed again, nothing more happens to it.
    world.fails.store(false, Ordering::Relaxed);
    world.says("breaker closed").await;
    world
        .run(
            "const history = page.locator('.history');
             const opened = history.locator('.timeline li', { hasText: 'breaker opened' }).last();
             // Its data plane has a lane of its own, on which it is marked that the breaker is open.
             await history.locator('.lanes').getByText('dp-1').waitFor();
             await history.locator('.lanes rect.tone-bad').first().waitFor();
             await opened.locator('a').first().click();
             const hash = () => page.evaluate(() => location.hash);
             await until('the moment has an address', async () => /^#\\/replica\\/orders\\/r-1\\?t=/.test(await hash()));
             const here = history.locator('[aria-current]');
             await here.getByText('breaker opened').first().waitFor();
             await history.locator('.cursor').waitFor({ state: 'attached' });
             await history.getByRole('button', { name: 'Zoom in' }).click();
             await until('the zoom has one, too', async () => (await hash()).endsWith('span=5m'));
             const address = await page.evaluate(() => location.href);
             // Somebody else who follows the link is at the same moment.
             await page.goto('about:blank');
             await page.goto(address);
             await here.getByText('breaker opened').first().waitFor();
             await history.getByText(/Within 5m/).waitFor();
             await history.getByRole('button', { name: 'Earlier' }).click();
             await history.getByRole('button', { name: 'Earlier' }).click();
             await history.getByRole('button', { name: 'Earlier' }).click();
             await history.getByText('Nothing in this time.').waitFor();
             await history.getByText(/the one after/).click();
             await history.locator('.timeline li').first().waitFor();
             await history.locator('.lanes svg').click({ position: { x: 3, y: 3 } });
             await history.getByRole('button', { name: 'Up to now' }).click();
             await until('it is now again', async () => !(await hash()).includes('t='));
             await history.getByText(/The last 5m/).waitFor()",
        )
        .await;
    world.go("#/events").await;
    world
        .run(
            "await page.locator('.timeline li', { hasText: 'breaker opened' }).last().locator('a').first().click();
             await page.getByText('What had happened by').waitFor();
             await page.locator('.timeline li').first().getByText('breaker opened').first().waitFor();
             await page.getByRole('link', { name: 'Show the newest' }).click();
             await page.getByText('What had happened by').waitFor({ state: 'detached' })",
        )
        .await;
    world.is_flawless().await;
    load.stop().await;
}

#[tokio::test]
async fn who_changed_a_policy_is_told_with_what_and_it_can_be_taken_back_by_playwright() {
    let world = World::start(1).await;
    for (author, seconds, retries) in [("ana", 5, None), ("ben", 8, Some(1))] {
        let timeout = TimeoutPolicy {
            request: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let retry = retries.map(|count| RetryPolicy { max_retry_count: Some(count), ..Default::default() });
        let request = UpdatePolicyRequest {
            policy: Some(Policy {
                service: "orders".into(),
                timeout: Some(timeout),
                retry,
                ..Default::default()
            }),
            allow_missing: true,
            author: author.into(),
            reason: "slow disks".into(),
            ..Default::default()
        };
        world.gateway.control.policies().update_policy(request).await.unwrap();
    }
    world.go("#/policy/orders").await;
    world
        .run(
            "const changes = page.locator('.changes');
             const [bens, anas] = [changes.locator('li', { hasText: 'ben' }), changes.locator('li', { hasText: 'ana' })];
             await bens.getByText('retry.max_retry_count').waitFor();
             await bens.locator('del', { hasText: '5s' }).waitFor();
             await bens.locator('ins', { hasText: '8s' }).waitFor();
             await anas.locator('del', { hasText: 'not set here' }).waitFor();
             await anas.getByText(/slow disks/).waitFor();
             // The policy itself comes another way than its history.
             await page.getByText(/changed by ben/).waitFor();
             await bens.getByRole('button', { name: /^Take back what ben changed/ }).click();
             const proposal = page.locator('.proposal');
             await proposal.locator('ins', { hasText: '5s' }).waitFor();
             await proposal.getByText(/policy unset orders retry.max_retry_count/).waitFor();
             await page.getByRole('button', { name: 'Apply' }).click();
             await page.locator('#toasts').getByText(/The policy of orders is changed/).waitFor();
             await changes.locator('li', { hasText: 'dashboard' }).getByText(/takes back what ben changed/).waitFor()",
        )
        .await;
    let policy = world.policy().await.unwrap();
    assert_eq!(policy.timeout.unwrap().request.unwrap().seconds, 5);
    assert_eq!(policy.retry.and_then(|retry| retry.max_retry_count), None);
    world.is_flawless().await;
}
