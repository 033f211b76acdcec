//! What a replica says of itself when it registers.

use std::{collections::BTreeMap, fmt, num::NonZeroU16};

use crate::{Invalid, v1};

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

/// Health as the registry knows it.
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
            Err(_) => Err(Invalid::new("health", format!("{number} is no HealthStatus"))),
        }
    }

    /// The wire's value.
    pub fn to_wire(self) -> v1::HealthStatus {
        match self {
            Self::Starting => v1::HealthStatus::Starting,
            Self::Healthy => v1::HealthStatus::Healthy,
            Self::Degraded => v1::HealthStatus::Degraded,
            Self::Unhealthy => v1::HealthStatus::Unhealthy,
        }
    }

    /// Whether data planes may send requests to a replica of this health.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// Labels of a replica: at most 32, keys and values of at most 63 visible ASCII characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

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
        Ok(Self(pairs))
    }

    /// The labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
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
    fn only_healthy_and_degraded_replicas_are_ready() {
        let ready =
            [Health::Starting, Health::Healthy, Health::Degraded, Health::Unhealthy].map(Health::is_ready);
        assert_eq!(ready, [false, true, true, false]);
    }

    #[test]
    fn labels_with_control_characters_or_too_many_are_refused() {
        let one = |key: &str, value: &str| Labels::parse([(key.to_owned(), value.to_owned())]);
        assert!(one("team", "web shop").is_ok());
        assert!(one("", "x").is_err());
        assert!(one("te am", "x").is_err());
        assert!(one("team", "\x1b[31m").is_err());
        assert!(one("team", &"x".repeat(64)).is_err());
        assert!(Labels::parse((0..33).map(|i| (format!("k{i}"), String::new()))).is_err());
    }
}
