//! The dashboard in a browser: what it shows and as it happens, what it does and takes back, for whom it works.

mod history;
mod nodes;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use gateway_proto::v1::{
    BreakerState, Endpoint, ListOverridesRequest, ListPoliciesRequest, OverrideBreakerRequest, OverrideEntry,
    Policy, RegisterRequest, ReplicaMode, TimeoutPolicy, UpdatePolicyRequest,
};
use gateway_tests::{Act, Browser, Gateway, Load, Process, Scripted, binaries, command, eventually, http1};
use http::Method;
use serde_json::{Value, json};

/// The views of one replica's service, by what stands behind the `#`.
const VIEWS: [&str; 7] = [
    "#/",
    "#/breakers",
    "#/service/orders",
    "#/replica/orders/r-1",
    "#/nodes",
    "#/events",
    "#/policy/orders",
];

/// A gateway with replicas of `orders`, and a browser.
struct World {
    gateway: Gateway,
    browser: Browser,
    /// Whether `r-1` answers with 503.
    fails: Arc<AtomicBool>,
    _replicas: Vec<Scripted>,
}

impl World {
    async fn start(replicas: usize) -> Self {
        Self::start_in(Gateway::start_unchecked().await, replicas).await
    }

    async fn start_in(gateway: Gateway, replicas: usize) -> Self {
        let fails = Arc::new(AtomicBool::new(false));
        let mut started = Vec::new();
        for number in 1..=replicas {
            let fails = Arc::clone(&fails);
            let replica = Scripted::start(move |_, _| match number == 1 && fails.load(Ordering::Relaxed) {
                true => {
                    Act::Answer(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec())
                }
                false => Act::ok(b"hello"),
            });
            gateway.register("orders", &format!("r-{number}"), replica.address()).await;
            started.push(replica);
        }
        let browser = Browser::start(&gateway.control.url()).await;
        browser.run("await page.goto(url)").await;
        Self { gateway, browser, fails, _replicas: started }
    }

    fn load(&self) -> Load {
        Load::start(self.gateway.proxy(), "/orders/hello", 50)
    }

    async fn run(&self, script: &str) -> Value {
        self.browser.run(script).await
    }

    async fn go(&self, view: &str) {
        self.run(&format!("await page.evaluate((hash) => {{ location.hash = hash; }}, '{view}')")).await;
    }

    /// Waits until the page's main part says this.
    async fn says(&self, text: &str) {
        let text = json!(text);
        self.run(&format!("await page.locator('main').getByText({text}).first().waitFor()")).await;
    }

    async fn overrides(&self) -> Vec<OverrideEntry> {
        let mut observability = self.gateway.control.observability();
        observability.list_overrides(ListOverridesRequest::default()).await.unwrap().into_inner().overrides
    }

    async fn policy(&self) -> Option<Policy> {
        let listed =
            self.gateway.control.policies().list_policies(ListPoliciesRequest::default()).await.unwrap();
        listed.into_inner().policies.into_iter().find(|policy| policy.service == "orders")
    }

    /// No script failed, none was refused, and nothing was asked for that is not there.
    async fn is_flawless(&self) {
        assert_eq!(self.run("return complaints").await, json!([]));
    }
}

#[tokio::test]
async fn every_view_shows_what_is_and_goes_on_showing_it_by_playwright() {
    let world = World::start(3).await;
    let load = world.load();
    world
        .run(
            "await until('requests are shown', async () => Number(await page.locator('.strip .figure').nth(3).innerText()) > 20);
             await page.locator('tr', { hasText: 'orders' }).getByText('healthy').waitFor();
             await page.locator('.strip').getByText('1/1').waitFor();
             await page.locator('.spark .area').first().waitFor()",
        )
        .await;
    world.go("#/breakers").await;
    world.says("Every breaker is closed: traffic flows.").await;
    world
        .run(
            "await until('counts move', async () => /\\d+ ok/.test(await page.locator('.grid').innerText()))",
        )
        .await;
    world.go("#/service/orders").await;
    world.says("served: all 3 replicas take requests everywhere").await;
    world.go("#/replica/orders/r-1").await;
    world.says("Why it takes requests").await;
    world.go("#/nodes").await;
    world.says("SYNCED").await;
    world.run("await page.locator('tbody tr').getByText(/\\ds ago/).waitFor()").await;
    world.go("#/events").await;
    world.run("await page.locator('.timeline li').getByText('replica registered').first().waitFor()").await;
    world.run("await page.locator('.timeline li').getByText('node connected').first().waitFor()").await;
    world.go("#/policy/orders").await;
    world.says("consecutive_failure_count").await;
    world.is_flawless().await;
    load.stop().await;
}

