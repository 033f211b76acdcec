//! `gwctl store migrate FROM TO`: everything from one store into another one, and `gwctl store reopen STORE`, which takes that back.
//!
//! A store that control planes share is reached by its own address. One that a control plane has to itself is reached by that one's, as long as it
//! runs.

use std::fmt;

use control_plane::{
    config::StoreFlags,
    store::{
        AnyStore, EtcdFiles, Fence, Locations, MoveError, Moved, Store, StoreError, StoreLocation, migrate,
    },
};
use gateway_proto::ControlPlaneUrl;
use serde_json::json;

use crate::{
    cli::Global,
    control::Control,
    endpoint::Origin,
    error::{Error, Exit},
    output::{Format, Output},
};

/// Verbs of `gwctl store`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Copy all that one store holds into another one, which is empty, and let nobody change the first any more
    Migrate(Migrate),
    /// Let control planes change a store again whose records were moved, or were to be
    Reopen(Reopen),
}

/// Flags of `gwctl store migrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    /// What is copied: an etcd, as --store names it, which control planes may use meanwhile; the URL of a control plane that runs on a file, which
    /// takes part, e.g. http://127.0.0.1:7400; or the file of one that does not run
    #[arg(value_name = "FROM")]
    from: String,
    /// The store that is filled, as --store names it; made when missing
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    flags: StoreFlags,
}

/// Flags of `gwctl store reopen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reopen {
    /// The store, as --store names it, or the URL of the control plane that runs on its file. What was changed where its records are now does not
    /// come back with it
    #[arg(value_name = "STORE")]
    store: String,
    #[command(flatten)]
    flags: StoreFlags,
}

/// Where what is registered is kept, as somebody names it.
enum Named {
    Store(StoreLocation),
    /// By the control plane that has it to itself.
    ControlPlane(ControlPlaneUrl),
}

/// Does it, and says what.
///
/// # Errors
/// Of usage, for a location that is none; a failure, when a store cannot be used, or a control plane does not take part.
pub(crate) async fn run(verb: Verb, global: Global, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Migrate(Migrate { from, to, flags }) => {
            let (from, to) = (named("FROM", &from)?, located("TO", &to)?);
            if to == StoreLocation::Memory {
                return Err(Error::new(Exit::Usage, "TO is memory:, which would end with this command"));
            }
            if matches!(from, Named::Store(StoreLocation::Memory)) {
                let error = Error::new(Exit::Usage, "FROM is memory:, which only its control plane knows");
                return Err(error.hint(migrate_from(&global.endpoint, &to)));
            }
            if matches!(&from, Named::Store(from) if *from == to) {
                return Err(Error::new(Exit::Usage, format!("TO is {to}, as FROM is: name another store")));
            }
            from.check_way(&flags)?;
            check_way(&to, &flags)?;
            let files = flags.files();
            let moved = match &from {
                Named::ControlPlane(url) => {
                    let mut source = ask(global, url).await?.move_store().await?;
                    copy(&mut source, &from, &to, &files).await?
                }
                Named::Store(location) => {
                    let mut source = open(location, &files).await.map_err(|error| {
                        unusable_now(location, &error, &migrate_from(&global.endpoint, &to))
                    })?;
                    copy(&mut source, &from, &to, &files).await?
                }
            };
            tell(&from, &to, moved, output)
        }
        Verb::Reopen(Reopen { store, flags }) => {
            let store = named("STORE", &store)?;
            store.check_way(&flags)?;
            let files = flags.files();
            let was_closed = match &store {
                Named::ControlPlane(url) => ask(global, url).await?.reopen_store().await?,
                Named::Store(location) => reopen(location, &files).await.map_err(|error| {
                    let command = format!("gwctl store reopen {}", url_of_one(&global.endpoint));
                    unusable_now(location, &error, &command)
                })?,
            };
            match output.format {
                Format::Json => output.value(&json!({ "reopened": was_closed })),
                Format::Name => output.data(format!("{store}\n")),
                Format::Table | Format::Wide => output.data(match was_closed {
                    true => format!("{store} takes changes again\n"),
                    false => format!("{store} takes changes already\n"),
                }),
            }
        }
    }
}

fn tell(from: &Named, to: &StoreLocation, moved: Moved, output: &Output) -> Result<(), Error> {
    let Moved { records, changed, refused_for, from: old, to: new } = moved;
    match output.format {
        Format::Json => output.value(&json!({
            "records": records,
            "changed_meanwhile": changed,
            "refused_seconds": refused_for.as_secs_f64(),
            "from_revision": old,
            "to_revision": new,
        })),
        Format::Name => output.data(format!("{to}\n")),
        Format::Table | Format::Wide => output.data(format!(
            "{records} records copied from {from} to {to}: {changed} had changed meanwhile, and no changes were taken for {:.1}s.\n\
             {from} takes none any more: start control planes with  --store {to}\n",
            refused_for.as_secs_f64()
        )),
    }
}

fn named(name: &str, text: &str) -> Result<Named, Error> {
    let is_url = ["http:", "https:", "unix:"].iter().any(|scheme| text.starts_with(scheme));
    if !is_url {
        return located(name, text).map(Named::Store);
    }
    let url = ControlPlaneUrl::parse(text);
    url.map(Named::ControlPlane).map_err(|why| Error::new(Exit::Usage, format!("{name} {why}")))
}

