//! The wall clock of a control plane is set an hour ahead, and then two hours back: leases go by another clock.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use gateway_tests::Place;

use super::{
    alone::Alone,
    caller::{Caller, registration},
    cluster::{ROOMY, TTL, hold_load},
};
use crate::{Size, figures::Figures, stage::SECOND};

/// Where distributions have it.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

pub(crate) async fn steps(size: Size, figures: &mut Figures) {
    let Some(library) = LIBRARIES.iter().find(|path| Path::new(path).exists()) else {
        return figures.skip("libfaketime is not installed (Debian: faketime)");
    };
    let directory = tempfile::tempdir().expect("there is a folder for temporary files");
    let clock = directory.path().join("clock");
    set(&clock, "+0");
    let place = |_: &Path| {
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
        let preload = format!("LD_PRELOAD={library}");
        // Read again at each look, and of the wall clock only.
        Place::loopback().behind(&[
            "env",
            &preload,
            &file,
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
        ])
    };
    let alone = Alone::start_in(size.crowd(), &ROOMY, place).await;
    let caller = Caller::new(&alone.control.url());
    let load = alone.load();
    let told = said_to_expire(&caller).await;
    for (step, ahead) in [("+3600", 3600), ("-3600", -3600)] {
        set(&clock, step);
        tokio::time::sleep(SECOND).await;
        // Otherwise the drill would be blind.
        let now = said_to_expire(&caller).await;
        let moved = now - told;
        figures.hold(&format!("its clock is {step} s"), format!("{moved} s"), (moved - ahead).abs() < 60);
        tokio::time::sleep(2 * TTL).await;
        alone.hold_leases(figures);
        // Who falls silent now goes on time.
        let wish = registration("silent", "r-1", "10.4.4.4:80", TTL);
        caller.register(wish).await.expect("it can be registered");
        let silent = Instant::now();
        while caller.get("silent", "r-1").await.is_ok() && silent.elapsed() < 10 * TTL {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let error = silent.elapsed().abs_diff(TTL);
        figures.within("a lease of 3 s lasts 3 s, but for", SECOND, error);
    }
    hold_load(figures, &load.stop().await);
}

fn set(clock: &Path, offset: &str) {
    // Never half a line.
    let next = clock.with_extension("next");
    std::fs::write(&next, format!("{offset}\n")).expect("the folder can be written");
    std::fs::rename(next, clock).expect("the folder can be written");
}

/// When the lease of one that has just been registered is said to end, in seconds of Unix time, less what has gone by.
async fn said_to_expire(caller: &Caller) -> i64 {
    let wish = registration("told", "r-1", "10.4.4.5:80", 600 * SECOND);
    let answer = caller.register(wish).await.expect("it can be registered");
    let expires = answer.replica.and_then(|replica| replica.lease).and_then(|lease| lease.expire_time);
    let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    expires.map_or(0, |time| time.seconds) - here.as_secs().cast_signed()
}