#[tokio::test]
async fn a_breaker_that_opens_and_closes_is_seen_without_a_reload_by_playwright() {
    let world = World::start(2).await;
    let load = world.load();
    world.go("#/breakers").await;
    world.says("Every breaker is closed").await;
    world.fails.store(true, Ordering::Relaxed);
    world
        .run(
            "const tile = page.locator('.tile-breaker', { hasText: 'r-1' });
             await tile.getByText('OPEN', { exact: true }).waitFor();
             await tile.getByText(/503/).waitFor();
             await tile.getByText(/next probe in|probes with the next/).waitFor();
             await page.locator('#live').getByText(/orders\\/r-1 is/).waitFor({ state: 'attached' });
             await page.evaluate(() => { window.isSamePage = true; })",
        )
        .await;
    world.go("#/").await;
    world.says("impaired").await;
    world.go("#/breakers").await;
    world.fails.store(false, Ordering::Relaxed);
    world.says("Every breaker is closed").await;
    world.go("#/replica/orders/r-1").await;
    world
        .run("await page.locator('td.reason', { hasText: /^last opened \\d+s ago: .*503/ }).waitFor()")
        .await;
    assert_eq!(world.run("return page.evaluate(() => window.isSamePage)").await, json!(true));
    world.is_flawless().await;
    load.stop().await;
}

#[tokio::test]
async fn a_breaker_is_forced_handed_back_and_reset_and_each_can_be_undone_by_playwright() {
    let world = World::start(2).await;
    // What is let go is probed, and probes are requests.
    let load = world.load();
    world.go("#/breakers").await;
    world
        .run(
            "await page.getByRole('button', { name: 'Open: orders/r-1 on dp-1' }).click();
             const dialog = page.getByRole('dialog');
             await dialog.getByText('1 of 2 ready replicas: 1 other remains.').waitFor();
             const act = dialog.getByRole('button', { name: 'Open it' });
             if (!(await act.isDisabled())) throw new Error('it acts without a reason');
             await dialog.getByLabel(/^Why/).fill('bad disk');
             await dialog.getByText(/breaker open orders\\/r-1 --ttl 15m --reason 'bad disk' --node dp-1/).waitFor();
             await act.click();
             await page.locator('#toasts').getByText(/1 of 1 data plane has it/).waitFor();
             await page.locator('.tile-breaker').getByText('FORCED OPEN').waitFor();
             await page.locator('.force').getByText(/14m \\d+s|15m/).waitFor()",
        )
        .await;
    let forced = world.overrides().await;
    assert_eq!(
        (forced.len(), forced[0].reason.as_str(), forced[0].author.as_str()),
        (1, "bad disk", "dashboard")
    );

    world.run("await page.getByRole('button', { name: /^Undo/ }).click()").await;
    world.says("Every breaker is closed").await;
    assert_eq!(world.overrides().await, []);

    // The same from elsewhere, handed back from the head of the page, and that taken back.
    let request = OverrideBreakerRequest {
        service: "orders".into(),
        replica_id: "r-2".into(),
        state: BreakerState::ForcedClosed.into(),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        reason: "test".into(),
        ..Default::default()
    };
    world.gateway.control.observability().override_breaker(request).await.unwrap();
    world
        .run(
            "await page.getByRole('button', { name: /^End: orders\\/r-2 forced closed/ }).click();
             await page.locator('.force').waitFor({ state: 'detached' });
             await page.getByRole('button', { name: /^Undo/ }).click();
             await page.locator('.force').getByText('orders/r-2 forced closed').waitFor()",
        )
        .await;
    assert_eq!(world.overrides().await[0].replica_id, "r-2");
    load.stop().await;
    world.is_flawless().await;
}

