//! Where this process listens: at sockets of its own, or at those of the process whose place it takes, once it is ready to.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use gateway_runtime::{Failure, Shutdown, passed::Passed};
use tokio::time::{sleep, timeout};

use crate::{
    config::Config,
    discovery::{Source, View},
    handover::{Inherited, SocketKind, not_waited_for},
    proxy::Sockets,
};

/// A snapshot from disk is enough to serve by, but the other process has a newer one: the control plane has this long to send it.
const FRESH_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether an address is free.
const PAUSE: Duration = Duration::from_millis(100);
/// What the other process has said while this one stood still is known after so long.
const A_LOOK: Duration = Duration::from_millis(10);

/// All listening sockets.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) plain: Sockets,
    pub(super) tls: Option<Sockets>,
    pub(super) admin: TcpListener,
    pub(super) admin_address: SocketAddr,
}

impl Listening {
    /// Takes what is inherited at the addresses that are configured, then what was passed, and binds the rest.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag of an address that cannot be bound, or a socket that is for nothing here.
    pub(super) fn at(
        config: &Config,
        mut inherited: Option<&mut Inherited>,
        mut passed: Passed,
    ) -> Result<Self, Failure> {
        let mut take = |kind: SocketKind, at: SocketAddr| {
            let is_wanted = |of: SocketKind, listener: &TcpListener| {
                let is_there =
                    |bound: SocketAddr| bound.ip() == at.ip() && [0, bound.port()].contains(&at.port());
                of == kind && listener.local_addr().is_ok_and(is_there)
            };
            inherited.as_mut().map(|inherited| inherited.take(is_wanted)).unwrap_or_default()
        };
        let mut proxy_sockets = |kind, flag, at, passed| match Sockets::taken_over(take(kind, at)) {
            Some(sockets) => Ok(sockets),
            None => match Sockets::passed(passed) {
                Some(sockets) => Ok(sockets),
                None => Sockets::bind(flag, at, config.workers),
            },
        };
        let plain = proxy_sockets(SocketKind::Plain, "--listen", config.listen, passed.take("http"))?;
        let tls = match &config.tls {
            Some((at, _)) => Some(proxy_sockets(SocketKind::Tls, "--tls-listen", *at, passed.take("https"))?),
            None => None,
        };
        let at = config.admin_listen;
        let unbound = |error| Failure::unbound("--admin-listen", at, &error);
        let mut passed_admin = passed.take("admin");
        let admin = match take(SocketKind::Admin, at).pop().or_else(|| passed_admin.pop()) {
            Some(admin) => admin,
            None => TcpListener::bind(at).map_err(unbound)?,
        };
        passed.expect_none("http, admin, or with --tls-listen https")?;
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

/// Completes when nobody else has the admin side's address: a process that ends by itself hands nothing over any more, and has it
/// to its very end. Waits for that no longer than `patience`; who has it then is told where it is bound.
///
/// # Errors
/// A fatal [`Failure`] when this process is told to end meanwhile.
pub(super) async fn vacated(at: SocketAddr, patience: Duration, shutdown: &Shutdown) -> Result<(), Failure> {
    let is_taken = || TcpListener::bind(at).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    if !is_taken() {
        return Ok(());
    }
    tracing::warn!(
        admin_listen = %at, within = ?patience,
        "another process has this address and hands nothing over, as one that is ending: waiting for its end"
    );
    let end = async {
        while is_taken() {
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        _ = timeout(patience, end) => Ok(()),
        () = shutdown.begun() => Err(Failure::fatal(format!(
            "told to end while it waited for the process that has --admin-listen {at}"
        ))),
    }
}

/// Completes when this process may take the other one's place: when it has something to route by, or when the other one is
/// gone, so that it is this one or none.
///
/// # Errors
/// A fatal [`Failure`] when that does not come within `patience`, or the shutdown does, or the other one does not wait any more.
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
        () = has_snapshot => {}
        ended = inherited.ended() => {
            if let Some(why) = ended {
                return Err(not_waited_for(pid, &why));
            }
            tracing::warn!(pid, "the other process ended before it was told to: serving in its place");
            return Ok(());
        }
        () = sleep(patience) => return Err(Failure::fatal(format!(
            "there was nothing to route by within --handover-timeout {}: process {pid} goes on serving",
            humantime::format_duration(patience)
        ))),
        () = shutdown.begun() => {
            return Err(Failure::fatal(format!("told to end before it took over: process {pid} goes on serving")));
        }
    }
    // This process may have been stopped for long, in which both came to be.
    match timeout(A_LOOK, inherited.ended()).await {
        Ok(Some(why)) => Err(not_waited_for(pid, &why)),
        Ok(None) | Err(_) => Ok(()),
    }
}
