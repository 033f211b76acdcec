//! One file for each command; this one chooses among them.

use std::pin::Pin;

use gateway_proto::{Health, Mode, v1::Replica};

use crate::{
    cli::{Cli, Command},
    control::Control,
    endpoint::Origin,
    error::Error,
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
pub(crate) mod store;
pub(crate) mod top;
pub(crate) mod undrain;
pub(crate) mod validate;
pub(crate) mod version;
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
        Command::Get(args) => apart(|| async { get::run(args, &connect().await?, &output).await }).await,
        Command::Describe(noun) => {
            apart(|| async { describe::run(noun, &connect().await?, &output.paged()).await }).await
        }
        Command::Explain(args) => {
            apart(|| async { explain::run(args, &global, origin, &output.paged()).await }).await
        }
        Command::Events { args, shown } => {
            // What goes on has no end to page to.
            let output = if shown.watch.is_none() { output.paged() } else { output };
            apart(|| async { events::run(args, &shown, &connect().await?, &output).await }).await
        }
        Command::Top(args) => apart(|| async { top::run(args, &connect().await?, &output).await }).await,
        Command::Register(args) => {
            apart(|| async { register::run(args, &connect().await?, &output).await }).await
        }
        Command::Deregister(args) => {
            apart(|| async { deregister::run(args, &connect().await?, &output, !global.no_input).await })
                .await
        }
        Command::Drain(args) => apart(|| async { drain::run(args, &connect().await?, &output).await }).await,
        Command::Undrain(args) => {
            apart(|| async { undrain::run(args, &connect().await?, &output).await }).await
        }
        Command::Auth(auth::Verb::Whoami) => {
            apart(|| async { auth::whoami(&connect().await?, &output).await }).await
        }
        // That needs no control plane.
        Command::Auth(verb) => auth::run(&verb, &output),
        Command::Breaker(verb) => {
            apart(|| async { breaker::run(verb, &connect().await?, &output).await }).await
        }
        // That needs no control plane.
        Command::Policy(policy::Verb::Validate(args)) => policy::validate(&args, &output),
        Command::Policy(verb) => {
            let output = if matches!(verb, policy::Verb::Get(_)) { output.paged() } else { output };
            apart(|| async { policy::run(verb, &connect().await?, &output).await }).await
        }
        Command::Wait(args) => apart(|| async { wait::run(args, global, origin, &output).await }).await,
        Command::Validate(args) => validate::run(&args, &output),
        Command::Store(verb) => apart(|| async { store::run(verb, global, &output).await }).await,
        Command::Config(verb) => config::run(verb, global.context.as_deref(), &global.settings, &output),
        Command::Completion { shell } => docs::completion(shell, &output),
        Command::Docs(kind) => docs::run(&kind, &output.paged()),
        Command::Fault(verb) => apart(|| async { fault::run(verb, &connect().await?, &output).await }).await,
        Command::Route(verb) => apart(|| async { route::run(verb, &connect().await?, &output).await }).await,
        Command::ReleaseGuard(args) => {
            apart(|| async { release_guard::run(args, &connect().await?, &output).await }).await
        }
        Command::EndOverride(args) => {
            apart(|| async { end_override::run(args, &connect().await?, &output).await }).await
        }
        // It tells also of a control plane that it cannot reach.
        Command::Check(args) => {
            apart(|| async {
                let shown = global.access.shown_to_data_planes(None)?;
                check::run(args, connect, (&shown, global.timeout), &output).await
            })
            .await
        }
        Command::Dev(args) => apart(|| async { dev::run(args, &output).await }).await,
        Command::Demo(args) => apart(|| async { demo::run(args, &output).await }).await,
        Command::DemoReplica(args) => {
            apart(|| async { demo_replica::run(args, &global.endpoint, origin).await }).await
        }
        Command::Run(args) => apart(|| async { run::run(*args, &global, origin, &output).await }).await,
        Command::Call(args) => {
            apart(|| async { call::run(args, global.timeout, !global.no_input, &output).await }).await
        }
        Command::RunOrphans(args) => crate::run::orphans::run(&args),
        Command::Version(args) => apart(|| async { version::run(&args, connect, &output).await }).await,
    }
}

/// A command's future, made and kept in a room of its own: together they would be more than a thread's stack in a debug build.
#[inline(never)]
fn apart<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}
