//! Both planes in one process, for `dev` and `demo`: their ports, their folder, and the order in which they end.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser};
use gateway_runtime::{Failure, Shutdown};
use tempfile::TempDir;

use crate::error::Error;

const PROXY: u16 = 8080;
const CONTROL: u16 = 7400;
const ADMIN: u16 = 7401;
/// The name under which the data plane reports.
const NODE: &str = "dp-1";

/// Flags that say where both planes listen.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ports {
    /// Add N to every default port: proxy 8080, control plane 7400, admin 7401
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=56_000))]
    pub(crate) port_offset: u16,
    /// Take free ports instead
    #[arg(long, conflicts_with = "port_offset")]
    pub(crate) random_ports: bool,
}

impl Ports {
    /// The loopback address of a default port.
    pub(crate) fn place(&self, default: u16) -> SocketAddr {
        let port = if self.random_ports { 0 } else { default + self.port_offset };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// The failure to start with what can be done about a taken port.
    pub(crate) fn explain(&self, failure: Failure) -> Error {
        Error::from(failure).hint("if a port is taken:  --port-offset 100,  or  --random-ports")
    }
}

/// Where both planes listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) proxy: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Both planes, running.
#[derive(Debug)]
pub(crate) struct Planes {
    control: control_plane::Running,
    data: data_plane::Running,
    stop_control: Shutdown,
    stop_data: Shutdown,
    folder: Folder,
}

impl Planes {
    /// Starts the control plane, then the data plane that follows it. The registry lives in `data_dir`, or in a
    /// temporary folder that is removed at the end.
    ///
    /// # Errors
    /// When a port is taken or the folder cannot be used.
    pub(crate) async fn start(ports: &Ports, data_dir: Option<&Path>) -> Result<Self, Failure> {
        let folder = Folder::open(data_dir)?;
        let (stop_control, stop_data) = (Shutdown::new(), Shutdown::new());

        let mut args = ControlPlane::defaults()?;
        args.listen = ports.place(CONTROL);
        args.store = format!("redb:{}", folder.path().join("registry.redb").display());
        let control = control_plane::start(args.validate()?, stop_control.clone()).await?;

        let mut args = DataPlane::defaults()?;
        args.listen = ports.place(PROXY);
        args.admin_listen = ports.place(ADMIN);
        args.control_plane = vec![format!("http://{}", control.listen())];
        args.static_file = None;
        args.node_id = Some(NODE.to_owned());
        args.cache_dir = Some(folder.path().join("cache"));
        args.no_cache = false;
        let data = data_plane::start(args.validate()?, stop_data.clone()).await?;
        Ok(Self { control, data, stop_control, stop_data, folder })
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            proxy: self.data.listen(),
            control: self.control.listen(),
            admin: self.data.admin_listen(),
        }
    }

    /// Runs until the shutdown begins, or until one of them fails: then the other ends too. The data plane ends first,
    /// so that it reports to the last.
    ///
    /// # Errors
    /// What made a plane fail.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Failure> {
        let Self { control, data, stop_control, stop_data, folder } = self;
        let data = async {
            let ended = data.finished().await;
            stop_control.begin();
            ended
        };
        let control = async {
            let ended = control.finished().await;
            stop_data.begin();
            ended
        };
        let begun = async {
            shutdown.begun().await;
            stop_data.begin();
            std::future::pending::<Infallible>().await
        };
        let (data, control) = tokio::select! {
            ended = async { tokio::join!(data, control) } => ended,
            never = begun => match never {},
        };
        drop(folder);
        data.and(control)
    }
}

/// The control plane's own flags, from the environment or at their defaults.
#[derive(Debug, Parser)]
struct ControlPlane {
    #[command(flatten)]
    args: control_plane::config::Args,
}

impl ControlPlane {
    fn defaults() -> Result<control_plane::config::Args, Failure> {
        let parsed = Self::try_parse_from(["gw-control-plane"]);
        parsed.map(|flags| flags.args).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// The data plane's own flags, from the environment or at their defaults.
#[derive(Debug, Parser)]
struct DataPlane {
    #[command(flatten)]
    args: data_plane::config::Args,
}

impl DataPlane {
    fn defaults() -> Result<data_plane::config::Args, Failure> {
        let parsed = Self::try_parse_from(["gw-data-plane"]);
        parsed.map(|flags| flags.args).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// Where both planes keep what they keep.
#[derive(Debug)]
enum Folder {
    Kept(PathBuf),
    /// Removed when dropped.
    Temporary(TempDir),
}

impl Folder {
    fn open(data_dir: Option<&Path>) -> Result<Self, Failure> {
        match data_dir {
            Some(path) => std::fs::create_dir_all(path)
                .map(|()| Self::Kept(path.to_owned()))
                .map_err(|error| Failure::usage(format!("--data-dir {}: {error}", path.display()))),
            None => {
                tempfile::Builder::new().prefix("gateway-").tempdir().map(Self::Temporary).map_err(|error| {
                    Failure::usage(format!("no temporary folder: {error}; name one with --data-dir"))
                })
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
