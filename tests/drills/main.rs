//! Drills: a fault is injected into a running gateway, and figures are held. `tests/drills/run` builds everything and starts this.
//!
//! Each drill starts real processes on loopback, bounded in time and count, prints what it measured beside its criterion, and
//! fails when that is not held. docs/drills.md has the figures of one machine.

mod black_holes;
mod bodies;
mod client;
mod connections;
mod control_plane;
mod endings;
mod faults;
mod figures;
mod leak;
mod network;
mod process;
mod replica;
mod stage;
mod trust;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use gateway_runtime::open_files;
use gateway_tests::tools;
use tokio::time::timeout;

use self::figures::Figures;

/// Injects faults into a gateway and holds it to figures
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Which drills; all unless some are named
    #[arg(value_enum)]
    drills: Vec<Drill>,
    /// Smaller counts and shorter times
    #[arg(long)]
    short: bool,
    /// How long the leak drill loads the gateway, in minutes, how long etcd has no quorum, and how long the control plane is away; without it
    /// 20 s, 15 s and 60 s
    #[arg(long, value_name = "N")]
    minutes: Option<u32>,
    /// How many replicas are registered beside those that a drill of the control plane is about
    #[arg(long, value_name = "N", default_value_t = 0)]
    replicas: usize,
    /// What `cargo bench` adds for benches of its own kind
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much of it is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    is_short: bool,
    minutes: Option<u32>,
    replicas: usize,
}

impl Size {
    /// The whole, or the short form.
    pub(crate) fn of<T>(self, whole: T, short: T) -> T {
        if self.is_short { short } else { whole }
    }

    /// How many replicas are registered beside those that a drill of the control plane is about.
    pub(crate) fn crowd(self) -> usize {
        self.replicas
    }

    /// Longest that a drill may take: each of its waits has a bound of its own, so this is for what nobody thought of.
    fn limit(self) -> Duration {
        self.lasts(0) + Duration::from_secs(1800)
    }

