//! `gwctl demo`: the whole gateway with a service behind it, to break and to watch.

mod tour;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::ServiceName;
use gateway_runtime::{
    Failure, Shutdown,
    logs::{LogArgs, LogFormat},
};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::dev::{invocation, places};
use crate::{
    control::{Control, Scope},
    demo::{
        client::Client,
        fleet::{Fleet, Member, RESTART_AFTER, Spec},
        lab::Lab,
        load::{Load, Tally},
        status,
    },
    endpoint::{Endpoint, Origin},
    error::{Error, Exit},
    link,
    output::Output,
    planes::{Addresses, Outage, Planes, Ports},
};

const SERVICE: &str = "client-service";
const TARGET: &str = "/client-service/hello";
const REPLICAS: u16 = 3;
const FIRST_REPLICA_PORT: u16 = 9001;
const STATUS_EVERY: Duration = Duration::from_secs(5);
const ROUTABLE_LIMIT: Duration = Duration::from_secs(15);
const ROUTABLE_PAUSE: Duration = Duration::from_millis(20);
/// The status is read from this very process: it answers at once or is in trouble.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Flags of `gwctl demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    ports: Ports,
    /// Requests a second, 1..=1000
    #[arg(long, default_value = "20", value_name = "N", value_parser = parse_rate)]
    rate: NonZeroU32,
    /// Send no requests
    #[arg(long)]
    no_load: bool,
    /// End after this long, such as 30s, with a summary, and with exit code 0 only if no request failed
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Show in seven steps what it does when things break, check each, and end; exit code 0 only if all of it held
    #[arg(long, conflicts_with_all = ["rate", "no_load", "duration"])]
    tour: bool,
    /// What to log: a level (error, warn, info, debug, trace) or directives such as `info,data_plane=debug`
    #[arg(long, env = "GW_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
}

fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .ok()
        .filter(|rate: &NonZeroU32| rate.get() <= 1000)
        .ok_or_else(|| "is not in 1..=1000".to_owned())
}

/// Runs the demo until SIGTERM, SIGINT or the end of `--duration`.
///
/// # Errors
/// When a part does not start, when a plane fails, and, with `--duration`, when a request failed.
pub(crate) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let _logs = LogArgs { log: args.log.clone(), log_format: LogFormat::Text }.init()?;
    let stop = Shutdown::on_signals()?;
    let lab = Lab::new(SERVICE);
    let planes = Planes::start(&args.ports, None, Some(lab.router())).await.map_err(Ports::explain)?;
    let (addresses, outage) = (planes.addresses(), planes.outage());
    // Each part has a stop of its own: users leave first, then the replicas, then the gateway.
    let (stop_fleet, stop_planes) = (Shutdown::new(), Shutdown::new());
    let gateway = tokio::spawn({
        let (stop, stop_planes) = (stop.clone(), stop_planes.clone());
        async move {
            let ended = planes.run(stop_planes).await;
            stop.begin();
            ended
        }
    });

    let played = play(&args, &addresses, &lab, &outage, (&stop, &stop_fleet), output).await;
    stop_planes.begin();
    gateway.await.map_err(|panic| Failure::fatal(format!("the gateway broke: {panic}")))??;
    match played? {
        Some(tally) => conclude(&tally, args.duration.is_some(), output),
        None => Ok(()),
    }
}

/// From the first replica to the last: yields what became of the requests.
async fn play(
    args: &Args,
    addresses: &Addresses,
    lab: &Lab,
    outage: &Outage,
    (stop, stop_fleet): (&Shutdown, &Shutdown),
    output: &Output,
) -> Result<Option<Tally>, Error> {
    let specs = specs(&args.ports, addresses.control)?;
    let fleet = Fleet::start(specs, stop_fleet, *output).await.map_err(Ports::explain)?;
    lab.opens(addresses.proxy, fleet.members());
    let shown = match args.tour {
        true => guide(addresses, outage, fleet.members(), stop, output).await.map(|()| None),
        false => show(args, addresses, fleet.members(), stop, output).await,
    };
    stop_fleet.begin();
    fleet.finished().await;
    shown
}

