//! Where this process listens: at sockets of its own, or at those of the process whose place it takes, once it is ready to.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use gateway_runtime::{Failure, Shutdown};
use tokio::time::{sleep, timeout};

use crate::{
    config::Config,
    discovery::{Source, View},
    handover::{Inherited, SocketKind},
    proxy::Sockets,
};

/// A snapshot from disk is enough to serve by, but the other process has a newer one: the control plane has this long to send it.
const FRESH_PATIENCE: Duration = Duration::from_secs(5);

/// All listening sockets.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) plain: Sockets,
    pub(super) tls: Option<Sockets>,
    pub(super) admin: TcpListener,
    pub(super) admin_address: SocketAddr,
}

impl Listening {
    /// Takes what is inherited at the addresses that are configured, and binds the rest.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag of an address that cannot be bound.
    pub(super) fn at(config: &Config, mut inherited: Option<&mut Inherited>) -> Result<Self, Failure> {
        let mut take = |kind: SocketKind, at: SocketAddr| {
            let is_wanted = |of: SocketKind, listener: &TcpListener| {
                let is_there =
                    |bound: SocketAddr| bound.ip() == at.ip() && [0, bound.port()].contains(&at.port());
                of == kind && listener.local_addr().is_ok_and(is_there)
            };
            inherited.as_mut().map(|inherited| inherited.take(is_wanted)).unwrap_or_default()
        };
        let mut proxy_sockets = |kind, flag, at| match Sockets::taken_over(take(kind, at)) {
            Some(sockets) => Ok(sockets),
            None => Sockets::bind(flag, at, config.workers),
        };
        let plain = proxy_sockets(SocketKind::Plain, "--listen", config.listen)?;
        let tls = config.tls.as_ref().map(|(at, _)| proxy_sockets(SocketKind::Tls, "--tls-listen", *at));
        let tls = tls.transpose()?;
        let at = config.admin_listen;
        let unbound = |error| Failure::unbound("--admin-listen", at, &error);
        let admin = match take(SocketKind::Admin, at).pop() {
            Some(admin) => admin,
            None => TcpListener::bind(at).map_err(unbound)?,
        };
        admin.set_nonblocking(true).map_err(unbound)?;
        let admin_address = admin.local_addr().map_err(unbound)?;
        Ok(Self { plain, tls, admin, admin_address })
    }

    /// All of them once more, for a process that takes over from this one.
    ///
    /// # Errors
    /// A fatal [`Failure`] when there are no descriptors left.
    pub(super) fn duplicate(&self) -> Result<Vec<(SocketKind, TcpListener)>, Failure> {
        let fatal = |error| Failure::fatal(format!("cannot keep sockets for a handover: {error}"));
        let mut all = Vec::new();
        let of = |kind, listeners: Vec<TcpListener>| listeners.into_iter().map(move |one| (kind, one));
        all.extend(of(SocketKind::Plain, self.plain.duplicate().map_err(fatal)?));
        if let Some(tls) = &self.tls {
            all.extend(of(SocketKind::Tls, tls.duplicate().map_err(fatal)?));
        }
        all.push((SocketKind::Admin, self.admin.try_clone().map_err(fatal)?));
        Ok(all)
    }
}

/// Completes when this process may take the other one's place: when it has something to route by, or when the other one is
/// gone, so that it is this one or none.
///
/// # Errors
/// A fatal [`Failure`] when that does not come within `patience`, or the shutdown does.
pub(super) async fn ready(
    inherited: &Inherited,
    view: &View,
    patience: Duration,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let mut status = view.status.clone();
    let has_snapshot = async {
        // Its owner lives at least as long as this waits.
        let fresh = status.wait_for(|status| matches!(status.source, Source::Live | Source::Static));
        if timeout(FRESH_PATIENCE, fresh).await.is_err() {
            let _ = status.wait_for(|status| status.source != Source::None).await;
        }
    };
    let pid = inherited.pid;
    tokio::select! {
        () = has_snapshot => Ok(()),
        () = inherited.ended() => {
            tracing::warn!(pid, "the other process ended before it was told to: serving in its place");
            Ok(())
        }
        () = sleep(patience) => Err(Failure::fatal(format!(
            "there was nothing to route by within --handover-timeout {}: process {pid} goes on serving",
            humantime::format_duration(patience)
        ))),
        () = shutdown.begun() => {
            Err(Failure::fatal(format!("told to end before it took over: process {pid} goes on serving")))
        }
    }
}
