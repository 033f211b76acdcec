//! A control plane on a file, a data plane that follows it, and two replicas whose owners renew their leases.

use std::path::{Path, PathBuf};

use gateway_tests::{ControlPlane, DataPlane, Load, Place};
use tempfile::TempDir;

use super::{
    caller::crowd,
    cluster::{TTL, serves},
    owner::Owner,
};
use crate::{
    figures::Figures,
    replica::{Posts, Replica},
};

const RATE: u32 = 100;

pub(crate) struct Alone {
    pub(crate) control: ControlPlane,
    pub(crate) data: DataPlane,
    pub(crate) owners: Vec<Owner>,
    _replicas: Vec<Replica>,
    directory: TempDir,
}

impl Alone {
    /// With so many replicas beside, and these flags.
    pub(crate) async fn start(crowd: usize, flags: &[&str]) -> Self {
        Self::start_in(crowd, flags, |_| Place::loopback()).await
    }

    /// The same with the control plane at a place, which is made for the folder that its file is in.
    pub(crate) async fn start_in(count: usize, flags: &[&str], place: impl FnOnce(&Path) -> Place) -> Self {
        let directory = tempfile::tempdir().expect("there is a folder for temporary files");
        let folder = directory.path().join("store");
        std::fs::create_dir(&folder).expect("the folder can be written");
        let store = format!("redb:{}", folder.join("registry.redb").display());
        let control = ControlPlane::start_in(place(&folder), store, flags).await;
        let urls = [control.url()];
        crowd(&urls, count).await;
        let posts = Posts::default();
        let replicas = [(); 2].map(|()| Replica::start(&posts));
        let mut owners = Vec::new();
        for (number, replica) in replicas.iter().enumerate() {
            owners.push(Owner::start(&urls, &format!("r-{number}"), replica.address(), TTL).await);
        }
        let cache = directory.path().join("cache").display().to_string();
        let data =
            DataPlane::start(&["--control-plane", &urls[0], "--node-id", "dp-1", "--cache-dir", &cache])
                .await;
        serves(&data).await;
        Self { control, data, owners, _replicas: replicas.into(), directory }
    }

    /// Where the control plane's file is.
    pub(crate) fn folder(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Steady requests for its replicas.
    pub(crate) fn load(&self) -> Load {
        Load::start(self.data.address(), "/orders/x", RATE)
    }

    /// Holds that no owner was told that his lease is lost.
    pub(crate) fn hold_leases(&self, figures: &mut Figures) {
        super::cluster::hold_leases(figures, &self.owners);
    }
}
