//! A list in every format: one item is an object, a name and a row, and whatever selects or orders items does so for all three.

use std::cmp::Ordering;

use gateway_proto::json::to_json;
use prost::{Message, Name};
use serde_json::Value;

use crate::{
    error::{Error, Exit},
    table::{Row, Table},
    watch::Way,
};

/// Which rows and columns of a list, and how it is shown.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "List options")]
pub(crate) struct Shown {
    /// Show these columns, in this order, by their headings in lower case, e.g. replica,address
    #[arg(long, global = true, value_name = "A,B,C", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Sort by a column; numbers, times and percentages by their value, what is missing last
    #[arg(long, global = true, value_name = "COLUMN[:desc]")]
    pub(crate) sort_by: Option<String>,
    /// After the list, show changes: in place on a terminal, or as a line each
    #[arg(short, long, global = true, value_name = "WAY", num_args = 0..=1, require_equals = true,
          default_missing_value = "auto")]
    pub(crate) watch: Option<Way>,
}

/// One item of a list.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) object: Value,
    pub(crate) name: String,
    /// Its cells, as a rule of one row; none where nobody asks for rows.
    pub(crate) rows: Vec<Row>,
    /// Whether tables and names have it; JSON has it in any case.
    pub(crate) is_shown: bool,
}

/// What stands above a table.
type Headings = Vec<&'static str>;
/// A row, and the name of its item.
type Named = (String, Row);

/// A list as the control plane answered it.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    whole: Value,
    /// The field of the answer that holds the items.
    field: &'static str,
    pub(crate) items: Vec<Item>,
    headings: Vec<&'static str>,
    /// What is to be said under a table.
    pub(crate) notes: Vec<String>,
}

impl Listing {
    /// The items of `field`, by the names given for them, with a row for each if there is a table.
    pub(crate) fn new<M: Message + Name>(
        response: &M,
        field: &'static str,
        names: impl IntoIterator<Item = String>,
        table: Option<Table>,
    ) -> Self {
        let mut whole = to_json(response);
        let objects = match whole.get_mut(field).map(Value::take) {
            Some(Value::Array(objects)) => objects,
            _ => Vec::new(),
        };
        let (headings, rows) = table.map(Table::into_parts).unwrap_or_default();
        let mut rows = rows.into_iter();
        let items = objects.into_iter().zip(names).map(|(object, name)| Item {
            object,
            name,
            rows: rows.next().into_iter().collect(),
            is_shown: true,
        });
        Self { field, items: items.collect(), whole, headings, notes: Vec::new() }
    }

    /// Gives each item several rows, or none.
    #[must_use]
    pub(crate) fn with_rows(mut self, tables: impl IntoIterator<Item = Table>) -> Self {
        for (item, table) in self.items.iter_mut().zip(tables) {
            (self.headings, item.rows) = table.into_parts();
        }
        self
    }

    /// Leaves items out of tables and lists of names.
    #[must_use]
    pub(crate) fn showing(mut self, is_shown: impl IntoIterator<Item = bool>) -> Self {
        for (item, is_shown) in self.items.iter_mut().zip(is_shown) {
            item.is_shown = is_shown;
        }
        self
    }

    /// Says something under the table.
    #[must_use]
    pub(crate) fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// Orders the items by a column.
    ///
    /// # Errors
    /// A usage error when there is no such column.
    pub(crate) fn sort(&mut self, by: &str) -> Result<(), Error> {
        let (column, is_descending) = match by.rsplit_once(':') {
            Some((column, "desc")) => (column, true),
            Some((column, "asc")) => (column, false),
            _ => (by, false),
        };
        let index = self.column(column)?;
        // Stable: what is equal stays in the order of the list.
        self.items.sort_by(|a, b| {
            let text =
                |item: &Item| item.rows.first().map_or(String::new(), |row| row[index].text().to_owned());
            order(&text(a), &text(b), is_descending)
        });
        Ok(())
    }

    fn column(&self, name: &str) -> Result<usize, Error> {
        let ids: Vec<String> = self.headings.iter().map(|heading| id(heading)).collect();
        let asked = id(name);
        ids.iter().position(|known| *known == asked).ok_or_else(|| {
            let nearest = gateway_proto::nearest::nearest(&asked, ids.iter().map(String::as_str));
            let mut error = Error::new(Exit::Usage, format!("there is no column \"{name}\""))
                .because(format!("columns: {}", ids.join(", ")));
            error.hints.extend(nearest.map(|nearest| format!("did you mean \"{nearest}\"?")));
            error.hint("-o wide has more of them")
        })
    }

    /// The rows that are shown, with the columns that were asked for.
    ///
    /// # Errors
    /// A usage error when there is no such column.
    pub(crate) fn table(&self, columns: &[String]) -> Result<Table, Error> {
        let (headings, rows) = self.rows(columns)?;
        let mut table = Table::new(headings);
        rows.into_iter().for_each(|(_, row)| table.push(row));
        Ok(table)
    }

    /// The same as headings and rows, each with the name of its item.
    ///
    /// # Errors
    /// As [`Listing::table`].
    pub(crate) fn rows(&self, columns: &[String]) -> Result<(Headings, Vec<Named>), Error> {
        let places: Vec<usize> = match columns {
            [] => (0..self.headings.len()).collect(),
            _ => columns.iter().map(|name| self.column(name)).collect::<Result<_, _>>()?,
        };
        let headings = places.iter().map(|place| self.headings[*place]).collect();
        let pick = |row: &Row| places.iter().map(|place| row[*place].clone()).collect();
        let of_item =
            |item: &Item| item.rows.iter().map(|row| (item.name.clone(), pick(row))).collect::<Vec<_>>();
        Ok((headings, self.shown().flat_map(of_item).collect()))
    }