/// Leads through the tour, unless somebody ends it before.
async fn guide(
    addresses: &Addresses,
    outage: &Outage,
    members: &[Member],
    stop: &Shutdown,
    output: &Output,
) -> Result<(), Error> {
    wait_until_routable(addresses.proxy, stop).await?;
    let tour = tour::Tour::new(addresses, outage, members, output);
    tokio::select! {
        ended = tour.run() => ended,
        () = stop.begun() => Err(Error::new(Exit::Failed, "the tour was ended before its end")),
    }
}

/// What there is to see once all replicas run: where everything is, and how the load fares.
async fn show(
    args: &Args,
    addresses: &Addresses,
    members: &[Member],
    stop: &Shutdown,
    output: &Output,
) -> Result<Option<Tally>, Error> {
    wait_until_routable(addresses.proxy, stop).await?;
    output.data(ready_line(addresses, members))?;
    banner(addresses, members).lines().for_each(|line| output.note(line));

    let load = (!args.no_load).then(|| Load::start(addresses.proxy, TARGET, args.rate, stop));
    tokio::select! {
        () = stop.begun() => {}
        () = until_end(args.duration) => stop.begin(),
        never = report(load.as_ref(), addresses.control, output) => match never {},
    }
    Ok(match load {
        Some(load) => Some(load.finished().await),
        None => None,
    })
}

fn specs(ports: &Ports, control: SocketAddr) -> Result<Vec<Spec>, Failure> {
    let executable: PathBuf = std::env::current_exe()
        .map_err(|error| Failure::fatal(format!("cannot find this very program: {error}")))?;
    let spec = |number: u16| Spec {
        executable: executable.clone(),
        service: SERVICE.to_owned(),
        id: format!("r-{}", number + 1),
        listen: ports.place(FIRST_REPLICA_PORT + number),
        endpoint: format!("http://{control}"),
    };
    Ok((0..REPLICAS).map(spec).collect())
}

/// Asks until every replica has answered through the proxy: nobody's first request is to fail.
async fn wait_until_routable(proxy: SocketAddr, stop: &Shutdown) -> Result<(), Error> {
    let mut client = Client::new(proxy);
    let mut seen = BTreeSet::new();
    let all_answer = async {
        while seen.len() < usize::from(REPLICAS) {
            match client.get(TARGET).await {
                Ok(answer) if answer.status.is_success() => {
                    seen.insert(answer.replica);
                }
                // Not all of them are known to the proxy yet.
                Ok(_) | Err(_) => tokio::time::sleep(ROUTABLE_PAUSE).await,
            }
        }
    };
    tokio::select! {
        waited = timeout(ROUTABLE_LIMIT, all_answer) => waited.map_err(|_| {
            Error::new(Exit::Failed, format!("not every replica answered through the proxy within {ROUTABLE_LIMIT:?}"))
                .hint("look at more of the log with  --log info")
        }),
        () = stop.begun() => Ok(()),
    }
}

async fn until_end(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Prints the status whenever it has changed, every few seconds at most.
async fn report(load: Option<&Load>, control: SocketAddr, output: &Output) -> std::convert::Infallible {
    let endpoint = Endpoint::parse(&format!("http://{control}"), Origin::Default)
        .expect("a socket address makes a valid URL");
    let channel = link::connect_lazy(&endpoint.places.channel(), &endpoint.places, &Arc::default());
    let control = Control::over(channel, endpoint, STATUS_TIMEOUT, false);
    let service = ServiceName::parse(SERVICE).expect("the demo's service has a valid name");
    let scope = Scope::from(Some(&service));
    let mut turns = interval_at(tokio::time::Instant::now() + STATUS_EVERY, STATUS_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        turns.tick().await;
        let breakers = control.breakers(&scope, false).await.ok();
        let tally = load.map(Load::tally);
        let breakers = breakers.as_ref().map(|response| response.breakers.as_slice());
        let line = status::line(tally.as_ref(), breakers, SystemTime::now());
        if line != last {
            output.note(&line);
            last = line;
        }
    }
}

fn conclude(tally: &Tally, judge: bool, output: &Output) -> Result<(), Error> {
    output.note(status::counts(tally));
    if judge && tally.failed > 0 {
        let headline = format!("{} of {} requests failed", tally.failed, tally.requests);
        return Err(
            Error::new(Exit::Failed, headline).because(format!("the last one: {}", tally.last_failure))
        );
    }
    Ok(())
}

/// One line for scripts: where everything listens, and which processes can be killed.
#[derive(Debug, Serialize)]
struct ReadyLine<'a> {
    ready: bool,
    proxy: SocketAddr,
    control: SocketAddr,
    admin: SocketAddr,
    replicas: &'a [Member],
}

