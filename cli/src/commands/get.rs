//! `gwctl get`: lists.

use clap::Subcommand;
use gateway_proto::ServiceName;

use super::{events, policy, route};
use crate::{
    control::{Control, Filter, Query},
    error::Error,
    output::{Listing, Output, Shown},
    watch::{self, Feed},
};

mod breakers;
mod faults;
mod nodes;
mod overrides;
mod replicas;
mod services;

pub(super) use breakers::{alarm, attempts, retry, window};
pub(crate) use breakers::{name as breaker_name, state_cell, why};
pub(super) use faults::{fault_terms, in_force};
pub(super) use nodes::{late, outdated, state_cell as node_state_cell};
pub(super) use overrides::{override_subject, override_terms};
pub(super) use replicas::{labels, replicas_table, spoken};
pub(super) use services::breakers as service_breakers;

/// Flags of `gwctl get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    noun: Noun,
    #[command(flatten)]
    shown: Shown,
}

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
        /// Only replicas with these labels: team=web,env!=dev,tier,!canary
        #[arg(short = 'l', long, value_name = "LABELS")]
        selector: Option<String>,
    },
    /// Breakers that are not closed, and why
    #[command(visible_aliases = ["breaker", "br"])]
    Breakers(breakers::Args),
    /// Data planes and how far each has come
    #[command(visible_aliases = ["node", "dp"])]
    Nodes(Filter),
    /// Stored policies, the same as `gwctl policy get`
    #[command(visible_aliases = ["policy", "pol"])]
    Policies(Filter),
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

/// Lists what was asked for, and with `-w` its changes.
///
/// # Errors
/// What the control plane refuses, a column that does not exist, and a closed stdout.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let Args { noun, shown } = args;
    if let Noun::Events(args) = noun {
        return events::run(args, &shown, control, output).await;
    }
    let list = async || noun.list(control, output.needs_rows(&shown), output.is_wide()).await;
    if shown.watch.is_some() {
        return watch::run(noun.feed(), list, &shown, control, output).await;
    }
    let listing = list().await?;
    output.listing(listing, &shown)
}

impl Noun {
    async fn list(&self, control: &Control, with_rows: bool, wide: bool) -> Result<Listing, Error> {
        let view = View { with_rows, wide };
        match self {
            Self::Services(query) => services::list(query, control, view).await,
            Self::Replicas { service, query, selector } => {
                let query = query.clone().and(selector.as_deref())?;
                replicas::list(service.as_ref(), &query, control, view).await
            }
            Self::Breakers(args) => breakers::list(args, control, view).await,
            Self::Nodes(filter) => nodes::list(filter, control, view).await,
            Self::Policies(filter) => policy::list(filter, control, view).await,
            Self::Routes => route::list(control, view).await,
            Self::Overrides { service } => overrides::list(service.as_ref(), control, view).await,
            Self::Faults => faults::list(control, view).await,
            Self::Events(_) => unreachable!("events have no end to list"),
        }
    }

    /// Where changes come from: the control plane streams those of whole sets of replicas and of breakers.
    fn feed(&self) -> Feed {
        match self {
            Self::Replicas { service, query, selector: None } if *query == Query::default() => {
                Feed::Replicas { service: service.as_ref().map(ToString::to_string).unwrap_or_default() }
            }
            Self::Breakers(args) => args.feed(),
            // What comes with every report or heartbeat is no news.
            Self::Nodes(_) => Feed::Lists { ignored: &["lastReportTime"] },
            Self::Replicas { .. } => Feed::Lists { ignored: &["lease", "observed"] },
            Self::Services(_) => {
                Feed::Lists { ignored: &["requestRate", "successRatio", "latencyP50", "latencyP99"] }
            }
            _ => Feed::Lists { ignored: &[] },
        }
    }
}

/// How much of a list is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) with_rows: bool,
    pub(crate) wide: bool,
}
