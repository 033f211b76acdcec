//! `gwctl release-guard`: an operator's word that the replicas which the guard against mass removal holds are gone.

use std::time::Duration;

use gateway_proto::{
    ServiceName,
    time::duration,
    v1::{ReleaseGuardRequest, ReleaseGuardResponse},
};

use crate::{
    age,
    authorship::Authorship,
    control::Control,
    error::Error,
    output::{Format, Output},
    terminal::printable,
};

/// Replicas that are named; the count says how many there are.
const MAX_NAMED: usize = 20;

/// Flags of `gwctl release-guard`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service whose LOST replicas are really gone
    service: ServiceName,
    /// For how long the guard holds nothing of it, in the registry and in every data plane, 1s to 24h
    #[arg(long, visible_alias = "for", default_value = "10m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    authorship: Authorship,
}

/// Releases what the guard holds of the service.
///
/// # Errors
/// What the control plane refuses.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let service = args.service.to_string();
    let request = ReleaseGuardRequest {
        service: service.clone(),
        ttl: Some(duration(args.ttl)),
        reason: args.authorship.reason,
        author: args.authorship.who.author,
    };
    let response = control.release_guard(request).await?;
    if response.replica_ids.is_empty()
        && let Some(doubt) = control.doubt_about(&service).await
    {
        output.note(doubt);
    }
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => {
            output.data(response.replica_ids.iter().map(|id| format!("{service}/{id}\n")).collect::<String>())
        }
        Format::Table | Format::Wide => output.data(render(&service, args.ttl, &response)),
    }
}

fn render(service: &str, ttl: Duration, response: &ReleaseGuardResponse) -> String {
    let ids = &response.replica_ids;
    let (ttl, until) = (humantime::format_duration(ttl), age::time_of_day(response.expire_time));
    let head = format!("{service}: the guard holds nothing for {ttl} (until {until})");
    let lost = match ids.len() {
        0 => "; it held nothing".to_owned(),
        1 => format!("; 1 lost replica goes: {}", ids[0]),
        count => {
            let named = ids.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if count > MAX_NAMED { ", ..." } else { "" };
            format!("; {count} lost replicas go: {named}{more}")
        }
    };
    let text = format!("{head}{lost}");
    format!("{}\n  it holds again then; see  gwctl get overrides {service}\n", printable(&text))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use gateway_proto::time::timestamp;

    use super::*;

    fn released(count: usize) -> String {
        let response = ReleaseGuardResponse {
            replica_ids: (1..=count).map(|index| format!("r-{index}")).collect(),
            expire_time: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(51_442))),
        };
        let text = render("orders", Duration::from_secs(600), &response);
        text.lines().next().unwrap().to_owned()
    }

    #[test]
    fn what_is_let_go_is_counted_and_named() {
        let head = "orders: the guard holds nothing for 10m (until 14:17:22Z)";
        assert_eq!(released(0), format!("{head}; it held nothing"));
        assert_eq!(released(1), format!("{head}; 1 lost replica goes: r-1"));
        assert_eq!(released(3), format!("{head}; 3 lost replicas go: r-1, r-2, r-3"));
        assert!(released(21).ends_with("r-20, ..."), "{}", released(21));
    }
}