#[tokio::test]
async fn a_replica_is_drained_and_deregistered_with_what_comes_of_it_and_back_by_playwright() {
    let world = World::start(2).await;
    let mode = async || world.gateway.replicas("orders").await[0].mode();
    world.go("#/replica/orders/r-1").await;
    world
        .run(
            "await page.getByRole('button', { name: 'Drain', exact: true }).click();
             const dialog = page.getByRole('dialog');
             await dialog.getByText('1 of 2 ready replicas: 1 remains.').waitFor();
             await dialog.getByText(/gwctl -e http.* drain orders\\/r-1/).waitFor();
             await dialog.getByRole('button', { name: 'Drain it' }).click();
             await page.getByRole('button', { name: 'Undrain', exact: true }).waitFor()",
        )
        .await;
    assert_ne!(mode().await, ReplicaMode::Serving);
    world.run("await page.getByRole('button', { name: /^Undo/ }).click(); await page.getByRole('button', { name: 'Drain', exact: true }).waitFor()").await;
    assert_eq!(mode().await, ReplicaMode::Serving);

    world
        .run(
            "await page.getByRole('button', { name: 'Deregister', exact: true }).click();
             await page.getByRole('dialog').getByRole('button', { name: 'Deregister it' }).click();
             await page.getByText('orders/r-1 is deregistered.').first().waitFor()",
        )
        .await;
    world.says("1 of 1 ready").await;
    assert_eq!(world.gateway.replicas("orders").await.len(), 1);
    world.run("await page.getByRole('button', { name: /^Undo/ }).click()").await;
    world.says("2 of 2 ready").await;

    // The last one is not drained by mistake.
    world.go("#/replica/orders/r-1").await;
    world
        .run(
            "await page.getByRole('button', { name: 'Drain', exact: true }).click();
             await page.getByRole('button', { name: 'Drain it' }).click();
             await page.getByRole('button', { name: 'Undrain', exact: true }).waitFor();
             await page.evaluate(() => { location.hash = '#/replica/orders/r-2'; });
             await page.getByRole('heading', { name: 'orders / r-2' }).waitFor();
             await page.getByRole('button', { name: 'Drain', exact: true }).click();
             await page.getByText('It is the last ready replica of orders').waitFor();
             if (!(await page.getByRole('button', { name: 'Drain it' }).isDisabled())) throw new Error('it drains the last one');
             await page.getByLabel('Although no other replica is ready').check();
             await until('it may', async () => !(await page.getByRole('button', { name: 'Drain it' }).isDisabled()));
             await page.keyboard.press('Escape');
             await page.getByRole('dialog').waitFor({ state: 'detached' })",
        )
        .await;
    world.is_flawless().await;
}

#[tokio::test]
async fn everything_can_be_done_by_keyboard_alone_by_playwright() {
    let world = World::start(3).await;
    world.says("orders").await;
    world
        .run(
            "const hash = (wanted) => until(`at ${wanted}`, () => page.evaluate((own) => location.hash === own, wanted));
             await page.keyboard.press('Tab');
             if (await page.evaluate(() => document.activeElement.className) !== 'skip') throw new Error('no skip link first');
             for (const [key, wanted] of [['b', '#/breakers'], ['n', '#/nodes'], ['e', '#/events'], ['p', '#/policy/*'], ['s', '#/service/orders'], ['o', '#/']]) {
               await page.keyboard.press('g');
               await page.keyboard.press(key);
               await hash(wanted);
             }
             await page.keyboard.press('/');
             await page.keyboard.type('nothing like this');
             await page.getByText('No service has').waitFor();
             await page.keyboard.press('Escape');
             await page.locator('tbody tr').waitFor();
             await page.keyboard.press('j');
             await page.keyboard.press('Enter');
             // The address changes before the page does.
             const heading = (name) => page.getByRole('heading', { level: 1, name, exact: true }).waitFor();
             await heading('orders');
             await page.keyboard.press('j');
             await page.keyboard.press('j');
             await page.keyboard.press('k');
             await page.keyboard.press('b');
             const dialog = page.getByRole('dialog');
             await dialog.getByRole('heading', { name: 'Open the breaker of orders/r-1' }).waitFor();
             for (let index = 0; index < 12; index += 1) {
               await page.keyboard.press('Tab');
               const isInside = await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest('dialog') !== null);
               if (!isInside) throw new Error('the focus leaves the dialog');
             }
             await page.keyboard.press('Escape');
             await dialog.waitFor({ state: 'detached' });
             await page.keyboard.press('Enter');
             await heading('orders / r-1');
             await page.keyboard.press('d');
             await dialog.getByRole('heading', { name: 'Drain orders/r-1' }).waitFor();
             await dialog.getByLabel('Why').fill('kernel');
             await page.keyboard.press('Enter');
             await page.getByRole('button', { name: 'Undrain', exact: true }).waitFor();
             await page.keyboard.press('?');
             await page.getByRole('dialog', { name: 'Keys' }).waitFor();
             await page.keyboard.press('Escape');
             await page.keyboard.press('.');
             await page.locator('.banner').getByText(/Paused/).waitFor({ timeout: 20000 });
             await page.keyboard.press('.');
             await page.locator('.status').getByText('Live').waitFor();
             const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
             await page.keyboard.press('t');
             if (await theme() !== 'light') throw new Error('no theme');
             await page.keyboard.press('t');
             if (await theme() !== 'dark') throw new Error('no dark theme')",
        )
        .await;
    assert_ne!(world.gateway.replicas("orders").await[0].mode(), ReplicaMode::Serving);
    world.is_flawless().await;
}

