//! `gwctl explain`: why a replica gets requests or does not, where, since when and until when, and what to do about it.

mod ask;
mod causes;
mod replica;
mod service;

use std::{path::PathBuf, time::SystemTime};

use gateway_proto::{NodeId, v1};

use self::ask::{Asked, Topic};
pub(super) use self::{
    replica::{failures, next_steps as steps, rules, trip_table},
    service::lines,
};
use crate::{
    cli::Global,
    control::Control,
    endpoint::Origin,
    error::Error,
    output::{Format, Output},
};

/// Flags of `gwctl explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to explain; a unique beginning of a replica's id is enough
    #[arg(value_name = "SERVICE[/REPLICA]")]
    topic: Topic,
    /// Show what this data plane says only
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Ask a data plane's admin side instead, such as http://127.0.0.1:7401: of a replica, what it alone knows
    #[arg(long, value_name = "URL", conflicts_with = "node")]
    data_plane: Option<String>,
    /// With --data-plane: file with the token that its admin side asks for
    #[arg(long, env = "GWCTL_DATA_PLANE_TOKEN_FILE", value_name = "FILE")]
    data_plane_token_file: Option<PathBuf>,
}

/// Explains it.
///
/// # Errors
/// Of an unknown name, with the one that was probably meant.
pub(crate) async fn run(args: Args, global: &Global, origin: Origin, output: &Output) -> Result<(), Error> {
    let asked = match &args.data_plane {
        Some(url) => {
            let shown = global.access.shown_to_data_planes(args.data_plane_token_file)?;
            ask::data_plane(url, &args.topic, &shown, global.timeout).await?
        }
        None => {
            let control = Control::connect(global, origin).await?;
            ask::control_plane(&control, &args.topic, args.node.as_ref()).await?
        }
    };
    let now = SystemTime::now();
    match asked {
        Asked::Replica(told) => match output.format {
            Format::Json => output.message(&*told),
            Format::Name => output.data(format_args!("{}/{}\n", told.service, told.replica_id)),
            Format::Table | Format::Wide => output.data(replica::render(&told, now)),
        },
        Asked::Service(told) => match output.format {
            Format::Json => output.message(&*told),
            Format::Name => output.data(names(&told)),
            Format::Table | Format::Wide => output.data(service::render(&told)),
        },
    }
}

fn names(told: &v1::ExplainServiceResponse) -> String {
    told.replicas.iter().map(|line| format!("{}/{}\n", told.service, line.replica_id)).collect()
}
