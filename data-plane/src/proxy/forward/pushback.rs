//! What a replica's answer says about another attempt: `Retry-After`, and `grpc-retry-pushback-ms` of calls.

use std::time::{Duration, SystemTime};

use crate::{
    proxy::{
        h1::number,
        head::{field_name::Name, fields::Fields, headers::delta_seconds},
    },
    routing::retry::Pushback,
};

const GRPC: &str = "grpc-retry-pushback-ms";

/// What a failure's head says, `now` on the wall clock; `None` when it says nothing. A `Retry-After` that is neither a number
/// of seconds nor a date says nothing (RFC 9110 section 10.2.3); a pushback that cannot be read says never (gRFC A6).
pub(in crate::proxy) fn of(fields: &Fields, is_call: bool, now: SystemTime) -> Option<Pushback> {
    if is_call && let Some(value) = fields.get_all_named(GRPC).next() {
        return Some(of_call(value));
    }
    let value = fields.get(Name::RetryAfter)?.trim_ascii();
    let date = || {
        let date = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    };
    delta_seconds(value).or_else(date).map(Pushback::After)
}

/// Tells a call's client when to come back, which its library goes by.
pub(in crate::proxy) fn tell(fields: &mut Fields, millis: u64) {
    fields.append_other(GRPC.as_bytes(), millis.to_string().as_bytes());
}

fn of_call(value: &[u8]) -> Pushback {
    number(value).map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, value: &str, is_call: bool) -> Option<Pushback> {
        let mut fields = Fields::default();
        match Name::of(name.as_bytes()) {
            Some(name) => fields.append(name, value.as_bytes()),
            None => fields.append_other(name.as_bytes(), value.as_bytes()),
        }
        // Sun, 06 Nov 1994 08:49:37 GMT.
        of(&fields, is_call, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    fn after(millis: u64) -> Option<Pushback> {
        Some(Pushback::After(Duration::from_millis(millis)))
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        assert_eq!(said("retry-after", "0", false), after(0));
        assert_eq!(said("retry-after", " 120 ", false), after(120_000));
        assert_eq!(said("retry-after", "Sun, 06 Nov 1994 08:49:39 GMT", false), after(2_000));
        assert_eq!(said("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", false), after(0), "it has passed");
        let endless = said("retry-after", "99999999999999999999999", false);
        assert_eq!(endless, Some(Pushback::After(Duration::from_secs(u64::MAX))));
        for nothing in ["", "soon", "-1", "1.5", "+1", "1 s"] {
            assert_eq!(said("retry-after", nothing, false), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_call_is_pushed_back_by_milliseconds_and_for_ever_by_what_is_no_number() {
        assert_eq!(said("grpc-retry-pushback-ms", "250", true), after(250));
        for never in ["-1", "soon", "", "1.5", "999999999999999999999"] {
            assert_eq!(said("grpc-retry-pushback-ms", never, true), Some(Pushback::Never), "{never:?}");
        }
        assert_eq!(said("grpc-retry-pushback-ms", "250", false), None, "no call");
        assert_eq!(said("retry-after", "1", true), after(1_000), "a call may be told by HTTP, too");
    }
}
