//! Where output goes: data to stdout, everything else to stderr.

mod json_path;
mod listing;
mod yaml;

use std::{fmt, io::Write as _, str::FromStr};

use anstream::ColorChoice;
use clap::ValueEnum;
use gateway_proto::json::to_json;
use prost::{Message, Name};
use serde_json::Value;

pub(crate) use self::{
    json_path::JsonPath,
    listing::{Listing, Shown, id as column_id},
};
use crate::{
    error::{Error, Exit},
    pager,
    table::Table,
    terminal::{self, printable},
};

/// What data looks like on stdout. Tables may change between versions; `json`, `name`, and the names of columns may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// The API's own message as proto3 JSON, all pages in one, written as a [`Document`]
    Json,
    /// One name a line: SERVICE, SERVICE/REPLICA or an id
    Name,
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Document {
    /// Indented JSON.
    Json,
    Yaml,
    /// A line for each item of a list, and one for anything else.
    Ndjson,
    /// What a path finds in it; read once, and kept as long as the process.
    Path(&'static JsonPath),
}

/// What `--output` says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) format: Format,
    pub(crate) document: Document,
    /// A table with commas between its cells.
    pub(crate) csv: bool,
    /// Of checks, only what is not as it should be.
    pub(crate) short: bool,
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let chosen =
            |format, document| Ok(Self { format, document, csv: text == "csv", short: text == "short" });
        match text {
            "table" | "short" => chosen(Format::Table, Document::Json),
            // All there is: who reads columns by name does not mind more of them.
            "wide" | "csv" => chosen(Format::Wide, Document::Json),
            "json" => chosen(Format::Json, Document::Json),
            "yaml" => chosen(Format::Json, Document::Yaml),
            "ndjson" => chosen(Format::Json, Document::Ndjson),
            "name" => chosen(Format::Name, Document::Json),
            _ => match text.strip_prefix("jsonpath=") {
                Some(path) => {
                    let path: JsonPath = path.parse().map_err(|why| format!("the path {path} {why}"))?;
                    chosen(Format::Json, Document::Path(Box::leak(Box::new(path))))
                }
                None => {
                    Err("is one of table, wide, json, yaml, ndjson, name, csv, short, jsonpath=PATH".into())
                }
            },
        }
    }
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR or GWCTL_NO_COLOR is set
    Auto,
    /// Also into pipes and files
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// Makes it the choice of the whole process.
    pub(crate) fn apply(self) {
        // The library looks at NO_COLOR itself, which is for all programs.
        let is_unwanted = std::env::var_os("GWCTL_NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            Self::Auto if is_unwanted => ColorChoice::Never,
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

/// How this run prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) document: Document,
    pub(crate) csv: bool,
    pub(crate) short: bool,
    pub(crate) headings: bool,
    pub(crate) quiet: bool,
    /// Whether nobody has said that there is to be no pager.
    pub(crate) may_page: bool,
    /// Whether this is the text that somebody sits down to read.
    pub(crate) pages: bool,
}

impl Output {
    /// For text that may be longer than a terminal, all of it at once.
    #[must_use]
    pub(crate) fn paged(self) -> Self {
        Self { pages: self.may_page, ..self }
    }

    /// Whether tables have their additional columns.
    pub(crate) fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// Prints data, as it is but for what a terminal would act on in a document: whoever calls has made foreign text printable
    /// everywhere else.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that has gone ends the process quietly.
    pub(crate) fn data(&self, text: impl fmt::Display) -> Result<(), Error> {
        let text = text.to_string();
        let text = if self.format == Format::Json { terminal::json(&text) } else { text.into() };
        if cfg!(test) {
            // Only what goes through this macro is kept out of the test runner's own output.
            print!("{text}");
            return Ok(());
        }
        if self.pages && pager::show(&text)? {
            return Ok(());
        }
        let mut out = anstream::stdout().lock();
        write!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// Writes bytes as they came, to what is no terminal: there they could do anything.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Prints a message as proto3 JSON, or however documents are to be written.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(crate) fn message<M: Message + Name>(&self, message: &M) -> Result<(), Error> {
        self.value(&to_json(message))
    }

    /// Prints a document.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(crate) fn value(&self, value: &Value) -> Result<(), Error> {
        match &self.document {
            Document::Json => self.data(format_args!("{value:#}\n")),
            Document::Yaml => self.data(yaml::to_yaml(value)),
            Document::Ndjson => self.data(format_args!("{value}\n")),
            Document::Path(path) => self.data(path.lines(value)),
        }
    }

    /// Prints a table, in the way that was asked for.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(crate) fn table(&self, table: Table) -> Result<(), Error> {
        let table = table.with_headings(self.headings);
        if self.csv { self.data(table.to_csv()) } else { self.data(table) }
    }

    /// Whether rows are needed: for a table, or to sort by.
    pub(crate) fn needs_rows(&self, shown: &Shown) -> bool {
        matches!(self.format, Format::Table | Format::Wide) || shown.sort_by.is_some()
    }

    /// Prints a list.
    ///
    /// # Errors
    /// A usage error for a column that does not exist, and as [`Output::data`].
    pub(crate) fn listing(&self, mut listing: Listing, shown: &Shown) -> Result<(), Error> {
        if let Some(by) = &shown.sort_by {
            listing.sort(by)?;
        }
        match (self.format, &self.document) {
            (Format::Json, Document::Ndjson) => {
                self.data(listing.items.iter().map(|item| format!("{}\n", item.object)).collect::<String>())
            }
            (Format::Json, _) => self.value(&listing.document()),
            (Format::Name, _) => self.data(listing.names()),
            (Format::Table | Format::Wide, _) => {
                self.table(listing.table(&shown.columns)?)?;
                listing.notes.iter().for_each(|note| self.note(note));
                Ok(())
            }
        }
    }

    /// Refuses a format that only checks have.
    ///
    /// # Errors
    /// A usage error for short.
    pub(crate) fn must_not_be_short(&self) -> Result<(), Error> {
        if !self.short {
            return Ok(());
        }
        Err(Error::new(Exit::Usage, "short is for checks: gwctl check").hint("use  -o table  here"))
    }

    /// Refuses a format that only lists have.
    ///
    /// # Errors
    /// A usage error for csv.
    pub(crate) fn must_not_be_csv(&self) -> Result<(), Error> {
        if !self.csv {
            return Ok(());
        }
        Err(Error::new(Exit::Usage, "csv is for lists: gwctl get …").hint("use  -o json  here"))
    }

    /// Does `work` until it is done, or until the reader of stdout has gone: what prints seldom would not notice.
    ///
    /// # Errors
    /// As `work`; [`Exit::PipeClosed`] when nobody reads.
    pub(crate) async fn while_read(
        &self,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        tokio::select! {
            done = work => done,
            () = reader_gone() => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()),
        }
    }

    /// Prints a line for people to stderr, made printable; nothing with `--quiet`.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            // Nobody can be told that stderr is closed.
            let _ = writeln!(anstream::stderr(), "{}", printable(&text.to_string()));
        }
    }
}

