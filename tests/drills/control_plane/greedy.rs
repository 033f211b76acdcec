//! One client registers without end, then renews without end, beside others who do what is usual.

use std::time::{Duration, Instant};

use gateway_proto::v1::{
    HeartbeatRequest, KeepAliveRequest, RegisterRequest, registry_service_client::RegistryServiceClient,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use super::{
    caller::registration,
    locked::{Locked, connect, shown},
};
use crate::{Size, client::percentile, figures::Figures, process, stage::SECOND};

const GREEDY: &str =
    "[[token]]\nname = \"greedy\"\ntoken-file = \"greedy\"\nroles = [\"replica\"]\nservices = [\"greedy\"]\n";
/// Whose calls are the usual ones.
pub(super) const MODEST: &str =
    "[[token]]\nname = \"modest\"\ntoken-file = \"modest\"\nroles = [\"replica\"]\nservices = [\"modest\"]\n";

/// Within which others are answered, beside what the machine can bear.
const SERVED: Duration = Duration::from_millis(100);

/// Replicas that it would like to have.
const WANTED: usize = 1_000_000;
/// Calls of his that are under way at once.
const AT_ONCE: usize = 256;
/// Renewals in a second, in messages of as many as one may have.
const RENEWALS: u32 = 10_000;
const IN_A_MESSAGE: usize = 1000;
/// What others ask for in a second: a registration, and a renewal of what it has made.
const USUAL: u32 = 50;

pub(crate) async fn greedy(size: Size, figures: &mut Figures) {
    // A build for tests does not come to the default.
    let flags = ["--rate-limit", size.of("5000", "300")];
    let mut locked = Locked::start(&[GREEDY, MODEST].concat(), &flags).await;
    let (url, pid) = (locked.control.url(), locked.control.process().pid());
    let lasts = SECOND * size.of(20, 3);
    // What is needed once is there before it is measured.
    usual(&url, SECOND, 0).await;
    let alone = usual(&url, lasts, 1).await;
    let wish = registration("greedy", "renewed", "10.200.0.1:80", 600 * SECOND);
    let lease = connect(&url).await.register(shown("greedy", wish)).await;
    let lease = lease.expect("it can be registered").into_inner().lease_id;
    let before = process::resident_kib(pid);

    let (used, waited) = (process::cpu(pid), process::kept_waiting(pid));
    let flood = Flood::registers(&url).await;
    let beside = usual(&url, lasts, 2).await;
    hold_beside(figures, "it registers", &alone, &beside);
    let (used, waited) = (process::cpu(pid) - used, process::kept_waiting(pid).saturating_sub(waited));
    figures.show(
        "the control plane had a processor for, and waited for one",
        format!("{used:.1?}, {waited:.1?}"),
    );
    let (taken, refused, strange) = flood.stop().await;
    let asked = format!("{taken} taken, {refused} refused");
    figures.hold("it is refused, and by RESOURCE_EXHAUSTED only", asked, refused > 0 && strange == 0);

    let flood = Flood::renews(&url, lease).await;
    let beside = usual(&url, lasts, 3).await;
    hold_beside(figures, "it renews 10,000 times a second", &alone, &beside);
    let (taken, refused, strange) = flood.stop().await;
    figures.show(
        "messages of 1000 renewals that were taken, streams that were refused",
        format!("{taken}, {refused}"),
    );
    figures.at_most("refused for another reason", 0, strange);
    let growth = process::resident_kib(pid).saturating_sub(before) / 1024;
    figures.at_most("MiB more than before", 200, growth);
}

/// How long calls of the usual kind took.
#[derive(Debug, Default)]
pub(super) struct Took {
    registrations: Vec<Duration>,
    renewals: Vec<Duration>,
    failed: u64,
}

/// Registers and renews at a steady rate for so long; `turn` makes the addresses new ones. On a thread of its own that goes before all
/// others, so that it waits for the control plane and not for the flood's calls in this process.
pub(super) async fn usual(url: &str, lasts: Duration, turn: u8) -> Took {
    let url = url.to_owned();
    let alone = move || {
        process::go_first();
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("the system gives what it needs").block_on(ask_usual(&url, lasts, turn))
    };
    // A thread that tokio would use again would stay the first.
    let (done, took) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(done.send(alone())));
    took.await.expect("it does not panic")
}

async fn ask_usual(url: &str, lasts: Duration, turn: u8) -> Took {
    let registry = connect(url).await;
    let mut calls = JoinSet::new();
    let began = Instant::now();
    for number in 0..USUAL * u32::try_from(lasts.as_secs()).expect("it is short") {
        let mut registry = registry.clone();
        calls.spawn(async move {
            sleep_until((began + SECOND / USUAL * number).into()).await;
            let [_, _, high, low] = number.to_be_bytes();
            let address = format!("10.{turn}.{high}.{low}:80");
            let id = format!("r-{turn}-{number}");
            let at = Instant::now();
            let asked =
                registry.register(shown("modest", registration("modest", &id, &address, 600 * SECOND)));
            let lease_id = asked.await?.into_inner().lease_id;
            let registered = at.elapsed();
            let heartbeat =
                HeartbeatRequest { service: "modest".into(), replica_id: id, lease_id, ..Default::default() };
            let at = Instant::now();
            registry.heartbeat(shown("modest", heartbeat)).await?;
            Ok::<_, tonic::Status>((registered, at.elapsed()))
        });
    }
    let mut took = Took::default();
    for outcome in calls.join_all().await {
        match outcome {
            Ok((registered, renewed)) => {
                took.registrations.push(registered);
                took.renewals.push(renewed);
            }
            Err(_) => took.failed += 1,
        }
    }
    took
}

