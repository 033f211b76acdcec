//! What a replica says of itself when it registers.

use std::{collections::BTreeMap, fmt, num::NonZeroU16};

use crate::{Check, Invalid, v1};

/// Share of a service's traffic relative to its peers: 1..=1000, 100 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// What a replica has that names no weight.
    pub const DEFAULT: Self = Self(NonZeroU16::new(100).expect("100 is not zero"));

    /// Reads the wire's number, where 0 stands for the default.
    ///
    /// # Errors
    /// [`Invalid`] for the field `weight` outside 0..=1000.
    pub fn parse(number: i32) -> Result<Self, Invalid> {
        match u16::try_from(number).ok().map(NonZeroU16::new) {
            Some(None) => Ok(Self::DEFAULT),
            Some(Some(weight)) if weight.get() <= 1000 => Ok(Self(weight)),
            _ => Err(Invalid::new("weight", format!("{number} is not in 1..=1000 (0 stands for 100)"))),
        }
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Health as data planes go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Not ready yet.
    Starting,
    /// Ready.
    Healthy,
    /// Ready, with less than it should have.
    Degraded,
    /// Not to be sent requests.
    Unhealthy,
    /// Silent together with so many others that the registry rather doubts itself. Nobody can report it.
    Lost,
}

impl Health {
    /// Reads the wire's value; `None` for UNSPECIFIED.
    ///
    /// # Errors
    /// [`Invalid`] for the field `health` when the number has no meaning.
    pub fn parse(number: i32) -> Result<Option<Self>, Invalid> {
        use v1::HealthStatus as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Unspecified) => Ok(None),
            Ok(Wire::Starting) => Ok(Some(Self::Starting)),
            Ok(Wire::Healthy) => Ok(Some(Self::Healthy)),
            Ok(Wire::Degraded) => Ok(Some(Self::Degraded)),
            Ok(Wire::Unhealthy) => Ok(Some(Self::Unhealthy)),
            Ok(Wire::Lost) => Ok(Some(Self::Lost)),
            Err(_) => Err(Invalid::new("health", format!("{number} is no HealthStatus"))),
        }
    }

    /// Reads what a replica says of itself; `None` for UNSPECIFIED.
    ///
    /// # Errors
    /// As [`Health::parse`], and for LOST.
    pub fn parse_reported(number: i32) -> Result<Option<Self>, Invalid> {
        match Self::parse(number)? {
            Some(Self::Lost) => Err(Invalid::new("health", "LOST is the registry's own verdict")),
            reported => Ok(reported),
        }
    }

    /// The wire's value.
    pub fn to_wire(self) -> v1::HealthStatus {
        match self {
            Self::Starting => v1::HealthStatus::Starting,
            Self::Healthy => v1::HealthStatus::Healthy,
            Self::Degraded => v1::HealthStatus::Degraded,
            Self::Unhealthy => v1::HealthStatus::Unhealthy,
            Self::Lost => v1::HealthStatus::Lost,
        }
    }

    /// Whether data planes may send requests to a replica of this health.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded | Self::Lost)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Lost => "lost",
        })
    }
}

/// What was asked of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Gets its share.
    #[default]
    Serving,
    /// Gets no new requests; those in flight finish.
    Draining,
    /// As draining, and nothing is in flight any more, or the time for it is over.
    Drained,
}

impl Mode {
    /// Reads the wire's value, where UNSPECIFIED stands for SERVING.
    ///
    /// # Errors
    /// [`Invalid`] for the field `mode` when the number has no meaning.
    pub fn parse(number: i32) -> Result<Self, Invalid> {
        use v1::ReplicaMode as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Unspecified | Wire::Serving) => Ok(Self::Serving),
            Ok(Wire::Draining) => Ok(Self::Draining),
            Ok(Wire::Drained) => Ok(Self::Drained),
            Err(_) => Err(Invalid::new("mode", format!("{number} is no ReplicaMode"))),
        }
    }

    /// The wire's value.
    pub fn to_wire(self) -> v1::ReplicaMode {
        match self {
            Self::Serving => v1::ReplicaMode::Serving,
            Self::Draining => v1::ReplicaMode::Draining,
            Self::Drained => v1::ReplicaMode::Drained,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Drained => "drained",
        })
    }
}

