//! `gwctl register`: puts a replica into the registry on behalf of somebody who cannot do so.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use gateway_proto::{
    Address, Endpoint, Protocol, ReplicaId, ServiceName, TlsServerName, Weight,
    time::duration,
    v1::{Lease, Locality, RegisterRequest, RegisterResponse},
};

use crate::{
    age,
    commands::get::spoken,
    control::Control,
    error::{Error, Exit},
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
    #[command(flatten)]
    description: Description,
    /// No lease: it stays until it is deregistered. The default here, because gwctl sends no heartbeats
    #[arg(long, conflicts_with = "ttl")]
    permanent: bool,
    /// Lease that somebody else keeps alive, such as 30s; 1s to 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Replica id; left out, the one at this address, or a new one
    #[arg(long, value_name = "REPLICA")]
    id: Option<ReplicaId>,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What a registration says of a replica beside its name and its address.
#[derive(Debug, clap::Args)]
pub(super) struct Description {
    /// What it understands: http1, h2c (HTTP/2, not encrypted) or tls (HTTP/2 or HTTP/1.1 in TLS)
    #[arg(long, default_value_t = Protocol::HTTP1)]
    protocol: Protocol,
    /// Name that its certificate must have, if not the host of the address; with --protocol tls
    #[arg(long, value_name = "NAME", value_parser = TlsServerName::parse)]
    tls_server_name: Option<TlsServerName>,
    /// Share of the traffic relative to its peers, 1..=1000
    #[arg(long, default_value_t = 100, value_parser = parse_weight)]
    pub(super) weight: u16,
    /// Tier, 0..=15: better tiers, of lower numbers, go first
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=15))]
    pub(super) priority: u8,
    /// Where it is, for policies with balancing.prefer_local
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// The zone that it is in, likewise
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Label for people; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

impl Description {
    /// What the replica understands.
    ///
    /// # Errors
    /// A usage error for a name without TLS.
    pub(super) fn protocol(&self) -> Result<Protocol, Error> {
        let name = self.tls_server_name.as_ref().map_or("", TlsServerName::as_str);
        self.protocol.clone().named(name).map_err(|_| {
            Error::new(Exit::Usage, "--tls-server-name is for a replica that speaks TLS")
                .hint("say so with  --protocol tls")
        })
    }

    /// Labels by their keys.
    ///
    /// # Errors
    /// A usage error when one is given twice.
    pub(super) fn labels(&self) -> Result<HashMap<String, String>, Error> {
        let mut labels = HashMap::new();
        for (key, value) in &self.labels {
            if labels.insert(key.clone(), value.clone()).is_some() {
                return Err(Error::new(Exit::Usage, format!("label {key} is given twice")));
            }
        }
        Ok(labels)
    }

    /// Where it is.
    pub(super) fn locality(&self) -> Locality {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        Locality { region: part(&self.region), zone: part(&self.zone) }
    }
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
    let request = request(args)?;
    let response = control.register(request.clone()).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => {
            let replica = response.replica.unwrap_or_default();
            output.data(format_args!("{}/{}\n", replica.service, replica.replica_id))
        }
        Format::Table | Format::Wide => output.data(render(&request, &response, SystemTime::now())),
    }
}

fn request(args: Args) -> Result<RegisterRequest, Error> {
    let protocol = args.description.protocol()?;
    let labels = args.description.labels()?;
    let Description { weight, priority, .. } = args.description;
    let locality = args.description.locality();
    let endpoint = Endpoint { address: args.address, protocol };
    Ok(RegisterRequest {
        service: args.service.to_string(),
        replica_id: args.id.map(|id| id.to_string()).unwrap_or_default(),
        endpoint: Some(endpoint.to_wire()),
        weight: weight.into(),
        priority: priority.into(),
        locality: Some(locality),
        labels,
        lease_ttl: args.ttl.map(duration),
        permanent: args.ttl.is_none(),
        validate_only: args.dry_run,
        ..Default::default()
    })
}

fn render(request: &RegisterRequest, response: &RegisterResponse, now: SystemTime) -> String {
    let replica = response.replica.clone().unwrap_or_default();
    let name = format!("{}/{}", replica.service, replica.replica_id);
    let address = spoken(&replica.endpoint.unwrap_or_default());
    let terms = terms(request, &replica.lease.unwrap_or_default(), now);
    let verb = if response.created { "registered" } else { "registered anew" };
    if request.validate_only {
        // The id of a new replica is drawn when it is registered, not now.
        let has_id = !response.created || !request.replica_id.is_empty();
        let name = if has_id { name } else { format!("a new replica of {}", replica.service) };
        let text = format!("{name} could be {verb} at {address} ({terms})   dry run: nothing changed");
        return format!("{}\n", printable(&text));
    }
    let text = format!("{name} {verb} at {address} ({terms})   rev {}", replica.revision);
    let text = printable(&text);
    if response.lease_id.is_empty() {
        return format!("{text}\n  remove it with  gwctl deregister {}\n", printable(&name));
    }
    format!(
        "{text}\n  lease id {} (secret: whoever has it owns the replica), heartbeat every {}\n  \
         remove it with  gwctl deregister {} --lease-file FILE,  a file with that id\n",
        printable(&response.lease_id),
        exactly(response.heartbeat_interval),
        printable(&name)
    )
}

/// How long it stays: `permanent: …`, or the lease that was granted, and the one asked for when that differs.
fn terms(request: &RegisterRequest, lease: &Lease, now: SystemTime) -> String {
    if lease.permanent {
        return "permanent: no heartbeats are expected".into();
    }
    let mut text = format!("lease of {}", exactly(lease.ttl));
    if request.lease_ttl != lease.ttl {
        text.push_str(&format!(" instead of {}", exactly(request.lease_ttl)));
    }
    if lease.expire_time.is_some() {
        text.push_str(&format!(": gone in {} without a heartbeat", age::until(now, lease.expire_time)));
    }
    text
}