/// Completes when a pipe's reader has gone, looked at now and then. A file or a terminal has no such reader.
async fn reader_gone() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const INTERVAL: std::time::Duration = std::time::Duration::from_millis(500);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let stdout = std::io::stdout();
        // Asked for nothing, the system still tells of errors; a closed pipe is one.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_told = poll(&mut watched, Some(&at_once)).is_ok_and(|count| count > 0);
        if is_told && watched[0].revents().contains(PollFlags::ERR) {
            return;
        }
    }
}

#[cfg(test)]
impl Output {
    /// For tests.
    pub(crate) fn plain(format: Format) -> Self {
        let (csv, short, quiet, may_page, pages) = (false, false, false, false, false);
        Self { format, document: Document::Json, csv, short, headings: true, quiet, may_page, pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_a_shape_and_a_way_to_write_it() {
        let parse = |text: &str| text.parse::<Chosen>();
        assert_eq!(parse("yaml").unwrap().document, Document::Yaml);
        assert_eq!(parse("ndjson").unwrap().format, Format::Json);
        let csv = parse("csv").unwrap();
        assert!(csv.csv && csv.format == Format::Wide);
        assert!(matches!(parse("jsonpath={.a[*].b}").unwrap().document, Document::Path(_)));
        assert!(parse("jsonpath={.a[}").unwrap_err().contains("has no index"));
        assert!(parse("xml").unwrap_err().contains("is one of table, wide"));
    }
}
