//! Columns for people: aligned to the left, three spaces apart, upper-case headings.
//!
//! Every cell is made printable here, so no text from the network reaches a terminal raw by way of a table.

use std::fmt;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use crate::terminal::printable;

const GAP: usize = 3;

/// What needs attention; colour repeats what the words already say.
pub(crate) const ALARM: Style = AnsiColor::Red.on_default().bold();
/// On its way from or to something that needs attention.
pub(crate) const CAUTION: Style = AnsiColor::Yellow.on_default();
/// As it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
const HEADING: Style = Style::new().bold();

/// One field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// `text`, made printable, in `style`.
    pub(crate) fn styled(text: &str, style: Style) -> Self {
        Self { text: printable(text).into_owned(), style }
    }

    /// What it says, without its style.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// The cells of a line.
pub(crate) type Row = Vec<Cell>;

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text.as_ref(), Style::new())
    }
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
    with_headings: bool,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(headings: impl Into<Vec<&'static str>>) -> Self {
        Self { headings: headings.into(), rows: Vec::new(), indent: 0, with_headings: true }
    }

    /// Begins each line with this many spaces.
    #[must_use]
    pub(crate) fn indented(mut self, spaces: usize) -> Self {
        self.indent = spaces;
        self
    }

    /// Leaves the headings out when `show` is false.
    #[must_use]
    pub(crate) fn with_headings(mut self, show: bool) -> Self {
        self.with_headings = show;
        self
    }

    /// Adds a row with one cell for each heading.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.headings.len(), "a row has one cell for each heading");
        self.rows.push(row);
    }

    /// As narrow as that, if need be without some of its columns: those that are named go first, one after the other, until
    /// the rest fits.
    #[must_use]
    pub(crate) fn fitting(mut self, columns: usize, less: &[&str]) -> Self {
        for heading in less {
            let width: usize = self.widths().iter().map(|width| width + GAP).sum();
            if self.indent + width.saturating_sub(GAP) <= columns {
                break;
            }
            if let Some(at) = self.headings.iter().position(|one| one == heading) {
                self.headings.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
        self
    }

    /// Its headings and its rows.
    pub(crate) fn into_parts(self) -> (Vec<&'static str>, Vec<Row>) {
        (self.headings, self.rows)
    }

    /// As RFC 4180 has it, lines ended by a line feed; the headings in lower case, as names of columns.
    pub(crate) fn to_csv(&self) -> String {
        let field = |text: &str| {
            let is_plain = !text.contains([',', '"', ' ']) && !text.is_empty();
            if is_plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
        };
        let headings: Vec<_> = self.headings.iter().map(|text| crate::output::column_id(text)).collect();
        let headings = self.with_headings.then(|| headings.join(","));
        let rows = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| field(&cell.text)).collect::<Vec<_>>().join(","));
        headings.into_iter().chain(rows).map(|line| line + "\n").collect()
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn widths(&self) -> Vec<usize> {
        let widest = |column: usize| {
            let heading = if self.with_headings { self.headings[column].width() } else { 0 };
            self.rows.iter().map(|row| row[column].text.width()).fold(heading, usize::max)
        };
        (0..self.headings.len()).map(widest).collect()
    }
}

/// Writes the lines with their styles, each ended by a line break; nothing for an empty table.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let widths = self.widths();
        let headings: Vec<_> = self.headings.iter().map(|text| Cell::styled(text, HEADING)).collect();
        for row in self.with_headings.then_some(&headings).into_iter().chain(&self.rows) {
            write!(f, "{:1$}", "", self.indent)?;
            let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
            for (column, cell) in row[..=last].iter().enumerate() {
                let Cell { text, style } = cell;
                write!(f, "{style}{text}{style:#}")?;
                if column < last {
                    write!(f, "{:1$}", "", widths[column] - text.width() + GAP)?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table) -> String {
        anstream::adapter::strip_str(&table.to_string()).to_string()
    }

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows_and_lines_have_no_trailing_spaces() {
        let mut table = Table::new(["NAME", "STATE", "WHY"]);
        table.push(vec!["orders".into(), Cell::styled("OPEN", ALARM), "寿司".into()]);
        table.push(vec!["寿".into(), "closed".into(), "".into()]);
        assert_eq!(plain(&table), "NAME     STATE    WHY\norders   OPEN     寿司\n寿       closed\n");
    }

    #[test]
    fn without_headings_columns_are_as_narrow_as_their_cells() {
        let mut table = Table::new(["LONG HEADING", "B"]).with_headings(false).indented(2);
        table.push(vec!["a".into(), "b".into()]);
        assert_eq!(plain(&table), "  a   b\n");
    }

    #[test]
    fn a_cell_cannot_smuggle_in_an_escape_sequence_or_a_line() {
        let mut table = Table::new(["LABEL"]);
        table.push(vec!["\x1b[2Jx\ny".into()]);
        assert_eq!(plain(&table), "LABEL\n\\u{1b}[2Jx\\ny\n");
    }

    #[test]
    fn csv_quotes_what_has_to_be_quoted() {
        let mut table = Table::new(["NAME", "LAST ERROR"]);
        table.push(vec![Cell::styled("a", ALARM), "said \"no\", twice".into()]);
        table.push(vec!["b".into(), "".into()]);
        assert_eq!(table.to_csv(), "name,last_error\na,\"said \"\"no\"\", twice\"\nb,\"\"\n");
        assert_eq!(table.with_headings(false).to_csv().lines().count(), 2);
    }

    #[test]
    fn on_a_narrow_screen_the_columns_that_matter_less_are_left_out() {
        let mut table = Table::new(["NAME", "P50", "P99", "STATE"]);
        table.push(vec!["orders".into(), "1ms".into(), "2ms".into(), "OPEN".into()]);
        let wide = plain(&table.clone().fitting(26, &["P50", "P99"]));
        assert_eq!(wide.lines().next(), Some("NAME     P50   P99   STATE"));
        let narrow = plain(&table.clone().fitting(25, &["P50", "P99"]));
        assert_eq!(narrow, "NAME     P99   STATE\norders   2ms   OPEN\n");
        let narrower = plain(&table.fitting(3, &["P50", "P99"]));
        assert_eq!(narrower, "NAME     STATE\norders   OPEN\n");
    }

    #[test]
    fn an_empty_table_prints_nothing() {
        assert_eq!(plain(&Table::new(["NAME"])), "");
    }
}
