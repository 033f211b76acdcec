//! `gwctl store migrate FROM TO`: everything from one store into another one.

use control_plane::{
    config::StoreFlags,
    store::{AnyStore, EtcdFiles, MoveError, Moved, StoreLocation, migrate},
};
use serde_json::json;

use crate::{
    error::{Error, Exit},
    output::{Format, Output},
};

/// Verbs of `gwctl store`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Copy all that one store holds into another one, which is empty
    Migrate(Migrate),
}

/// Flags of `gwctl store migrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    /// The store that is copied, as --store of the control plane names it. No control plane may use it meanwhile
    #[arg(value_name = "FROM")]
    from: String,
    /// The store that is filled; made when missing
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    files: StoreFlags,
}

/// Copies, and says how much.
///
/// # Errors
/// Of usage, for a location that is none; a failure, when either store cannot be used.
pub(crate) async fn run(verb: Verb, output: &Output) -> Result<(), Error> {
    let Verb::Migrate(Migrate { from, to, files }) = verb;
    let files = files.files();
    let (from, to) = (located("FROM", &from)?, located("TO", &to)?);
    let moved = copy(&from, &to, &files).await?;
    let Moved { records, from: old, to: new } = moved;
    match output.format {
        Format::Json => output.value(&json!({
            "records": records, "from_revision": old, "to_revision": new,
        })),
        Format::Name => output.data(format!("{to}\n")),
        Format::Table | Format::Wide => {
            output.data(format!("{records} records copied from {from} to {to}\n"))
        }
    }
}

fn located(name: &str, text: &str) -> Result<StoreLocation, Error> {
    let location = text.parse();
    location.map_err(|why: String| Error::new(Exit::Usage, format!("{name} {why}")))
}

async fn copy(from: &StoreLocation, to: &StoreLocation, files: &EtcdFiles) -> Result<Moved, Error> {
    let failed = |location: &StoreLocation, why: String| {
        let mut error = Error::new(Exit::Failed, format!("{location} cannot be used"));
        error.details.push(why);
        error.hint("docs/store.md says how to move from one store to another")
    };
    if let StoreLocation::Redb(path) = from
        && !path.exists()
    {
        // Opened, it would be made.
        return Err(failed(from, "there is no such file".into()));
    }
    let open = async |location: &StoreLocation| {
        AnyStore::open(location, files).await.map_err(|error| failed(location, error.to_string()))
    };
    let mut source = open(from).await?;
    let mut target = open(to).await?;
    migrate(&mut source, &mut target).await.map_err(|error| match &error {
        MoveError::From(why) => failed(from, why.to_string()),
        MoveError::To(why) => failed(to, why.to_string()),
    })
}
