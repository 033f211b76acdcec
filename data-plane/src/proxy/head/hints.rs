//! What replicas are told of the attempt they are, and what trusted callers may ask for one request.

use std::time::Duration;

use super::fields::Fields;
use crate::{
    proxy::{errors::GatewayError, h1::decimal},
    traces::Traceparent,
};

/// What a trusted caller asks for.
const TIMEOUT: &str = "x-gw-timeout";
const RETRY: &str = "x-gw-retry";

/// What one attempt says of itself: a replica that calls others can tell a retry, and how long anybody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct AttemptHints {
    /// From 1.
    pub(in crate::proxy) attempt: usize,
    /// How long this gateway waits for the response head once the whole request is sent.
    pub(in crate::proxy) time: Duration,
    /// What is left of its call, if that has an end: as attempts begin one after the other, also beside each other, each has less.
    pub(in crate::proxy) call: Option<Duration>,
    /// Its span, if the request is traced.
    pub(in crate::proxy) trace: Option<Traceparent>,
}

impl AttemptHints {
    /// Writes them as fields, each with its line break.
    pub(in crate::proxy) fn write_to(self, out: &mut Vec<u8>) {
        let [(_, attempt), (_, millis)] = self.fields();
        let mut digits = [0; 20];
        // Each part that is always the same at once.
        out.extend_from_slice(b"x-gw-attempt: ");
        out.extend_from_slice(decimal(attempt, &mut digits));
        out.extend_from_slice(b"\r\nx-gw-timeout-ms: ");
        out.extend_from_slice(decimal(millis, &mut digits));
        out.extend_from_slice(b"\r\n");
        if let Some(left) = self.call {
            out.extend_from_slice(b"grpc-timeout: ");
            out.extend_from_slice(timeout_text(left).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if let Some(trace) = self.trace {
            out.extend_from_slice(format!("{}: {trace}\r\n", Traceparent::NAME).as_bytes());
        }
    }

    /// Names and values, but for the call's time and the span.
    pub(in crate::proxy) fn fields(self) -> [(&'static str, u64); 2] {
        // Zero would say that nobody waits.
        let millis = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX).max(1);
        [("x-gw-attempt", self.attempt as u64), ("x-gw-timeout-ms", millis)]
    }
}

/// What is left of a call's time, as a `grpc-timeout` has it. Never more than there is, and never zero.
pub(in crate::proxy) fn timeout_text(left: Duration) -> String {
    const MAX: u128 = 99_999_999;
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (left.as_secs().into(), 'S')];
    let fitting = units.into_iter().find(|(number, _)| *number <= MAX);
    let (number, unit) = fitting.unwrap_or((u128::from(left.as_secs() / 3600).min(MAX), 'H'));
    format!("{}{unit}", number.max(1))
}

/// What a caller asks for one request, within what the service's policy allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct CallerHints {
    /// How long all attempts may take.
    pub(in crate::proxy) time: Option<Duration>,
    /// How many retries there may be. With none, there is no second attempt for any reason.
    pub(in crate::proxy) retries: Option<u8>,
}

impl CallerHints {
    /// Reads those of a caller that is trusted.
    ///
    /// # Errors
    /// A bad request that names the field. One that is ignored in silence would have the caller wait for what never comes.
    pub(in crate::proxy) fn of(fields: &Fields) -> Result<Self, GatewayError> {
        let time = one(fields, TIMEOUT).map(|text| {
            let time = text.and_then(|text| humantime::parse_duration(text).ok());
            time.filter(|time| !time.is_zero())
                .ok_or(GatewayError::BadRequest("x-gw-timeout is no single duration such as 800ms"))
        });
        let retries = one(fields, RETRY).map(|text| match text {
            Some("off") => Ok(0),
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| GatewayError::BadRequest("x-gw-retry is neither off nor 0 to 255"))
            }
            _ => Err(GatewayError::BadRequest("x-gw-retry is neither off nor 0 to 255")),
        });
        Ok(Self { time: time.transpose()?, retries: retries.transpose()? })
    }
}

/// The only value of a field, if there is the field at all.
fn one<'a>(fields: &'a Fields, name: &str) -> Option<Option<&'a str>> {
    let mut values = fields.get_all_named(name);
    let first = values.next()?;
    Some(str::from_utf8(first).ok().filter(|_| values.next().is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_says_which_it_is_and_how_long_it_may_take() {
        let written = |attempt, time| {
            let mut out = Vec::new();
            let hints = AttemptHints { attempt, time, call: None, trace: None };
            hints.write_to(&mut out);
            let text = String::from_utf8(out).unwrap();
            let lines = hints.fields().map(|(name, value)| format!("{name}: {value}\r\n"));
            assert_eq!(text, lines.concat());
            text
        };
        assert_eq!(written(1, Duration::from_secs(10)), "x-gw-attempt: 1\r\nx-gw-timeout-ms: 10000\r\n");
        assert_eq!(written(12, Duration::from_micros(1)), "x-gw-attempt: 12\r\nx-gw-timeout-ms: 1\r\n");
    }

    #[test]
    fn an_attempt_of_a_call_says_what_is_left_of_that() {
        let mut out = Vec::new();
        let (time, call) = (Duration::from_secs(1), Some(Duration::from_millis(640)));
        AttemptHints { attempt: 2, time, call, trace: None }.write_to(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "x-gw-attempt: 2\r\nx-gw-timeout-ms: 1000\r\ngrpc-timeout: 640000u\r\n");
    }

    fn asked(lines: &[(&str, &str)]) -> Result<CallerHints, GatewayError> {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        CallerHints::of(&fields)
    }

    #[test]
    fn a_caller_asks_for_less_time_and_fewer_retries_or_is_told_what_is_wrong() {
        assert_eq!(asked(&[]), Ok(CallerHints::default()));
        let both = asked(&[("X-GW-Timeout", "800ms"), ("x-gw-retry", "2")]);
        assert_eq!(both, Ok(CallerHints { time: Some(Duration::from_millis(800)), retries: Some(2) }));
        assert_eq!(asked(&[("x-gw-retry", "off")]), Ok(CallerHints { time: None, retries: Some(0) }));
        for (name, bad) in [
            ("x-gw-timeout", "soon"),
            ("x-gw-timeout", "0s"),
            ("x-gw-timeout", "800"),
            ("x-gw-retry", "256"),
            ("x-gw-retry", "-1"),
            ("x-gw-retry", "on"),
            ("x-gw-retry", ""),
        ] {
            let refused = asked(&[(name, bad)]).unwrap_err();
            assert!(
                matches!(refused, GatewayError::BadRequest(why) if why.starts_with(name)),
                "{name}: {bad}"
            );
        }
        assert!(asked(&[("x-gw-retry", "1"), ("x-gw-retry", "1")]).is_err(), "which one?");
    }
}
