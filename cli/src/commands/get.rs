//! `gwctl get`: lists.

use clap::Subcommand;
use gateway_proto::ServiceName;

use super::{events, policy, route};
use crate::{
    control::{Control, Query},
    error::Error,
    output::Output,
};

mod breakers;
mod faults;
mod nodes;
mod overrides;
mod replicas;
mod services;

pub(super) use breakers::{REGARDLESS, alarm, attempts, retry, state_cell, window};
pub(super) use faults::{fault_terms, in_force};
pub(super) use overrides::{override_subject, override_terms};
pub(super) use replicas::{labels, spoken};

/// What to list.
#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Services with their replicas and breakers
    #[command(visible_aliases = ["service", "svc"])]
    Services(Query),
    /// Replicas of one service, or of all
    #[command(visible_aliases = ["replica", "rep", "r"])]
    Replicas {
        /// Service; all of them when left out
        service: Option<ServiceName>,
        #[command(flatten)]
        query: Query,
    },
    /// Breakers that are not closed, and why
    #[command(visible_aliases = ["breaker", "br"])]
    Breakers(breakers::Args),
    /// Data planes and how far each has come
    #[command(visible_aliases = ["node", "dp"])]
    Nodes,
    /// Stored policies, the same as `gwctl policy get`
    #[command(visible_aliases = ["policy", "pol"])]
    Policies,
    /// Explicit routes, the same as `gwctl route get`
    #[command(visible_aliases = ["route", "rt"])]
    Routes,
    /// What operators have decided against the rules, until when, and why
    #[command(visible_aliases = ["override", "ovr"])]
    Overrides {
        /// Service; all of them when left out
        service: Option<ServiceName>,
    },
    /// Faults that are injected on purpose, until when, by whom and why
    #[command(visible_aliases = ["fault"])]
    Faults,
    /// Past events, the same as `gwctl events`
    #[command(visible_aliases = ["event", "ev"])]
    Events(events::Args),
}

/// Lists what was asked for.
///
/// # Errors
/// What the control plane refuses, and a closed stdout.
pub(crate) async fn run(noun: Noun, control: &Control, output: &Output) -> Result<(), Error> {
    match noun {
        Noun::Services(query) => services::run(&query, control, output).await,
        Noun::Replicas { service, query } => replicas::run(service.as_ref(), &query, control, output).await,
        Noun::Breakers(args) => breakers::run(args, control, output).await,
        Noun::Nodes => nodes::run(control, output).await,
        Noun::Policies => policy::list(control, output).await,
        Noun::Routes => route::list(control, output).await,
        Noun::Overrides { service } => overrides::run(service.as_ref(), control, output).await,
        Noun::Faults => faults::run(control, output).await,
        Noun::Events(args) => events::run(args, control, output).await,
    }
}