    /// The names that are shown, one a line.
    pub(crate) fn names(&self) -> String {
        self.shown().map(|item| format!("{}\n", item.name)).collect()
    }

    /// The whole answer.
    pub(crate) fn document(&self) -> Value {
        let mut whole = self.whole.clone();
        let objects = self.items.iter().map(|item| item.object.clone()).collect();
        if let Some(field) = whole.get_mut(self.field) {
            *field = Value::Array(objects);
        }
        whole
    }

    /// The registry's revision that it shows, if it says.
    pub(crate) fn revision(&self) -> Option<&str> {
        self.whole.get("revision").and_then(Value::as_str)
    }

    fn shown(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.is_shown)
    }
}

/// A column's name for flags and CSV: `open_breakers`.
pub(crate) fn id(heading: &str) -> String {
    heading.to_lowercase().replace([' ', '-'], "_")
}

/// By value where both have one, by text otherwise; `-` comes last, whichever way round.
fn order(a: &str, b: &str, is_descending: bool) -> Ordering {
    let is_missing = |text: &str| text.is_empty() || text == crate::age::NONE;
    match (is_missing(a), is_missing(b)) {
        (false, false) => {
            let order = match (value(a), value(b)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => a.cmp(b),
            };
            if is_descending { order.reverse() } else { order }
        }
        (a, b) => a.cmp(&b),
    }
}

/// What a cell begins with, as a number: `31ms` and `2h` in seconds, `99.98%`, `3/4`, `128.4`. A name is none, also one that
/// begins with digits.
fn value(text: &str) -> Option<f64> {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let rest = &text[end..];
    let unit = &rest[..rest.find(|char: char| !char.is_alphabetic() && char != 'µ').unwrap_or(rest.len())];
    let factor = match unit {
        "" if rest.starts_with(['.', '-', ':']) => return None,
        "" | "s" => 1.0,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::{ListReplicasResponse, Replica};

    use super::*;

    fn listing(rows: &[(&str, &str)]) -> Listing {
        let replicas: Vec<_> =
            rows.iter().map(|(id, _)| Replica { replica_id: (*id).into(), ..Default::default() }).collect();
        let mut table = Table::new(["REPLICA", "OPEN BREAKERS"]);
        rows.iter().for_each(|(id, cell)| table.push(vec![(*id).into(), (*cell).into()]));
        let response = ListReplicasResponse { replicas, revision: 7, ..Default::default() };
        let names = rows.iter().map(|(id, _)| format!("orders/{id}"));
        Listing::new(&response, "replicas", names, Some(table))
    }

    #[test]
    fn an_order_holds_for_rows_names_and_objects_alike() {
        let mut listing = listing(&[("a", "2h"), ("b", "-"), ("c", "31ms"), ("d", "90s")]);
        listing.sort("open_breakers:desc").unwrap();
        assert_eq!(listing.names(), "orders/a\norders/d\norders/c\norders/b\n");
        let document = listing.document();
        let ids: Vec<_> = document["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["replicaId"].as_str().unwrap())
            .collect();
        assert_eq!(ids, ["a", "d", "c", "b"]);
        assert_eq!(document["revision"], "7");
        listing.sort("OPEN BREAKERS").unwrap();
        assert_eq!(listing.names(), "orders/c\norders/d\norders/a\norders/b\n");
    }

    #[test]
    fn columns_are_chosen_by_name_in_any_order() {
        let listing = listing(&[("a", "2h")]).showing([true]);
        let columns = ["open-breakers".to_owned(), "replica".to_owned()];
        let plain = anstream::adapter::strip_str(&listing.table(&columns).unwrap().to_string()).to_string();
        assert_eq!(plain, "OPEN BREAKERS   REPLICA\n2h              a\n");
        let error = listing.table(&["replcia".to_owned()]).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.details, ["columns: replica, open_breakers"]);
        assert_eq!(error.hints[0], "did you mean \"replica\"?");
    }

    #[test]
    fn what_is_not_shown_is_in_json_all_the_same() {
        let listing = listing(&[("a", "1"), ("b", "2")]).showing([false, true]);
        assert_eq!(listing.names(), "orders/b\n");
        assert_eq!(listing.document()["replicas"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn cells_are_compared_by_what_they_mean() {
        for (less, more) in [
            ("4ms", "1.9s"),
            ("59s", "1m"),
            ("47h", "2d"),
            ("9.5%", "99.98%"),
            ("2/3", "10/10"),
            ("22s/30s", "23s/30s"),
            ("9", "10"),
            ("alpha", "beta"),
            ("7", "seven"),
            ("10.0.0.1:80", "10.0.0.2:80"),
        ] {
            assert_eq!(order(less, more, false), Ordering::Less, "{less} {more}");
            assert_eq!(order(less, more, true), Ordering::Greater, "{less} {more}");
        }
        assert_eq!(order("-", "1", false), Ordering::Greater);
        assert_eq!(order("-", "1", true), Ordering::Greater, "what is missing is last both ways");
    }
}
