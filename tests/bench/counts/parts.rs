//! What parts of the request path cost by themselves, in a program that does one of them many times.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Counts, dump::Dump, process::callgrind};

/// What gw-counted can do, and what that is called in tables.
const PARTS: [(&str, &str); 5] = [
    ("pick", "pick of 3 replicas and its outcome: instructions"),
    ("breaker", "breaker, admission and outcome: instructions"),
    ("find_one", "service found, the only one: instructions"),
    ("find_many", "service found, one of 10,000: instructions"),
    ("rewrite", "heads of a request and its answer, rewritten: instructions"),
];

/// Counts each of them.
pub(crate) fn count(programs: &Path, place: &Path) -> Result<Counts> {
    PARTS.iter().map(|(part, name)| Ok(((*name).to_owned(), one(programs, place, part)?))).collect()
}

fn one(programs: &Path, place: &Path, part: &str) -> Result<f64> {
    let out = place.join(format!("callgrind.{part}"));
    let output = callgrind(&out)
        .arg(format!("--toggle-collect=*counted_{part}*"))
        .arg(programs.join("gw-counted"))
        .arg(part)
        .stderr(Stdio::inherit())
        .output()
        .context("valgrind starts")?;
    ensure!(output.status.success(), "gw-counted {part} ended with {}", output.status);
    let times: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("it says how often")?;
    Ok(Dump::read(&out)?.instructions as f64 / times)
}
