//! An etcd of a test's own: one member or several, on loopback, in a folder that goes with it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
};

use http::Method;

use crate::{Place, Process, bounded, eventually, http1, tools};

/// A cluster, killed when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    files: tempfile::TempDir,
    flags: Vec<String>,
    scheme: &'static str,
}

#[derive(Debug)]
struct Member {
    place: Place,
    client: SocketAddr,
    peer: SocketAddr,
    process: Process,
}

impl Etcd {
    /// One member.
    ///
    /// # Panics
    /// When etcd is not installed, or does not start.
    pub async fn start() -> Self {
        Self::cluster(1).await
    }

    /// So many members.
    pub async fn cluster(size: usize) -> Self {
        Self::cluster_in(vec![Place::loopback(); size]).await
    }

    /// A member at each of these places. Where that is not loopback, it has a network of its own.
    pub async fn cluster_in(places: Vec<Place>) -> Self {
        let etcd = Self::spawn(places, "http", &[]);
        etcd.answers().await;
        etcd
    }

    /// One member that speaks TLS, by these further flags. It is not waited for.
    pub fn encrypted(flags: &[&str]) -> Self {
        Self::spawn(vec![Place::loopback()], "https", flags)
    }

    fn spawn(places: Vec<Place>, scheme: &'static str, flags: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("a temporary folder can be made");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let addresses = addresses(&places);
        let peers: Vec<_> = addresses.iter().map(|[_, peer]| *peer).collect();
        let members =
            places.into_iter().zip(addresses).enumerate().map(|(number, (place, [client, peer]))| {
                let command = command(number, client, &peers, &files, scheme, &flags);
                let process = Process::spawn("etcd", &mut place.command(&command));
                Member { place, client, peer, process }
            });
        Self { members: members.collect(), files, flags, scheme }
    }

    /// Waits until all members say that there is a quorum.
    pub async fn answers(&self) {
        for member in &self.members {
            eventually("etcd has a quorum", async || {
                let asked = http1::request(Method::GET, "/health");
                let health = http1::Connection::open(member.client).await?.send(asked).await?;
                let said = String::from_utf8_lossy(health.body()).into_owned();
                if said.contains("true") { Ok(()) } else { Err(said) }
            })
            .await;
        }
    }

    /// What `--store` takes, with this prefix.
    pub fn store(&self, prefix: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(|member| member.client.to_string()).collect();
        format!("etcd://{}/{prefix}", hosts.join(","))
    }

    /// What `--store` takes, for somebody who knows one member only.
    pub fn store_at(&self, member: usize, prefix: &str) -> String {
        format!("etcd://{}/{prefix}", self.members[member].client)
    }

    /// Where a member is asked.
    pub fn url(&self, member: usize) -> String {
        format!("{}://{}", self.scheme, self.members[member].client)
    }

    /// Where a member keeps what it has.
    pub fn folder(&self, member: usize) -> PathBuf {
        folder(&self.files, member)
    }

    /// Kills a member.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process.kill();
    }

    /// Starts a member again that was killed, on what it had.
    pub fn restart(&mut self, member: usize) {
        let peers: Vec<_> = self.members.iter().map(|member| member.peer).collect();
        let Member { place, client, .. } = &self.members[member];
        let command = command(member, *client, &peers, &self.files, self.scheme, &self.flags);
        self.members[member].process = Process::spawn("etcd", &mut place.command(&command));
    }

    /// How many members there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The process of a member.
    pub fn process(&mut self, member: usize) -> &mut Process {
        &mut self.members[member].process
    }

    /// What etcdctl says.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, args: &[&str]) -> String {
        let endpoint = |member: &Member| format!("{}://{}", self.scheme, member.client);
        let endpoints = self.members.iter().map(endpoint).collect::<Vec<_>>().join(",");
        let mut command = bounded(tools::etcdctl());
        let output = command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints]).args(args).output();
        let output = output.expect("etcdctl can be started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// How many keys begin with this; `None`: it does not say.
    pub fn count(&self, prefix: &str) -> Option<usize> {
        let mut command = bounded(tools::etcdctl());
        let endpoint = self.url(0);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "get", prefix]);
        // Of the keys themselves, one is enough: it counts all of them.
        let output = command.args(["--prefix", "--keys-only", "--limit=1", "-w", "json"]).output().ok()?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        said["header"].is_object().then(|| said["count"].as_u64().unwrap_or(0))?.try_into().ok()
    }

    /// etcd's revision.
    pub fn revision(&self) -> i64 {
        let said = self.ctl(&["get", "none", "-w", "json"]);
        let said: serde_json::Value = serde_json::from_str(&said).expect("it was asked for JSON");
        said["header"]["revision"].as_i64().expect("etcd says its revision")
    }

    /// The member that leads, if one does.
    pub fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|member| self.leads(*member).unwrap_or(false))
    }

    /// `None`: it does not say.
    fn leads(&self, member: usize) -> Option<bool> {
        let endpoint = self.url(member);
        let mut command = bounded(tools::etcdctl());
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]);
        let said = command.args(["endpoint", "status", "-w", "json"]).output().ok()?.stdout;
        let said: serde_json::Value = serde_json::from_slice(&said).ok()?;
        let status = &said.get(0)?["Status"];
        Some(status["leader"] == status["header"]["member_id"])
    }
}

fn command(
    number: usize,
    client: SocketAddr,
    peers: &[SocketAddr],
    files: &tempfile::TempDir,
    scheme: &str,
    flags: &[String],
) -> Command {
    let (client, peer) = (format!("{scheme}://{client}"), format!("http://{}", peers[number]));
    let cluster: Vec<_> =
        peers.iter().enumerate().map(|(number, peer)| format!("m{number}=http://{peer}")).collect();
    let mut command = Command::new(tools::etcd());
    command.args(["--name", &format!("m{number}")]);
    command.arg("--data-dir").arg(folder(files, number));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &cluster.join(","), "--logger", "zap", "--log-level", "error"]);
    command.args(flags);
    command
}

fn folder(files: &tempfile::TempDir, member: usize) -> PathBuf {
    files.path().join(format!("m{member}"))
}

/// Where members speak with clients, and with each other. etcd cannot say which ports it took, so those that are free now are
/// named, and somebody else may be faster: seldom enough. In a network of its own, nobody else is.
fn addresses(places: &[Place]) -> Vec<[SocketAddr; 2]> {
    // All of them are held until the last one is found, so that no two are the same.
    let mut held = Vec::new();
    let mut free = |host: IpAddr| {
        let listener = TcpListener::bind((host, 0)).expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        held.push(listener);
        address
    };
    let of = |place: &Place| match place.host() {
        host if host.is_loopback() => [free(host), free(host)],
        host => [2379, 2380].map(|port| SocketAddr::new(host, port)),
    };
    places.iter().map(of).collect()
}
