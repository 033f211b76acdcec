//! Many callers at once, each of which sends its next request when the last one is answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{sync::Barrier, task::JoinSet};
use tonic::transport::{Channel, Endpoint};

use crate::samples::percentile_ms;

/// What the callers got done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    times: Vec<Duration>,
    elapsed: Duration,
    /// Answers of the caller that got fewest.
    least: Option<usize>,
}

impl Done {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// How many answers.
    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// How many answers every caller got.
    pub(crate) fn least(&self) -> usize {
        self.least.unwrap_or(0)
    }

    /// Time of one answer at a rank, in milliseconds.
    pub(crate) fn time_ms(&self, rank: f64) -> f64 {
        percentile_ms(&self.times, rank)
    }
}

/// One connection.
pub(crate) async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("connecting to {url}"))
}

/// As many connections as callers: a replica has one of its own.
pub(crate) async fn connect_many(url: &str, count: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        channels.push(connect(url).await?);
    }
    Ok(channels)
}

/// Lets every caller call, over and over, until `limit` has passed or it has made `max` calls. Calls that were begun
/// in time are waited for and count.
///
/// # Errors
/// The first call that fails ends it.
pub(crate) async fn drive<C, F>(callers: Vec<C>, limit: Duration, max: usize) -> Result<Done>
where
    C: FnMut(usize) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let mut tasks = JoinSet::new();
    let start = Arc::new(Barrier::new(callers.len() + 1));
    for mut call in callers {
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            let mut times = Vec::new();
            let until = Instant::now() + limit;
            while times.len() < max {
                let began = Instant::now();
                if began >= until {
                    break;
                }
                call(times.len()).await?;
                times.push(began.elapsed());
            }
            Ok::<_, anyhow::Error>(times)
        });
    }
    start.wait().await;
    let began = Instant::now();
    let mut done = Done::default();
    while let Some(times) = tasks.join_next().await {
        let times = times??;
        done.least = Some(done.least.map_or(times.len(), |least| least.min(times.len())));
        done.times.extend(times);
    }
    done.elapsed = began.elapsed();
    Ok(done)
}
