//! Faults injected on purpose: what is done to which share of requests, and until when.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use super::{
    DAY,
    text::{ShortText, refusal},
};
use crate::{Check, Invalid, time::rfc3339, token::is_token};

/// What is done to requests on purpose, for a time. `Default`: nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultInjection {
    /// How long requests are held. Default 0 s, 0 s..=1 h.
    pub delay: Duration,
    /// Share of requests that are. Default 0.0, 0.0..=1.0.
    pub delay_ratio: f64,
    /// The status of aborted requests. Default 503, 400..=599.
    pub abort_status: u32,
    /// Share of requests that are aborted. Default 0.0, 0.0..=1.0.
    pub abort_ratio: f64,
    /// Share of requests whose connection, or stream, is reset. Default 0.0, 0.0..=1.0; with `abort_ratio` 1.0 at most.
    pub reset_ratio: f64,
    /// Which requests. Default all.
    pub header: FaultHeader,
    /// Until when. Default none: then there is no effect.
    pub end_time: EndTime,
}

impl Default for FaultInjection {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            delay_ratio: 0.0,
            abort_status: 503,
            abort_ratio: 0.0,
            reset_ratio: 0.0,
            header: FaultHeader::default(),
            end_time: EndTime::NONE,
        }
    }
}

impl FaultInjection {
    /// No end is further ahead when it is set.
    pub const MAX_AHEAD: Duration = DAY;

    /// Whether some ratio is above zero, whatever the time.
    pub fn has_ratio(&self) -> bool {
        self.delay_ratio > 0.0 || self.abort_ratio > 0.0 || self.reset_ratio > 0.0
    }

    /// Whether it does something to requests at this time.
    pub fn is_in_force(&self, now: SystemTime) -> bool {
        self.has_ratio() && now < self.end_time.0
    }

    /// Checks what is set at this time.
    ///
    /// # Errors
    /// [`Invalid`] with one violation for each field that does not go with the others, or with the time.
    pub fn check(&self, now: SystemTime) -> Result<(), Invalid> {
        let mut check = Check::default();
        check.take(self.check_shares());
        check.take(self.check_end(now));
        check.finish()
    }

    /// As [`FaultInjection::check`], for what was written some time ago: an end that has passed is in order.
    ///
    /// # Errors
    /// As there.
    pub fn check_written(&self, now: SystemTime) -> Result<(), Invalid> {
        match self.end_time.is_set() && self.end_time.0 <= now {
            true => self.check_shares(),
            false => self.check(now),
        }
    }

    fn check_shares(&self) -> Result<(), Invalid> {
        if self.delay_ratio > 0.0 && self.delay.is_zero() {
            return Err(Invalid::new("fault.delay", "is required while fault.delay_ratio is above 0"));
        }
        let sum = self.abort_ratio + self.reset_ratio;
        // Ten tenths may come to a little more than one.
        if sum > 1.0 + 1e-9 {
            let (reset, abort) = (self.reset_ratio, self.abort_ratio);
            let why = format!("{reset} and fault.abort_ratio, which is {abort}, are more than all requests");
            return Err(Invalid::new("fault.reset_ratio", why));
        }
        Ok(())
    }

    fn check_end(&self, now: SystemTime) -> Result<(), Invalid> {
        let refuse = |why: String| Err(Invalid::new("fault.end_time", why));
        if !self.end_time.is_set() {
            return match self.has_ratio() {
                true => refuse("is required while a ratio is above 0: every fault ends, within 24h".into()),
                false => Ok(()),
            };
        }
        let end = self.end_time;
        if end.0 <= now && self.has_ratio() {
            return refuse(format!("{end} has passed: here it is {}", rfc3339(now)));
        }
        if end.0 > now + Self::MAX_AHEAD {
            return refuse(format!("{end} is more than 24h ahead: here it is {}", rfc3339(now)));
        }
        Ok(())
    }
}

impl fmt::Display for FaultInjection {
    /// `delay 200ms of 0.1, abort 503 of 0.05, with x-chaos=1`; nothing where nothing is injected.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut say = |f: &mut fmt::Formatter<'_>, ratio: f64, what: fmt::Arguments<'_>| {
            if ratio > 0.0 {
                write!(f, "{comma}{what} of {ratio}")?;
                comma = ", ";
            }
            Ok(())
        };
        say(f, self.delay_ratio, format_args!("delay {}", crate::time::exact(self.delay)))?;
        say(f, self.abort_ratio, format_args!("abort {}", self.abort_status))?;
        say(f, self.reset_ratio, format_args!("reset"))?;
        match self.header.is_empty() || !self.has_ratio() {
            true => Ok(()),
            false => write!(f, ", with {}", self.header),
        }
    }
}

/// When a fault ends, by the wall clock; or that nobody has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTime(pub SystemTime);

impl EndTime {
    /// Nobody has said so.
    pub const NONE: Self = Self(SystemTime::UNIX_EPOCH);
    /// What it may be.
    pub const FORMS: &'static str = "at most 24h ahead when it is set";

    /// Whether somebody has.
    pub fn is_set(self) -> bool {
        self != Self::NONE
    }
}

impl fmt::Display for EndTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_set() { f.write_str(&rfc3339(self.0)) } else { f.write_str("none") }
    }
}

/// A header that a request must have: its name in lower case, and perhaps its value. Empty: none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FaultHeader(ShortText<{ FaultHeader::MAX_LENGTH }>);

