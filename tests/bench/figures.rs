//! The table: for each figure the median of its rounds and their spread.

use std::fmt;

use crate::samples::percentile;

/// All samples, by figure, in the order in which they came first.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    target: Option<Target>,
    ours: Vec<f64>,
    etcd: Vec<f64>,
}

/// What a figure is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At least this much.
    AtLeast(f64),
    /// At most this much.
    AtMost(f64),
    /// So many times what etcd reaches.
    TimesEtcd(f64),
}

impl Figures {
    /// Adds a sample of the control plane's.
    pub(crate) fn ours(&mut self, what: impl Into<String>, unit: &'static str, value: f64) {
        self.row(what.into(), unit).ours.push(value);
    }

    /// Adds a sample of etcd's.
    pub(crate) fn etcd(&mut self, what: impl Into<String>, unit: &'static str, value: f64) {
        self.row(what.into(), unit).etcd.push(value);
    }

    /// States what a figure is to reach.
    pub(crate) fn target(&mut self, what: &str, target: Target) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.what == what) {
            row.target = Some(target);
        }
    }

    /// How many figures there are.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    fn row(&mut self, what: String, unit: &'static str) -> &mut Row {
        let index = self.rows.iter().position(|row| row.what == what).unwrap_or_else(|| {
            self.rows.push(Row { what, unit, target: None, ours: Vec::new(), etcd: Vec::new() });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }
}

impl Row {
    fn verdict(&self) -> String {
        let (Some(target), false) = (self.target, self.ours.is_empty()) else { return String::new() };
        let ours = percentile(&self.ours, 0.5);
        let (met, text) = match target {
            Target::AtLeast(value) => (ours >= value, format!("≥ {}", number(value))),
            Target::AtMost(value) => (ours <= value, format!("≤ {}", number(value))),
            Target::TimesEtcd(_) if self.etcd.is_empty() => return "etcd is missing".into(),
            Target::TimesEtcd(times) => {
                let ratio = ours / percentile(&self.etcd, 0.5);
                (ratio >= times, format!("≥ {times} × etcd: {ratio:.1} ×"))
            }
        };
        format!("{text} {}", if met { "met" } else { "MISSED" })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | unit | control plane | etcd | target |\n|---|---|---|---|---|")?;
        for row in &self.rows {
            let (ours, etcd) = (spread(&row.ours), spread(&row.etcd));
            writeln!(f, "| {} | {} | {ours} | {etcd} | {} |", row.what, row.unit, row.verdict())?;
        }
        write!(f, "\nMedian of the rounds (least–most).")
    }
}

fn spread(samples: &[f64]) -> String {
    match samples {
        [] => "–".into(),
        [one] => number(*one),
        _ => {
            let [least, median, most] = [0.0, 0.5, 1.0].map(|rank| number(percentile(samples, rank)));
            format!("{median} ({least}–{most})")
        }
    }
}

/// Three digits that say something, thousands set apart.
fn number(value: f64) -> String {
    if value.abs() < 9.995 {
        return format!("{value:.2}");
    }
    if value.abs() < 99.95 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
