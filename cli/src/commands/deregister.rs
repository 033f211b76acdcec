//! `gwctl deregister`: removes a replica, and says so beforehand when its owner will bring it back.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use gateway_proto::{
    LeaseId,
    time::{duration, non_negative},
    v1::{DeregisterRequest, DeregisterResponse, Replica},
};

use crate::{
    age,
    authorship::Authorship,
    commands::auth,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    target::Target,
    terminal::printable,
};

/// Flags of `gwctl deregister`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The replica; a unique beginning of its id is enough
    #[arg(value_name = "SERVICE/REPLICA")]
    target: Target,
    /// Keep it from registering again for this long, 1s to 24h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    block: Option<Duration>,
    /// File with the id of its lease, as `gwctl register` shows it: what its owner may, without the role operator
    #[arg(long, value_name = "FILE", conflicts_with = "block")]
    lease_file: Option<PathBuf>,
    #[command(flatten)]
    authorship: Authorship,
    /// Do not ask
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Removes the replica, after a question when its lease is alive.
///
/// # Errors
/// When it does not exist, when nobody could or would confirm, and what the control plane refuses.
pub(crate) async fn run(args: Args, control: &Control, output: &Output, may_ask: bool) -> Result<(), Error> {
    let lease_id = args.lease_file.as_deref().map(read_lease).transpose()?;
    let replica = &control.replica(&args.target).await?;
    let is_permanent = replica.lease.as_ref().is_some_and(|lease| lease.permanent);
    // A live owner that may not come back is what was asked for, and who shows its lease is the owner.
    let needs_no_question = args.block.is_some() || lease_id.is_some();
    if let Some(renewed) = live_owner(replica, SystemTime::now()).filter(|_| !needs_no_question) {
        let warning = warning(replica, renewed);
        if args.yes {
            output.note(format_args!("warning: {warning}"));
        } else {
            confirm(&warning, may_ask)?;
        }
    }
    // An operator's word, which others have to do without: of a replica that has no lease they need to show none.
    let force =
        lease_id.is_none() && (args.block.is_some() || !is_permanent || auth::is_operator(control).await);
    let request = DeregisterRequest {
        service: replica.service.clone(),
        replica_id: replica.replica_id.clone(),
        force,
        lease_id: lease_id.unwrap_or_default(),
        block_reregister_ttl: args.block.map(duration),
        reason: args.authorship.reason,
        author: args.authorship.who.author,
    };
    let response = control.deregister(request).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{}/{}\n", replica.service, replica.replica_id)),
        Format::Table | Format::Wide => output.data(render(replica, args.block, &response)),
    }
}

/// The id of a lease that a file holds, and nothing else.
fn read_lease(path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path)
        .map_err(|error| Error::new(Exit::Usage, format!("--lease-file {}: {error}", path.display())))?;
    let lease = LeaseId::parse(text.trim()).map_err(|_| {
        Error::new(Exit::Usage, format!("--lease-file {}: it holds no id of a lease", path.display()))
            .hint("write into it what  gwctl register --ttl  shows, or the lease_id of  -o json")
    })?;
    Ok(lease.reveal())
}

fn render(replica: &Replica, block: Option<Duration>, response: &DeregisterResponse) -> String {
    let Replica { service, replica_id, .. } = replica;
    let outcome = if response.removed { "deregistered" } else { "was gone already" };
    let text = format!("{service}/{replica_id} {outcome}   rev {}\n", response.revision);
    let Some(block) = block else { return text };
    let block = humantime::format_duration(block);
    format!("{text}  it may not register again for {block}; see  gwctl get overrides {service}\n")
}

/// How long ago the owner renewed its lease; `None` when there is no lease or nobody keeps it alive.
fn live_owner(replica: &Replica, now: SystemTime) -> Option<Duration> {
    let lease = replica.lease.as_ref().filter(|lease| !lease.permanent)?;
    let ttl = lease.ttl.and_then(non_negative).unwrap_or_default();
    let renewed = age::elapsed(now, lease.last_renew_time?);
    (renewed <= ttl).then_some(renewed)
}

fn warning(replica: &Replica, renewed: Duration) -> String {
    format!(
        "{}/{} renewed its lease {} ago: a live process will register again",
        replica.service,
        replica.replica_id,
        age::short(renewed)
    )
}

/// Asks on the terminal; anything but yes is no.
fn confirm(warning: &str, may_ask: bool) -> Result<(), Error> {
    if !may_ask || !io::stdin().is_terminal() {
        return Err(Error::new(
            Exit::Usage,
            "not deregistered: this needs a confirmation, and nobody can be asked",
        )
        .because(warning)
        .hint("stop the process: a good one deregisters itself when it is told to end")
        .hint("or keep it out for a time with  --block 10m")
        .hint("or confirm with  --yes"));
    }
    let mut stderr = io::stderr();
    // A question that cannot be shown is not answered with yes. Its reason belongs to it, also with --quiet.
    let _ = write!(
        stderr,
        "warning: {}\n  hint: stop the process: a good one deregisters itself when it is told to end\n  \
         hint: or keep it out for a time with  --block 10m\nDeregister anyway? [y/N] ",
        printable(warning)
    )
    .and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Error::new(Exit::Failed, "not deregistered")),
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::{time::timestamp, v1::Lease};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn replica(permanent: bool, renewed_ago: u64) -> Replica {
        Replica {
            service: "orders".into(),
            replica_id: "r-1".into(),
            lease: Some(Lease {
                ttl: (!permanent).then(|| duration(Duration::from_secs(15))),
                last_renew_time: (!permanent).then(|| timestamp(now() - Duration::from_secs(renewed_ago))),
                expire_time: None,
                permanent,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_lease_that_somebody_keeps_alive_is_worth_a_question() {
        assert_eq!(live_owner(&replica(false, 2), now()), Some(Duration::from_secs(2)));
        assert_eq!(live_owner(&replica(false, 16), now()), None);
        assert_eq!(live_owner(&replica(true, 0), now()), None);
        assert_eq!(live_owner(&Replica::default(), now()), None);
    }

    #[test]
    fn where_nobody_can_be_asked_the_answer_is_no_with_the_way_to_say_yes() {
        let warning = warning(&replica(false, 2), Duration::from_secs(2));
        let error = confirm(&warning, false).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(
            error.details,
            ["orders/r-1 renewed its lease 2s ago: a live process will register again"]
        );
        assert_eq!(
            error.hints[1..],
            ["or keep it out for a time with  --block 10m", "or confirm with  --yes"]
        );
    }

    #[test]
    fn the_answer_says_whether_there_was_something_to_remove() {
        let gone = |removed| render(&replica(true, 0), None, &DeregisterResponse { removed, revision: 9 });
        assert_eq!(gone(true), "orders/r-1 deregistered   rev 9\n");
        assert_eq!(gone(false), "orders/r-1 was gone already   rev 9\n");
        let response = DeregisterResponse { removed: true, revision: 9 };
        assert_eq!(
            render(&replica(true, 0), Some(Duration::from_secs(600)), &response),
            "orders/r-1 deregistered   rev 9\n  \
             it may not register again for 10m; see  gwctl get overrides orders\n"
        );
    }
}
