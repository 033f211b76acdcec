//! The command line of `gw-control-plane`, and what it comes to.

use std::{fs::OpenOptions, io, net::SocketAddr, path::Path};

use clap::Parser;
use gateway_runtime::{Failure, Shutdown, logs::LogArgs, notify, open_files, passed::Passed, process, ready};

use crate::{
    Config,
    config::Args,
    listeners::SocketPlace,
    store::{Etcd, StoreLocation},
};

/// The gateway's control plane: the registry of services and replicas, over gRPC and HTTP
#[derive(Debug, Clone, Parser)]
#[command(name = "gw-control-plane", version)]
pub struct Program {
    /// What it serves, and how.
    #[command(flatten)]
    pub args: Args,
    /// What it says of that.
    #[command(flatten)]
    pub logs: LogArgs,
    /// Check flags, environment and the files that they name, print what would run as JSON, and exit: 0, or 2 with the
    /// reason. Nothing is served, and a control plane that runs already is not disturbed
    #[arg(long)]
    pub check: bool,
}

impl Program {
    /// Serves until it is told to end.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag when it cannot start as configured, a fatal one when it cannot go on.
    pub fn run(self) -> Result<(), Failure> {
        if self.check {
            let config = self.args.validate()?;
            return process::run(None, async move { check(&config).await });
        }
        let passed = Passed::from_environment()?;
        process::run(None, self.serve(passed))
    }

    async fn serve(self, passed: Passed) -> Result<(), Failure> {
        let _logs = self.logs.init()?;
        process::survive_hang_ups()?;
        process::survive_size_limit()?;
        let config = self.args.validate()?;
        open_files::raise_limit();
        let shutdown = Shutdown::on_signals()?;
        let running = crate::start_at(config, passed, shutdown.clone()).await?;
        let served = running.served();
        ready::announce(&told(served.listen, served.socket.as_ref()));
        // That this is asked at all shows that the runtime turns.
        notify::serve(&format!("serving at {served}"), shutdown, || None);
        running.finished().await
    }
}

/// Says what would run.
async fn check(config: &Config) -> Result<(), Failure> {
    config.check_listeners()?;
    if let Some(socket) = &config.socket {
        socket.check()?;
    }
    config.access.check_files()?;
    let refused = |why: String| Failure::usage(format!("--store {}: cannot be used: {why}", config.store));
    match &config.store {
        StoreLocation::Redb(path) => check_file(path).map_err(|error| refused(error.to_string()))?,
        StoreLocation::Etcd(etcd) => {
            Etcd::check(etcd, &config.store_files).await.map_err(|error| refused(error.to_string()))?;
        }
        StoreLocation::Memory => {}
    }
    let mut valid = told(config.listen, config.socket.as_ref());
    valid.push(("store", config.store.to_string()));
    ready::announce_valid(&valid);
    Ok(())
}

/// Where it is reached, for scripts.
fn told(listen: Option<SocketAddr>, socket: Option<&SocketPlace>) -> Vec<(&'static str, String)> {
    let listen = listen.map(|listen| ("listen", listen.to_string()));
    listen.into_iter().chain(socket.map(|socket| ("socket", socket.to_string()))).collect()
}

/// Whether the file can be written, or made. It is not opened as a store: another process may serve from it.
fn check_file(path: &Path) -> io::Result<()> {
    if path.exists() {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        return match file.metadata()?.len() {
            0 => Err(io::Error::other(
                "the file is empty, which no store is: put a backup in its place, or move it away",
            )),
            _ => Ok(()),
        };
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_and_remove(folder)
}

/// Makes a file in the folder and takes it away: permissions alone do not say whether that works.
fn make_and_remove(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".gw-check-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Program::command().debug_assert();
    }

    #[tokio::test]
    async fn a_check_says_whether_the_store_could_be_used_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let checked = async |path: &Path| {
            check(&Config { store: StoreLocation::Redb(path.to_owned()), ..Default::default() }).await
        };
        assert_eq!(checked(&folder.path().join("new.redb")).await, Ok(()));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let absent = folder.path().join("absent/x.redb");
        let refused = checked(&absent).await.unwrap_err();
        assert_eq!(refused.code(), 2);
        assert!(
            refused.to_string().starts_with(&format!("--store redb:{}: ", absent.display())),
            "{refused}"
        );
        assert_eq!(checked(folder.path()).await.unwrap_err().code(), 2, "a folder is no store");
        let empty = folder.path().join("empty.redb");
        std::fs::write(&empty, "").unwrap();
        assert!(checked(&empty).await.unwrap_err().to_string().contains("the file is empty"));
    }
}
