//! One file for each command; this one chooses among them.

use gateway_proto::{Health, Mode, v1::Replica};
use serde_json::json;

use crate::{
    cli::{Cli, Command},
    control::Control,
    endpoint::Origin,
    error::Error,
    output::{Format, Output},
};

pub(crate) mod auth;
pub(crate) mod breaker;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod demo_replica;
pub(crate) mod deregister;
pub(crate) mod describe;
pub(crate) mod dev;
pub(crate) mod docs;
pub(crate) mod drain;
pub(crate) mod end_override;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod fault;
pub(crate) mod get;
pub(crate) mod policy;
pub(crate) mod register;
pub(crate) mod release_guard;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod top;
pub(crate) mod undrain;
pub(crate) mod validate;
pub(crate) mod wait;

/// Whether data planes send it new requests, by what the registry says of it.
fn is_ready(replica: &Replica) -> bool {
    let health = Health::parse(replica.health).ok().flatten();
    let mode = Mode::parse(replica.mode).unwrap_or_default();
    mode == Mode::Serving && health.is_some_and(Health::is_ready)
}

/// Runs the command.
///
/// # Errors
/// Whatever it could not do, explained for people.
pub(crate) async fn run(cli: Cli, origin: Origin) -> Result<(), Error> {
    let Cli { global, command } = cli;
    let output = global.output();
    let connect = || Control::connect(&global, origin);
    if !matches!(command, Command::Get(_) | Command::Events { .. } | Command::Top(_)) {
        output.must_not_be_csv()?;
    }
    if !matches!(command, Command::Check(_)) {
        output.must_not_be_short()?;
    }
    match command {
        Command::Get(args) => get::run(args, &connect().await?, &output).await,
        Command::Describe(noun) => describe::run(noun, &connect().await?, &output).await,
        Command::Explain(args) => explain::run(args, &global, origin, &output).await,
        Command::Events { args, shown } => events::run(args, &shown, &connect().await?, &output).await,
        Command::Top(args) => top::run(args, &connect().await?, &output).await,
        Command::Register(args) => register::run(args, &connect().await?, &output).await,
        Command::Deregister(args) => {
            deregister::run(args, &connect().await?, &output, !global.no_input).await
        }
        Command::Drain(args) => drain::run(args, &connect().await?, &output).await,
        Command::Undrain(args) => undrain::run(args, &connect().await?, &output).await,
        Command::Auth(auth::Verb::Whoami) => auth::whoami(&connect().await?, &output).await,
        // That needs no control plane.
        Command::Auth(verb) => auth::run(&verb, &output),
        Command::Breaker(verb) => breaker::run(verb, &connect().await?, &output).await,
        // That needs no control plane.
        Command::Policy(policy::Verb::Validate(args)) => policy::validate(&args, &output),
        Command::Policy(verb) => policy::run(verb, &connect().await?, &output).await,
        Command::Wait(args) => wait::run(args, global, origin, &output).await,
        Command::Validate(args) => validate::run(&args, &output),
        Command::Config(verb) => config::run(verb, global.context.as_deref(), &global.settings, &output),
        Command::Completion { shell } => docs::completion(shell, &output),
        Command::Docs(kind) => docs::run(&kind, &output),
        Command::Fault(verb) => fault::run(verb, &connect().await?, &output).await,
        Command::Route(verb) => route::run(verb, &connect().await?, &output).await,
        Command::ReleaseGuard(args) => release_guard::run(args, &connect().await?, &output).await,
        Command::EndOverride(args) => end_override::run(args, &connect().await?, &output).await,
        // It tells also of a control plane that it cannot reach.
        Command::Check(args) => check::run(args, connect, global.timeout, &output).await,
        Command::Dev(args) => dev::run(args, &output).await,
        Command::Demo(args) => demo::run(args, &output).await,
        Command::DemoReplica(args) => demo_replica::run(args, &global.endpoint, origin).await,
        Command::Run(args) => run::run(*args, &global, origin, &output).await,
        Command::Call(args) => call::run(args, global.timeout, !global.no_input, &output).await,
        Command::RunOrphans(args) => crate::run::orphans::run(&args),
        Command::Version => version(&output),
    }
}

fn version(output: &Output) -> Result<(), Error> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match output.format {
        Format::Json => output.value(&json!({"version": VERSION})),
        Format::Table | Format::Wide | Format::Name => output.data(format_args!("gwctl {VERSION}\n")),
    }
}