impl Took {
    /// Holds that they were answered, and soon.
    pub(super) fn hold_served(&self, figures: &mut Figures, what: &str) {
        figures.at_most(&format!("{what}: calls of others that fail"), 0, self.failed);
        let times = [&self.registrations[..], &self.renewals].concat();
        figures.swift(&format!("{what}: p99 of others"), SERVED, percentile(times, 0.99));
    }
}

/// Holds what others notice of it.
fn hold_beside(figures: &mut Figures, what: &str, alone: &Took, beside: &Took) {
    figures.at_most(&format!("{what}: calls of others that fail"), 0, beside.failed);
    let kinds = [
        ("registrations", &alone.registrations, &beside.registrations),
        ("renewals", &alone.renewals, &beside.renewals),
    ];
    for (kind, alone, beside) in kinds {
        let [alone, beside] = [alone, beside].map(|times| percentile(times.clone(), 0.99));
        figures.swift(&format!("{what}: p99 of others' {kind}, {alone:.1?} without it"), 2 * alone, beside);
    }
}

/// What it does, until it is stopped, on threads of its own that go after all others: it stands for a client on another machine.
struct Flood {
    threads: Threads,
    tasks: JoinSet<(u64, u64, u64)>,
    stops: tokio::sync::watch::Sender<bool>,
}

impl Flood {
    /// Registers as fast as it is answered.
    async fn registers(url: &str) -> Self {
        let mut flood = Self::begin();
        let registry = flood.connect(url).await;
        for first in 0..AT_ONCE {
            let (mut registry, stop) = (registry.clone(), flood.stops.subscribe());
            flood.spawn(async move {
                let (mut taken, mut refused, mut strange) = (0, 0, 0);
                for number in (first..WANTED).step_by(AT_ONCE) {
                    if *stop.borrow() {
                        break;
                    }
                    match registry.register(shown("greedy", wanted(number))).await {
                        Ok(_) => taken += 1,
                        Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
                        Err(_) => strange += 1,
                    }
                }
                (taken, refused, strange)
            });
        }
        flood
    }

    /// Renews one lease, as often as it may be said.
    async fn renews(url: &str, lease_id: String) -> Self {
        let mut flood = Self::begin();
        let mut registry = flood.connect(url).await;
        let stop = flood.stops.subscribe();
        let heartbeat = HeartbeatRequest {
            service: "greedy".into(),
            replica_id: "renewed".into(),
            lease_id,
            ..Default::default()
        };
        let message = KeepAliveRequest { heartbeats: vec![heartbeat; IN_A_MESSAGE] };
        flood.spawn(async move {
            let (mut taken, mut refused, mut strange) = (0, 0, 0);
            while !*stop.borrow() {
                let (requests, receiver) = tokio::sync::mpsc::channel(1);
                let said = Saying::begin(message.clone(), requests);
                let begun = registry.keep_alive(shown("greedy", ReceiverStream::new(receiver))).await;
                let ended = match begun {
                    Ok(answers) => {
                        let mut answers = answers.into_inner();
                        loop {
                            match answers.message().await {
                                Ok(Some(_)) => taken += 1,
                                Ok(None) => break None,
                                Err(status) => break Some(status),
                            }
                            if *stop.borrow() {
                                break None;
                            }
                        }
                    }
                    Err(status) => Some(status),
                };
                drop(said);
                match ended.map(|status| status.code()) {
                    Some(Code::ResourceExhausted) => refused += 1,
                    Some(_) => strange += 1,
                    None => {}
                }
            }
            (taken, refused, strange)
        });
        flood
    }

    fn begin() -> Self {
        let mut threads = Builder::new_multi_thread();
        let runtime = threads.worker_threads(2).on_thread_start(process::go_last).enable_all().build();
        let runtime = runtime.expect("the system gives what it needs");
        Self {
            threads: Threads(Some(runtime)),
            tasks: JoinSet::new(),
            stops: tokio::sync::watch::Sender::new(false),
        }
    }

    /// A connection whose work is done on these threads.
    async fn connect(&self, url: &str) -> RegistryServiceClient<Channel> {
        let url = url.to_owned();
        self.threads.handle().spawn(async move { connect(&url).await }).await.expect("it does not panic")
    }

    fn spawn(&mut self, task: impl Future<Output = (u64, u64, u64)> + Send + 'static) {
        self.tasks.spawn_on(task, self.threads.handle());
    }

    /// Taken, refused as it should be, and otherwise.
    async fn stop(self) -> (u64, u64, u64) {
        self.stops.send_replace(true);
        let sum = |(a, b, c), (x, y, z)| (a + x, b + y, c + z);
        self.tasks.join_all().await.into_iter().fold((0, 0, 0), sum)
    }
}

/// Those of a flood, which end with it, also where a drill panics.
struct Threads(Option<Runtime>);

impl Threads {
    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("they are there until they are dropped").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Nobody can wait for them here.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One of them.
fn wanted(number: usize) -> RegisterRequest {
    let [_, a, b, c] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    registration("greedy", &format!("r-{number}"), &format!("10.{}.{b}.{c}:80", 100 + a), 600 * SECOND)
}

/// Says the same on a stream, ten times a second. Ends with this value.
struct Saying(AbortHandle);

impl Saying {
    fn begin(message: KeepAliveRequest, requests: tokio::sync::mpsc::Sender<KeepAliveRequest>) -> Self {
        let pause = SECOND * u32::try_from(IN_A_MESSAGE).expect("it is small") / RENEWALS;
        let saying = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(pause);
            loop {
                ticks.tick().await;
                if requests.send(message.clone()).await.is_err() {
                    return;
                }
            }
        });
        Self(saying.abort_handle())
    }
}

impl Drop for Saying {
    fn drop(&mut self) {
        self.0.abort();
    }
}
