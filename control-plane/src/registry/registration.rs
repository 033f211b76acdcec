//! What a replica asks for when it registers, with every field checked.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use gateway_proto::{
    Address, Check, Endpoint, Health, Invalid, Labels, Locality, Priority, ReplicaId, ServiceName, Weight,
    time::parse_duration, v1,
};
use gateway_runtime::printable::is_acted_on;
use uuid::{Uuid, fmt::Hyphenated};

use super::Registrant;

/// A checked `RegisterRequest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The service to join.
    pub service: ServiceName,
    /// The caller's own id; `None`: the replica at this address, else a new one.
    pub replica: Option<ReplicaId>,
    /// Where requests reach it, and what is spoken there.
    pub endpoint: Endpoint,
    /// Its share of the traffic.
    pub weight: Weight,
    /// Its tier.
    pub priority: Priority,
    /// Where it runs.
    pub locality: Locality,
    /// Free text for people, at most 63 characters.
    pub version: String,
    /// Free pairs for people and tools.
    pub labels: Labels,
    /// Time to live within 1 s..=1 h; `None`: permanent.
    pub ttl: Option<Duration>,
    /// Health to begin with.
    pub health: Health,
    /// The caller's own id of this request, by which a repetition is known.
    pub request: Option<u128>,
    /// Who asks for it.
    pub registrant: Registrant,
}

impl Registration {
    /// What a lease lasts when its owner names no time.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(15);
    /// A shorter wish is granted as this: below it, a scheduling hiccup would look like death.
    pub const MIN_TTL: Duration = Duration::from_secs(1);
    /// A longer wish is granted as this: beyond it, nobody would call it a lease.
    pub const MAX_TTL: Duration = Duration::from_secs(3600);
    const MAX_VERSION_CHARS: usize = 63;

    /// A permanent, healthy replica with default weight: what a caller says who only has a service and an address.
    pub fn permanent(service: ServiceName, address: Address) -> Self {
        Self {
            service,
            replica: None,
            endpoint: address.into(),
            weight: Weight::DEFAULT,
            priority: Priority::default(),
            locality: Locality::default(),
            version: String::new(),
            labels: Labels::default(),
            ttl: None,
            health: Health::Healthy,
            request: None,
            registrant: Registrant::default(),
        }
    }

    /// Checks a request of a caller at `peer`, whose address stands in for an empty host. `validate_only`, `wait_timeout`
    /// and who asks are the caller's business.
    ///
    /// # Errors
    /// [`Invalid`] with a violation for every field at fault.
    pub fn parse(wire: v1::RegisterRequest, peer: Option<IpAddr>) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let service = check.take(ServiceName::parse(&wire.service));
        let replica = match wire.replica_id.as_str() {
            "" => None,
            text => check.take(ReplicaId::parse(text)),
        };
        let endpoint = wire.endpoint.unwrap_or_default();
        let endpoint = Endpoint::at(parse_address(&endpoint.address, peer), &endpoint);
        let endpoint = check.take(endpoint.map_err(|invalid| invalid.within("endpoint")));
        let weight = check.take(Weight::parse(wire.weight));
        let priority = check.take(Priority::parse(wire.priority));
        let locality = check.take(Locality::parse(wire.locality.unwrap_or_default()));
        check.take(text_within("version", &wire.version, Self::MAX_VERSION_CHARS));
        let labels = check.take(Labels::parse(wire.labels));
        let ttl = check.take(parse_ttl(wire.lease_ttl, wire.permanent));
        let health = Health::parse_reported(wire.initial_health);
        let health = check.take(health.map_err(|invalid| renamed(&invalid, "initial_health")));
        let request = match wire.request_id.as_str() {
            "" => None,
            text => check.take(parse_uuid("request_id", text)),
        };
        check.finish()?;
        let (Some(service), Some(endpoint), Some(weight), Some(ttl)) = (service, endpoint, weight, ttl)
        else {
            unreachable!("nothing was refused")
        };
        Ok(Self {
            service,
            replica,
            endpoint,
            weight,
            priority: priority.unwrap_or_default(),
            locality: locality.unwrap_or_default(),
            version: wire.version,
            labels: labels.unwrap_or_default(),
            ttl,
            health: health.flatten().unwrap_or(Health::Healthy),
            request,
            registrant: Registrant::default(),
        })
    }

    /// A hash of all that is asked for, whoever asks, by which a repetition of a request is told from another one of the same id. It is
    /// stored, but only compared within one version of the program and for ten minutes.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.service, &self.replica, &self.endpoint, self.weight.get(), self.priority).hash(&mut hasher);
        (&self.locality, &self.version, self.ttl, self.health).hash(&mut hasher);
        self.labels.iter().for_each(|label| label.hash(&mut hasher));
        hasher.finish()
    }

    /// Brings a wished time to live into 1 s..=1 h.
    ///
    /// # Errors
    /// [`Invalid`] for `field` when it is zero.
    pub fn grant_ttl(field: &str, wish: Duration) -> Result<Duration, Invalid> {
        if wish.is_zero() {
            return Err(Invalid::new(field, "must be more than zero; leave it out for 15s"));
        }
        Ok(wish.clamp(Self::MIN_TTL, Self::MAX_TTL))
    }
}

