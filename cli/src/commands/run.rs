//! `gwctl run`: keeps a program running that knows nothing of the gateway, and its replica registered while it is ready.

use std::{io::Write as _, path::PathBuf, time::Duration};

use clap::builder::ArgPredicate;
use gateway_proto::{Endpoint as Reached, ReplicaId, ReplicaKey, ServiceName, v1};
use tokio::task::JoinSet;
use tonic::Code;

use super::register::Description;
use crate::{
    cli::Global,
    endpoint::{Endpoint, Origin},
    error::{Error, Exit},
    link::{self, Link},
    output::Output,
    run::{
        Changes, Described, Lines, Live, Prefix, Registration, Renewals, StopSignal,
        orphans::Orphans,
        place::{self, Port},
        readiness::Readiness,
        restarts::Rules,
        signals::Stop,
        supervisor::{Again, Program, Supervisor},
    },
    status::{Subject, explain},
};

/// Longest wait for the control plane's word on whether it would take the registration.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The most programs that one supervisor takes on.
const MAX_REPLICAS: u64 = 100;

/// Flags of `gwctl run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The program is told PORT, GW_SERVICE, GW_REPLICA_ID, GW_ADDRESS and GW_ENDPOINT in its environment; $PORT and the others are \
filled in in its arguments, too. Its exit code becomes that of gwctl: 125 when gwctl itself failed, 126 when the program cannot be \
run, 127 when there is none, 128+N after signal N. SIGTERM and Ctrl-C drain it first; a second one kills it.")]
pub(crate) struct Args {
    /// Service that it is a replica of
    #[arg(long, value_name = "SERVICE")]
    service: ServiceName,
    /// Port that it listens on; auto: a free one
    #[arg(long, default_value = "auto", value_name = "auto|PORT")]
    port: Port,
    /// Host by which data planes reach it; left out, this machine as the control plane sees it
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Replica id; left out, one that follows from the address
    #[arg(long, value_name = "REPLICA", conflicts_with = "replicas")]
    id: Option<ReplicaId>,
    /// So many of them, each with a port of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_REPLICAS))]
    replicas: u64,
    /// What tells that it is ready, before it is registered: tcp, http:/PATH, grpc, grpc:SERVICE or none
    #[arg(long, default_value = "tcp", value_name = "PROBE")]
    health: Readiness,
    /// Longest time from its start until it is ready; then it has failed
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    ready_timeout: Duration,
    /// When it is started again after it ended
    #[arg(
        long,
        default_value = "always",
        value_name = "WHEN",
        default_value_if("no_restart", ArgPredicate::IsPresent, Some("never"))
    )]
    restart: Again,
    /// The same as --restart never: its end is the end of gwctl
    #[arg(long, conflicts_with = "restart")]
    no_restart: bool,
    /// Before the first restart; doubles up to 1s
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = humantime::parse_duration)]
    restart_delay: Duration,
    /// So many fast restarts within --restart-window, and the next turns it OFF: slow ones from then on
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    fast_restarts: u32,
    /// The time in which fast restarts count
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    restart_window: Duration,
    /// Before the first slow restart; doubles up to --max-restart
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    slow_restart: Duration,
    /// Longest pause before a slow restart
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_restart: Duration,
    /// A run that is ready for this long turns it ON and makes all restarts available again
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    stable_for: Duration,
    /// Give up after so many restarts without such a run, with its exit code; left out, never
    #[arg(long, value_name = "N")]
    max_restarts: Option<u32>,
    /// What asks it to end: TERM, INT, QUIT, HUP, USR1 or USR2
    #[arg(long, default_value = "TERM", value_name = "SIGNAL")]
    stop_signal: StopSignal,
    /// From SIGTERM until it is killed; three quarters of it at most to drain
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Start it anew when this file, or one below this folder, has changed: for development; may be repeated. Left out are hidden
    /// files, those of editors, and what is in target, node_modules and __pycache__; 20000 files and folders are looked at, at most
    #[arg(long, value_name = "PATH")]
    watch: Vec<PathBuf>,
    /// Lease that is kept alive, 1s to 1h: how soon data planes forget it when this machine dies
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Its version, for people
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    replica_version: String,
    #[command(flatten)]
    description: Description,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the program until SIGTERM, SIGINT, or its last end.
