//! `gwctl store migrate FROM TO`: everything from one store into another one, and `gwctl store reopen STORE`, which takes that back.

use control_plane::{
    config::StoreFlags,
    store::{
        AnyStore, EtcdFiles, Fence, Locations, MoveError, Moved, Store as _, StoreError, StoreLocation,
        migrate,
    },
};
use serde_json::json;

use crate::{
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
    /// The store that is copied, as --store of the control plane names it. Control planes may use an etcd meanwhile, and a file not
    #[arg(value_name = "FROM")]
    from: String,
    /// The store that is filled; made when missing
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    files: StoreFlags,
}

/// Flags of `gwctl store reopen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reopen {
    /// The store, as --store of the control plane names it. What was changed where its records are now does not come back with it
    #[arg(value_name = "STORE")]
    store: String,
    #[command(flatten)]
    files: StoreFlags,
}

/// Does it, and says what.
///
/// # Errors
/// Of usage, for a location that is none; a failure, when a store cannot be used.
pub(crate) async fn run(verb: Verb, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Migrate(Migrate { from, to, files }) => {
            let (from, to) = (located("FROM", &from)?, located("TO", &to)?);
            if from == to {
                return Err(Error::new(Exit::Usage, format!("TO is {to}, as FROM is: name another store")));
            }
            let moved = copy(&from, &to, &files.files()).await?;
            tell(&from, &to, moved, output)
        }
        Verb::Reopen(Reopen { store, files }) => {
            let store = located("STORE", &store)?;
            let fence = reopen(&store, &files.files()).await?;
            match output.format {
                Format::Json => output.value(&json!({ "reopened": fence.is_some() })),
                Format::Name => output.data(format!("{store}\n")),
                Format::Table | Format::Wide => output.data(match fence {
                    Some(_) => format!("{store} takes changes again\n"),
                    None => format!("{store} takes changes already\n"),
                }),
            }
        }
    }
}

fn tell(from: &StoreLocation, to: &StoreLocation, moved: Moved, output: &Output) -> Result<(), Error> {
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

fn located(name: &str, text: &str) -> Result<StoreLocation, Error> {
    let location = text.parse();
    location.map_err(|why: String| Error::new(Exit::Usage, format!("{name} {why}")))
}

async fn copy(from: &StoreLocation, to: &StoreLocation, files: &EtcdFiles) -> Result<Moved, Error> {
    let mut source = open(from, files).await?;
    let mut target = AnyStore::open(to, files).await.map_err(|error| unusable(to, &error))?;
    let (old, new) = (from.to_string(), to.to_string());
    let locations = Locations { from: &old, to: &new };
    migrate(&mut source, &mut target, locations).await.map_err(|error| match &error {
        MoveError::From(why) => unusable(from, why),
        MoveError::To(why) => unusable(to, why),
    })
}

/// Takes a store's fence away. Yields which it had.
async fn reopen(location: &StoreLocation, files: &EtcdFiles) -> Result<Option<Fence>, Error> {
    let mut store = open(location, files).await?;
    let fence = match store.load().await {
        Ok(_) => return Ok(None),
        Err(StoreError::Fenced(fence @ (Fence::Moving { .. } | Fence::Moved { .. }))) => fence,
        // What it has is a part of something.
        Err(error) => return Err(unusable(location, &error)),
    };
    store.fence(None, None).await.map_err(|error| unusable(location, &error))?;
    Ok(Some(fence))
}

/// Opens a store that is there.
async fn open(location: &StoreLocation, files: &EtcdFiles) -> Result<AnyStore, Error> {
    if let StoreLocation::Redb(path) = location
        && !path.exists()
    {
        // Opened, it would be made.
        return Err(unusable(location, &StoreError::Unavailable("there is no such file".into())));
    }
    AnyStore::open(location, files).await.map_err(|error| unusable(location, &error))
}

fn unusable(location: &StoreLocation, why: &StoreError) -> Error {
    let mut error = Error::new(Exit::Failed, format!("{location} cannot be used"));
    error.details.push(why.to_string());
    error.hint("docs/store.md says how to move from one store to another")
}
