//! `gwctl demo-replica`: one replica of the demo service as a process of its own, so that it can really be killed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gateway_proto::{Address, ReplicaId, ReplicaKey, ServiceName};
use gateway_runtime::{Failure, Shutdown, logs::LogArgs, ready};

use crate::{
    demo::replica::{Replica, registration::Registration},
    endpoint::{Endpoint, Origin},
    error::Error,
    link,
};

/// Data planes hear of a deregistration within a moment; until then requests still come.
const FAREWELL: Duration = Duration::from_millis(300);

/// Flags of `gwctl demo-replica`. It registers itself when `--endpoint` is given on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Service it belongs to
    #[arg(long, default_value = "client-service")]
    service: ServiceName,
    /// Its id within the service
    #[arg(long, default_value = "r-1", value_name = "REPLICA")]
    id: ReplicaId,
    /// Lease that it keeps alive, such as 5s; 1s to 1h. The default outlasts a restart by the demo, so that the breaker
    /// tells the story and not the registry
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// End in an orderly way when stdin closes, which it does when the parent process dies
    #[arg(long)]
    with_parent: bool,
    #[command(flatten)]
    logs: LogArgs,
}

/// Serves until SIGTERM, SIGINT or, with `--with-parent`, the end of stdin.
///
/// # Errors
/// When it cannot listen, or the endpoint is no URL.
pub(crate) async fn run(args: Args, endpoint: &str, origin: Origin) -> Result<(), Error> {
    let _logs = args.logs.init()?;
    let shutdown = Shutdown::on_signals()?;
    if args.with_parent {
        end_with_stdin(shutdown.clone());
    }
    let replica = Replica::bind(args.listen, args.id.as_str()).await?;
    let address = replica.address();
    let registering = match origin {
        Origin::Flag => {
            let endpoint = Endpoint::parse(endpoint, origin)?;
            let channel = link::connect_lazy(&endpoint.places.channel(), &endpoint.places, &Arc::default());
            let registration = Registration {
                key: ReplicaKey { service: args.service, replica: args.id.clone() },
                address: Address::parse(&address.to_string()).map_err(|invalid| {
                    Failure::usage(format!("--listen {address} cannot be registered: {invalid}"))
                })?,
                ttl: args.ttl,
            };
            Some(registration.keep(channel, shutdown.clone()))
        }
        Origin::Argument | Origin::Environment | Origin::Context | Origin::Default => None,
    };
    ready::announce(&[
        ("listen", address.to_string()),
        ("id", args.id.to_string()),
        ("pid", std::process::id().to_string()),
    ]);
    // It leaves the registry while it still serves: requests that are on their way are answered.
    let stop_serving = Shutdown::new();
    let registered = async {
        if let Some(registering) = registering {
            registering.await;
            shutdown.begun().await;
            tokio::time::sleep(FAREWELL).await;
        }
        shutdown.begun().await;
        stop_serving.begin();
    };
    tokio::join!(registered, replica.serve(stop_serving.clone()));
    Ok(())
}

/// Begins the shutdown at the end of stdin.
fn end_with_stdin(shutdown: Shutdown) {
    // A thread of its own: a read that blocks must not keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.begin();
    });
}