#[tokio::test]
async fn nothing_registered_and_no_traffic_look_like_what_they_are_by_playwright() {
    let world = World::start(0).await;
    world.says("No service is registered yet.").await;
    world.go("#/breakers").await;
    world.says("No data plane has told of a breaker yet.").await;
    world.go("#/replica/orders/r-1").await;
    world.says("This replica is not registered.").await;

    let replica = Scripted::start(|_, _| Act::ok(b""));
    world.gateway.register("orders", "r-1", replica.address()).await;
    world.go("#/").await;
    world
        .run(
            "const row = page.locator('tr', { hasText: 'orders' });
             await row.getByText('healthy').waitFor();
             await row.getByText('no traffic', { exact: true }).waitFor();
             await page.locator('.strip').getByText('all closed').waitFor()",
        )
        .await;
    world.go("#/breakers").await;
    world.run("await page.locator('.grid').getByText('no traffic').waitFor()").await;
    world.says("Every breaker is closed: traffic flows.").await;
}

#[tokio::test]
async fn a_control_plane_that_is_gone_is_told_with_its_age_and_found_again_by_playwright() {
    let mut world = World::start(2).await;
    world.says("orders").await;
    world.gateway.control.kill();
    world
        .run(
            "await page.locator('.banner.lost').getByText(/said nothing for \\d+s/).waitFor();
             await page.locator('.status').getByText('Lost').waitFor();
             await page.locator('main.stale').getByText('orders').waitFor()",
        )
        .await;
    world.gateway.control.restart().await;
    world.run("await page.locator('.status').getByText('Live').waitFor(); await page.locator('.banner').waitFor({ state: 'detached' })").await;
    let replica = Scripted::start(|_, _| Act::ok(b""));
    world.gateway.register("later", "r-1", replica.address()).await;
    world.says("later").await;
}

#[tokio::test]
async fn what_replicas_and_operators_wrote_stays_text_by_playwright() {
    const EVIL: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    let world = World::start(1).await;
    let request = RegisterRequest {
        service: "orders".into(),
        replica_id: "evil".into(),
        endpoint: Some(Endpoint { address: "127.0.0.1:9".into(), ..Default::default() }),
        version: "<b>1</b>".into(),
        labels: [("team".to_owned(), EVIL.to_owned())].into(),
        permanent: true,
        ..Default::default()
    };
    world.gateway.control.registry().register(request).await.unwrap();
    let request = OverrideBreakerRequest {
        service: "orders".into(),
        replica_id: "evil".into(),
        state: BreakerState::ForcedOpen.into(),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        reason: EVIL.into(),
        author: EVIL.into(),
        ..Default::default()
    };
    world.gateway.control.observability().override_breaker(request).await.unwrap();
    for view in [
        "#/",
        "#/breakers",
        "#/events",
        "#/replica/orders/evil",
        "#/service/<img src=x onerror=alert(3)>",
        "#/policy/<script>alert(4)<%2Fscript>",
    ] {
        world.go(view).await;
        world
            .run(
                "await page.locator('.force').getByText('<script>alert(2)</script>').first().waitFor();
                 const strays = await page.locator('main img, main script, #header script, body > script, main b').count();
                 if (strays) throw new Error('markup was made of text')",
            )
            .await;
    }
    world.go("#/replica/orders/evil").await;
    world.says(EVIL).await;
    let complaints = world.run("return complaints.filter((text) => !text.includes('status of 4'))").await;
    assert_eq!(complaints, json!([]));
}

