//! What a replica asks for when it registers, with every field checked.

use std::time::Duration;

use gateway_proto::{
    Address, Check, Health, Invalid, Labels, ReplicaId, ServiceName, Weight, time::parse_duration, v1,
};

/// A checked `RegisterRequest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The service to join.
    pub service: ServiceName,
    /// The caller's own id; `None`: the replica at this address, else a new one.
    pub replica: Option<ReplicaId>,
    /// Where requests reach it.
    pub address: Address,
    /// Its share of the traffic.
    pub weight: Weight,
    /// Free text for people, at most 63 characters.
    pub version: String,
    /// Free pairs for people and tools.
    pub labels: Labels,
    /// Time to live within 1 s..=1 h; `None`: permanent.
    pub ttl: Option<Duration>,
    /// Health to begin with.
    pub health: Health,
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
            address,
            weight: Weight::DEFAULT,
            version: String::new(),
            labels: Labels::default(),
            ttl: None,
            health: Health::Healthy,
        }
    }

    /// Checks a request. `validate_only` is the caller's business.
    ///
    /// # Errors
    /// [`Invalid`] with a violation for every field at fault.
    pub fn parse(wire: v1::RegisterRequest) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let service = check.take(ServiceName::parse(&wire.service));
        let replica = match wire.replica_id.as_str() {
            "" => None,
            text => check.take(ReplicaId::parse(text)),
        };
        let address = wire.endpoint.map(|endpoint| endpoint.address).unwrap_or_default();
        let address = check.take(Address::parse(&address).map_err(|invalid| invalid.within("endpoint")));
        let weight = check.take(Weight::parse(wire.weight));
        check.take(text_within("version", &wire.version, Self::MAX_VERSION_CHARS));
        let labels = check.take(Labels::parse(wire.labels));
        let ttl = check.take(parse_ttl(wire.lease_ttl, wire.permanent));
        let health = Health::parse(wire.initial_health);
        let health = check.take(health.map_err(|invalid| renamed(&invalid, "initial_health")));
        check.finish()?;
        match (service, address, weight, labels, ttl, health) {
            (Some(service), Some(address), Some(weight), Some(labels), Some(ttl), Some(health)) => Ok(Self {
                service,
                replica,
                address,
                weight,
                version: wire.version,
                labels,
                ttl,
                health: health.unwrap_or(Health::Healthy),
            }),
            _ => unreachable!("nothing was refused"),
        }
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

/// Checks text for people: at most `max` characters, none of them a control character.
pub(crate) fn text_within(field: &str, text: &str, max: usize) -> Result<(), Invalid> {
    let count = text.chars().count();
    if count > max {
        return Err(Invalid::new(field, format!("has {count} characters, at most {max} are allowed")));
    }
    match text.chars().find(|c| c.is_control()) {
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
            endpoint: Some(v1::Endpoint { address: "10.0.0.1:80".into() }),
            ..Default::default()
        }
    }

    fn refused(request: v1::RegisterRequest) -> Vec<(String, String)> {
        let invalid = Registration::parse(request).unwrap_err();
        invalid.violations().iter().map(|v| (v.field.clone(), v.description.clone())).collect()
    }

    #[test]
    fn a_minimal_request_gets_the_documented_defaults() {
        let registration = Registration::parse(request()).unwrap();
        assert_eq!(registration.ttl, Some(Duration::from_secs(15)));
        assert_eq!(registration.health, Health::Healthy);
        assert_eq!(registration.weight, Weight::DEFAULT);
        assert_eq!(registration.replica, None);
    }

    #[test]
    fn a_time_to_live_is_clamped_to_one_second_and_one_hour() {
        let granted = |wish| {
            Registration::parse(v1::RegisterRequest { lease_ttl: Some(duration(wish)), ..request() })
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
            version: "x".repeat(64),
            labels: [(String::new(), String::new())].into(),
            initial_health: 77,
            ..Default::default()
        });
        let names: Vec<_> = fields.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            names,
            ["service", "replica_id", "endpoint.address", "weight", "version", "labels", "initial_health"]
        );
    }

    #[test]
    fn control_characters_in_text_for_people_are_refused() {
        let fields = refused(v1::RegisterRequest { version: "1\x1b[31m".into(), ..request() });
        assert_eq!(fields[0], ("version".into(), "holds the control character '\\u{1b}'".into()));
    }
}
