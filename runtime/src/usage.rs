//! What this process takes of its machine, as Prometheus names it for every process.
//!
//! Read from `/proc`, so there is nothing where there is none: on other systems than Linux.

use std::fs;

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Its name in metrics; of a counter, without the `_total` that goes behind it.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// What it came to.
    pub value: Value,
}

/// What a figure came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// It only grows.
    Counter(f64),
    /// As it is now.
    Gauge(f64),
}

/// Clock ticks in a second, as Linux shows them to every program on every machine.
const TICKS: f64 = 100.0;

/// All figures that the system tells.
pub fn read() -> Vec<Figure> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    // The directory that is looked at is one of them.
    let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1) as f64).ok();
    let gauge =
        |name, help, value: Option<f64>| value.map(|value| Figure { name, help, value: Value::Gauge(value) });
    let cpu = field(&stat, 13).zip(field(&stat, 14)).map(|(user, system)| (user + system) / TICKS);
    let started = boot_time(&boot).zip(field(&stat, 21)).map(|(boot, ticks)| boot + ticks / TICKS);
    [
        cpu.map(|value| Figure {
            name: "process_cpu_seconds",
            help: "Time that processors spent on this process",
            value: Value::Counter(value),
        }),
        gauge("process_resident_memory_bytes", "Memory that it has now", resident(&status)),
        gauge("process_open_fds", "Files and sockets that it has open", open),
        gauge("process_max_fds", "How many it may have open", max_open(&limits)),
        gauge("process_start_time_seconds", "When it started", started),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A field of `/proc/self/stat`, counted from zero. The second one is a name in parentheses, which may hold anything.
fn field(stat: &str, index: usize) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(index.checked_sub(2)?)?.parse().ok()
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

fn max_open(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_also_of_a_process_with_a_strange_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 95 0 0 0 250 50 0 0 20 0 9 0 1000 0 0";
        assert_eq!(
            (field(stat, 13), field(stat, 14), field(stat, 21)),
            (Some(250.0), Some(50.0), Some(1000.0))
        );
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        assert_eq!(
            max_open("Max processes 1 1\nMax open files            1024   4096   files\n"),
            Some(1024.0)
        );
        assert_eq!(boot_time("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000.0));
        for text in ["", "btime", "VmRSS:", "Max open files", "1 (x"] {
            let read = [field(text, 13), resident(text), max_open(text), boot_time(text)];
            assert_eq!(read, [None; 4], "{text:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_all_of_them() {
        let figures = read();
        assert_eq!(figures.len(), 5, "{figures:?}");
        let of = |name| match figures.iter().find(|figure| figure.name == name).map(|figure| figure.value) {
            Some(Value::Gauge(value) | Value::Counter(value)) => value,
            None => panic!("{name} is missing"),
        };
        assert!(of("process_resident_memory_bytes") > 1e6);
        assert!(of("process_open_fds") >= 3.0 && of("process_open_fds") < of("process_max_fds"));
        assert!(of("process_start_time_seconds") > 1.5e9);
    }
}
