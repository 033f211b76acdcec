//! A description as people read it: facts, sections, what is missing, and what to do next.

use std::fmt::Write as _;

use crate::{table::Table, terminal::printable};

/// What is written so far.
#[derive(Debug)]
pub(super) struct Page(String);

impl Page {
    /// Begins with facts, a line each.
    pub(super) fn of(facts: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut text = String::new();
        for (name, value) in facts {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<14}{}", printable(&value));
        }
        Self(text)
    }

    /// A table under its title; an empty one is a sentence.
    pub(super) fn section(&mut self, title: &str, table: Table, when_empty: &str) {
        let _ = writeln!(self.0, "\n{title}");
        if table.is_empty() {
            let _ = writeln!(self.0, "  {when_empty}");
        }
        let _ = write!(self.0, "{}", table.indented(2));
    }

    /// The same, if it has rows.
    pub(super) fn section_if_any(&mut self, title: &str, table: Table) {
        if !table.is_empty() {
            self.section(title, table, "");
        }
    }

    /// A remark on the section before.
    pub(super) fn remark(&mut self, text: &str) {
        let _ = writeln!(self.0, "  {}", printable(text));
    }

    /// The end: what could not be had, and commands for the next question.
    pub(super) fn ending(mut self, missing: &[String], next: Table) -> String {
        if !missing.is_empty() {
            self.0.push('\n');
            missing.iter().for_each(|line| {
                let _ = writeln!(self.0, "{}", printable(line));
            });
        }
        self.section_if_any("Next", next);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_had_is_named_before_what_to_do_and_no_text_acts_on_the_terminal() {
        let mut page = Page::of([("Service", "\x1b[2Jorders".to_owned())]);
        let mut rows = Table::new(["A", "B"]);
        page.section_if_any("Nothing", rows.clone());
        page.section("Rows", rows.clone(), "none");
        page.remark("as of \x1b[2Jnow");
        rows.push(vec!["1".into(), "2".into()]);
        let text = page.ending(&["not shown: policies: no".to_owned()], rows.with_headings(false));
        assert_eq!(
            text,
            "Service       \\u{1b}[2Jorders\n\nRows\n  none\n  as of \\u{1b}[2Jnow\n\nnot shown: policies: no\n\nNext\n  1   2\n"
        );
    }
}
