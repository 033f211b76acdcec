//! `gwctl register`: puts a replica into the registry on behalf of somebody who cannot do so.

use std::time::{Duration, SystemTime};

use gateway_proto::{
    Address, ReplicaId, ServiceName, Weight,
    time::duration,
    v1::{Endpoint, RegisterRequest, RegisterResponse},
};

use crate::{
    age,
    control::Control,
    error::Error,
    output::{Format, Output},
    terminal::printable,
};

/// Flags of `gwctl register`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service it belongs to: lower-case letters, digits and '-', at most 63
    service: ServiceName,
    /// Where it listens: HOST:PORT, an IPv6 host in brackets
    #[arg(value_parser = Address::parse)]
    address: Address,
    /// No lease: it stays until it is deregistered. The default here, because gwctl sends no heartbeats
    #[arg(long, conflicts_with = "ttl")]
    permanent: bool,
    /// Lease that somebody else keeps alive, such as 30s; 1s to 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Replica id; left out, the one at this address, or a new one
    #[arg(long, value_name = "REPLICA")]
    id: Option<ReplicaId>,
    /// Share of the traffic relative to its peers, 1..=1000
    #[arg(long, default_value_t = 100, value_parser = parse_weight)]
    weight: u16,
    /// Label for people; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
}

fn parse_weight(text: &str) -> Result<u16, String> {
    let number: i32 = text.parse().map_err(|_| "is not a number".to_owned())?;
    match number {
        0 => Err("0 is not in 1..=1000".into()),
        _ => Weight::parse(number).map(Weight::get).map_err(|invalid| invalid.to_string()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Registers the replica, or checks whether it could be.
///
/// # Errors
/// What the control plane refuses, field by field.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let dry_run = args.dry_run;
    let response = control.register(request(args)).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => {
            let replica = response.replica.unwrap_or_default();
            output.data(format_args!("{}/{}\n", replica.service, replica.replica_id))
        }
        Format::Table | Format::Wide => output.data(render(&response, dry_run, SystemTime::now())),
    }
}

fn request(args: Args) -> RegisterRequest {
    RegisterRequest {
        service: args.service.to_string(),
        replica_id: args.id.map(|id| id.to_string()).unwrap_or_default(),
        endpoint: Some(Endpoint { address: args.address.to_string() }),
        weight: args.weight.into(),
        labels: args.labels.into_iter().collect(),
        lease_ttl: args.ttl.map(duration),
        permanent: args.ttl.is_none(),
        validate_only: args.dry_run,
        ..Default::default()
    }
}

fn render(response: &RegisterResponse, dry_run: bool, now: SystemTime) -> String {
    let replica = response.replica.clone().unwrap_or_default();
    let name = format!("{}/{}", replica.service, replica.replica_id);
    let address = replica.endpoint.map(|endpoint| endpoint.address).unwrap_or_default();
    let lease = replica.lease.unwrap_or_default();
    let verb = match (dry_run, response.created) {
        (true, _) => "could be registered",
        (false, true) => "registered",
        (false, false) => "registered anew",
    };
    let terms = if lease.permanent {
        format!("permanent: no heartbeats are expected; remove it with  gwctl deregister {name}")
    } else {
        let ttl = lease.ttl.and_then(|ttl| Duration::try_from(ttl).ok()).unwrap_or_default();
        let left = age::until(now, lease.expire_time);
        let left = if lease.expire_time.is_some() {
            format!(": gone in {left} without a heartbeat")
        } else {
            String::new()
        };
        format!("lease of {}{left}", age::short(ttl))
    };
    let mut text = format!("{name} {verb} at {address} ({terms})");
    if dry_run {
        text.push_str("   dry run: nothing changed\n");
    } else {
        text.push_str(&format!("   rev {}\n", replica.revision));
    }
    let text = printable(text.trim_end()).into_owned();
    if response.lease_id.is_empty() {
        return format!("{text}\n");
    }
    let heartbeat =
        response.heartbeat_interval.and_then(|every| Duration::try_from(every).ok()).unwrap_or_default();
    format!(
        "{text}\n  lease id {} (secret: whoever has it owns the replica), heartbeat every {}\n",
        printable(&response.lease_id),
        humantime::format_duration(heartbeat)
    )
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        time::timestamp,
        v1::{Lease, Replica},
    };

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn response(lease: Lease, created: bool) -> RegisterResponse {
        RegisterResponse {
            replica: Some(Replica {
                service: "orders".into(),
                replica_id: "r-e6f7".into(),
                endpoint: Some(Endpoint { address: "10.0.0.15:8080".into() }),
                lease: Some(lease),
                revision: 1843,
                ..Default::default()
            }),
            created,
            ..Default::default()
        }
    }

    #[test]
    fn a_permanent_registration_says_that_it_is_and_how_to_end_it() {
        let response = response(Lease { permanent: true, ..Default::default() }, true);
        assert_eq!(
            render(&response, false, now()),
            "orders/r-e6f7 registered at 10.0.0.15:8080 (permanent: no heartbeats are expected; remove it with  \
             gwctl deregister orders/r-e6f7)   rev 1843\n"
        );
    }

    #[test]
    fn a_leased_registration_says_when_it_ends_and_gives_the_lease() {
        let lease = Lease {
            ttl: Some(duration(Duration::from_secs(30))),
            expire_time: Some(timestamp(now() + Duration::from_secs(30))),
            ..Default::default()
        };
        let response = RegisterResponse {
            lease_id: "00ff".into(),
            heartbeat_interval: Some(duration(Duration::from_secs(10))),
            ..response(lease, false)
        };
        assert_eq!(
            render(&response, false, now()),
            "orders/r-e6f7 registered anew at 10.0.0.15:8080 (lease of 30s: gone in 30s without a heartbeat)   \
             rev 1843\n  lease id 00ff (secret: whoever has it owns the replica), heartbeat every 10s\n"
        );
    }

    #[test]
    fn a_dry_run_says_that_nothing_changed() {
        let response = response(Lease { permanent: true, ..Default::default() }, true);
        let text = render(&response, true, now());
        assert!(text.starts_with("orders/r-e6f7 could be registered at 10.0.0.15:8080"), "{text}");
        assert!(text.ends_with("dry run: nothing changed\n"), "{text}");
    }

    #[test]
    fn without_a_ttl_the_registration_is_permanent() {
        let args = |ttl| Args {
            service: ServiceName::parse("orders").unwrap(),
            address: Address::parse("10.0.0.15:8080").unwrap(),
            permanent: false,
            ttl,
            id: None,
            weight: 100,
            labels: vec![("team".into(), "web".into())],
            dry_run: false,
        };
        let permanent = request(args(None));
        assert!(permanent.permanent && permanent.lease_ttl.is_none());
        let leased = request(args(Some(Duration::from_secs(5))));
        assert!(!leased.permanent && leased.lease_ttl.is_some());
    }
}
