//! Spans of time and numbers, as sentences have them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::time::system_time;

/// `0.8s`, `12s`, `41m`, `2h`, `3d`: tenths where they matter.
pub(super) fn span(span: Duration) -> String {
    match span.as_secs() {
        0..10 => format!("{:.1}s", span.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds}s"),
        seconds @ 60..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// So many seconds.
pub(super) fn span_of(seconds: u64) -> String {
    span(Duration::from_secs(seconds))
}

/// How long ago that was; zero when it lies ahead, as clocks of two machines differ.
pub(super) fn ago(now: SystemTime, at: Option<Timestamp>) -> Option<String> {
    at.map(|at| span(now.duration_since(system_time(at)).unwrap_or_default()))
}

/// How long it is until then; `None` when that is over.
pub(super) fn left(now: SystemTime, at: Option<Timestamp>) -> Option<String> {
    system_time(at?).duration_since(now).ok().filter(|left| !left.is_zero()).map(span)
}

/// `1 data plane`, `2 data planes`.
pub(super) fn data_planes(count: i32) -> String {
    if count == 1 { "1 data plane".into() } else { format!("{count} data planes") }
}

/// `dp-1`, `dp-1 and dp-2`, `dp-1, dp-2, dp-3 and 4 more`.
pub(super) fn listed(names: &[String], count: i32) -> String {
    let more = usize::try_from(count).unwrap_or(0).saturating_sub(names.len());
    match (names, more) {
        ([], _) => data_planes(count),
        ([one], 0) => one.clone(),
        (names, 0) => {
            let (last, first) = names.split_last().expect("there are several");
            format!("{} and {last}", first.join(", "))
        }
        (names, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// ` by ana`, ` for 14m more`, `: bad deploy`: who, until when and why, as far as is said.
pub(super) fn said(author: &str, left: Option<String>, reason: &str) -> String {
    let by = if author.is_empty() { String::new() } else { format!(" by {author}") };
    let left = left.map(|left| format!(" for {left} more")).unwrap_or_default();
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    by + &left + &why
}