/// Reads an address whose host may be left out: `:8080` is port 8080 at the caller's own address.
fn parse_address(text: &str, peer: Option<IpAddr>) -> Result<Address, Invalid> {
    match (text.strip_prefix(':'), peer) {
        (Some(port), Some(peer)) => match peer.to_canonical() {
            IpAddr::V4(host) => Address::parse(&format!("{host}:{port}")),
            IpAddr::V6(host) => Address::parse(&format!("[{host}]:{port}")),
        },
        (Some(_), None) => Err(Invalid::new("address", "has no host, and the caller's own is not known")),
        (None, _) => Address::parse(text),
    }
}

/// Reads a UUID as RFC 9562 writes it: of the forms that a UUID may have elsewhere, only that one is so long.
fn parse_uuid(field: &str, text: &str) -> Result<u128, Invalid> {
    let parsed = Uuid::try_parse(text).ok().filter(|_| text.len() == Hyphenated::LENGTH);
    let refused = || Invalid::new(field, "must be a UUID, e.g. 6fa459ea-ee8a-4ca4-894e-db77e160355e");
    parsed.map(|uuid| uuid.as_u128()).ok_or_else(refused)
}

fn parse_ttl(wire: Option<prost_types::Duration>, permanent: bool) -> Result<Option<Duration>, Invalid> {
    match (wire, permanent) {
        (None, true) => Ok(None),
        (None, false) => Ok(Some(Registration::DEFAULT_TTL)),
        (Some(_), true) => {
            Err(Invalid::new("lease_ttl", "excludes permanent: a permanent replica has no lease"))
        }
        (Some(wire), false) => {
            let wish = parse_duration("lease_ttl", wire)?;
            Registration::grant_ttl("lease_ttl", wish).map(Some)
        }
    }
}

/// Checks text for people: at most `max` characters, none of which a terminal or a log acts on instead of showing it.
pub(crate) fn text_within(field: &str, text: &str, max: usize) -> Result<(), Invalid> {
    let count = text.chars().count();
    if count > max {
        return Err(Invalid::new(field, format!("has {count} characters, at most {max} are allowed")));
    }
    match text.chars().find(|char| is_acted_on(*char)) {
        // Marks that turn the direction of text are such characters, too.
        Some(bad) => {
            Err(Invalid::new(field, format!("holds the control character '{}'", bad.escape_default())))
        }
        None => Ok(()),
    }
}

