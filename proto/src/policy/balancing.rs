//! How a replica is chosen among those that may be: the algorithm, and what it goes by.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Invalid, token::is_token, v1};

/// How requests are shared out among replicas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balancing {
    /// Whose turn it is. Default [`Algorithm::RoundRobin`].
    pub algorithm: Algorithm,
    /// What of a request decides, with [`Algorithm::ConsistentHash`]. Default [`HashBy::Address`].
    pub hash_by: HashBy,
    /// With [`Algorithm::ConsistentHash`]: a replica with more than this × its share of what is in flight gives further
    /// requests to the next. Default 1.25; 0: no bound, else 1.0..=100.0.
    pub hash_load_factor: f64,
    /// How long a replica that is new, or back, takes from a tenth of its weight to all of it. Default 0 s: it has all
    /// of it at once; 0 s..=15 min.
    pub slow_start: Duration,
    /// Whether replicas of this data plane's zone go first, then those of its region. Default false.
    pub prefer_local: bool,
    /// Default 0: the best tier that has anybody to ask takes all requests, or the nearest zone of it. Else 1.0..=100.0: it
    /// takes as much as this × its part that lets traffic through, and the next one the rest.
    pub overprovisioning_factor: f64,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            hash_by: HashBy::default(),
            hash_load_factor: 1.25,
            slow_start: Duration::ZERO,
            prefer_local: false,
            overprovisioning_factor: 0.0,
        }
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Strict turns by weight.
    #[default]
    RoundRobin,
    /// Chance, by weight.
    Random,
    /// Of two at random, the one with fewer requests in flight for its weight.
    LeastRequest,
    /// Of two at random, the one whose latency, with peaks remembered, times its requests in flight is less.
    PeakEwma,
    /// The same key goes to the same replica.
    ConsistentHash,
}

impl Algorithm {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Random, Self::LeastRequest, Self::PeakEwma, Self::ConsistentHash];

    /// Their names, in the same order.
    pub const NAMES: [&'static str; 5] =
        ["round_robin", "random", "least_request", "peak_ewma", "consistent_hash"];

    /// As settings name it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The algorithm of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The algorithm of that number; `None` when this version knows none.
    pub(super) fn numbered(number: i32) -> Option<Self> {
        Some(match v1::BalancingAlgorithm::try_from(number).ok()? {
            v1::BalancingAlgorithm::Unspecified => return None,
            v1::BalancingAlgorithm::RoundRobin => Self::RoundRobin,
            v1::BalancingAlgorithm::Random => Self::Random,
            v1::BalancingAlgorithm::LeastRequest => Self::LeastRequest,
            v1::BalancingAlgorithm::PeakEwma => Self::PeakEwma,
            v1::BalancingAlgorithm::ConsistentHash => Self::ConsistentHash,
        })
    }

    /// Its number on the wire.
    pub fn number(self) -> i32 {
        let wire = match self {
            Self::RoundRobin => v1::BalancingAlgorithm::RoundRobin,
            Self::Random => v1::BalancingAlgorithm::Random,
            Self::LeastRequest => v1::BalancingAlgorithm::LeastRequest,
            Self::PeakEwma => v1::BalancingAlgorithm::PeakEwma,
            Self::ConsistentHash => v1::BalancingAlgorithm::ConsistentHash,
        };
        wire.into()
    }
}

/// What of a request is hashed. A request that lacks it is shared out in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashBy {
    /// The address of the client's connection.
    #[default]
    Address,
    /// A header field, whose name knows no case and is held in lower case.
    Header(KeyName),
    /// A cookie, whose name knows case.
    Cookie(KeyName),
}

impl FromStr for HashBy {
    type Err = Invalid;

    /// Reads `address`, `header:NAME` or `cookie:NAME`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let why = || Invalid::new("hash_by", format!("\"{}\" is not {}", text.escape_debug(), Self::FORMS));
        match text.split_once(':') {
            None if text == "address" => Ok(Self::Address),
            Some(("header", name)) => {
                KeyName::parse(&name.to_ascii_lowercase()).map(Self::Header).ok_or_else(why)
            }
            Some(("cookie", name)) => KeyName::parse(name).map(Self::Cookie).ok_or_else(why),
            _ => Err(why()),
        }
    }
}

impl HashBy {
    /// The forms that it is written in.
    pub const FORMS: &'static str =
        "address, header:NAME or cookie:NAME, a name being a token of at most 47 characters";
}

impl fmt::Display for HashBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::Header(name) => write!(f, "header:{}", name.as_str()),
            Self::Cookie(name) => write!(f, "cookie:{}", name.as_str()),
        }
    }
}

/// The name of a header field or a cookie: a token of RFC 9110 section 5.6.2.
///
/// Held in place, so that a policy stays a plain value that requests copy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyName {
    length: u8,
    bytes: [u8; Self::MAX_LENGTH],
}

impl KeyName {
    /// The longest there is.
    pub const MAX_LENGTH: usize = 47;

    /// Reads a name; `None` when it is empty, too long, or no token.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= Self::MAX_LENGTH && is_token(text);
        let mut bytes = [0; Self::MAX_LENGTH];
        bytes.get_mut(..text.len()).filter(|_| fits)?.copy_from_slice(text.as_bytes());
        Some(Self { length: u8::try_from(text.len()).ok()?, bytes })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_name_and_a_number_of_its_own() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::numbered(algorithm.number()), Some(algorithm));
            let wire = format!("BALANCING_ALGORITHM_{}", algorithm.name().to_uppercase());
            let numbered = v1::BalancingAlgorithm::try_from(algorithm.number()).unwrap();
            assert_eq!(numbered.as_str_name(), wire);
        }
        assert_eq!(Algorithm::named("fastest"), None);
        assert_eq!((Algorithm::numbered(0), Algorithm::numbered(77)), (None, None));
    }

    #[test]
    fn a_key_is_an_address_a_header_or_a_cookie() {
        for (written, read) in
            [("address", "address"), ("header:X-User", "header:x-user"), ("cookie:Session", "cookie:Session")]
        {
            assert_eq!(written.parse::<HashBy>().unwrap().to_string(), read);
        }
        let longest = format!("cookie:{}", "n".repeat(KeyName::MAX_LENGTH));
        assert_eq!(longest.parse::<HashBy>().unwrap().to_string(), longest);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_forms_there_are() {
        let too_long = format!("header:{}", "n".repeat(KeyName::MAX_LENGTH + 1));
        for text in
            ["", "Address", "address:", "header", "header:", "header:a b", "cookie:a=b", "path:x", &too_long]
        {
            let why = text.parse::<HashBy>().unwrap_err().to_string();
            assert!(why.contains("is not address, header:NAME or cookie:NAME"), "{text}: {why}");
        }
    }
}
