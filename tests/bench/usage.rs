//! What a process has used, from /proc.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Clock ticks a second in /proc: fixed on Linux, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// Processor time of a process so far, all threads that live, in user and kernel.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut nanos = Some(0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process runs")? {
        // One that has just ended is missed; who serves requests does not end.
        let Ok(stat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let ran: Option<u64> = stat.split(' ').next().and_then(|ran| ran.parse().ok());
        nanos = nanos.zip(ran).map(|(sum, ran)| sum + ran);
    }
    // Kernels may be built without; ticks are of 10 ms.
    nanos.filter(|nanos| *nanos > 0).map_or_else(|| ticks(pid), |nanos| Ok(Duration::from_nanos(nanos)))
}

fn ticks(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process runs")?;
    // The name in parentheses may hold anything; the fields after it are numbers, utime and stime the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks / TICKS))
}

/// Memory of a process that is in RAM now, in bytes.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

/// The most memory that a process has had in RAM, in bytes.
pub(crate) fn resident_peak(pid: u32) -> Result<f64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process runs")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the field is there")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}
