//! `gwctl store copy FROM TO`: everything of a store as it is at one moment, `gwctl store migrate FROM TO`: everything from one store into another
//! one, and `gwctl store reopen STORE`, which takes that back.
//!
//! A store that control planes share is reached by its own address. One that a control plane has to itself is reached by that one's, as long as it
//! runs.

use std::fmt;

use control_plane::{
    config::StoreFlags,
    store::{
        AnyStore, Blank, Copied, EtcdFiles, Fence, Loaded, Locations, MoveError, Moved, Store, StoreError,
        StoreLocation, migrate, read,
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
    /// Copy all that a store holds at one revision to where nothing is, while the store goes on: a backup
    #[command(name = "copy")]
    Duplicate(Duplicate),
    /// Copy all that one store holds into another one, which is empty, and let nobody change the first any more
    Migrate(Migrate),
    /// Let control planes change a store again whose records were moved, or were to be
    Reopen(Reopen),
}

/// Flags of `gwctl store copy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Duplicate {
    /// What is copied: the URL of a control plane that runs on a file, e.g. http://127.0.0.1:7400; the file of one that does not run; or an etcd,
    /// as --store names it
    #[arg(value_name = "FROM")]
    from: String,
    /// The copy, as --store names it: a file that is not there yet, or an etcd that has no records there
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    flags: StoreFlags,
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
        Verb::Duplicate(Duplicate { from, to, flags }) => {
            let next = |to: &StoreLocation| from_one("copy", &global.endpoint, to);
            let (from, to) = ends(&from, &to, &flags, next)?;
            let files = flags.files();
            let next = next(&to);
            let blank = Blank::at(&to, &files).await.map_err(|error| unusable(&to, &error))?;
            let held = match &from {
                Named::ControlPlane(url) => {
                    let mut source = ask(global, url).await?.move_store("copy of its store").await?;
                    let held = source.load().await.map_err(|error| unusable(&from, &error))?;
                    // In good order: this was all that was wanted.
                    let _ = source.fence(None, None).await;
                    held
                }
                Named::Store(location) => read_from(location, &files)
                    .await
                    .map_err(|error| unusable_now(location, &error, &next))?,
            };
            let copied = blank.fill(&from.to_string(), held).await.map_err(|error| unusable(&to, &error))?;
            tell_of_copy(&from, &to, copied, output)
        }
        Verb::Migrate(Migrate { from, to, flags }) => {
            let next = |to: &StoreLocation| from_one("migrate", &global.endpoint, to);
            let (from, to) = ends(&from, &to, &flags, next)?;
            let files = flags.files();
            let next = next(&to);
            let moved = match &from {
                Named::ControlPlane(url) => {
                    let mut source = ask(global, url).await?.move_store("move to another store").await?;
                    move_all(&mut source, &from, &to, &files).await?
                }
                Named::Store(location) => {
                    let mut source = AnyStore::open_existing(location, &files)
                        .await
                        .map_err(|error| unusable_now(location, &error, &next))?;
                    move_all(&mut source, &from, &to, &files).await?
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

/// From where and to where, if that can be meant. `next` names the command that does it by way of a control plane.
fn ends(
    from: &str,
    to: &str,
    flags: &StoreFlags,
    next: impl Fn(&StoreLocation) -> String,
) -> Result<(Named, StoreLocation), Error> {
    let (from, to) = (named("FROM", from)?, located("TO", to)?);
    if to == StoreLocation::Memory {
        return Err(Error::new(Exit::Usage, "TO is memory:, which would end with this command"));
    }
    if matches!(from, Named::Store(StoreLocation::Memory)) {
        let error = Error::new(Exit::Usage, "FROM is memory:, which only its control plane knows");
        return Err(error.hint(next(&to)));
    }
    if matches!(&from, Named::Store(from) if *from == to) {
        return Err(Error::new(Exit::Usage, format!("TO is {to}, as FROM is: name another store")));
    }
    from.check_way(flags)?;
    check_way(&to, flags)?;
    Ok((from, to))
}

/// All that a store holds that is there. It is closed by then.
async fn read_from(location: &StoreLocation, files: &EtcdFiles) -> Result<Loaded, StoreError> {
    read(&mut AnyStore::open_existing(location, files).await?).await
}

fn tell_of_copy(from: &Named, to: &StoreLocation, copied: Copied, output: &Output) -> Result<(), Error> {
    let Copied { records, from: (from_epoch, from_revision), to: (to_epoch, to_revision) } = copied;
    match output.format {
        Format::Json => output.value(&json!({
            "records": records,
            "from_epoch": from_epoch,
            "from_revision": from_revision,
            "to_epoch": to_epoch,
            "to_revision": to_revision,
        })),
        Format::Name => output.data(format!("{to}\n")),
        Format::Table | Format::Wide => output.data(format!(
            "{records} records copied from {from}, as they were at revision {from_revision} of epoch {from_epoch}\n\
             {to} holds them at revision {to_revision} of epoch {to_epoch}, its own\n"
        )),
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

async fn move_all(
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
    let mut store = AnyStore::open_existing(location, files).await?;
    match store.load().await {
        Ok(_) => return Ok(false),
        Err(StoreError::Fenced(Fence::Moving { .. } | Fence::Moved { .. })) => {}
        // What it has is a part of something.
        Err(error) => return Err(error),
    }
    store.fence(None, None).await.map(|_| true)
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
    error.hint("docs/store.md says how to copy a store, and how to move from one to another")
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

/// The command that has a control plane take part.
fn from_one(verb: &str, endpoint: &str, to: &StoreLocation) -> String {
    format!("gwctl store {verb} {} {to}", url_of_one(endpoint))
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
            let command = from_one("migrate", endpoint, &etcd);
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
