//! Both planes in one process, for `dev` and `demo`: their ports, their folder, and the order in which they end.

use std::{
    convert::Infallible,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use axum::Router;
use clap::{Args, Parser};
use gateway_runtime::{Failure, Shutdown, open_files};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::error::{Error, Exit};

const PROXY: u16 = 8080;
const CONTROL: u16 = 7400;
const ADMIN: u16 = 7401;
/// The name under which the data plane reports.
const NODE: &str = "dp-1";
/// Outcomes kept of each replica where the environment names no number: enough for `gwctl policy what-if` to answer.
const RECORDED_OUTCOMES: u32 = 4096;

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

    /// The failure to start, in terms of these flags: the planes' own, which it names, cannot be given here.
    pub(crate) fn explain(failure: Failure) -> Error {
        let Some(address) = failure.taken() else { return failure.into() };
        Error::new(Exit::Usage, format!("port {} is taken: somebody listens on {address}", address.port()))
            .hint("choose other ports with  --port-offset 100  or  --random-ports")
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
    /// Where the control plane listens, before an outage and after it.
    listen: SocketAddr,
    data: data_plane::Running,
    site: Site,
    outage: Outage,
    stop_control: Shutdown,
    stop_data: Shutdown,
    folder: Folder,
}

/// How the control plane is started, and started again after an outage.
#[derive(Debug)]
struct Site {
    config: control_plane::Config,
    lab: Option<Router>,
}

impl Site {
    async fn start(&self, stop: Shutdown) -> Result<control_plane::Running, Failure> {
        let config = self.config.clone();
        match self.lab.clone() {
            Some(lab) => control_plane::start_with_lab(config, lab, stop).await,
            None => control_plane::start(config, stop).await,
        }
    }
}

/// Takes the control plane away and brings it back, for those who want to see the gateway do without it.
#[derive(Debug, Clone)]
pub(crate) struct Outage(Arc<watch::Sender<Presence>>);

/// Where the control plane is, or is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Serving,
    Leaving,
    Gone,
    Returning,
}

impl Outage {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Presence::Serving)))
    }

    /// Ends the control plane, and returns when nobody listens there any more.
    pub(crate) async fn begin(&self) {
        self.0.send_replace(Presence::Leaving);
        self.becomes(Presence::Gone).await;
    }

    /// Starts it again at the same address, on the same registry, and returns when it serves.
    pub(crate) async fn end(&self) {
        self.0.send_replace(Presence::Returning);
        self.becomes(Presence::Serving).await;
    }

    async fn becomes(&self, presence: Presence) {
        // The sender is in `self`.
        let _ = self.0.subscribe().wait_for(|now| *now == presence).await;
    }
}

impl Planes {
    /// Starts the control plane, then the data plane that follows it. The registry lives in `data_dir`, or in a
    /// temporary folder that is removed at the end. The dashboard has a view for the lab, if there is one.
    ///
    /// # Errors
    /// When a port is taken or the folder cannot be used.
    pub(crate) async fn start(
        ports: &Ports,
        data_dir: Option<&Path>,
        lab: Option<Router>,
    ) -> Result<Self, Failure> {
        open_files::raise_limit();
        let folder = Folder::open(data_dir)?;
        let (stop_control, stop_data) = (Shutdown::new(), Shutdown::new());

        let ControlPlane { args } = from_environment(&[
            ("--listen", ports.place(CONTROL).to_string()),
            ("--store", format!("redb:{}", folder.path().join("registry.redb").display())),
        ])?;
        let mut config = args.validate().map_err(blame_environment)?;
        // It is for trying things out, on this machine: its own data plane shows nothing of itself.
        config.allow_fault_injection = true;
        config.access = control_plane::Settings::default();
        let mut site = Site { config, lab };
        let control = site.start(stop_control.clone()).await?;
        let listen = control.listen().expect("it was told to listen at an address");
        site.config.listen = Some(listen);
        let outage = Outage::new();

        match start_data(ports, listen, folder.path(), stop_data.clone()).await {
            Ok(data) => Ok(Self { control, listen, data, site, outage, stop_control, stop_data, folder }),
            Err(failure) => {
                stop_control.begin();
                // It has served nobody: what it could say of its end explains nothing.
                let _ = control.finished().await;
                Err(failure)
            }
        }
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses { proxy: self.data.listen(), control: self.listen, admin: self.data.admin_listen() }
    }

