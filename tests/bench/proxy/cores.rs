//! Which cores the proxies have, which the load, and what can be measured with so many.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

/// What the load needs for each worker that is to be busy all the time: clients have one, replicas the other.
const OF_LOAD: usize = 2;

/// Those that this process was started on; the first are the proxies'.
#[derive(Debug)]
pub(crate) struct Cores(Vec<usize>);

impl Cores {
    pub(crate) fn here() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("Linux says which cores there are")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self::parse(list.context("the list of cores is there")?.trim())
    }

    /// Reads a list such as `0-3,6`.
    pub(crate) fn parse(list: &str) -> Result<Self> {
        let mut cores = Vec::new();
        for range in list.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            cores.extend(first.parse::<usize>()?..=last.parse()?);
        }
        ensure!(!cores.is_empty(), "no core in {list:?}");
        Ok(Self(cores))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// A list for a proxy of so many workers.
    pub(crate) fn of_proxy(&self, workers: usize) -> String {
        listed(&self.0[..workers.min(self.count())])
    }

    /// A list of what so many workers leave; one core there is in any case.
    pub(crate) fn of_load(&self, workers: usize) -> String {
        listed(&self.0[workers.min(self.count() - 1)..])
    }

    /// Moves this process, with all its threads, to those that so many workers leave.
    ///
    /// # Errors
    /// When taskset is missing.
    pub(crate) fn leave_to(&self, workers: usize) -> Result<()> {
        let (others, this) = (self.of_load(workers), std::process::id().to_string());
        let mut taskset = Command::new("taskset");
        taskset.args(["--all-tasks", "--cpu-list", "--pid", &others, &this]);
        let output =
            taskset.output().context("taskset, of util-linux, keeps the load off the proxies' cores")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// How many threads of clients, and of replicas, keep so many workers busy: one where they share cores anyhow.
    pub(crate) fn threads_for(&self, workers: usize) -> usize {
        if self.count() >= needed(workers) { workers } else { 1 }
    }

    /// What rates of so many workers say here.
    pub(crate) fn verdict(&self, workers: usize) -> String {
        let (count, needed) = (self.count(), needed(workers));
        if count >= needed {
            return format!(
                "{count} cores: {workers} workers have a core each, and clients and replicas the others, so rates can be compared."
            );
        }
        format!(
            "{count} cores, and {workers} workers need {needed} to be compared by rate, one each and {OF_LOAD} each for clients and replicas: \
             here they share, so what scales shows in CPU for each request, which is to be the same, and rates say nothing of it."
        )
    }
}

fn needed(workers: usize) -> usize {
    workers * (1 + OF_LOAD)
}

fn listed(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
