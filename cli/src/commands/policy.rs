//! `gwctl policy`: how requests are treated, for one service or for all of them.

use std::{fmt, str::FromStr};

use clap::Subcommand;
use gateway_proto::{Invalid, ServiceName};

use crate::{control::Control, error::Error, output::Output};

mod apply;
mod assignment;
mod diff;
mod edit;
mod files;
mod get;
mod what_if;

pub(in crate::commands) use apply::validate;
pub(super) use diff::doubt_about;
pub(super) use get::{list, not_stored};

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what somebody set, or what holds
    Get(get::Args),
    /// Set settings of a service or of '*', all services
    Set(edit::Set),
    /// Clear settings: the next level holds again
    Unset(edit::Unset),
    /// Replay recorded outcomes by other breaker rules: how often would they have opened, what would that have saved
    WhatIf(what_if::Args),
    /// Check policies in files, without a control plane
    Validate(apply::Validate),
    /// Show how the stored policies differ from those in files; exit code 1 when they do
    Diff(apply::Diff),
    /// Make the stored policies those in files
    Apply(apply::Apply),
    /// Remove all of a service's policy, or that of '*'
    Delete(edit::Delete),
}

/// Looks at policies, or changes one.
///
/// # Errors
/// What is no setting or no value, what the control plane refuses, and [`crate::error::Exit::Partial`] when not every data
/// plane has taken a change on within the wait.
pub(crate) async fn run(verb: Verb, control: &Control, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Get(args) => get::run(args, control, output).await,
        Verb::Set(args) => edit::set(args, control, output).await,
        Verb::Unset(args) => edit::unset(args, control, output).await,
        Verb::WhatIf(args) => what_if::run(args, control, output).await,
        Verb::Validate(args) => validate(&args, output),
        Verb::Diff(args) => apply::diff(args, control, output).await,
        Verb::Apply(args) => apply::apply(args, control, output).await,
        Verb::Delete(args) => edit::delete(args, control, output).await,
    }
}

/// Whose policy: a service's, or that of all services, written `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Service(ServiceName),
}

impl Scope {
    /// As on the wire: the name, or `*`.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Service(name) => name.as_str(),
        }
    }

    /// As it is typed into a shell.
    pub(super) fn quoted(&self) -> &str {
        match self {
            Self::All => "'*'",
            Self::Service(name) => name.as_str(),
        }
    }
}

impl FromStr for Scope {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" { Ok(Self::All) } else { ServiceName::parse(text).map(Self::Service) }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
