//! `gwctl describe`: everything that is known of one thing, its events last, and what to do next.
//!
//! Each noun has a file, which asks, and renders by a pure function. What a caller may not read, or an older control plane does
//! not have, is left out and named; only without the thing itself there is nothing to describe.

use clap::Subcommand;
use gateway_proto::{NodeId, RouteName, ServiceName, json::to_json, v1::Event};
use prost::{Message, Name};
use serde_json::Value;

use super::{
    events::{self, When},
    policy::Scope,
};
use crate::{control::Control, error::Error, output::Output, table::Table, target::Target};

mod breaker;
mod decision;
mod event;
mod fault;
mod node;
mod page;
mod policy;
mod replica;
mod route;
mod service;

pub(super) use replica::facts;

/// Events that are shown of one thing.
const EVENT_LIMIT: usize = 10;

/// Where names are from, and how one is described: what `--help` ends with, and what follows when no name is given.
macro_rules! advice {
    ($names:literal, $example:literal) => {
        concat!("Which there are:  ", $names, "\nFor example:      gwctl describe ", $example)
    };
}

/// What to describe.
#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// A service: whether it is served and why not, its replicas, policy, routes and events
    #[command(visible_aliases = ["services", "svc"], after_help = advice!("gwctl get services", "service orders"))]
    Service {
        /// The service
        service: ServiceName,
    },
    /// A replica: lease, health, breakers on each data plane, last errors and events
    #[command(visible_aliases = ["replicas", "rep", "r"], after_help = advice!("gwctl get replicas", "replica orders/r-1"))]
    Replica {
        /// The replica; a unique beginning of its id is enough
        #[arg(value_name = "SERVICE/REPLICA")]
        target: Target,
    },
    /// A replica's breaker: its rules, by which of them it opened and with which numbers, and what it counts
    #[command(visible_aliases = ["breakers", "br"], after_help = advice!("gwctl get breakers -a", "breaker orders/r-1 --node dp-1"))]
    Breaker {
        /// The replica; a unique beginning of its id is enough
        #[arg(value_name = "SERVICE/REPLICA")]
        target: Target,
        /// Only as this data plane sees it
        #[arg(long, value_name = "NODE")]
        node: Option<NodeId>,
    },
    /// A data plane: how far it has come, its breakers that are not closed, and events
    #[command(visible_aliases = ["nodes", "dp"], after_help = advice!("gwctl get nodes", "node dp-1"))]
    Node {
        /// Its id
        node: NodeId,
    },
    /// A stored policy: what it sets, for whom that holds, and who changed what
    #[command(visible_aliases = ["policies", "pol"], after_help = advice!("gwctl get policies", "policy orders"))]
    Policy {
        /// Service, or '*' for that of all of them
        #[arg(value_name = "POLICY")]
        scope: Scope,
    },
    /// An explicit route: which requests it takes, where they go, and who changed it
    #[command(visible_aliases = ["routes", "rt"], after_help = advice!("gwctl get routes", "route shop"))]
    Route {
        /// Its name
        #[arg(value_name = "ROUTE")]
        name: RouteName,
    },
    /// What an operator has decided against the rules, where it holds, and until when
    #[command(visible_aliases = ["overrides", "ovr"], after_help = advice!("gwctl get overrides -o name", "override guard/orders"))]
    Override {
        /// Its id, as `gwctl get overrides -o name` shows it
        #[arg(value_name = "OVERRIDE")]
        id: String,
    },
    /// Faults that are injected on purpose, until when, by whom and why
    #[command(visible_aliases = ["faults"], after_help = advice!("gwctl get faults", "fault orders"))]
    Fault {
        /// Service, or '*' for those of all of them
        #[arg(value_name = "SERVICE")]
        scope: Scope,
    },
    /// An event with all that was noted of it
    #[command(visible_aliases = ["events", "ev"], after_help = advice!("gwctl events -o name", "event 7"))]
    Event {
        /// Its id, as `gwctl events -o name` shows it
        #[arg(value_name = "EVENT")]
        id: String,
    },
}

/// Describes what was asked for.
///
/// # Errors
/// When it does not exist, and what the control plane refuses.
pub(crate) async fn run(noun: Noun, control: &Control, output: &Output) -> Result<(), Error> {
    match noun {
        Noun::Service { service } => service::run(&service, control, output).await,
        Noun::Replica { target } => replica::run(&target, control, output).await,
        Noun::Breaker { target, node } => breaker::run(&target, node.as_ref(), control, output).await,
        Noun::Node { node } => node::run(&node, control, output).await,
        Noun::Policy { scope } => policy::run(&scope, control, output).await,
        Noun::Route { name } => route::run(&name, control, output).await,
        Noun::Override { id } => decision::run(&id, control, output).await,
        Noun::Fault { scope } => fault::run(&scope, control, output).await,
        Noun::Event { id } => event::run(&id, control, output).await,
    }
}

/// Events as every description has them.
fn events_table<'a>(events: impl Iterator<Item = &'a Event>, now: std::time::SystemTime) -> Table {
    events::table(events, When::Ago(now)).with_headings(false)
}

/// Said where there are none.
const NO_EVENTS: &str = "none since the control plane started";

/// Commands, each with what it is for.
fn steps<const N: usize>(steps: [(String, &str); N]) -> Table {
    let mut table = Table::new(["COMMAND", "WHY"]).with_headings(false);
    steps.into_iter().for_each(|(command, why)| table.push(vec![command.into(), why.into()]));
    table
}

/// Messages as JSON.
fn jsons<M: Message + Name>(messages: &[M]) -> Vec<Value> {
    messages.iter().map(to_json).collect()
}