/// Tier of a replica, 0..=15: those of the lowest tier that has one to ask get all requests, or as many as they can bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Priority(u8);

impl Priority {
    const MAX: i32 = 15;

    /// Reads the wire's number.
    ///
    /// # Errors
    /// [`Invalid`] for the field `priority` outside 0..=15.
    pub fn parse(number: i32) -> Result<Self, Invalid> {
        let fits = u8::try_from(number).ok().filter(|_| number <= Self::MAX);
        fits.map(Self)
            .ok_or_else(|| Invalid::new("priority", format!("{number} is not in 0..={}", Self::MAX)))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// Where a replica runs. Each part is empty when it is unknown.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region and zone with [`BETWEEN`] in the middle; empty when both are.
    packed: Box<str>,
}

/// Stands between the texts that are kept as one: a registry holds very many of them, most of them short. No text may
/// contain it.
const BETWEEN: char = '\0';

impl fmt::Debug for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locality").field("region", &self.region()).field("zone", &self.zone()).finish()
    }
}

impl Locality {
    const MAX_CHARS: usize = 63;

    /// Checks a locality.
    ///
    /// # Errors
    /// [`Invalid`] for `locality.region` and `locality.zone`: more than 63 characters, or others than visible ASCII.
    pub fn parse(wire: v1::Locality) -> Result<Self, Invalid> {
        let mut check = Check::default();
        for (field, text) in [("region", &wire.region), ("zone", &wire.zone)] {
            let field = format!("locality.{field}");
            if text.len() > Self::MAX_CHARS {
                let why = format!("has more than {} characters", Self::MAX_CHARS);
                check.take::<()>(Err(Invalid::new(&field, why)));
            }
            if !text.bytes().all(|b| b.is_ascii_graphic()) {
                check.take::<()>(Err(Invalid::new(field, "must be visible ASCII characters without spaces")));
            }
        }
        check.finish()?;
        if wire.region.is_empty() && wire.zone.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { packed: format!("{}{BETWEEN}{}", wire.region, wire.zone).into() })
    }

    /// The region.
    pub fn region(&self) -> &str {
        self.packed.split_once(BETWEEN).map_or("", |(region, _)| region)
    }

    /// The zone.
    pub fn zone(&self) -> &str {
        self.packed.split_once(BETWEEN).map_or("", |(_, zone)| zone)
    }

    /// The wire's form; `None` when nothing is known.
    pub fn to_wire(&self) -> Option<v1::Locality> {
        let (region, zone) = self.packed.split_once(BETWEEN)?;
        Some(v1::Locality { region: region.to_owned(), zone: zone.to_owned() })
    }
}