impl FaultHeader {
    /// The longest text.
    pub const MAX_LENGTH: usize = 63;
    /// The forms that it is written in.
    pub const FORMS: &'static str = "empty, NAME or NAME=VALUE, of at most 63 visible ASCII characters";

    /// Whether any request has it.
    pub fn is_empty(&self) -> bool {
        self.0.as_str().is_empty()
    }

    /// Its name, and the value that it must have if one is given.
    pub fn parts(&self) -> (&str, Option<&str>) {
        let text = self.0.as_str();
        text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)))
    }
}

impl Default for FaultHeader {
    fn default() -> Self {
        Self(ShortText::new("").expect("it is short enough"))
    }
}

impl FromStr for FaultHeader {
    type Err = Invalid;

    /// Reads a name, a name and a value, or nothing.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let is_one = is_token(name)
            && value
                .is_none_or(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()));
        let lower = name.to_ascii_lowercase() + &text[name.len()..];
        let held = ShortText::new(&lower).filter(|_| is_one || text.is_empty());
        held.map(Self).ok_or_else(|| refusal(text, Self::FORMS))
    }
}

impl fmt::Display for FaultHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for FaultHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1_700_000_000 * SECOND
    }

    fn abort(ratio: f64, end_time: SystemTime) -> FaultInjection {
        FaultInjection { abort_ratio: ratio, end_time: EndTime(end_time), ..Default::default() }
    }

    fn why(fault: FaultInjection) -> String {
        fault.check(now()).unwrap_err().to_string()
    }

    #[test]
    fn a_fault_needs_an_end_that_is_ahead_and_not_by_more_than_a_day() {
        assert_eq!(FaultInjection::default().check(now()), Ok(()));
        assert_eq!(abort(0.1, now() + SECOND).check(now()), Ok(()));
        assert_eq!(abort(0.1, now() + DAY).check(now()), Ok(()));
        assert_eq!(
            why(abort(0.1, EndTime::NONE.0)),
            "fault.end_time: is required while a ratio is above 0: every fault ends, within 24h"
        );
        assert_eq!(
            why(abort(0.1, now())),
            "fault.end_time: 2023-11-14T22:13:20Z has passed: here it is 2023-11-14T22:13:20Z"
        );
        for ratio in [0.0, 0.1] {
            let why = why(abort(ratio, now() + DAY + SECOND));
            assert!(why.contains("is more than 24h ahead"), "{why}");
        }
        assert_eq!(abort(0.0, now() - SECOND).check(now()), Ok(()), "without an effect nobody minds");
    }

    #[test]
    fn what_was_written_in_a_file_may_be_over() {
        assert_eq!(abort(0.1, now() - SECOND).check_written(now()), Ok(()));
        assert!(abort(0.1, EndTime::NONE.0).check_written(now()).is_err());
        assert!(abort(0.1, now() + 2 * DAY).check_written(now()).is_err());
    }

    #[test]
    fn it_is_in_force_before_its_end_and_only_with_a_ratio() {
        let fault = abort(0.1, now() + SECOND);
        assert!(fault.is_in_force(now()) && !fault.is_in_force(now() + SECOND));
        assert!(!abort(0.0, now() + SECOND).is_in_force(now()));
        assert!(!abort(1.0, EndTime::NONE.0).is_in_force(now()));
    }

    #[test]
    fn shares_that_do_not_go_together_are_refused() {
        let both = FaultInjection { reset_ratio: 0.6, ..abort(0.5, now() + SECOND) };
        assert_eq!(
            why(both),
            "fault.reset_ratio: 0.6 and fault.abort_ratio, which is 0.5, are more than all requests"
        );
        let all = FaultInjection { reset_ratio: 0.9, ..abort(0.1, now() + SECOND) };
        assert_eq!(all.check(now()), Ok(()));
        let no_delay = FaultInjection { delay_ratio: 0.5, ..abort(0.5, now() + SECOND) };
        assert_eq!(why(no_delay), "fault.delay: is required while fault.delay_ratio is above 0");
    }

    #[test]
    fn a_header_is_a_name_with_or_without_a_value() {
        for (written, read) in [("", ""), ("X-Chaos", "x-chaos"), ("X-Chaos=Yes=1", "x-chaos=Yes=1")] {
            assert_eq!(written.parse::<FaultHeader>().unwrap().to_string(), read);
        }
        assert_eq!("x-chaos=Yes=1".parse::<FaultHeader>().unwrap().parts(), ("x-chaos", Some("Yes=1")));
        assert_eq!("x-chaos".parse::<FaultHeader>().unwrap().parts(), ("x-chaos", None));
        for text in ["=1", "x=", "x y", "x: 1", "x=a b", "x=\r\n", "ä", &"x".repeat(64)] {
            let why = text.parse::<FaultHeader>().unwrap_err().to_string();
            assert!(why.contains("is not empty, NAME or NAME=VALUE"), "{text}: {why}");
        }
    }

    #[test]
    fn a_fault_is_told_in_one_phrase() {
        let fault = FaultInjection {
            delay: Duration::from_millis(200),
            delay_ratio: 0.1,
            reset_ratio: 0.01,
            header: "x-chaos".parse().unwrap(),
            ..abort(0.05, now())
        };
        assert_eq!(fault.to_string(), "delay 200ms of 0.1, abort 503 of 0.05, reset of 0.01, with x-chaos");
        assert_eq!(FaultInjection::default().to_string(), "");
    }
}
