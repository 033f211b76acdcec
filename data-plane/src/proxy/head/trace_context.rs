//! The caller's trace, which passes through (W3C Trace Context).
//!
//! Of a request that is not [traced](crate::traces), a valid `traceparent` and its `tracestate` pass untouched, from anybody; of
//! one that is, replicas are told of the attempts' own spans, and `tracestate` passes. What is not valid would be dropped by the next one who takes part, together with its `tracestate` (section 4.3: the trace
//! begins anew there); it is dropped here, so that all who follow agree on it.

use super::{
    field_name::{Name, Names},
    fields::Fields,
};

const TRACE: Names = Names::of(&[Name::Traceparent, Name::Tracestate]);
/// Of version 00, to the byte.
const LENGTH: usize = 55;
/// Section 3.3.1.1.
const MAX_MEMBERS: usize = 32;
/// Sections 3.3.1.3.1 and 3.3.1.3.2.
const MAX_PART: usize = 256;

/// Drops what of the caller's trace is not valid.
pub(in crate::proxy) fn settle(fields: &mut Fields) {
    if !fields.contains_any(TRACE) {
        return;
    }
    if trace_id(fields).is_none() {
        fields.remove(TRACE);
    } else if !is_tracestate(fields) {
        fields.remove(Names::of(&[Name::Tracestate]));
    }
}

/// The id of the trace that the request belongs to, if it says so properly: 32 hexadecimal digits.
pub(in crate::proxy) fn trace_id(fields: &Fields) -> Option<&[u8]> {
    traceparent(fields).map(|value| &value[3..35])
}

/// The only `traceparent`, if it is valid.
pub(in crate::proxy) fn traceparent(fields: &Fields) -> Option<&[u8]> {
    let mut values = fields.get_all(Name::Traceparent);
    let value = values.next()?;
    (values.next().is_none() && is_traceparent(value)).then_some(value)
}

/// Whether this is a `traceparent` of version 00, or one of a later version that begins like it (section 4.3).
fn is_traceparent(value: &[u8]) -> bool {
    let Some((known, more)) = value.split_at_checked(LENGTH) else { return false };
    let parts = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let has_dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let fits_version = match parts[0] {
        b"ff" => false,
        b"00" => more.is_empty(),
        _ => more.is_empty() || more[0] == b'-',
    };
    has_dashes
        && fits_version
        && parts.iter().all(|part| is_hex(part))
        && !is_zero(parts[1])
        && !is_zero(parts[2])
}

/// Whether all lines together are a list of at most 32 vendors' entries, each vendor once.
pub(in crate::proxy) fn is_tracestate(fields: &Fields) -> bool {
    let mut keys: Vec<&[u8]> = Vec::new();
    for member in fields.list(Name::Tracestate) {
        let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = (&member[..at], &member[at + 1..]);
        if !is_key(key) || !is_entry(value) || keys.len() == MAX_MEMBERS || keys.contains(&key) {
            return false;
        }
        keys.push(key);
    }
    true
}

fn is_key(key: &[u8]) -> bool {
    let is_of_key = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    (1..=MAX_PART).contains(&key.len())
        && (key[0].is_ascii_lowercase() || key[0].is_ascii_digit())
        && key.iter().all(is_of_key)
}

fn is_entry(value: &[u8]) -> bool {
    // Its end is not white space, because that is not part of it.
    (1..=MAX_PART).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn settled(lines: &[(&str, &str)]) -> (Option<String>, usize) {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        settle(&mut fields);
        let id = trace_id(&fields).map(|id| String::from_utf8(id.to_vec()).unwrap());
        (id, fields.count())
    }

    #[test]
    fn a_valid_trace_passes_untouched_and_is_known_by_its_id() {
        let state = "rojo=00f067aa0ba902b7,, congo@x-1=t61rcWkgMzE ,";
        let lines =
            [("TraceParent", PARENT), ("tracestate", state), ("tracestate", "a=b"), ("tracestate", "")];
        assert_eq!(settled(&lines), (Some(ID.into()), 4));
        for later in [PARENT.replacen("00", "cc", 1), format!("{}-more", PARENT.replacen("00", "01", 1))] {
            assert_eq!(settled(&[("traceparent", &later)]), (Some(ID.into()), 1), "{later}");
        }
    }

    #[test]
    fn what_is_no_trace_goes_with_all_that_belongs_to_it() {
        let zero = |part: &str| PARENT.replace(part, &"0".repeat(part.len()));
        for bad in [
            "",
            "00",
            &PARENT[1..],
            &format!("{PARENT}-x"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.to_uppercase(),
            &zero(ID),
            &zero("00f067aa0ba902b7"),
            &PARENT.replace('-', "_"),
            &format!("{}.more", PARENT.replacen("00", "01", 1)),
        ] {
            let lines = [("traceparent", bad), ("tracestate", "a=b"), ("accept", "*")];
            assert_eq!(settled(&lines), (None, 1), "{bad}");
        }
        assert_eq!(settled(&[("traceparent", PARENT), ("traceparent", PARENT)]), (None, 0), "which one?");
        assert_eq!(settled(&[("tracestate", "a=b")]), (None, 0), "it belongs to nothing");
    }

    #[test]
    fn a_bad_tracestate_goes_alone() {
        let many: String = (0..33).map(|number| format!("k{number}=v,")).collect();
        let long = format!("a={}", "x".repeat(257));
        for bad in ["a", "=b", "a=", "A=b", "a=b=c", "a=1,a=2", "_a=b", "a=\u{e4}", &many, &long] {
            assert_eq!(
                settled(&[("traceparent", PARENT), ("tracestate", bad)]),
                (Some(ID.into()), 1),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(parent in "[ -~]{0,80}", state in "[ -~]{0,80}") {
            settled(&[("traceparent", &parent), ("tracestate", &state)]);
        }
    }
}
