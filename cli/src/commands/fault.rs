//! `gwctl fault`: injects faults into requests on purpose, for a time, and ends that.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use gateway_proto::{
    policy::{FaultHeader, Partial},
    time::{duration, timestamp},
    v1::{FaultPolicy, Policy, UpdatePolicyRequest, UpdatePolicyResponse},
};
use prost_types::{FieldMask, Timestamp};

use super::policy::Scope;
use crate::{
    age,
    authorship::{Author, Authorship},
    control::Control,
    error::Error,
    output::{Format, Output},
    rollout::{Wait, reach},
    terminal::printable,
};

/// What to do about faults.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Inject faults into requests, in the place of those that are injected now
    Set(Set),
    /// Inject none any more
    Clear(Clear),
}

/// Flags of `gwctl fault set`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["delay", "abort", "reset"])))]
pub(crate) struct Set {
    /// Service, or '*' for all that inject none of their own
    #[arg(value_name = "SERVICE")]
    scope: Scope,
    /// Hold requests for this long, up to 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Answer requests with this status, 400 to 599
    #[arg(long, value_name = "STATUS", conflicts_with = "reset")]
    abort: Option<i32>,
    /// Answer requests not at all: reset their connection, or stream
    #[arg(long)]
    reset: bool,
    /// Share of requests, above 0 and up to 1, of each of these
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    ratio: f64,
    /// Only requests with this header, of this value if there is one
    #[arg(long, value_name = "NAME[=VALUE]")]
    header: Option<FaultHeader>,
    /// For how long, at most 24h
    #[arg(long = "for", visible_alias = "ttl", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasting: Duration,
    /// Why, for those who look at it later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    who: Author,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Flags of `gwctl fault clear`.
#[derive(Debug, clap::Args)]
pub(crate) struct Clear {
    /// Service, or '*'
    #[arg(value_name = "SERVICE")]
    scope: Scope,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    authorship: Authorship,
}

/// Sets or clears.
///
/// # Errors
/// What the control plane refuses, also that it was not started with `--allow-fault-injection`.
pub(crate) async fn run(verb: Verb, control: &Control, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Set(args) => set(args, control, output).await,
        Verb::Clear(args) => clear(args, control, output).await,
    }
}

async fn set(args: Set, control: &Control, output: &Output) -> Result<(), Error> {
    let fault = fault(&args, SystemTime::now());
    let Set { scope, who, reason, dry_run, wait, .. } = args;
    let said = Authorship { reason, who };
    let response = update(&scope, Some(fault), said, dry_run, wait, control).await?;
    match output.format {
        Format::Json => output.message(&response)?,
        Format::Name => output.data(format_args!("{scope}\n"))?,
        Format::Table | Format::Wide => output.data(told(&scope, &response, dry_run, SystemTime::now()))?,
    }
    if let Scope::Service(name) = &scope
        && let Some(doubt) = control.doubt_about(name.as_str()).await
    {
        output.note(doubt);
    }
    wait.check(response.rollout.as_ref())
}

async fn clear(args: Clear, control: &Control, output: &Output) -> Result<(), Error> {
    let Clear { scope, wait, authorship } = args;
    let response = update(&scope, None, authorship, false, wait, control).await?;
    match output.format {
        Format::Json => output.message(&response)?,
        Format::Name => output.data(format_args!("{scope}\n"))?,
        Format::Table | Format::Wide => {
            let reached = reach(response.rollout.as_ref());
            output.data(format_args!("{scope}: injects no faults   {reached}\n"))?;
        }
    }
    wait.check(response.rollout.as_ref())
}

