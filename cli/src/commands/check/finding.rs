//! What a check found, and how all of it is shown.

use std::fmt::Write as _;

use anstyle::Style;
use serde_json::{Value, json};

use crate::{
    error::Error,
    table::{ALARM, CAUTION, GOOD},
    terminal::printable,
};

/// Names that a finding lists; the rest is counted.
const MAX_NAMED: usize = 5;

/// How a check ended, from the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Passed,
    Warned,
    Failed,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// `category/check`, for scripts: part of gwctl's interface.
    pub(super) id: &'static str,
    pub(super) outcome: Outcome,
    pub(super) description: String,
    /// Why, one line each.
    pub(super) details: Vec<String>,
    /// What to do, one line each.
    pub(super) hints: Vec<String>,
}

impl Finding {
    pub(super) fn passed(id: &'static str, description: impl Into<String>) -> Self {
        Self::new(id, Outcome::Passed, description)
    }

    pub(super) fn warned(id: &'static str, description: impl Into<String>) -> Self {
        Self::new(id, Outcome::Warned, description)
    }

    pub(super) fn failed(id: &'static str, description: impl Into<String>) -> Self {
        Self::new(id, Outcome::Failed, description)
    }

    pub(super) fn new(id: &'static str, outcome: Outcome, description: impl Into<String>) -> Self {
        Self { id, outcome, description: description.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// Nothing could be checked, because of this.
    pub(super) fn of_error(id: &'static str, error: Error) -> Self {
        Self { details: error.details, hints: error.hints, ..Self::failed(id, error.headline) }
    }

    #[must_use]
    pub(super) fn because(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// One finding for each line of a verbose answer to a probe: `[+]what is well`, `[-]what is not`.
pub(super) fn told<'a>(id: &'static str, text: &'a str) -> impl Iterator<Item = Finding> + 'a {
    text.lines().filter_map(move |line| {
        let (good, bad) = (line.strip_prefix("[+]"), line.strip_prefix("[-]"));
        let good = good.map(|text| Finding::passed(id, text.trim()));
        good.or_else(|| Some(Finding::failed(id, bad?.trim())))
    })
}

/// `r-1, r-2, r-3, r-4, r-5 and 7 more`.
pub(in crate::commands) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let shown = names.iter().take(MAX_NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `1 replica`, `3 replicas`.
pub(super) fn counted(count: impl TryInto<u64>, what: &str) -> String {
    let count = count.try_into().unwrap_or(0);
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Checks of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Category {
    pub(super) name: &'static str,
    pub(super) findings: Vec<Finding>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report(pub(super) Vec<Category>);

/// What stands before a line. State is never by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbols {
    /// `√ ‼ ×`.
    Unicode,
    /// `[ok] [warn] [fail]`.
    Ascii,
}

impl Symbols {
    /// By the locale of the environment, as POSIX has it: the first of three variables that is not empty.
    pub(super) fn of_this_terminal() -> Self {
        let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of_locale(["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).as_deref())
    }

    fn of_locale(locale: Option<&str>) -> Self {
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Unicode } else { Self::Ascii }
    }

    fn of(self, outcome: Outcome) -> &'static str {
        match (self, outcome) {
            (Self::Unicode, Outcome::Passed) => "√",
            (Self::Unicode, Outcome::Warned) => "‼",
            (Self::Unicode, Outcome::Failed) => "×",
            (Self::Ascii, Outcome::Passed) => "[ok]",
            (Self::Ascii, Outcome::Warned) => "[warn]",
            (Self::Ascii, Outcome::Failed) => "[fail]",
        }
    }
}

impl Outcome {
    fn style(self) -> Style {
        match self {
            Self::Passed => GOOD,
            Self::Warned => CAUTION,
            Self::Failed => ALARM,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Passed => "success",
            Self::Warned => "warning",
            Self::Failed => "error",
        }
    }
}

impl Report {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter().flat_map(|category| &category.findings)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.findings().filter(|finding| finding.outcome == outcome).count()
    }

    /// The worst outcome there is.
    pub(super) fn worst(&self) -> Outcome {
        self.findings().map(|finding| finding.outcome).max().unwrap_or(Outcome::Passed)
    }

    /// `2 failed, 1 warning`, and the first that failed.
    pub(super) fn in_short(&self) -> String {
        let first = self.findings().find(|finding| finding.outcome == self.worst());
        let first = first.map_or("", |finding| &finding.description);
        let warnings = counted(self.count(Outcome::Warned), "warning");
        format!("{} failed, {warnings}: {first}", self.count(Outcome::Failed))
    }

    /// For people, with styles; `short`: only what is not as it should be.
    pub(super) fn to_text(&self, symbols: Symbols, short: bool) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for Category { name, findings } in &self.0 {
            let is_shown = |finding: &&Finding| !short || finding.outcome != Outcome::Passed;
            if findings.iter().find(is_shown).is_none() {
                continue;
            }
            let _ = writeln!(text, "{name}\n{}", "-".repeat(name.len()));
            for Finding { outcome, description, details, hints, .. } in findings.iter().filter(is_shown) {
                let (style, symbol) = (outcome.style(), symbols.of(*outcome));
                let _ = writeln!(text, "{style}{symbol}{style:#} {}", printable(description));
                for detail in details {
                    let _ = writeln!(text, "    {}", printable(detail));
                }
                for hint in hints {
                    let _ = writeln!(text, "    hint: {}", printable(hint));
                }
            }
            text.push('\n');
        }
        let worst = self.worst();
        let (style, symbol) = (worst.style(), symbols.of(worst));
        let _ = write!(text, "Status check results are {style}{symbol}{style:#}");
        if worst != Outcome::Passed {
            let warnings = counted(self.count(Outcome::Warned), "warning");
            let _ = write!(text, "   ({} failed, {warnings})", self.count(Outcome::Failed));
        }
        text.push('\n');
        text
    }

    /// For scripts.
    pub(super) fn to_json(&self) -> Value {
        let checks = |findings: &[Finding]| -> Vec<Value> {
            let check = |finding: &Finding| {
                let Finding { id, outcome, description, details, hints } = finding;
                json!({
                    "id": id,
                    "result": outcome.name(),
                    "description": description,
                    "details": details,
                    "hints": hints,
                })
            };
            findings.iter().map(check).collect()
        };
        json!({
            "success": self.worst() < Outcome::Failed,
            "categories": self
                .0
                .iter()
                .map(|category| json!({"name": category.name, "checks": checks(&category.findings)}))
                .collect::<Vec<_>>(),
        })
    }

    /// The ids of what is not as it should be, one a line.
    pub(super) fn names(&self) -> String {
        let wrong = self.findings().filter(|finding| finding.outcome != Outcome::Passed);
        wrong.map(|finding| format!("{}\n", finding.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report(vec![
            Category { name: "control-plane", findings: vec![Finding::passed("c/up", "it is reachable")] },
            Category {
                name: "services",
                findings: vec![
                    Finding::failed("s/ready", "payments has no ready replica")
                        .because("2 replicas: \x1b[2J")
                        .hint("gwctl get replicas payments"),
                    Finding::warned("s/single", "mailer has one replica: no failover is possible"),
                ],
            },
        ])
    }

    #[test]
    fn a_report_reads_from_top_to_bottom_and_ends_with_its_result() {
        let plain = |symbols| anstream::adapter::strip_str(&report().to_text(symbols, false)).to_string();
        assert_eq!(
            plain(Symbols::Unicode),
            "\
control-plane
-------------
√ it is reachable

services
--------
× payments has no ready replica
    2 replicas: \\u{1b}[2J
    hint: gwctl get replicas payments
‼ mailer has one replica: no failover is possible

Status check results are ×   (1 failed, 1 warning)
"
        );
        let ascii = plain(Symbols::Ascii);
        assert!(
            ascii.contains("[ok] it is") && ascii.contains("[fail] pay") && ascii.contains("[warn] mail")
        );
        assert!(ascii.is_ascii());
    }

    #[test]
    fn a_good_report_needs_no_counts() {
        let good = Report(report().0.into_iter().take(1).collect());
        assert!(good.to_text(Symbols::Ascii, false).contains("Status check results are "));
        assert!(!good.to_text(Symbols::Ascii, false).contains("failed"));
        assert_eq!((good.worst(), good.names().as_str()), (Outcome::Passed, ""));
    }

    #[test]
    fn scripts_get_ids_and_results() {
        let json = report().to_json();
        assert_eq!(json["success"], false);
        assert_eq!(json["categories"][1]["checks"][0]["id"], "s/ready");
        assert_eq!(json["categories"][1]["checks"][0]["result"], "error");
        assert_eq!(json["categories"][1]["checks"][1]["result"], "warning");
        assert_eq!(report().names(), "s/ready\ns/single\n");
    }

    #[test]
    fn symbols_are_what_the_locale_can_show() {
        for (locale, symbols) in [
            (Some("en_US.UTF-8"), Symbols::Unicode),
            (Some("C.utf8"), Symbols::Unicode),
            (Some("POSIX"), Symbols::Ascii),
            (None, Symbols::Ascii),
        ] {
            assert_eq!(Symbols::of_locale(locale), symbols);
        }
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
        assert_eq!((counted(1, "replica"), counted(0, "replica")), ("1 replica".into(), "0 replicas".into()));
    }

    #[test]
    fn in_short_only_what_is_not_well_is_told() {
        let category = |name: &'static str, findings: Vec<Finding>| Category { name, findings };
        let report = Report(vec![
            category("fine", vec![Finding::passed("fine/a", "all is well")]),
            category(
                "mixed",
                vec![Finding::passed("mixed/a", "well"), Finding::failed("mixed/b", "not well")],
            ),
        ]);
        let text = anstream::adapter::strip_str(&report.to_text(Symbols::Ascii, true)).to_string();
        assert_eq!(
            text,
            "mixed\n-----\n[fail] not well\n\nStatus check results are [fail]   (1 failed, 0 warnings)\n"
        );
        assert_eq!(report.in_short(), "1 failed, 0 warnings: not well");
    }
}
