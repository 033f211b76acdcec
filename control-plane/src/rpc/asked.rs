//! What many requests have in common: who asks and why, for how long, and how long he waits for it.

use std::time::Duration;

use gateway_proto::{Check, Invalid, time::parse_duration_within};
use prost_types::Duration as WireDuration;

use crate::{
    auth::Caller,
    registry::{Said, text_within},
};

pub(super) const MAX_REASON_CHARS: usize = 256;
const MAX_AUTHOR_CHARS: usize = 63;
const SECOND: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Reads who asks, and why. Who is known goes by his name, whatever he says; who says nothing of himself by his address.
pub(super) fn said(author: &str, reason: &str, caller: &Caller) -> Result<Said, Invalid> {
    let mut check = Check::default();
    check.take(text_within("author", author, MAX_AUTHOR_CHARS));
    check.take(text_within("reason", reason, MAX_REASON_CHARS));
    check.finish()?;
    Ok(Said { author: caller.author(author), reason: reason.into() })
}

/// Reads how long something is to hold: 1 s..=24 h.
pub(super) fn ttl(field: &str, wire: WireDuration) -> Result<Duration, Invalid> {
    parse_duration_within(field, wire, SECOND, MAX_TTL)
}

/// Reads how long the caller waits: 0 s..=60 s; not at all unless he says so.
pub(super) fn wait(wire: Option<WireDuration>) -> Result<Duration, Invalid> {
    wire.map_or(Ok(Duration::ZERO), |wire| {
        parse_duration_within("wait_timeout", wire, Duration::ZERO, MAX_WAIT)
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn who_says_nothing_of_himself_is_known_by_his_address() {
        let peer: SocketAddr = "[::ffff:10.0.0.9]:4000".parse().unwrap();
        assert_eq!(&*said("", "", &Caller::anybody(Some(peer))).unwrap().author, "10.0.0.9");
        assert_eq!(&*said("ana", "", &Caller::anybody(Some(peer))).unwrap().author, "ana");
        assert_eq!(said("", "", &Caller::anybody(None)), Ok(Said::default()));
    }

    #[test]
    fn what_cannot_be_shown_on_a_line_is_refused() {
        let invalid = said("a\u{1b}", &"x".repeat(257), &Caller::anybody(None)).unwrap_err();
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["author", "reason"]);
    }

    #[test]
    fn spans_out_of_range_are_refused() {
        let seconds = |seconds| WireDuration { seconds, nanos: 0 };
        assert_eq!(wait(None), Ok(Duration::ZERO));
        assert_eq!(wait(Some(seconds(60))), Ok(MAX_WAIT));
        assert!(wait(Some(seconds(61))).is_err() && wait(Some(seconds(-1))).is_err());
        assert!(ttl("ttl", seconds(0)).is_err() && ttl("ttl", seconds(86_401)).is_err());
        assert_eq!(ttl("ttl", seconds(1)), Ok(SECOND));
    }
}
