//! `gwctl check`: whether the control plane, the data planes and the services are as they should be, and what to do where
//! they are not.
//!
//! What is asked is here; what is made of the answers is in one pure file for each category.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use clap::ValueEnum;
use gateway_proto::{
    ServiceName,
    v1::{Replica, ReplicaMode},
};

use crate::{
    control::{Control, Scope, Shown, get_from_data_plane},
    error::{Error, Exit},
    output::{Format, Output},
    progress::Progress,
};

mod certificates;
mod control_plane;
mod data_planes;
mod finding;
mod host;
mod services;

pub(super) use finding::listed;
use finding::{Category, Finding, Outcome, Report, Symbols};
use services::Overview;

/// Between two rounds of checks.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags of `gwctl check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What makes the exit code 1
    #[arg(long, default_value = "error", value_name = "WHAT")]
    fail_on: FailOn,
    /// Check again until nothing fails, at most this long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Also ask a data plane's admin side whether it is ready and its certificates are good,
    /// such as http://127.0.0.1:7401; may be repeated
    #[arg(long = "data-plane", value_name = "URL")]
    data_planes: Vec<String>,
    /// Before anything runs: whether this machine could run it
    #[arg(long, conflicts_with_all = ["wait", "data_planes"])]
    pre: bool,
    /// With --pre: where the gateway is to listen
    #[arg(
        long,
        value_name = "IP:PORT,…",
        value_delimiter = ',',
        requires = "pre",
        default_value = "127.0.0.1:7400,127.0.0.1:8080,127.0.0.1:7401"
    )]
    listen: Vec<SocketAddr>,
    /// With --pre: the folder in which the control plane is to keep its registry
    #[arg(long, value_name = "DIR", requires = "pre")]
    data_dir: Option<PathBuf>,
}

/// What makes the exit code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// A check that failed
    Error,
    /// A warning, too
    Warn,
}

impl FailOn {
    fn is_failure(self, worst: Outcome) -> bool {
        match self {
            Self::Error => worst == Outcome::Failed,
            Self::Warn => worst >= Outcome::Warned,
        }
    }
}

/// Checks and reports.
///
/// # Errors
/// Told on stdout already: [`Exit::Failed`] when something failed, [`Exit::Unreachable`] when the control plane did not answer.
pub(crate) async fn run<C: Future<Output = Result<Control, Error>>>(
    args: Args,
    connect: impl Fn() -> C,
    (shown, timeout): (&Shown, Duration),
    output: &Output,
) -> Result<(), Error> {
    let began = Instant::now();
    let mut progress = Progress::new(output);
    let (report, exit) = loop {
        if args.pre {
            break (host::report(&args.listen, args.data_dir.as_deref()), Exit::Failed);
        }
        let (mut report, exit) = inspect(connect().await).await;
        ask_data_planes(&args.data_planes, (shown, timeout), &mut report).await;
        let goes_on = args.wait.is_some_and(|wait| began.elapsed() + PAUSE <= wait);
        if !args.fail_on.is_failure(report.worst()) || !goes_on {
            break (report, exit);
        }
        progress.tell(&format!("waiting: {}", report.in_short()));
        tokio::time::sleep(PAUSE).await;
    };
    drop(progress);
    match output.format {
        Format::Json => output.value(&report.to_json())?,
        Format::Name => output.data(report.names())?,
        Format::Table | Format::Wide => {
            output.data(report.to_text(Symbols::of_this_terminal(), output.short))?
        }
    }
    if args.fail_on.is_failure(report.worst()) { Err(Error::told(exit)) } else { Ok(()) }
}

/// All checks, and the exit code for when one of them is a failure.
async fn inspect(connected: Result<Control, Error>) -> (Report, Exit) {
    let control = match connected {
        Ok(control) => control,
        Err(error) => {
            let exit = error.exit;
            let unreachable = Finding::of_error("control-plane/reachable", error);
            return (Report(vec![Category { name: control_plane::NAME, findings: vec![unreachable] }]), exit);
        }
    };
    let endpoint = control.endpoint();
    let (readyz, metrics) = (control.probe("/readyz?verbose").await, control.probe("/metrics").await);
    let mut categories = vec![Category {
        name: control_plane::NAME,
        findings: control_plane::findings(
            endpoint,
            (readyz, metrics, control.serving().await),
            control.probe("/whoami").await,
            control.certificate_ends(),
            SystemTime::now(),
        ),
    }];
    if !endpoint.is_local() {
        let is_open = control.reflects_to_strangers().await;
        categories[0].findings.extend(control_plane::reflection(endpoint, is_open));
    }
    let nodes = control.nodes().await;
    categories.push(Category {
        name: data_planes::NAME,
        findings: match &nodes {
            Ok(nodes) => data_planes::findings(nodes, SystemTime::now()),
            Err(error) => vec![Finding::of_error("data-planes/listed", error.clone())],
        },
    });
    categories.push(Category {
        name: services::NAME,
        findings: match overview(&control).await {
            Ok(overview) => services::findings(&overview, SystemTime::now()),
            Err(error) => vec![Finding::of_error("services/listed", error)],
        },
    });
    (Report(categories), Exit::Failed)
}

/// Asks data planes themselves, each by its admin side.
async fn ask_data_planes(urls: &[String], (shown, timeout): (&Shown, Duration), report: &mut Report) {
    let mut findings = Vec::new();
    for url in urls {
        let answer = get_from_data_plane(url, "/readyz?verbose", shown, timeout).await;
        findings.extend(data_planes::readiness(url, answer));
        // Whoever may not see it is told whether it is ready, and no more.
        if let Ok((_, metrics)) = get_from_data_plane(url, "/metrics", shown, timeout).await {
            let (id, now) = ("data-planes/certificate", SystemTime::now());
            findings.extend(certificates::troubles(id, url, &metrics, None, now));
        }
    }
    match report.0.iter_mut().find(|category| category.name == data_planes::NAME) {
        Some(category) => category.findings.extend(findings),
        None if findings.is_empty() => {}
        // The control plane did not answer, and they are up to their task all the same.
        None => report.0.push(Category { name: data_planes::NAME, findings }),
    }
}

/// What the checks of services need to know; breakers only of services that have one which is not closed.
async fn overview(control: &Control) -> Result<Overview, Error> {
    let services = control.services().await?.services;
    let replicas = control.replicas(None).await?.replicas;
    let mut breakers = Vec::new();
    for service in services.iter().filter(|service| service.open_breaker_count > 0) {
        let Ok(name) = ServiceName::parse(&service.service) else { continue };
        breakers.extend(control.breakers(&Scope::from(Some(&name)), false).await?.breakers);
    }
    let overrides = control.overrides("").await?.overrides;
    let policies = control.policies().await?.policies;
    let routes = control.routes().await?.routes;
    Ok(Overview { services, replicas, breakers, overrides, policies, routes })
}

/// Whether a replica gets no new requests by somebody's word.
fn is_drained(replica: &Replica) -> bool {
    matches!(replica.mode(), ReplicaMode::Draining | ReplicaMode::Drained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_fail_only_when_asked_to() {
        assert!(FailOn::Error.is_failure(Outcome::Failed) && FailOn::Warn.is_failure(Outcome::Failed));
        assert!(!FailOn::Error.is_failure(Outcome::Warned) && FailOn::Warn.is_failure(Outcome::Warned));
        assert!(!FailOn::Error.is_failure(Outcome::Passed) && !FailOn::Warn.is_failure(Outcome::Passed));
    }
}