#[tokio::test]
async fn a_policy_is_changed_with_what_comes_of_it_and_never_over_somebody_else_s_by_playwright() {
    let world = World::start(2).await;
    world.go("#/policy/orders").await;
    world
        .run(
            "const field = (name) => page.getByLabel(name, { exact: true });
             await field('request').fill('five');
             await page.locator('.proposal').getByText(/such as 250ms/).waitFor();
             if (!(await page.getByRole('button', { name: 'Apply' }).isDisabled())) throw new Error('nonsense can be applied');
             await field('request').fill('5s');
             await page.locator('.proposal').getByText('timeout.request').first().waitFor();
             await page.locator('.proposal').getByText(/cuts that at 5s/).waitFor();
             await page.locator('.proposal').getByText(/policy set orders timeout.request=5s/).waitFor();
             await page.getByRole('button', { name: 'Dry run' }).click();
             await page.getByText('It would be taken. Nothing was changed.').waitFor()",
        )
        .await;
    assert_eq!(world.policy().await, None);
    world
        .run(
            "await page.getByRole('button', { name: 'Apply' }).click();
             await page.locator('#toasts').getByText(/The policy of orders is changed. 1 of 1 data plane has it/).waitFor()",
        )
        .await;
    let timeout = world.policy().await.unwrap().timeout.unwrap();
    assert_eq!(timeout.request.unwrap().seconds, 5);
    world.run("await page.getByRole('button', { name: /^Undo/ }).click()").await;
    eventually("the change is taken back", async || {
        let policy = world.policy().await;
        let is_back = policy
            .as_ref()
            .and_then(|policy| policy.timeout.as_ref())
            .is_none_or(|own| own.request.is_none());
        if is_back { Ok(()) } else { Err(format!("{policy:?}")) }
    })
    .await;

    world.run("await page.getByLabel('request', { exact: true }).fill('7s')").await;
    let theirs =
        TimeoutPolicy { request: Some(prost_types::Duration { seconds: 9, nanos: 0 }), ..Default::default() };
    let request = UpdatePolicyRequest {
        policy: Some(Policy { service: "orders".into(), timeout: Some(theirs), ..Default::default() }),
        allow_missing: true,
        author: "ana".into(),
        ..Default::default()
    };
    world.gateway.control.policies().update_policy(request).await.unwrap();
    world.says("Somebody else has changed this policy meanwhile (ana).").await;
    world
        .run(
            "await page.getByRole('button', { name: 'Apply' }).click();
             await page.getByRole('alert').getByText('Somebody else has changed it meanwhile. Nothing was changed').waitFor()",
        )
        .await;
    assert_eq!(world.policy().await.unwrap().timeout.unwrap().request.unwrap().seconds, 9);
    world
        .run(
            "await page.getByRole('button', { name: 'Take that up, keep my changes' }).click();
             await page.locator('.proposal .diff').getByText('9s').waitFor();
             await page.getByRole('button', { name: 'Apply' }).click();
             await page.locator('#toasts').getByText(/is changed/).first().waitFor()",
        )
        .await;
    assert_eq!(world.policy().await.unwrap().timeout.unwrap().request.unwrap().seconds, 7);
}

