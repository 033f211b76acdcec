//! A data plane with three replicas, by a static list, and what drills ask of it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use gateway_tests::{DataPlane, http1};
use tempfile::TempDir;

use crate::replica::{Posts, Replica};

/// What drills run with, beside the defaults: one attempt may take a second, and a breaker opens for 15 % of
/// failures within a second.
const POLICY: &str = "[service.policy.timeout]\nper_try = \"1s\"\n\
                      [service.policy.breaker]\nfailure_ratio = 0.15\nmin_request_count = 10\nwindow = \"1s\"\n";

const LIST: &str = "services.toml";

pub(crate) struct Stage {
    pub(crate) gateway: DataPlane,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) posts: Posts,
    /// The file with its services.
    pub(crate) list: PathBuf,
    _directory: TempDir,
}

impl Stage {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::by(POLICY, flags).await
    }

    /// By the default policy.
    pub(crate) async fn by_default() -> Self {
        Self::by("", &[]).await
    }

    async fn by(policy: &str, flags: &[&str]) -> Self {
        let posts = Posts::default();
        let replicas: Vec<_> = (0..3).map(|_| Replica::start(&posts)).collect();
        let addresses: Vec<_> = replicas.iter().map(Replica::address).collect();
        let (gateway, directory) = gateway_by(&addresses, policy, flags).await;
        let list = directory.path().join(LIST);
        Self { gateway, replicas, posts, list, _directory: directory }
    }

    pub(crate) fn proxy(&self) -> SocketAddr {
        self.gateway.address()
    }

    pub(crate) fn pid(&mut self) -> u32 {
        self.gateway.process().pid()
    }

    /// The sum of a counter or gauge over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        metric(self.gateway.admin(), name).await
    }

    /// How often breakers have opened.
    pub(crate) async fn trips(&self) -> u64 {
        let answer = http1::get(self.gateway.admin(), "/breakers").await;
        let list: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
        let rows = list["breakers"].as_array().cloned().unwrap_or_default();
        let trips =
            |row: &serde_json::Value| row["tripCount"].as_u64().or(row["tripCount"].as_str()?.parse().ok());
        rows.iter().filter_map(trips).sum()
    }
}

pub(crate) async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let text = http1::get(admin, "/metrics").await;
    let text = String::from_utf8_lossy(text.body()).into_owned();
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A data plane with these replicas of `orders`, by the policy of drills.
pub(crate) async fn gateway(replicas: &[SocketAddr], flags: &[&str]) -> (DataPlane, TempDir) {
    gateway_by(replicas, POLICY, flags).await
}

/// The same by another policy, in the words of a static list; an empty one is the default.
async fn gateway_by(replicas: &[SocketAddr], policy: &str, flags: &[&str]) -> (DataPlane, TempDir) {
    let directory = tempfile::tempdir().expect("there is a folder for temporary files");
    let path = directory.path().join(LIST);
    let replicas: Vec<_> = replicas.iter().map(|address| format!("{:?}", address.to_string())).collect();
    let text = format!("[[service]]\nname = \"orders\"\nreplicas = [{}]\n{policy}", replicas.join(", "));
    std::fs::write(&path, text).expect("the folder can be written");
    let path = path.display().to_string();
    let gateway = DataPlane::start(&[&["--static", &path][..], flags].concat()).await;
    (gateway, directory)
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
