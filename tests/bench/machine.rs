//! What the figures were measured on.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{programs::Programs, samples::percentile_ms};

/// Flushes timed to tell how fast the disk is.
const FLUSHES: usize = 200;

/// One paragraph: processor, memory, disk, versions.
pub(crate) fn description(programs: &Programs) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cpu = cpu.trim_start_matches([' ', '\t', ':']).to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let memory = memory.unwrap_or_default() / 1024.0 / 1024.0;
    let kernel = output("uname", &["-r"]);
    let date = output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let commit = output("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    let etcd = programs.etcd_version().unwrap_or_else(|| "missing".into());
    let flush = flush_time(programs)?;
    Ok(format!(
        "{date}, commit {commit}; {cores} × {cpu}, {memory:.0} GiB, Linux {kernel}; append and fdatasync {flush:.2} ms \
         (median); etcd {etcd}; load average {}\n",
        load_average()
    ))
}

/// Processes that want to run, over the last minute.
pub(crate) fn load_average() -> String {
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    loads.split(' ').next().unwrap_or("unknown").to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    match text.trim() {
        "" => "unknown".into(),
        text => text.to_owned(),
    }
}

/// Median of appending a block and flushing it, in milliseconds: the floor of everything durable.
fn flush_time(programs: &Programs) -> Result<f64> {
    let directory = programs.directory()?;
    let path = directory.path().join("probe");
    let mut file =
        OpenOptions::new().create_new(true).append(true).open(path).context("the data directory")?;
    let mut times: Vec<Duration> = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(percentile_ms(&times, 0.5))
}
