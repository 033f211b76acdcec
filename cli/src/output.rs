//! Where output goes: data to stdout, everything else to stderr.

use std::{fmt, io::Write as _};

use anstream::ColorChoice;
use clap::ValueEnum;
use gateway_proto::json::to_json;
use prost::{Message, Name};

use crate::{error::Error, terminal::printable};

/// What data looks like on stdout. Tables may change between versions; `json` and `name` may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// The API's own message as proto3 JSON, all pages in one
    Json,
    /// One name a line: SERVICE, SERVICE/REPLICA or an id
    Name,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into pipes and files
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// Makes it the choice of the whole process.
    pub(crate) fn apply(self) {
        match self {
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
    pub(crate) headings: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// Whether tables have their additional columns.
    pub(crate) fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// Prints data, as it is: whoever calls has made foreign text printable.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that has gone ends the process quietly.
    pub(crate) fn data(&self, text: impl fmt::Display) -> Result<(), Error> {
        if cfg!(test) {
            // Only what goes through this macro is kept out of the test runner's own output.
            print!("{text}");
            return Ok(());
        }
        let mut out = anstream::stdout().lock();
        write!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// Prints a message as indented proto3 JSON.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(crate) fn message<M: Message + Name>(&self, message: &M) -> Result<(), Error> {
        self.data(format_args!("{:#}\n", to_json(message)))
    }

    /// Prints a line for people to stderr, made printable; nothing with `--quiet`.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            // Nobody can be told that stderr is closed.
            let _ = writeln!(anstream::stderr(), "{}", printable(&text.to_string()));
        }
    }
}