/// Labels of a replica: at most 32, keys and values of at most 63 visible ASCII characters.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Each key and each value with [`BETWEEN`] after it, in the order of the keys.
    packed: Box<str>,
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Labels {
    const MAX_COUNT: usize = 32;
    const MAX_CHARS: usize = 63;

    /// Checks labels.
    ///
    /// # Errors
    /// [`Invalid`] for the field `labels` with the key at fault.
    pub fn parse(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Invalid> {
        let pairs: BTreeMap<_, _> = pairs.into_iter().collect();
        let refuse = |why: String| Err(Invalid::new("labels", why));
        if pairs.len() > Self::MAX_COUNT {
            return refuse(format!("are {}, at most {} are allowed", pairs.len(), Self::MAX_COUNT));
        }
        for (key, value) in &pairs {
            let shown = key.escape_debug();
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return refuse(format!("key \"{shown}\" must be visible ASCII characters without spaces"));
            }
            if key.len() > Self::MAX_CHARS || value.len() > Self::MAX_CHARS {
                return refuse(format!(
                    "key \"{shown}\" or its value has more than {} characters",
                    Self::MAX_CHARS
                ));
            }
            if !value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
                return refuse(format!("value of \"{shown}\" must be visible ASCII characters"));
            }
        }
        let mut packed = String::new();
        for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
            packed.push_str(text);
            packed.push(BETWEEN);
        }
        Ok(Self { packed: packed.into() })
    }

    /// The labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.packed.split_terminator(BETWEEN);
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_one_to_a_thousand_and_zero_is_a_hundred() {
        assert_eq!(Weight::parse(0), Ok(Weight::DEFAULT));
        assert_eq!(Weight::parse(1).map(Weight::get), Ok(1));
        assert_eq!(Weight::parse(1000).map(Weight::get), Ok(1000));
        for number in [-1, 1001, 65_536 + 100] {
            assert!(Weight::parse(number).is_err(), "{number}");
        }
    }

    #[test]
    fn healthy_degraded_and_lost_replicas_are_ready() {
        use Health::{Degraded, Healthy, Lost, Starting, Unhealthy};
        let ready = [Starting, Healthy, Degraded, Unhealthy, Lost].map(Health::is_ready);
        assert_eq!(ready, [false, true, true, false, true]);
    }

    #[test]
    fn nobody_can_report_himself_lost() {
        let lost = v1::HealthStatus::Lost.into();
        assert_eq!(Health::parse(lost), Ok(Some(Health::Lost)));
        assert!(Health::parse_reported(lost).is_err());
    }

    #[test]
    fn a_priority_is_zero_to_fifteen() {
        assert_eq!(Priority::parse(15).map(Priority::get), Ok(15));
        for number in [-1, 16, 256] {
            assert!(Priority::parse(number).is_err(), "{number}");
        }
    }

    #[test]
    fn a_locality_that_cannot_be_shown_on_one_line_is_refused() {
        let parse = |region: &str, zone: &str| {
            Locality::parse(v1::Locality { region: region.into(), zone: zone.into() })
        };
        for (region, zone) in [("eu", "eu-1"), ("eu", ""), ("", "eu-1")] {
            let locality = parse(region, zone).unwrap();
            assert_eq!((locality.region(), locality.zone()), (region, zone));
            assert_eq!(locality.to_wire(), Some(v1::Locality { region: region.into(), zone: zone.into() }));
        }
        assert!(parse("e\0u", "").is_err());
        assert_eq!(parse("", "").unwrap().to_wire(), None);
        let invalid = parse("e u", &"x".repeat(64)).unwrap_err();
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["locality.region", "locality.zone"]);
    }

    #[test]
    fn labels_come_back_in_the_order_of_their_keys_empty_values_included() {
        let pairs = [("zone", "a 1"), ("team", ""), ("x", "y")];
        let labels = Labels::parse(pairs.map(|(key, value)| (key.to_owned(), value.to_owned()))).unwrap();
        assert!(labels.iter().eq([("team", ""), ("x", "y"), ("zone", "a 1")]));
        assert_eq!(Labels::default().iter().next(), None);
        assert_eq!(Labels::parse([]), Ok(Labels::default()));
    }

    #[test]
    fn labels_with_control_characters_or_too_many_are_refused() {
        let one = |key: &str, value: &str| Labels::parse([(key.to_owned(), value.to_owned())]);
        assert!(one("team", "web shop").is_ok());
        assert!(one("", "x").is_err());
        assert!(one("te am", "x").is_err());
        assert!(one("team", "\x1b[31m").is_err());
        assert!(one("te\0am", "x").is_err() && one("team", "x\0").is_err());
        assert!(one("team", &"x".repeat(64)).is_err());
        assert!(Labels::parse((0..33).map(|i| (format!("k{i}"), String::new()))).is_err());
    }
}