fn renamed(invalid: &Invalid, field: &str) -> Invalid {
    Invalid::new(field, invalid.violations().first().map(|v| v.description.as_str()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use gateway_proto::time::duration;

    use super::*;

    fn request() -> v1::RegisterRequest {
        v1::RegisterRequest {
            service: "orders".into(),
            endpoint: Some(v1::Endpoint { address: "10.0.0.1:80".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refused(request: v1::RegisterRequest) -> Vec<(String, String)> {
        let invalid = Registration::parse(request, None).unwrap_err();
        invalid.violations().iter().map(|v| (v.field.clone(), v.description.clone())).collect()
    }

    #[test]
    fn a_minimal_request_gets_the_documented_defaults() {
        let registration = Registration::parse(request(), None).unwrap();
        assert_eq!(registration.ttl, Some(Duration::from_secs(15)));
        assert_eq!(registration.health, Health::Healthy);
        assert_eq!(registration.weight, Weight::DEFAULT);
        assert_eq!(registration.replica, None);
    }

    #[test]
    fn a_time_to_live_is_clamped_to_one_second_and_one_hour() {
        let granted = |wish| {
            Registration::parse(v1::RegisterRequest { lease_ttl: Some(duration(wish)), ..request() }, None)
                .map(|registration| registration.ttl)
        };
        assert_eq!(granted(Duration::from_millis(1)), Ok(Some(Duration::from_secs(1))));
        assert_eq!(granted(Duration::from_secs(40)), Ok(Some(Duration::from_secs(40))));
        assert_eq!(granted(Duration::from_secs(90_000)), Ok(Some(Duration::from_secs(3600))));
    }

    #[test]
    fn a_time_to_live_of_zero_or_less_is_refused() {
        for seconds in [0, -1] {
            let wire = prost_types::Duration { seconds, nanos: 0 };
            let fields = refused(v1::RegisterRequest { lease_ttl: Some(wire), ..request() });
            assert_eq!(fields[0].0, "lease_ttl");
        }
    }

    #[test]
    fn permanent_and_a_time_to_live_exclude_each_other() {
        let ttl = Some(duration(Duration::from_secs(5)));
        let fields = refused(v1::RegisterRequest { lease_ttl: ttl, permanent: true, ..request() });
        assert_eq!(fields[0].0, "lease_ttl");
    }

    #[test]
    fn every_field_at_fault_is_named_at_once() {
        let fields = refused(v1::RegisterRequest {
            service: "Orders".into(),
            replica_id: "-".into(),
            endpoint: None,
            weight: 1001,
            priority: 16,
            locality: Some(v1::Locality { region: "e u".into(), zone: String::new() }),
            request_id: "7".into(),
            version: "x".repeat(64),
            labels: [(String::new(), String::new())].into(),
            initial_health: 77,
            ..Default::default()
        });
        let names: Vec<_> = fields.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            names,
            [
                "service",
                "replica_id",
                "endpoint.address",
                "weight",
                "priority",
                "locality.region",
                "version",
                "labels",
                "initial_health",
                "request_id"
            ]
        );
    }

    #[test]
    fn a_port_alone_is_at_the_callers_own_address() {
        let parse = |peer: Option<&str>| {
            let endpoint = Some(v1::Endpoint { address: ":8080".into(), ..Default::default() });
            let peer = peer.map(|peer| peer.parse().unwrap());
            Registration::parse(v1::RegisterRequest { endpoint, ..request() }, peer)
        };
        let address = |peer| parse(Some(peer)).unwrap().endpoint.address.to_string();
        assert_eq!(address("10.0.0.9"), "10.0.0.9:8080");
        assert_eq!(address("::ffff:10.0.0.9"), "10.0.0.9:8080");
        assert_eq!(address("fd00::1"), "[fd00::1]:8080");
        assert_eq!(parse(None).unwrap_err().violations()[0].field, "endpoint.address");
    }

    #[test]
    fn a_server_name_without_tls_is_refused_beside_whatever_else_is_wrong() {
        let endpoint =
            v1::Endpoint { address: "10.0.0.1".into(), tls_server_name: "a".into(), ..Default::default() };
        let fields = refused(v1::RegisterRequest { endpoint: Some(endpoint), ..request() });
        let names: Vec<_> = fields.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(names, ["endpoint.address", "endpoint.tls_server_name"]);
    }

    #[test]
    fn a_request_id_is_a_uuid() {
        let parse = |text: &str| {
            Registration::parse(v1::RegisterRequest { request_id: text.into(), ..request() }, None)
        };
        let id = parse("6fa459ea-ee8a-4ca4-894e-db77e160355e").unwrap().request;
        assert_eq!(id, Some(0x6fa4_59ea_ee8a_4ca4_894e_db77_e160_355e));
        for bad in [
            "6fa459eaee8a4ca4894edb77e160355e",
            "6fa459ea-ee8a-4ca4-894e-db77e160355",
            "{6fa459ea-ee8a-4ca4-894e-db77e160355e}",
            "6fa459eaee-8a-4ca4-894e-db77e160355e",
            "x",
        ] {
            assert_eq!(parse(bad).unwrap_err().violations()[0].field, "request_id", "{bad}");
        }
    }

    #[test]
    fn control_characters_in_text_for_people_are_refused() {
        let fields = refused(v1::RegisterRequest { version: "1\x1b[31m".into(), ..request() });
        assert_eq!(fields[0], ("version".into(), "holds the control character '\\u{1b}'".into()));
        let fields = refused(v1::RegisterRequest { version: "1\u{202e}2".into(), ..request() });
        assert_eq!(fields[0], ("version".into(), "holds the control character '\\u{202e}'".into()));
    }
}