    /// What takes the control plane away, for a while, once they run.
    pub(crate) fn outage(&self) -> Outage {
        self.outage.clone()
    }

    /// Runs until the shutdown begins, or until one of them fails: then the other ends too. The data plane ends first,
    /// so that it reports to the last.
    ///
    /// # Errors
    /// What made a plane fail.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Failure> {
        let Self { control, data, site, outage, stop_control, stop_data, folder, .. } = self;
        let over = Shutdown::new();
        let data = async {
            let ended = data.finished().await;
            over.begin();
            ended
        };
        let control = async {
            let ended = keep_control(control, site, &outage, stop_control, &over).await;
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

/// Runs the control plane, which ends by `stop`, with outages between, until all of it is `over`.
async fn keep_control(
    mut control: control_plane::Running,
    site: Site,
    outage: &Outage,
    mut stop: Shutdown,
    over: &Shutdown,
) -> Result<(), Failure> {
    loop {
        let mut ended = pin!(control.finished());
        tokio::select! {
            ended = &mut ended => return ended,
            () = over.begun() => {
                stop.begin();
                return ended.await;
            }
            () = outage.becomes(Presence::Leaving) => stop.begin(),
        }
        ended.await?;
        outage.0.send_replace(Presence::Gone);
        tokio::select! {
            () = over.begun() => return Ok(()),
            () = outage.becomes(Presence::Returning) => {}
        }
        stop = Shutdown::new();
        control = site.start(stop.clone()).await?;
        outage.0.send_replace(Presence::Serving);
    }
}

async fn start_data(
    ports: &Ports,
    control: SocketAddr,
    folder: &Path,
    stop: Shutdown,
) -> Result<data_plane::Running, Failure> {
    let DataPlane { mut args } = from_environment(&[
        ("--listen", ports.place(PROXY).to_string()),
        ("--admin-listen", ports.place(ADMIN).to_string()),
        ("--control-plane", format!("http://{control}")),
        ("--node-id", NODE.to_owned()),
    ])?;
    (args.static_file, args.no_cache, args.allow_fault_injection) = (None, false, true);
    // Who tries things out wants to see who answered.
    args.debug_headers = true;
    if args.record_outcomes == 0 {
        args.record_outcomes = RECORDED_OUTCOMES;
    }
    args.cache_dir = Some(folder.join("cache"));
    data_plane::start(args.validate().map_err(blame_environment)?, stop).await
}

/// The control plane's own flags.
#[derive(Debug, Parser)]
struct ControlPlane {
    #[command(flatten)]
    args: control_plane::config::Args,
}

/// The data plane's own flags.
#[derive(Debug, Parser)]
struct DataPlane {
    #[command(flatten)]
    args: data_plane::config::Args,
}

/// A plane's flags: these, and the others from the environment or at their defaults.
fn from_environment<P: Parser>(flags: &[(&str, String)]) -> Result<P, Failure> {
    let flags = flags.iter().map(|(flag, value)| format!("{flag}={value}"));
    P::try_parse_from(std::iter::once("gwctl".to_owned()).chain(flags)).map_err(|error| {
        // clap's first line says which flag it is, and why.
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        blame_environment(line.strip_prefix("error: ").unwrap_or(line))
    })
}

/// What is given here is valid: only a variable can be at fault.
fn blame_environment(why: impl fmt::Display) -> Failure {
    Failure::usage(format!("{why} (from a GW_ variable in the environment)"))
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
