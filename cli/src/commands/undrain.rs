//! `gwctl undrain`: returns a draining or drained replica to service.

use gateway_proto::{
    Health,
    v1::{Replica, UndrainReplicaRequest},
};

use crate::{
    authorship::Authorship,
    control::Control,
    error::Error,
    output::{Format, Output},
    target::Target,
};

/// Flags of `gwctl undrain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The replica; a unique beginning of its id is enough
    #[arg(value_name = "SERVICE/REPLICA")]
    target: Target,
    #[command(flatten)]
    authorship: Authorship,
}

/// Returns the replica to service.
///
/// # Errors
/// When it does not exist, and what the control plane refuses.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let key = args.target.key(&control.replica(&args.target).await?)?;
    let request = UndrainReplicaRequest {
        service: key.service.to_string(),
        replica_id: key.replica.to_string(),
        reason: args.authorship.reason,
        author: args.authorship.who.author,
        ..Default::default()
    };
    let response = control.undrain(request).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{key}\n")),
        Format::Table | Format::Wide => output.data(render(&response.replica.unwrap_or_default())),
    }
}

fn render(replica: &Replica) -> String {
    let Replica { service, replica_id, revision, .. } = replica;
    let health = Health::parse(replica.health).ok().flatten();
    let so_far = match health.filter(|health| !health.is_ready()) {
        Some(health) => format!("; it is {health}, so it gets no requests yet"),
        None => String::new(),
    };
    format!("{service}/{replica_id} is serving{so_far}   rev {revision}\n")
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::HealthStatus;

    use super::*;

    #[test]
    fn a_replica_that_is_not_ready_is_not_said_to_get_requests() {
        let replica = |health: HealthStatus| Replica {
            service: "orders".into(),
            replica_id: "r-1".into(),
            health: health.into(),
            revision: 9,
            ..Default::default()
        };
        assert_eq!(render(&replica(HealthStatus::Healthy)), "orders/r-1 is serving   rev 9\n");
        assert_eq!(
            render(&replica(HealthStatus::Unhealthy)),
            "orders/r-1 is serving; it is unhealthy, so it gets no requests yet   rev 9\n"
        );
    }
}
