//! `gwctl top`: a live table of services and replicas; on a terminal with keys, elsewhere as tables one after the other.

use std::{
    io::{self, IsTerminal as _, Read as _},
    time::{Duration, SystemTime},
};

use gateway_proto::{
    ServiceName,
    time::{duration, timestamp},
    v1::{
        BreakerState, DrainReplicaRequest, OverrideBreakerRequest, ResetBreakerRequest,
        UndrainReplicaRequest, WatchStatsRequest, WatchStatsResponse,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::Streaming;

use crate::{
    age::time_of_day,
    authorship::Author,
    control::{Control, Scope},
    error::{Error, Exit},
    output::{Format, Output},
    screen::{self, Whole},
    top::{
        board::{Board, Order},
        input::{Act, Asked, Key, Looking, keys},
        view,
    },
};

/// How long what was done, or could not be, is told.
const TOLD: Duration = Duration::from_secs(8);
/// Between two looks at what is registered.
const LOOK: Duration = Duration::from_secs(2);
/// A breaker that is forced here is forced for so long.
const TTL: Duration = Duration::from_secs(15 * 60);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Flags of `gwctl top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this service
    service: Option<ServiceName>,
    /// Between two measurements, 1s to 60s
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Measure once, print, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    who: Author,
}

/// Measures until somebody quits.
///
/// # Errors
/// What the control plane refuses; one that is away is waited for, once it was there.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let mut feed = Feed::new(&args, control.clone());
    let mut board = Board::default();
    let on_screen = !args.once
        && matches!(output.format, Format::Table | Format::Wide)
        && screen::is_there()
        && io::stdin().is_terminal();
    feed.look(&mut board).await?;
    if on_screen {
        return live(feed, board, args.who.author).await;
    }
    let printing = async {
        // Data planes begin to measure when somebody asks: what comes first covers less than an interval.
        let mut rest = if args.once { 2 } else { 1 };
        loop {
            let measured = feed.next().await?;
            board.measured(&measured);
            rest -= 1;
            if rest == 0 {
                feed.look(&mut board).await?;
                board.measured(&measured);
                print(&board, output)?;
                rest = 1;
                if args.once {
                    return Ok(());
                }
            }
        }
    };
    output.while_read(printing).await
}

fn print(board: &Board, output: &Output) -> Result<(), Error> {
    match output.format {
        Format::Json => output.value(&board.to_json(Order::Worst, "")),
        Format::Name => output.data(
            board
                .services(Order::Worst, "")
                .iter()
                .map(|service| format!("{}\n", service.name))
                .collect::<String>(),
        ),
        Format::Table | Format::Wide => {
            output.note(format_args!("{}", time_of_day(Some(timestamp(SystemTime::now())))));
            view::missing(board).into_iter().for_each(|missing| output.note(missing));
            output.table(view::services(board, Order::Worst, ""))
        }
    }
}

/// Where figures come from.
struct Feed {
    control: Control,
    service: Option<ServiceName>,
    interval: Duration,
    stream: Option<Streaming<WatchStatsResponse>>,
}

impl Feed {
    fn new(args: &Args, control: Control) -> Self {
        Self { control, service: args.service.clone(), interval: args.interval, stream: None }
    }

    /// What is registered, and how the breakers are.
    async fn look(&self, board: &mut Board) -> Result<(), Error> {
        let scope = Scope::from(self.service.as_ref());
        let (services, breakers) = match &self.service {
            None => (self.control.services().await?, self.control.breakers(&scope, false).await?),
            Some(name) => {
                // Tells of one that does not exist.
                self.control.replicas(Some(name)).await?;
                let mut services = self.control.services().await?;
                services.services.retain(|service| service.service == name.as_str());
                (services, self.control.breakers(&scope, false).await?)
            }
        };
        board.registered(&services, &breakers.breakers);
        Ok(())
    }

    /// The next measurement. Cancel safe: what was opened stays open.
    async fn next(&mut self) -> Result<WatchStatsResponse, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let service = self.service.as_ref().map(ToString::to_string).unwrap_or_default();
                let interval = Some(duration(self.interval));
                let request = WatchStatsRequest { service, interval, per_replica: true };
                self.stream.insert(self.control.watch_stats(request).await?)
            }
        };
        let why = match stream.message().await {
            Ok(Some(measured)) => return Ok(measured),
            Ok(None) => "the control plane ended it".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        self.stream = None;
        Err(Error::new(Exit::Unreachable, why))
    }
}

/// What is told under the table.
struct Word {
    text: String,
    until: Instant,
}

async fn live(mut feed: Feed, mut board: Board, author: String) -> Result<(), Error> {
    // It has a place on the screen.
    feed.control = feed.control.telling_nobody();
    let mut screen = Whole::enter()?;
    let mut typed = read_keys();
    let mut looking = Looking::default();
    let mut word = Word { text: "measuring ...".into(), until: Instant::now() + TOLD };
    let (mut resized, mut terminated) =
        (signal(SignalKind::window_change())?, signal(SignalKind::terminate())?);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again = Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        let text = if Instant::now() < word.until { word.text.as_str() } else { "" };
        let now = time_of_day(Some(timestamp(SystemTime::now())));
        screen.draw(&view::screen(&board, &looking, &now, text, screen::size()))?;
        tokio::select! {
            key = typed.recv() => {
                let Some(key) = key else { return Ok(()) };
                match looking.press(key, &board) {
                    Asked::Nothing => {}
                    Asked::Quit => return Ok(()),
                    Asked::Act { act, service, replica_id, reason } => {
                        let name = format!("{service}/{replica_id}");
                        let done = perform(&feed.control, act, (service, replica_id), reason, &author).await;
                        let text = match done {
                            Ok(()) => format!("{name}: {}: done", act.name()),
                            Err(error) => format!("{name}: {}: {}", act.name(), error.headline),
                        };
                        word = Word { text, until: Instant::now() + TOLD };
                        look.reset_immediately();
                    }
                }
            }
            measured = async { tokio::time::sleep_until(again).await; feed.next().await }, if !looking.is_paused => {
                match measured {
                    Ok(measured) => {
                        board.measured(&measured);
                        pause = Duration::from_millis(200);
                        if word.text.starts_with("measuring") || word.text.starts_with("interrupted") {
                            word.until = Instant::now();
                        }
                    }
                    Err(error) if error.exit == Exit::Unreachable => {
                        again = Instant::now() + pause;
                        pause = (pause * 2).min(MAX_PAUSE);
                        let text = format!("interrupted ({}); trying again", error.headline);
                        word = Word { text, until: Instant::now() + Duration::from_secs(3600) };
                    }
                    Err(error) => return Err(error),
                }
            }
            _ = look.tick(), if !looking.is_paused => {
                // What is away is told of by the measurements.
                let _ = feed.look(&mut board).await;
            }
            _ = resized.recv() => {}
            _ = terminated.recv() => return Ok(()),
        }
    }
}

/// Keys as they are typed: a thread of its own waits for them, for a terminal cannot be asked without waiting.
fn read_keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut chunk = [0; 256];
        while let Ok(count @ 1..) = io::stdin().read(&mut chunk) {
            for key in keys(&chunk[..count]) {
                if sender.blocking_send(key).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

async fn perform(
    control: &Control,
    act: Act,
    (service, replica_id): (String, String),
    reason: String,
    author: &str,
) -> Result<(), Error> {
    let author = author.to_owned();
    match act {
        Act::Drain => {
            let request = DrainReplicaRequest { service, replica_id, reason, author, ..Default::default() };
            control.drain(request).await.map(drop)
        }
        Act::Undrain => {
            let request = UndrainReplicaRequest { service, replica_id, reason, author, ..Default::default() };
            control.undrain(request).await.map(drop)
        }
        Act::ResetBreaker => {
            let request = ResetBreakerRequest { service, replica_id, reason, author, ..Default::default() };
            control.reset_breaker(request).await.map(drop)
        }
        Act::OpenBreaker | Act::CloseBreaker | Act::AutomaticBreaker => {
            let (state, ttl) = match act {
                Act::OpenBreaker => (BreakerState::ForcedOpen, Some(duration(TTL))),
                Act::CloseBreaker => (BreakerState::ForcedClosed, Some(duration(TTL))),
                _ => (BreakerState::Closed, None),
            };
            let request = OverrideBreakerRequest {
                service,
                replica_id,
                state: state.into(),
                ttl,
                reason,
                author,
                ..Default::default()
            };
            control.override_breaker(request).await.map(drop)
        }
    }
}