#[tokio::test]
async fn every_view_is_accessible_in_both_themes_and_fits_a_phone_by_playwright() {
    let world = World::start(3).await;
    let load = world.load();
    let request = OverrideBreakerRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        state: BreakerState::ForcedOpen.into(),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        reason: "bad disk".into(),
        ..Default::default()
    };
    world.gateway.control.observability().override_breaker(request).await.unwrap();
    world.says("impaired").await;
    for view in VIEWS {
        world.go(view).await;
        world.run("await page.locator('main h1').first().waitFor({ state: 'attached' })").await;
        if view.starts_with("#/policy") {
            world.says("consecutive_failure_count").await;
        }
        for theme in ["light", "dark"] {
            world
                .run(&format!(
                    "await page.emulateMedia({{ colorScheme: '{theme}', reducedMotion: 'reduce' }})"
                ))
                .await;
            assert_eq!(world.run("return breaches(page)").await, json!([]), "{view} {theme}");
        }
        let wide = world
            .run(
                "await page.setViewportSize({ width: 360, height: 740 });
                 const wide = await page.evaluate(() => document.documentElement.scrollWidth);
                 await page.setViewportSize({ width: 1280, height: 900 });
                 return wide",
            )
            .await;
        assert_eq!(wide, json!(360), "{view} is wider than a phone");
    }
    // Where the views do not fit side by side, the one that is open is in sight.
    world
        .run(
            "await page.setViewportSize({ width: 360, height: 740 });
             await page.evaluate(() => { location.hash = '#/policy/*'; });
             const here = page.locator('nav [aria-current]').and(page.getByText('Policies'));
             await until('the view that is open is in sight', async () => {
               const at = await here.boundingBox();
               return at && at.x >= 0 && at.x + at.width <= 360;
             });
             await page.setViewportSize({ width: 1280, height: 900 })",
        )
        .await;
    // Whoever pastes a line asks this control plane, also where the control plane itself has written it.
    world.go("#/replica/orders/r-1").await;
    world.says("watch what happens to it").await;
    let lines = world.run("return page.locator('main .command code').allTextContents()").await;
    let lines: Vec<&str> = lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(lines.len() > 2 && lines.iter().all(|line| line.starts_with("gwctl -e http")), "{lines:?}");
    world.go("#/replica/orders/r-2").await;
    world.run("await page.getByRole('button', { name: 'Drain', exact: true }).click()").await;
    assert_eq!(world.run("return breaches(page)").await, json!([]), "a dialog");
    load.stop().await;
}

#[tokio::test]
async fn the_lab_of_a_demo_breaks_a_replica_and_shows_what_a_client_sees_by_playwright() {
    let mut command = binaries::gwctl();
    command.args(["demo", "--random-ports", "--no-load"]);
    let mut demo = Process::spawn_group("demo", &mut command);
    let ready = demo.ready().await;
    let browser = Browser::start(&format!("http://{}", ready["control"].as_str().unwrap())).await;
    browser
        .run(
            "await page.goto(url);
             await page.getByRole('link', { name: 'Lab' }).click();
             const bench = page.locator('.tile-breaker', { hasText: 'r-1' });
             await bench.getByLabel('answers 503').check();
             await bench.getByText(/for \\d/).waitFor();
             await page.getByRole('button', { name: 'Go on sending' }).click();
             // What one replica fails, another answers.
             const failover = page.locator('tbody tr').filter({ has: page.getByRole('cell', { name: '2', exact: true }) });
             await failover.getByRole('cell', { name: '200', exact: true }).first().waitFor();
             await page.getByLabel('Failures in a row that open').fill('0');
             await bench.getByText(/breaker (open|half-open)/).waitFor();
             await page.getByRole('button', { name: 'Everything works again' }).click();
             await bench.getByText('no fault of its own').waitFor();
             await bench.getByText('breaker closed').waitFor();
             await page.getByRole('button', { name: 'Back to the defaults' }).click();
             await until('the knobs are back', async () => page.getByRole('button', { name: 'Back to the defaults' }).isDisabled());
             await page.getByRole('button', { name: 'Stop sending' }).click()",
        )
        .await;
    // What is set past the lab is shown there all the same: by a policy for the service, and by a request to the replica.
    let control = format!("http://{}", ready["control"].as_str().unwrap());
    let fault = ["fault", "set", "client-service", "--abort", "503", "--for", "5m", "--reason", "test"];
    command::gwctl(&control, &fault).await.success();
    let replicas = command::gwctl(&control, &["get", "replicas", "-o", "json"]).await.json();
    let address = replicas["replicas"][1]["endpoint"]["address"].as_str().unwrap().parse().unwrap();
    http1::send(address, http1::request(Method::POST, "/fault/slow?for=60s&ratio=0.5")).await;
    browser
        .run(
            "await page.getByText(/The gateway injects faults: 100% answered 503/).waitFor();
             const slow = page.locator('.tile-breaker', { hasText: 'r-2' });
             await slow.getByText(/for \\d/).waitFor();
             await until('its fault is chosen', async () => slow.getByLabel('is slow').isChecked())",
        )
        .await;
    assert_eq!(browser.run("return breaches(page)").await, json!([]));
    assert_eq!(browser.run("return complaints").await, json!([]));
}
