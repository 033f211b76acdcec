//! What a process uses, from /proc, and what a thread of this one is given.

use std::{fs, time::Duration};

use rustix::process::setpriority_process;

/// Clock ticks a second in /proc: fixed on Linux, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// Memory in RAM now, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The most memory that was in RAM, in KiB.
pub(crate) fn resident_peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Open file descriptors.
pub(crate) fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count() as u64
}

/// Threads.
pub(crate) fn threads(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").count() as u64
}

/// Processor time so far, all threads.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name in parentheses may hold anything; the fields after it are numbers, utime and stime the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}

/// For how long threads of the process that are there now could have run and others did, so far.
pub(crate) fn kept_waiting(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let of_each = tasks.filter_map(|task| {
        // One that ends meanwhile has no more to say. Time on a processor, then in the queue for one, both in nanoseconds.
        let stat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        stat.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(of_each.sum())
}

/// Has the thread that asks go before all others of the machine: what it measures is then how long it is not answered, and not how long
/// it waits for a processor. Where the system does not let it, which root may, it waits as they do.
pub(crate) fn go_first() {
    // Of the thread alone, on Linux.
    let _ = setpriority_process(None, -20);
}

/// Has the thread that asks go after all others of the machine, as a client would that is on another one: what it keeps busy is then
/// what it asks, and not the processors that this machine happens to share between the two.
pub(crate) fn go_last() {
    // Of the thread alone, on Linux. Nobody is kept from less.
    let _ = setpriority_process(None, 19);
}