/// What is asked for. The end is rounded up to a second: it is to be read.
fn fault(args: &Set, now: SystemTime) -> FaultPolicy {
    let end = timestamp(now + args.lasting);
    let end = Timestamp { seconds: end.seconds + i64::from(end.nanos > 0), nanos: 0 };
    let ratio = |is_wanted: bool| is_wanted.then_some(args.ratio);
    FaultPolicy {
        delay: args.delay.map(duration),
        delay_ratio: ratio(args.delay.is_some()),
        abort_status: args.abort,
        abort_ratio: ratio(args.abort.is_some()),
        reset_ratio: ratio(args.reset),
        header: args.header.map(|header| header.to_string()),
        end_time: Some(end),
    }
}

/// Replaces the whole group of settings.
async fn update(
    scope: &Scope,
    fault: Option<FaultPolicy>,
    said: Authorship,
    dry_run: bool,
    wait: Wait,
    control: &Control,
) -> Result<UpdatePolicyResponse, Error> {
    let allow_missing = fault.is_some();
    let request = UpdatePolicyRequest {
        policy: Some(Policy { service: scope.to_string(), fault, ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["fault".to_owned()] }),
        validate_only: dry_run,
        allow_missing,
        reason: said.reason,
        author: said.who.author,
        wait_timeout: Some(duration(wait.longest)),
        ..Default::default()
    };
    control.update_policy(request).await
}

fn told(scope: &Scope, response: &UpdatePolicyResponse, dry_run: bool, now: SystemTime) -> String {
    let policy = response.policy.clone().unwrap_or_default();
    let fault = Partial::parse(&policy).ok().and_then(|partial| partial.fault()).unwrap_or_default();
    let end = Some(timestamp(fault.end_time.0));
    let (until, left) = (age::time_of_day(end), age::until(now, end));
    let mut text = format!("{scope}: {fault}; until {until}, {left} left");
    // Writing to a String cannot fail.
    let _ = match dry_run {
        true => write!(text, "   dry run: nothing changed"),
        false => write!(text, "   rev {}, {}", policy.revision, reach(response.rollout.as_ref())),
    };
    let mut text = printable(&text).to_string() + "\n";
    if !dry_run {
        let _ = writeln!(text, "  end it now: gwctl fault clear {}", scope.quoted());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(100_000_500)
    }

    fn asked(line: &str) -> (Scope, FaultPolicy) {
        let words = format!("x {line} --for 10m --reason chaos");
        let set = Line::try_parse_from(words.split_whitespace()).unwrap().set;
        (set.scope.clone(), fault(&set, now()))
    }

    #[test]
    fn each_kind_has_the_ratio_and_all_of_it_is_of_the_whole_if_none_is_given() {
        let (_, delay) = asked("orders --delay 200ms --ratio 0.1");
        assert_eq!((delay.delay_ratio, delay.abort_ratio, delay.reset_ratio), (Some(0.1), None, None));
        let (_, both) = asked("orders --delay 200ms --abort 429");
        assert_eq!(
            (both.delay_ratio, both.abort_ratio, both.abort_status),
            (Some(1.0), Some(1.0), Some(429))
        );
        let (_, reset) = asked("orders --reset --header X-Chaos=1");
        assert_eq!((reset.reset_ratio, reset.header.as_deref()), (Some(1.0), Some("x-chaos=1")));
        assert_eq!(reset.end_time, Some(Timestamp { seconds: 100_601, nanos: 0 }));
    }

    #[test]
    fn what_was_set_is_told_with_its_end_and_the_way_to_end_it_sooner() {
        let (scope, fault) = asked("* --abort 503 --ratio 0.1");
        let policy = Policy { fault: Some(fault), revision: 7, ..Default::default() };
        let response = UpdatePolicyResponse { policy: Some(policy), rollout: None };
        assert_eq!(
            told(&scope, &response, false, now()),
            "*: abort 503 of 0.1; until 03:56:41Z, 10m left   rev 7, on no data plane: none is connected\n  \
             end it now: gwctl fault clear '*'\n"
        );
        assert!(told(&scope, &response, true, now()).ends_with("left   dry run: nothing changed\n"));
    }
}