fn ready_line(addresses: &Addresses, members: &[Member]) -> String {
    let Addresses { proxy, control, admin } = *addresses;
    let line = ReadyLine { ready: true, proxy, control, admin, replicas: members };
    format!("{}\n", serde_json::to_string(&line).expect("addresses and ids are valid JSON"))
}

fn banner(addresses: &Addresses, members: &[Member]) -> String {
    let (gwctl, proxy) = (invocation(addresses.control), addresses.proxy);
    let mut text = places(addresses, None);
    for Member { id, address, pid } in members {
        text.push_str(&format!("  Replica         {SERVICE}/{id:<18}http://{address}   pid {pid}\n"));
    }
    text.push_str(&format!(
        "
  Look, in another terminal:
    curl http://{proxy}{TARGET}
    curl http://{SERVICE}.localhost:{port}/hello
    curl http://{proxy}/{SERVICE}/messages     # /flaky, /unreliable, /slow and /down behind it fail by design
    grpcurl -plaintext {control} list
    {gwctl} get services
    {gwctl} get breakers
    {gwctl} events -w
",
        port = proxy.port(),
        control = addresses.control,
    ));
    if let [first, .., last] = members {
        text.push_str(&format!(
            "
  Break something, and see that no request fails:
    kill -9 {pid}     # {first_id} comes back after {pause}
    curl -X POST 'http://{last_address}/fault/down?for=20s'     # or slow, reset, hang, off
    {gwctl} explain {SERVICE}/{last_id}
    {gwctl} policy what-if {SERVICE} breaker.consecutive_failure_count=2

Ctrl-C stops.",
            pid = first.pid,
            first_id = first.id,
            pause = humantime::format_duration(RESTART_AFTER),
            last_address = last.address,
            last_id = last.id,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Addresses, Vec<Member>) {
        let place = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { proxy: place(8080), control: place(7400), admin: place(7401) };
        let member = |number: u16| Member {
            id: format!("r-{number}"),
            address: place(9000 + number),
            pid: 100 + u32::from(number),
        };
        (addresses, (1..=3).map(member).collect())
    }

    #[test]
    fn the_ready_line_has_every_address_and_pid() {
        let (addresses, members) = example();
        let line = ready_line(&addresses, &members[..2]);
        assert_eq!(
            line,
            "{\"ready\":true,\"proxy\":\"127.0.0.1:8080\",\"control\":\"127.0.0.1:7400\",\"admin\":\"127.0.0.1:7401\",\
             \"replicas\":[{\"id\":\"r-1\",\"address\":\"127.0.0.1:9001\",\"pid\":101},\
             {\"id\":\"r-2\",\"address\":\"127.0.0.1:9002\",\"pid\":102}]}\n"
        );
    }

    #[test]
    fn the_banner_has_lines_to_paste_for_looking_and_for_breaking() {
        let (addresses, members) = example();
        let text = banner(&addresses, &members);
        for line in [
            "  Replica         client-service/r-2               http://127.0.0.1:9002   pid 102\n",
            "    curl http://127.0.0.1:8080/client-service/hello\n",
            "    curl http://client-service.localhost:8080/hello\n",
            "    grpcurl -plaintext 127.0.0.1:7400 list\n",
            "    kill -9 101     # r-1 comes back after 8s\n",
            "    curl -X POST 'http://127.0.0.1:9003/fault/down?for=20s'",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn failed_requests_fail_a_demo_with_a_duration_and_only_that() {
        let output = Output { quiet: true, ..Output::plain(crate::output::Format::Table) };
        let tally = |failed| Tally {
            requests: 9,
            failed,
            last_failure: "502 Bad Gateway".into(),
            ..Tally::default()
        };
        assert_eq!(conclude(&tally(0), true, &output), Ok(()));
        assert_eq!(conclude(&tally(2), false, &output), Ok(()));
        let error = conclude(&tally(2), true, &output).unwrap_err();
        assert_eq!((error.exit, error.headline.as_str()), (Exit::Failed, "2 of 9 requests failed"));
        assert_eq!(error.details, ["the last one: 502 Bad Gateway"]);
    }
}
