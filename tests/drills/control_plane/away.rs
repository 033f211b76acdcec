//! The control plane is away while requests go on, and data planes start without it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use gateway_tests::{Load, eventually, http1};

use super::{
    alone::Alone,
    caller::{Caller, registration},
    cluster::{ROOMY, hold_load, serves},
};
use crate::{
    Size,
    client::{Fate, percentile, probe},
    figures::Figures,
    replica::{Posts, Replica},
    stage::{SECOND, metric},
};

/// Requests a second while it is away.
const RATE: u32 = 500;
/// How long somebody may wait to be told that there is nobody.
const REFUSED_WITHIN: Duration = Duration::from_millis(50);

pub(crate) async fn away(size: Size, figures: &mut Figures) {
    let lasts = size.of(size.lasts(60), 3 * SECOND);
    let mut alone = Alone::start(size.crowd(), &ROOMY).await;
    let load = Load::start(alone.data.address(), "/orders/x", size.of(RATE, 100));
    alone.control.kill();
    let killed = Instant::now();
    tokio::time::sleep(lasts).await;
    let age = metric(alone.data.admin(), "gateway_snapshot_age_seconds").await;
    figures.hold(
        &format!("the age of what it routes by is told, {lasts:.0?} at least"),
        format!("{age:.1} s"),
        age >= lasts.as_secs_f64(),
    );
    let readiness = http1::get(alone.data.admin(), "/readyz").await.status();
    figures.hold("it is ready all the while", readiness, readiness == 200);
    alone.control.restart().await;
    let back = Instant::now();
    figures.show("it was away", format!("{:.0?}", back - killed));
    let joined = Replica::start(&Posts::default());
    let wish = registration("orders", "joined", &joined.address().to_string(), 600 * SECOND);
    Caller::new(&alone.control.url()).register(wish).await.expect("it can be registered");
    eventually("who registers with it is asked", async || match joined.seen() {
        0 => Err("it is not".to_owned()),
        _ => Ok(()),
    })
    .await;
    figures.show("who registers with it is asked after", format!("{:.1?}", back.elapsed()));
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}

/// A data plane starts without a control plane: from what it has kept, or with nothing to go by.
pub(crate) async fn cold(size: Size, figures: &mut Figures) {
    let mut alone = Alone::start(size.crowd().max(size.of(10_000, 200)), &ROOMY).await;
    let cache = alone.cache();
    let text = |needle: &[u8], bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    // Registered as the last ones.
    eventually("what it holds is on disk", async || match fs::read(&cache) {
        Ok(bytes) if text(b"r-0", &bytes) && text(b"r-1", &bytes) => Ok(()),
        other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
    })
    .await;
    alone.control.kill();
    let (mut slowest, starts) = (Duration::ZERO, size.of(10, 3));
    for _ in 0..starts {
        alone.data.kill();
        let began = Instant::now();
        alone.data.restart().await;
        serves(&alone.data).await;
        slowest = slowest.max(began.elapsed());
    }
    figures.swift(&format!("from the start to an answer, the slowest of {starts}"), SECOND, slowest);
    let age = metric(alone.data.admin(), "gateway_snapshot_age_seconds").await;
    figures.hold("the age of what it routes by is told", format!("{age:.1} s"), age > 0.0);

    let whole = fs::read(&cache).expect("it was there");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xff;
    let places: [(&str, Option<&[u8]>); 4] = [
        ("damaged", Some(&damaged)),
        ("cut in half", Some(&whole[..whole.len() / 2])),
        ("empty", Some(&[])),
        ("absent", None),
    ];
    for (name, bytes) in places {
        alone.data.kill();
        match bytes {
            Some(bytes) => fs::write(&cache, bytes).expect("the folder can be written"),
            None => fs::remove_file(&cache).expect("it was there"),
        }
        alone.data.restart().await;
        hold_nobody(&mut alone, &format!("what it has kept is {name}"), figures).await;
    }
    alone.control.restart().await;
    let back = Instant::now();
    serves(&alone.data).await;
    figures.swift("from the control plane's return to an answer", 5 * SECOND, back.elapsed());
}

/// Holds that who asks is told at once that there is nobody, by a process that goes on.
async fn hold_nobody(alone: &mut Alone, what: &str, figures: &mut Figures) {
    let pid = alone.data.process().pid();
    let mut fates: Vec<Fate> = Vec::new();
    for _ in 0..100 {
        fates.push(probe(alone.data.address()).await);
    }
    let strange = fates.iter().filter(|fate| fate.status != Some(503) || !fate.has_retry_after).count();
    figures.hold(&format!("{what}: other answers than 503 with Retry-After 0"), strange, strange == 0);
    let p99 = percentile(fates.iter().map(|fate| fate.took).collect(), 0.99);
    figures.swift(&format!("{what}: p99 of them"), REFUSED_WITHIN, p99);
    let readiness = http1::get(alone.data.admin(), "/readyz").await.status();
    let process = alone.data.process();
    let goes_on = process.is_running() && process.pid() == pid && readiness == 503;
    figures.hold(&format!("{what}: it goes on, and is not ready"), readiness, goes_on);
}

impl Alone {
    /// Where its data plane keeps what it holds.
    fn cache(&self) -> PathBuf {
        self.folder().with_file_name("cache").join("snapshot.bin")
    }
}
