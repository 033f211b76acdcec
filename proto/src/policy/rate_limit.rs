//! How many requests a data plane lets through in a second, and whose are counted together.

use std::{fmt, str::FromStr};

use super::{KeyName, text::refusal};
use crate::Invalid;

/// How many requests a data plane lets through. `Default`: any number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RateLimit {
    /// Requests in a second, over time. Default 0: any number; else 0.001..=1 000 000.
    pub requests_per_second: f64,
    /// Requests that may come at once after a pause. Default 0: as many as in a second, one at least; 0..=1 000 000.
    pub burst: u32,
    /// Whose requests are counted together. Default [`RateKey::Service`].
    pub key: RateKey,
    /// Whether those beyond it are only counted. Default false.
    pub observe_only: bool,
}

impl RateLimit {
    /// Whether there is any.
    pub fn is_set(&self) -> bool {
        self.requests_per_second > 0.0
    }

    /// How many requests may come at once after a pause.
    pub fn at_once(&self) -> u32 {
        match self.burst {
            // A million at most, by the range of what it is made of.
            0 => self.requests_per_second.ceil() as u32,
            burst => burst,
        }
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateKey {
    /// All of the service's.
    #[default]
    Service,
    /// Those of one client address.
    Address,
    /// Those with the same value of a header field, whose name is held in lower case.
    Header(KeyName),
}

impl RateKey {
    /// The forms that it is written in.
    pub const FORMS: &'static str =
        "service, address or header:NAME, a name being a token of at most 47 characters";
}

impl FromStr for RateKey {
    type Err = Invalid;

    /// Reads `service`, `address` or `header:NAME`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let header = |name: &str| KeyName::parse(&name.to_ascii_lowercase()).map(Self::Header);
        let key = match text {
            "service" => Some(Self::Service),
            "address" => Some(Self::Address),
            _ => text.strip_prefix("header:").and_then(header),
        };
        key.ok_or_else(|| refusal(text, Self::FORMS))
    }
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("service"),
            Self::Address => f.write_str("address"),
            Self::Header(name) => write!(f, "header:{}", name.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_limited_until_somebody_says_so() {
        assert!(!RateLimit::default().is_set());
        assert!(RateLimit { requests_per_second: 0.001, ..RateLimit::default() }.is_set());
    }

    #[test]
    fn without_a_burst_as_many_may_come_at_once_as_in_a_second() {
        let of = |requests_per_second, burst| {
            RateLimit { requests_per_second, burst, ..RateLimit::default() }.at_once()
        };
        assert_eq!([of(0.001, 0), of(1.0, 0), of(2.5, 0), of(1e6, 0)], [1, 1, 3, 1_000_000]);
        assert_eq!([of(100.0, 1), of(0.1, 20)], [1, 20]);
    }

    #[test]
    fn a_key_is_the_service_an_address_or_a_header() {
        for (written, read) in
            [("service", "service"), ("address", "address"), ("header:X-Api-Key", "header:x-api-key")]
        {
            assert_eq!(written.parse::<RateKey>().unwrap().to_string(), read);
        }
        for text in ["", "Service", "header", "header:", "header:a b", "cookie:a", "address:"] {
            let why = text.parse::<RateKey>().unwrap_err().to_string();
            assert!(why.contains("is not service, address or header:NAME"), "{text}: {why}");
        }
    }
}