///
/// # Errors
/// The exit code of the program, of which stderr has told; a usage error before it is started.
pub(crate) async fn run(args: Args, global: &Global, origin: Origin, output: &Output) -> Result<(), Error> {
    let endpoint = Endpoint::parse(&global.endpoint, origin)?;
    let (tls, credentials) = (global.access.tls()?, global.access.credentials(&endpoint)?);
    let count = usize::try_from(args.replicas).unwrap_or(1);
    if count > 1 && args.port != Port::Auto {
        return Err(Error::new(Exit::Usage, "several replicas cannot listen on one port")
            .hint("leave --port out, and have the program listen on  $PORT"));
    }
    let described = Described {
        ttl: args.ttl,
        protocol: args.description.protocol()?,
        weight: args.description.weight,
        priority: args.description.priority,
        locality: args.description.locality(),
        version: args.replica_version.clone(),
        labels: args.description.labels()?,
    };
    let program = program(&args, &endpoint);
    let ports = place::ports(args.port, count).map_err(own)?;
    let keys = keys(&args, &program.host, &ports)?;
    let mut reaching = endpoint.places.channel().connect_timeout(CALL_TIMEOUT);
    if !endpoint.is_several() {
        reaching = reaching
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
    }
    let channel = credentials.over(link::connect_lazy(&reaching, &endpoint.places, &tls));
    for (key, port) in keys.iter().zip(&ports) {
        let address = place::address(&program.host, *port)?;
        let reached = Reached { address, protocol: described.protocol.clone() };
        refuse_what_is_wrong(&channel, described.request(key, &reached)).await?;
    }

    let live = Live::new(Orphans::start(args.grace));
    let stop = Stop::on_signals(live.clone()).map_err(own)?;
    // It ends with the process.
    tokio::spawn(live.clone().collect_strays_as_first());
    let (lines, writers) = Lines::start(output.quiet);
    if tls.has_files() {
        // It ends with the process.
        tokio::spawn(tls.follow(gateway_runtime::Shutdown::new()));
    }
    let changes = match args.watch.is_empty() {
        true => Changes::none(),
        false => {
            Changes::of(args.watch.clone(), (lines.clone(), Prefix::new("gw", name_of(0, count).len())))
                .await?
        }
    };
    let renewals = Renewals::start(channel.clone());
    let mut supervisors = JoinSet::new();
    for (index, (key, port)) in keys.into_iter().zip(ports).enumerate() {
        let name = name_of(index, count);
        let ours = Prefix::new("gw", name.len());
        let voice = (lines.clone(), ours.clone());
        let registration =
            Registration::start(key.clone(), described.clone(), channel.clone(), renewals.clone(), voice);
        let supervisor = Supervisor {
            program: program.clone(),
            key,
            first_port: port,
            live: live.clone(),
            stop: stop.clone(),
            changes: changes.clone(),
            lines: lines.clone(),
            its: Prefix::new(&name, name.len()),
            ours,
        };
        supervisors.spawn(supervisor.run(registration));
    }
    let mut code = 0;
    while let Some(ended) = supervisors.join_next().await {
        // Others go on: one that has given up is no reason to end those that work. The first failure is the one told.
        let ended = ended.unwrap_or(125);
        code = if code == 0 { ended } else { code };
    }
    // Whatever came in between, nothing is left behind.
    live.kill();
    drop((changes, lines));
    writers.finish().await;
    let _ = std::io::stdout().flush();
    if code == 0 { Ok(()) } else { Err(Error::told(Exit::Program(code))) }
}

/// What the lines of one of so many programs begin with.
fn name_of(index: usize, count: usize) -> String {
    if count > 1 { format!("app.{}", index + 1) } else { "app".to_owned() }
}

/// A failure of gwctl itself, by the code that tells it from one of the program.
fn own(mut error: Error) -> Error {
    error.exit = Exit::Program(125);
    error
}

fn program(args: &Args, endpoint: &Endpoint) -> Program {
    Program {
        command: args.command.clone(),
        host: place::host(args.host.as_deref(), endpoint.url()),
        port: args.port,
        endpoint: endpoint.to_string(),
        readiness: args.health.clone(),
        ready_timeout: args.ready_timeout,
        rules: Rules {
            first_pause: args.restart_delay,
            longest_pause: args.restart_delay.max(Duration::from_secs(1)),
            fast_restarts: args.fast_restarts,
            window: args.restart_window,
            first_slow_pause: args.slow_restart,
            longest_slow_pause: args.max_restart.max(args.slow_restart),
            stable_for: args.stable_for,
            max_restarts: args.max_restarts,
        },
        again: args.restart,
        stop_signal: args.stop_signal,
        grace: args.grace,
    }
}

fn keys(args: &Args, host: &str, ports: &[u16]) -> Result<Vec<ReplicaKey>, Error> {
    let key = |port: &u16| {
        let address = place::address(host, *port)?;
        let replica = args.id.clone().unwrap_or_else(|| place::replica_id(args.service.as_str(), &address));
        Ok(ReplicaKey { service: args.service.clone(), replica })
    };
    ports.iter().map(key).collect()
}

/// Whether another try would be refused, too.
fn is_for_good(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied)
}

/// Asks the control plane whether it would take the registration, so that a mistake ends in an error and not in a program
/// that runs for nobody. One that is away is no mistake.
async fn refuse_what_is_wrong(channel: &Link, mut request: v1::RegisterRequest) -> Result<(), Error> {
    request.validate_only = true;
    let what = format!("registration of {}", request.service);
    let service = request.service.clone();
    let mut client = v1::registry_service_client::RegistryServiceClient::new(channel.clone());
    match tokio::time::timeout(CALL_TIMEOUT, client.register(request)).await {
        Ok(Err(status)) if is_for_good(status.code()) => {
            Err(explain(&status, Subject { request: &what, service: &service }))
        }
        _ => Ok(()),
    }
}