/// `1m 30s`, `333ms`: nothing below a millisecond matters.
fn exactly(span: Option<prost_types::Duration>) -> String {
    let span = span.and_then(|span| Duration::try_from(span).ok()).unwrap_or_default();
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

#[cfg(test)]
mod tests {
    use gateway_proto::{time::timestamp, v1, v1::Replica};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn args(ttl: Option<Duration>) -> Args {
        Args {
            service: ServiceName::parse("orders").unwrap(),
            address: Address::parse("10.0.0.15:8080").unwrap(),
            description: Description {
                protocol: Protocol::HTTP1,
                tls_server_name: None,
                weight: 100,
                priority: 0,
                region: None,
                zone: None,
                labels: vec![("team".into(), "web".into())],
            },
            permanent: false,
            ttl,
            id: None,
            dry_run: false,
        }
    }

    #[test]
    fn a_server_name_goes_with_tls_only() {
        let with = |protocol, name: &str| {
            let name = Some(TlsServerName::parse(name).unwrap());
            let mut args = args(None);
            args.description.protocol = protocol;
            args.description.tls_server_name = name;
            request(args)
        };
        let endpoint = with(Protocol::tls(None), "orders.example").unwrap().endpoint.unwrap();
        assert_eq!(
            (endpoint.protocol(), &*endpoint.tls_server_name),
            (v1::EndpointProtocol::Tls, "orders.example")
        );
        let error = with(Protocol::h2c(), "orders.example").unwrap_err();
        assert_eq!(error.headline, "--tls-server-name is for a replica that speaks TLS");
    }

    fn asked(ttl: Option<u64>) -> RegisterRequest {
        request(args(ttl.map(Duration::from_secs))).unwrap()
    }

    fn response(lease: Lease, created: bool) -> RegisterResponse {
        RegisterResponse {
            replica: Some(Replica {
                service: "orders".into(),
                replica_id: "r-e6f7".into(),
                endpoint: Some(Endpoint::from(Address::parse("10.0.0.15:8080").unwrap()).to_wire()),
                lease: Some(lease),
                revision: 1843,
                ..Default::default()
            }),
            created,
            ..Default::default()
        }
    }

    fn permanent() -> Lease {
        Lease { permanent: true, ..Default::default() }
    }

    fn leased(seconds: u64) -> Lease {
        Lease {
            ttl: Some(duration(Duration::from_secs(seconds))),
            expire_time: Some(timestamp(now() + Duration::from_secs(seconds))),
            ..Default::default()
        }
    }

    #[test]
    fn a_permanent_registration_says_that_it_is_and_how_to_end_it() {
        assert_eq!(
            render(&asked(None), &response(permanent(), true), now()),
            "orders/r-e6f7 registered at 10.0.0.15:8080 (permanent: no heartbeats are expected)   rev 1843\n  \
             remove it with  gwctl deregister orders/r-e6f7\n"
        );
    }

    #[test]
    fn a_leased_registration_says_when_it_ends_and_gives_the_lease() {
        let response = RegisterResponse {
            lease_id: "00ff".into(),
            heartbeat_interval: Some(duration(Duration::from_secs(10))),
            ..response(leased(30), false)
        };
        assert_eq!(
            render(&asked(Some(30)), &response, now()),
            "orders/r-e6f7 registered anew at 10.0.0.15:8080 (lease of 30s: gone in 30s without a heartbeat)   \
             rev 1843\n  lease id 00ff (secret: whoever has it owns the replica), heartbeat every 10s\n  \
             remove it with  gwctl deregister orders/r-e6f7 --lease-file FILE,  a file with that id\n"
        );
    }

    #[test]
    fn a_lease_that_is_not_the_one_asked_for_is_told() {
        let terms = terms(&asked(Some(7200)), &leased(3600), now());
        assert_eq!(terms, "lease of 1h instead of 2h: gone in 60m without a heartbeat");
        assert_eq!(exactly(Some(duration(Duration::from_nanos(333_333_333)))), "333ms");
    }

    #[test]
    fn a_dry_run_says_that_nothing_changed_and_promises_no_id() {
        let dry_run = RegisterRequest { validate_only: true, ..asked(None) };
        assert_eq!(
            render(&dry_run, &response(permanent(), true), now()),
            "a new replica of orders could be registered at 10.0.0.15:8080 \
             (permanent: no heartbeats are expected)   dry run: nothing changed\n"
        );
        let known = render(&dry_run, &response(permanent(), false), now());
        assert!(known.starts_with("orders/r-e6f7 could be registered anew at 10.0.0.15:8080"), "{known}");
        let chosen = RegisterRequest { replica_id: "r-e6f7".into(), ..dry_run };
        let text = render(&chosen, &response(permanent(), true), now());
        assert!(text.starts_with("orders/r-e6f7 could be registered at 10.0.0.15:8080"), "{text}");
    }

    #[test]
    fn without_a_ttl_the_registration_is_permanent() {
        let (permanent, leased) = (asked(None), asked(Some(5)));
        assert!(permanent.permanent && permanent.lease_ttl.is_none());
        assert!(!leased.permanent && leased.lease_ttl.is_some());
    }

    #[test]
    fn a_label_has_one_value() {
        let labels = ["web", "shop"].map(|value| ("team".to_owned(), value.to_owned()));
        let mut args = args(None);
        args.description.labels = labels.into();
        let error = request(args).unwrap_err();
        assert_eq!((error.exit, error.headline.as_str()), (Exit::Usage, "label team is given twice"));
    }
}
