//! The control plane comes back with another registry than it had: an empty one, one that has few of the replicas that there are, or an
//! older one of the same epoch. Data planes go on as before, and say so.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use gateway_tests::{ControlPlane, DataPlane, Load};

use super::{
    caller::{Caller, registration},
    cluster::{ROOMY, hold_load, serves},
};
use crate::{
    Size,
    client::load_of_gets,
    figures::Figures,
    replica::{Posts, Replica},
    stage::{SECOND, metric},
};

const REPLICAS: usize = 8;
/// Of those, in the registries that have few.
const FEW: usize = 2;
const RATE: u32 = 100;
/// Within this a data plane is back at a control plane that is back.
const BACK: Duration = Duration::from_secs(15);

pub(crate) async fn forgetful(size: Size, figures: &mut Figures) {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let path = |name: &str| folder.path().join(name);
    let (store, few, older, newest) =
        (path("registry.redb"), path("few.redb"), path("older.redb"), path("newest.redb"));
    let mut control = ControlPlane::start_with(&store, &ROOMY).await;
    let url = control.url();
    super::caller::crowd(std::slice::from_ref(&url), size.crowd()).await;
    let posts = Posts::default();
    let replicas: Vec<_> = (0..REPLICAS).map(|_| Replica::start(&posts)).collect();
    let other = ControlPlane::start_with(&few, &ROOMY).await;
    register(&other.url(), &replicas[..FEW], 0).await;
    drop(other);
    register(&url, &replicas[..FEW], 0).await;
    keep(&mut control, &store, &older).await;
    register(&url, &replicas[FEW..], FEW).await;
    let cache = path("cache").display().to_string();
    let data = DataPlane::start(&["--control-plane", &url, "--node-id", "dp-1", "--cache-dir", &cache]).await;
    serves(&data).await;
    keep(&mut control, &store, &newest).await;
    let load = Load::start(data.address(), "/orders/x", RATE);
    let lasts = SECOND * size.of(5, 2);

    let held = "gateway_guard_held_replicas";
    let cases = [
        ("an empty one", None, held, REPLICAS as f64),
        ("one with few", Some(&few), held, (REPLICAS - FEW) as f64),
        ("an older one", Some(&older), "gateway_snapshot_nacks_total", 1.0),
    ];
    for (what, file, alarm, at_least) in cases {
        begin_with(&mut control, &store, file).await;
        let told = comes_to(&data, alarm, |count| count >= at_least).await;
        figures.hold(&format!("{what}: {alarm} >= {at_least}"), told, told >= at_least);
        let asked = asked(&data, &replicas, lasts).await;
        figures.hold(&format!("{what}: replicas that are asked, of {REPLICAS}"), asked, asked == REPLICAS);
        begin_with(&mut control, &store, Some(&newest)).await;
        let told = comes_to(&data, held, |count| count == 0.0).await;
        figures.hold(&format!("{what}, and then whole: replicas that are held"), told, told == 0.0);
    }
    hold_load(figures, &load.stop().await);
}

async fn register(url: &str, replicas: &[Replica], first: usize) {
    let caller = Caller::new(url);
    for (number, replica) in replicas.iter().enumerate() {
        let id = format!("r-{}", first + number);
        let wish = registration("orders", &id, &replica.address().to_string(), 3600 * SECOND);
        caller.register(wish).await.expect("it can be registered");
    }
}

/// Keeps the file as it is now, of a control plane that goes on with it.
async fn keep(control: &mut ControlPlane, store: &Path, copy: &Path) {
    control.kill();
    fs::copy(store, copy).expect("there is room");
    control.restart().await;
}

/// The control plane goes on with this file, or without one.
async fn begin_with(control: &mut ControlPlane, store: &Path, file: Option<&std::path::PathBuf>) {
    control.kill();
    match file {
        Some(file) => fs::copy(file, store).map(drop),
        None => fs::remove_file(store),
    }
    .expect("the folder can be written");
    control.restart().await;
}

/// What a data plane says by this metric, once that is as it should be, or it is late.
async fn comes_to(data: &DataPlane, name: &str, is_so: impl Fn(f64) -> bool) -> f64 {
    let began = Instant::now();
    loop {
        let count = metric(data.admin(), name).await;
        if is_so(count) || began.elapsed() > BACK {
            return count;
        }
        tokio::time::sleep(SECOND / 20).await;
    }
}

/// How many of them have requests within this time.
async fn asked(data: &DataPlane, replicas: &[Replica], lasts: Duration) -> usize {
    let before: Vec<_> = replicas.iter().map(Replica::seen).collect();
    load_of_gets(data.address(), RATE, lasts).await;
    replicas.iter().zip(before).filter(|(replica, before)| replica.seen() > *before).count()
}
