//! The links of a hundred data planes to their control plane go dead at once: nothing gets through any more, and no connection
//! ends. Runs in networks of its own.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use gateway_proto::v1::WatchEventsRequest;
use gateway_tests::{ControlPlane, DataPlane, Load, http1};
use tokio::task::{AbortHandle, JoinSet};

use super::{
    caller::{Caller, registration},
    cluster::{TTL, hold_leases, hold_load, serves},
    owner::Owner,
    parts::{Part, Parts},
    subscribers::following,
};
use crate::{
    Size,
    figures::Figures,
    replica::{Posts, Replica, lock},
    stage::SECOND,
};

const CONTROL: Part = 0;
const DATA: Part = 1;
/// Requests a second through one of them.
const RATE: u32 = 50;
/// Within this, each has to find out that its link is dead.
const NOTICED: Duration = Duration::from_secs(15);
/// Within this, each has to be back.
const BACK: Duration = Duration::from_secs(5);
/// Within this, each has to have what has changed: with the turns of all to begin.
const CAUGHT_UP: Duration = Duration::from_secs(8);

pub(crate) async fn dead(size: Size, figures: &mut Figures) {
    let count = size.of(100, 20);
    let parts = Parts::new(2).await;
    let directory = tempfile::tempdir().expect("there is a folder for temporary files");
    let store = format!("redb:{}", directory.path().join("registry.redb").display());
    let most = count as u64 / BACK.as_secs();
    // Evenly, so that no second, wherever it begins, has more: timers may be late, and the next one on time.
    let flags = ["--insecure", "--snapshot-stream-rate", &(most - 1).to_string()];
    let control = ControlPlane::start_in(parts.place(CONTROL), store, &flags).await;
    let urls = [control.url()];
    let replica = Replica::start_at(parts.outside(DATA), &Posts::default());
    let owner = Owner::start(&urls, "r-0", replica.address(), TTL).await;
    let mut data = Vec::new();
    for number in 0..count {
        let node = format!("dp-{number}");
        let flags =
            ["--control-plane", &urls[0], "--node-id", &node, "--no-cache", "--workers", "1", "--insecure"];
        data.push(DataPlane::start_in(parts.place(DATA), &flags).await);
    }
    for gateway in &data {
        serves(gateway).await;
    }
    let load = Load::start(data[0].address(), "/orders/x", RATE);
    let admins: Vec<_> = data.iter().map(DataPlane::admin).collect();

    let cut = Instant::now();
    parts.cut(&[CONTROL], &[DATA]);
    parts.cut(&[DATA], &[CONTROL]);
    let noticed = all(&admins, NOTICED + BACK, |link| !link.is_connected);
    let missed = async {
        while following(&control).await > 0 && cut.elapsed() < 2 * NOTICED {
            tokio::time::sleep(SECOND / 4).await;
        }
        cut.elapsed()
    };
    let (noticed, missed) = tokio::join!(noticed, missed);
    figures.within(&format!("{count} links go dead: all data planes have noticed"), NOTICED, noticed);
    figures.within("... and the control plane", NOTICED + SECOND, missed);
    let news = registration("news", "r-0", "10.8.0.1:80", 600 * SECOND);
    let news = Caller::new(&urls[0]).register(news).await.expect("it can be registered");
    let news = news.replica.map_or(i64::MAX, |replica| replica.revision);
    let before = attempts(&admins).await;
    let measured = Instant::now();
    tokio::time::sleep(size.lasts(30).saturating_sub(cut.elapsed())).await;
    tokio::time::sleep(SECOND).await;
    let tried = attempts(&admins).await - before;
    let per_second = tried / measured.elapsed().as_secs_f64();
    figures.show("attempts to connect a second, of all, while they are dead", format!("{per_second:.0}"));

    let streams = Streams::watch(&control).await;
    parts.heal();
    let (back, caught_up) = tokio::join!(
        all(&admins, 4 * BACK, |link| link.is_connected),
        all(&admins, 4 * BACK, move |link| link.is_connected && link.revision >= news),
    );
    figures.within("they are mended: all are connected", BACK, back);
    figures.within("... and have what has changed meanwhile", CAUGHT_UP, caught_up);
    tokio::time::sleep(SECOND).await;
    let times = streams.stop();
    figures.hold(&format!("each of {count} begins one stream"), times.len(), times.len() == count);
    figures.at_most("streams that begin in any one second", most, most_within(&times, SECOND) as u64);
    hold_leases(figures, &[owner]);
    hold_load(figures, &load.stop().await);
}

/// What a data plane says of its link.
#[derive(Debug, Clone, Copy)]
struct Link {
    is_connected: bool,
    revision: i64,
}

impl Link {
    async fn ask(admin: SocketAddr) -> Self {
        let answer = http1::get(admin, "/readyz?verbose").await;
        let text = String::from_utf8_lossy(answer.body());
        let revision =
            text.split_once("revision ").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        Self { is_connected: text.contains("connected for"), revision: revision.unwrap_or_default() }
    }
}

/// How long it takes until the links of all are so, `limit` if they do not come to it.
async fn all(
    admins: &[SocketAddr],
    limit: Duration,
    is_so: impl Fn(Link) -> bool + Copy + Send + Sync + 'static,
) -> Duration {
    let began = Instant::now();
    let mut looks = JoinSet::new();
    for admin in admins.iter().copied() {
        looks.spawn(async move {
            while !is_so(Link::ask(admin).await) && began.elapsed() < limit {
                tokio::time::sleep(SECOND / 4).await;
            }
        });
    }
    looks.join_all().await;
    began.elapsed()
}

/// Streams of these data planes that have ended or could not begin, so far.
async fn attempts(admins: &[SocketAddr]) -> f64 {
    let mut sum = 0.0;
    for admin in admins {
        sum += crate::stage::metric(*admin, "gateway_control_plane_streams_ended_total").await;
    }
    sum
}

/// The most of these moments that lie within so long.
fn most_within(times: &[Duration], within: Duration) -> usize {
    let after = |first: &Duration| times.iter().filter(|at| (*first..*first + within).contains(*at)).count();
    times.iter().map(after).max().unwrap_or_default()
}

/// When snapshot streams begin, as a control plane tells it.
struct Streams {
    times: Arc<Mutex<Vec<Duration>>>,
    watching: AbortHandle,
}

impl Streams {
    async fn watch(control: &ControlPlane) -> Self {
        let request =
            WatchEventsRequest { filter: "event_type = \"NODE_CONNECTED\"".into(), ..Default::default() };
        let watched = control.observability().watch_events(request).await;
        let mut events = watched.expect("events can be watched").into_inner();
        let times = Arc::<Mutex<Vec<_>>>::default();
        let told = Arc::clone(&times);
        let watching = tokio::spawn(async move {
            while let Ok(Some(message)) = events.message().await {
                let at = message.events.into_iter().filter_map(|event| event.event_time);
                let since = at.map(|at| Duration::new(at.seconds.unsigned_abs(), at.nanos.unsigned_abs()));
                lock(&told).extend(since);
            }
        });
        Self { times, watching: watching.abort_handle() }
    }

    fn stop(self) -> Vec<Duration> {
        self.watching.abort();
        lock(&self.times).clone()
    }
}
