//! What most drills of several control planes stand on: an etcd of three members, control planes on it, a data plane that
//! follows any of them, and two replicas whose owners renew their leases.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use gateway_tests::{ControlPlane, DataPlane, Etcd, Load, Place, eventually, http1, load::Tally};
use tempfile::TempDir;

use super::{
    caller::{Caller, crowd},
    owner::Owner,
    writers::Promised,
};
use crate::{
    Size,
    figures::Figures,
    replica::{Posts, Replica},
    stage::SECOND,
};

/// Of the replicas. etcd counts in seconds, and takes none below two.
pub(crate) const TTL: Duration = Duration::from_secs(3);
/// Requests a second through the data plane.
const RATE: u32 = 100;

/// For so many replicas beside: the defaults are lower.
pub(crate) const ROOMY: [&str; 4] = ["--max-replicas", "1000000", "--max-replicas-per-service", "1000000"];

pub(crate) struct Cluster {
    pub(crate) etcd: Etcd,
    pub(crate) controls: Vec<ControlPlane>,
    pub(crate) data: DataPlane,
    pub(crate) owners: Vec<Owner>,
    _replicas: Vec<Replica>,
    directory: TempDir,
}

/// Where each part is.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) members: Vec<Place>,
    pub(crate) controls: Vec<Place>,
    pub(crate) data: Place,
    /// Where replicas listen.
    pub(crate) replicas: IpAddr,
}

impl Places {
    /// Three members and so many control planes on loopback.
    pub(crate) fn loopback(controls: usize) -> Self {
        Self {
            members: vec![Place::loopback(); 3],
            controls: vec![Place::loopback(); controls],
            data: Place::loopback(),
            replicas: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl Cluster {
    /// With so many control planes.
    pub(crate) async fn start(size: Size, controls: usize) -> Self {
        Self::start_in(size, Places::loopback(controls)).await
    }

    pub(crate) async fn start_in(size: Size, places: Places) -> Self {
        Self::start_with(size, places, &[]).await
    }

    /// With further flags of the control planes.
    pub(crate) async fn start_with(size: Size, places: Places, flags: &[&str]) -> Self {
        let etcd = Etcd::cluster_in(places.members).await;
        let mut controls = Vec::new();
        for place in places.controls {
            let flags = [&ROOMY[..], flags, &insecure(&place), &insecure_store(&place)].concat();
            controls.push(ControlPlane::start_in(place, etcd.store("gw"), &flags).await);
        }
        let urls: Vec<_> = controls.iter().map(ControlPlane::url).collect();
        crowd(&urls, size.crowd()).await;
        let posts = Posts::default();
        let replicas = [(); 2].map(|()| Replica::start_at(places.replicas, &posts));
        let mut owners = Vec::new();
        for (number, replica) in replicas.iter().enumerate() {
            owners.push(Owner::start(&urls, &format!("r-{number}"), replica.address(), TTL).await);
        }
        let directory = tempfile::tempdir().expect("there is a folder for temporary files");
        let data = data_plane(places.data, &urls, &directory.path().join("handover")).await;
        serves(&data).await;
        Self { etcd, controls, data, owners, _replicas: replicas.into(), directory }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.controls.iter().map(ControlPlane::url).collect()
    }

    /// Starts another data plane that takes over from the one there is, which is yielded.
    pub(crate) async fn hand_over(&mut self) -> DataPlane {
        let next = data_plane(Place::loopback(), &self.urls(), &self.directory.path().join("handover")).await;
        std::mem::replace(&mut self.data, next)
    }

    /// Steady requests for its replicas.
    pub(crate) fn load(&self) -> Load {
        Load::start(self.data.address(), "/orders/x", RATE)
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> usize {
        eventually("somebody leads", async || self.etcd.leader().ok_or_else(|| "nobody".to_owned())).await
    }

    /// How long it takes until all control planes, and the data plane, have come to what any control plane has now; `limit` if
    /// they do not come to it.
    pub(crate) async fn agree(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        let callers: Vec<_> = self.urls().iter().map(|url| Caller::new(url)).collect();
        let mut target = 0;
        for caller in &callers {
            target = target.max(caller.revision().await.unwrap_or(i64::MAX));
        }
        while began.elapsed() < limit {
            let mut lowest = snapshot_revision(self.data.admin()).await.unwrap_or(0);
            for caller in &callers {
                lowest = lowest.min(caller.revision().await.unwrap_or(0));
            }
            if lowest >= target {
                return began.elapsed();
            }
            tokio::time::sleep(SECOND / 50).await;
        }
        limit
    }

    /// Holds that no owner was told that his lease is lost.
    pub(crate) fn hold_leases(&self, figures: &mut Figures) {
        hold_leases(figures, &self.owners);
    }

    /// Holds at the end of a drill what it holds whatever was done: every control plane to what was promised, the owners' leases, and the
    /// requests.
    pub(crate) async fn hold_end(&self, figures: &mut Figures, promised: &Promised, load: Load) {
        promised.hold_answers(figures);
        for url in self.urls() {
            promised.hold(figures, &url).await;
        }
        self.hold_leases(figures);
        hold_load(figures, &load.stop().await);
    }
}

/// Holds that none of these owners was told that his lease is lost.
pub(crate) fn hold_leases(figures: &mut Figures, owners: &[Owner]) {
    let renewals = owners.iter().map(Owner::renewals).sum::<u64>();
    let lost = owners.iter().map(Owner::lost).sum();
    figures.at_most(&format!("leases of {TTL:?} lost, in {renewals} renewals"), 0, lost);
}

/// What a plane needs to serve beyond loopback.
fn insecure(place: &Place) -> Vec<&'static str> {
    if place.host().is_loopback() { Vec::new() } else { vec!["--insecure"] }
}

/// What a control plane needs to reach an etcd beyond loopback.
fn insecure_store(place: &Place) -> Vec<&'static str> {
    if place.host().is_loopback() { Vec::new() } else { vec!["--store-insecure"] }
}

async fn data_plane(place: Place, urls: &[String], socket: &Path) -> DataPlane {
    let (urls, socket) = (urls.join(","), socket.display().to_string());
    let flags = ["--control-plane", &urls, "--node-id", "dp-1", "--no-cache", "--handover-socket", &socket];
    let flags = [&flags[..], &insecure(&place)].concat();
    DataPlane::start_in(place, &flags).await
}

/// Waits until requests are answered by a replica.
pub(crate) async fn serves(data: &DataPlane) {
    eventually("requests are answered", async || {
        let answer = http1::get(data.address(), "/orders/x").await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
}

/// The revision that a data plane routes by; `None` without an answer.
async fn snapshot_revision(admin: SocketAddr) -> Option<i64> {
    let asked = async {
        let mut connection = http1::Connection::open(admin).await.ok()?;
        connection.send(http1::request(http::Method::GET, "/metrics")).await.ok()
    };
    let answer = tokio::time::timeout(2 * SECOND, asked).await.ok()??;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let line = text.lines().find(|line| line.starts_with("gateway_snapshot_revision "))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Holds that no request failed.
pub(crate) fn hold_load(figures: &mut Figures, tally: &Tally) {
    crate::endings::flawless(figures, "requests through the data plane", tally);
}
