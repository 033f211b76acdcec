//! How rates, ratios and latencies are written: short, and not better than they are.

use std::time::Duration;

use anstyle::Style;

use crate::{
    age::NONE,
    table::{ALARM, CAUTION, Cell},
};

/// One digit behind the point: `128.4`; `-` when it is missing.
pub(crate) fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| NONE.to_owned(), |rate| format!("{rate:.1}"))
}

/// The part that went well, as a percentage that shows in its colour whether it is bad; `-` when it is missing.
pub(crate) fn success(part: Option<f64>) -> Cell {
    let Some(part) = part else { return NONE.into() };
    let style = match part {
        ..0.95 => ALARM,
        ..0.999 => CAUTION,
        _ => Style::new(),
    };
    Cell::styled(&percent(part), style)
}

/// Two digits behind the point; what is not all is not written as 100.00%.
fn percent(part: f64) -> String {
    let percent = part * 100.0;
    let shown = if part < 1.0 { percent.min(99.99) } else { percent };
    format!("{shown:.2}%")
}

/// Two digits that matter: `4ms`, `240ms`, `1.9s`, `350us`; `-` when it is missing.
pub(crate) fn latency(span: Option<Duration>) -> String {
    let Some(span) = span else { return NONE.to_owned() };
    match span.as_micros() {
        micros @ ..1000 => format!("{micros}us"),
        micros @ 1000..1_000_000 => format!("{}ms", micros / 1000),
        _ if span.as_secs() < 60 => format!("{:.1}s", span.as_secs_f64()),
        _ => format!("{}m", span.as_secs() / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_not_better_than_they_are() {
        assert_eq!(percent(1.0), "100.00%");
        assert_eq!(percent(0.999_999), "99.99%");
        assert_eq!(percent(0.41), "41.00%");
        assert_eq!(
            (rate(Some(128.44)), rate(Some(0.0)), rate(None)),
            ("128.4".into(), "0.0".into(), "-".into())
        );
        for (micros, text) in
            [(350, "350us"), (4_200, "4ms"), (240_000, "240ms"), (1_900_000, "1.9s"), (120_000_000, "2m")]
        {
            assert_eq!(latency(Some(Duration::from_micros(micros))), text);
        }
        assert_eq!(latency(None), "-");
    }
}