    /// How long something lasts: as many minutes as are asked for, or else these seconds.
    pub(crate) fn lasts(self, seconds: u32) -> Duration {
        self.minutes.map_or(Duration::from_secs(seconds.into()), |minutes| Duration::from_secs(60) * minutes)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drill {
    /// One of three replicas is killed
    Killed,
    /// One hangs, its connections stay up
    Frozen,
    /// One answers 503 to three requests in ten
    Unavailable,
    /// One closes without an answer
    Closing,
    /// One resets in the middle of bodies
    Resetting,
    /// One takes two seconds
    Slow,
    /// One goes and comes back every second
    Flapping,
    /// No packet reaches one any more, and none is refused
    BlackHole,
    /// The connections to one are dead without a word
    HalfOpen,
    /// What is sent to one does not arrive, and then what it answers does not
    OneWay,
    /// All are down, then back
    AllDown,
    /// A replica is drained under load
    Drained,
    /// The gateway is told to end, and replaced, under load
    Replaced,
    /// Thousands of idle connections
    Idle,
    /// Partial requests and slowloris
    Partial,
    /// No file descriptors left
    Descriptors,
    /// Clients and replicas that do not read
    Unread,
    /// A gibibyte up and down
    Gibibyte,
    /// Slow readers and slow writers by the thousand
    SlowClients,
    /// Many idle and many busy connections at once
    Crowd,
    /// The gateway is its own replica
    Loop,
    /// Clients forge what replicas are told of them
    Forged,
    /// Planes show each other certificates that nobody should believe, and new ones
    Impostors,
    /// Mixed load, after which everything is back
    Leak,
    /// The control plane, on a file, is killed at random
    ControlKilled,
    /// A control plane stands still, or is away, for longer than leases last
    ControlFrozen,
    /// The control plane is away, and requests go on
    ControlAway,
    /// A data plane starts without a control plane
    ColdStart,
    /// The control plane comes back with an empty registry, and with an older one
    Forgetful,
    /// Hundreds of data planes come back at once to a control plane that was killed, and holds much
    Reconnection,
    /// One of two control planes on etcd is killed
    OneOfTwoKilled,
    /// The member of etcd that leads is killed
    EtcdLeader,
    /// Two of three members of etcd are away for longer than leases last
    EtcdQuorum,
    /// etcd forgets what a control plane has missed
    EtcdCompacted,
    /// etcd stands still for longer than leases last, and lets all of them lapse
    EtcdDrops,
    /// etcd holds as much as it may, and takes nothing more
    EtcdQuota,
    /// The disk of a member of etcd runs full
    EtcdDiskFull,
    /// All of it is restarted, one after the other
    Rolling,
    /// Faults one after the other, and a history of what clients were told that is judged
    Histories,
    /// Nothing reaches one part from another: each pair, also one way
    Partitions,
    /// The links of a hundred data planes to their control plane go dead without a word
    DeadLinks,
    /// The disk below the registry runs full
    DiskFull,
    /// Each flush of the disk takes long
    DiskSlow,
    /// Flushes of the disk fail
    DiskBroken,
    /// The wall clock of the control plane is set
    ClockSteps,
    /// A snapshot stream is cut all the time
    StreamsCut,
    /// Subscribers that never read
    StreamsUnread,
    /// A thousand data planes on two control planes, one of which dies
    ManyDataPlanes,
    /// One client registers and renews without end
    Greedy,
    /// Messages that are none, too large, or from nobody, and strangers who fill what they can
    Malformed,
    /// Leases, tokens and node ids are guessed by the thousand
    Guessed,
    /// Replicas that are registered by the rules and are poison
    Poisoned,
}

async fn run(drill: Drill, size: Size, figures: &mut Figures) {
    match drill {
        Drill::Killed => faults::killed(size, figures).await,
        Drill::Frozen => faults::frozen(size, figures).await,
        Drill::Unavailable => faults::unavailable(size, figures).await,
        Drill::Closing => faults::closing(size, figures).await,
        Drill::Resetting => faults::resetting(size, figures).await,
        Drill::Slow => faults::slow(size, figures).await,
        Drill::Flapping => faults::flapping(size, figures).await,
        Drill::BlackHole => black_holes::black_hole(size, figures).await,
        Drill::HalfOpen => black_holes::half_open(size, figures).await,
        Drill::OneWay => black_holes::one_way(size, figures).await,
        Drill::AllDown => faults::all_down(size, figures).await,
        Drill::Drained => endings::drained(size, figures).await,
        Drill::Replaced => endings::replaced(size, figures).await,
        Drill::Idle => connections::idle(size, figures).await,
        Drill::Partial => connections::partial(size, figures).await,
        Drill::Descriptors => connections::descriptors(size, figures).await,
        Drill::Unread => bodies::unread(size, figures).await,
        Drill::Gibibyte => bodies::gibibyte(size, figures).await,
        Drill::SlowClients => bodies::slow_clients(size, figures).await,
        Drill::Crowd => connections::crowd(size, figures).await,
        Drill::Loop => faults::own_replica(size, figures).await,
        Drill::Forged => trust::forged(size, figures).await,
        Drill::Impostors => trust::impostors(size, figures).await,
        Drill::Leak => leak::mixed(size, figures).await,
        Drill::ControlKilled => control_plane::kills::kills(size, figures).await,
        Drill::ControlFrozen => control_plane::standstill::frozen(size, figures).await,
        Drill::ControlAway => control_plane::away::away(size, figures).await,
        Drill::ColdStart => control_plane::away::cold(size, figures).await,
        Drill::Forgetful => control_plane::forgetful::forgetful(size, figures).await,
        Drill::Reconnection => control_plane::reconnection::reconnection(size, figures).await,
        Drill::OneOfTwoKilled => control_plane::outages::control(size, figures).await,
        Drill::EtcdLeader => control_plane::outages::leader(size, figures).await,
        Drill::EtcdQuorum => control_plane::outages::quorum(size, figures).await,
        Drill::EtcdCompacted => control_plane::standstill::compacted(size, figures).await,
        Drill::EtcdDrops => control_plane::drops::dropped(size, figures).await,
        Drill::EtcdQuota => control_plane::etcd_disks::quota(size, figures).await,
        Drill::EtcdDiskFull => control_plane::etcd_disks::full(size, figures).await,
        Drill::Rolling => control_plane::rolling::restarts(size, figures).await,
        Drill::Histories => control_plane::chaos::chaos(size, figures).await,
        Drill::Partitions => control_plane::cut_off::partitioned(size, figures).await,
        Drill::DeadLinks => control_plane::dead_links::dead(size, figures).await,
        Drill::DiskFull => control_plane::disks::full(size, figures).await,
        Drill::DiskSlow => control_plane::disks::slow(size, figures).await,
        Drill::DiskBroken => control_plane::disks::broken(size, figures).await,
        Drill::ClockSteps => control_plane::clocks::steps(size, figures).await,
        Drill::StreamsCut => control_plane::subscribers::cut(size, figures).await,
        Drill::StreamsUnread => control_plane::subscribers::slow(size, figures).await,
        Drill::ManyDataPlanes => control_plane::data_planes::many(size, figures).await,
        Drill::Greedy => control_plane::greedy::greedy(size, figures).await,
        Drill::Malformed => control_plane::input::malformed(size, figures).await,
        Drill::Guessed => control_plane::guesses::guessed(size, figures).await,
        Drill::Poisoned => control_plane::input::poisoned(size, figures).await,
    }
}

impl Drill {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it drops packets, for which it needs a network of its own.
    fn drops_packets(self) -> bool {
        matches!(self, Self::BlackHole | Self::HalfOpen | Self::OneWay | Self::Partitions | Self::DeadLinks)
    }

    /// Whether it needs an etcd.
    fn asks_for_etcd(self) -> bool {
        matches!(
            self,
            Self::ControlFrozen
                | Self::OneOfTwoKilled
                | Self::EtcdLeader
                | Self::EtcdQuorum
                | Self::EtcdCompacted
                | Self::EtcdDrops
                | Self::EtcdQuota
                | Self::EtcdDiskFull
                | Self::Rolling
                | Self::Histories
                | Self::Partitions
                | Self::DiskSlow
                | Self::ManyDataPlanes
        )
    }

    /// Has the same program hold it in a network of its own.
    fn hold_in_a_network_of_its_own(self, size: Size, figures: &mut Figures) {
        let mut args = vec![self.name()];
        args.extend(size.is_short.then(|| "--short".into()));
        args.extend([format!("--replicas={}", size.replicas)]);
        match network::enter(&args) {
            Ok(found) => figures.found_elsewhere(&found),
            Err(why) => figures.skip(why),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    open_files::raise_limit();
    let drills = match args.drills.as_slice() {
        [] => Drill::value_variants(),
        some => some,
    };
    let size = Size { is_short: args.short, minutes: args.minutes, replicas: args.replicas };
    let mut figures = Figures::new(args.short);
    for drill in drills {
        if drill.asks_for_etcd() && !tools::has_etcd() {
            figures.begin(&drill.name());
            figures.skip("etcd is not installed: tests/run installs it");
            continue;
        }
        if drill.drops_packets() && !network::is_inside() {
            figures.begin(&drill.name());
            drill.hold_in_a_network_of_its_own(size, &mut figures);
            continue;
        }
        if network::is_inside() {
            figures.go_on(&drill.name())
        } else {
            figures.begin(&drill.name())
        }
        // Each on a runtime of its own: what one leaves behind is no load for the next.
        let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
        let ended = runtime.block_on(async { timeout(size.limit(), run(*drill, size, &mut figures)).await });
        if ended.is_err() {
            figures.hold("it ends", format!("not within {:?}, after what stands above", size.limit()), false);
        }
        runtime.shutdown_background();
    }
    if network::is_inside() {
        // Whoever has started this says the rest.
        network::leave(&figures.found());
        return ExitCode::SUCCESS;
    }
    figures.verdict()
}