fn located(name: &str, text: &str) -> Result<StoreLocation, Error> {
    let location = text.parse();
    location.map_err(|why: String| Error::new(Exit::Usage, format!("{name} {why}")))
}

/// The control plane at this URL.
async fn ask(mut global: Global, url: &ControlPlaneUrl) -> Result<Control, Error> {
    global.endpoint = url.to_string();
    Control::connect(&global, Origin::Argument).await
}

async fn copy(
    source: &mut impl Store,
    from: &Named,
    to: &StoreLocation,
    files: &EtcdFiles,
) -> Result<Moved, Error> {
    let mut target = AnyStore::open(to, files).await.map_err(|error| unusable(to, &error))?;
    let (old, new) = (from.to_string(), to.to_string());
    let locations = Locations { from: &old, to: &new };
    migrate(source, &mut target, locations).await.map_err(|error| match &error {
        MoveError::From(why) => unusable(from, why),
        MoveError::To(why) => unusable(to, why),
    })
}

/// Takes a store's fence away. Yields whether it had one.
async fn reopen(location: &StoreLocation, files: &EtcdFiles) -> Result<bool, StoreError> {
    let mut store = open(location, files).await?;
    match store.load().await {
        Ok(_) => return Ok(false),
        Err(StoreError::Fenced(Fence::Moving { .. } | Fence::Moved { .. })) => {}
        // What it has is a part of something.
        Err(error) => return Err(error),
    }
    store.fence(None, None).await.map(|_| true)
}

/// Opens a store that is there.
async fn open(location: &StoreLocation, files: &EtcdFiles) -> Result<AnyStore, StoreError> {
    if let StoreLocation::Redb(path) = location
        && !path.exists()
    {
        // Opened, it would be made.
        return Err(StoreError::Unavailable("there is no such file".into()));
    }
    AnyStore::open(location, files).await
}

/// As a control plane does: without TLS, nobody speaks to an etcd beyond this machine unawares.
fn check_way(location: &StoreLocation, flags: &StoreFlags) -> Result<(), Error> {
    flags.check_way(location).map_err(|why| Error::new(Exit::Usage, why))
}

impl Named {
    fn check_way(&self, flags: &StoreFlags) -> Result<(), Error> {
        match self {
            Self::Store(location) => check_way(location, flags),
            // Its connection has rules of its own.
            Self::ControlPlane(_) => Ok(()),
        }
    }
}

fn unusable(what: &impl fmt::Display, why: &StoreError) -> Error {
    let error = Error::new(Exit::Failed, format!("{what} cannot be used")).because(why.to_string());
    error.hint("docs/store.md says how to move from one store to another")
}

/// Names the command that does it by the control plane which has the file open.
fn unusable_now(location: &StoreLocation, why: &StoreError, command: &str) -> Error {
    match why {
        StoreError::InUse => Error::new(Exit::Failed, format!("{location} cannot be used"))
            .because(why.to_string())
            .hint(format!("if a control plane has it open, name its URL in place of the file:  {command}")),
        _ => unusable(location, why),
    }
}

fn migrate_from(endpoint: &str, to: &StoreLocation) -> String {
    format!("gwctl store migrate {} {to}", url_of_one(endpoint))
}

/// What stands in a command for the control plane that has a store to itself. Where the endpoint is several, they share a store,
/// and it is none of them.
fn url_of_one(endpoint: &str) -> &str {
    if endpoint.contains(',') { "http://HOST:PORT" } else { endpoint }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(location) => location.fmt(f),
            Self::ControlPlane(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_beyond_this_machine_is_spoken_to_in_clear_text_when_somebody_says_so() {
        let etcd = located("TO", "etcd://10.0.0.5/gw").unwrap();
        let refused = check_way(&etcd, &StoreFlags::default()).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.headline.contains("--store-insecure"), "{refused:?}");
        assert_eq!(check_way(&etcd, &StoreFlags { store_insecure: true, ..Default::default() }), Ok(()));
    }

    #[test]
    fn a_file_in_use_is_told_with_one_command_that_names_one_control_plane() {
        let (file, etcd) = (located("FROM", "redb:a.redb").unwrap(), located("TO", "etcd://h/gw").unwrap());
        for (endpoint, url) in [
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400"),
            ("http://a:7400,http://b:7400", "http://HOST:PORT"),
        ] {
            let command = migrate_from(endpoint, &etcd);
            let error = unusable_now(&file, &StoreError::InUse, &command);
            assert_eq!(error.headline, "redb:a.redb cannot be used");
            assert_eq!(error.details, ["another process has the file open"]);
            let next = format!("gwctl store migrate {url} etcd://h:2379/gw");
            let hint = format!("if a control plane has it open, name its URL in place of the file:  {next}");
            assert_eq!(error.hints, [hint]);
        }
        let other = unusable_now(&file, &StoreError::Unavailable("it is no file".into()), "gwctl");
        assert!(other.hints[0].contains("docs/store.md"), "{other:?}");
    }
}
