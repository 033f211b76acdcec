//! A network of its own, in which packets can be dropped instead of refused.
//!
//! The drill's program starts itself again in a network namespace that has a loopback device and nothing else, with a filter on
//! it that drops what it is told to (nftables). Processes that it starts there are in it, too. Nothing outside is touched, and
//! all of it is gone with the last process inside.

use std::{
    env, fs,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use gateway_tests::bounded;

/// In the environment of a program that has been started in a network of its own: the file for what it finds there.
const INSIDE: &str = "GATEWAY_DRILL_NETWORK";

const FILTER: &str = "table inet drill {
    set deaf { type inet_service; }
    set mute { type inet_service; }
    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport @deaf drop
        tcp sport @mute drop
    }
}
";

/// Whether this program is in one.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Leaves what was found in it to the program that has started this one.
pub(crate) fn leave(found: &str) {
    let file = env::var_os(INSIDE).expect("only in a network of its own");
    fs::write(file, found).expect("the file of who has started this");
}

/// Runs this program again in a network of its own, with these arguments. Yields what it left: nothing where it broke off.
///
/// # Errors
/// Why there can be none on this machine.
pub(crate) fn enter(args: &[String]) -> Result<String, String> {
    let is_root = read("id", &["-u"])?.trim() == "0";
    let unshare: &[&str] = if is_root { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
    // Whether all that is needed is there and allowed.
    let tried = format!("ip link set lo up && printf '%s' '{FILTER}' | nft -f -");
    let tried = Command::new("unshare").args(unshare).args(["sh", "-c", &tried]).output();
    let tried = tried.map_err(|error| format!("unshare cannot be started: {error}"))?;
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        return Err(format!("no network of its own: {}", why.lines().next().unwrap_or("refused").trim()));
    }
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let found =
        tempfile::NamedTempFile::new().map_err(|error| format!("no file for what is found: {error}"))?;
    let started =
        Command::new("unshare").args(unshare).arg(own).args(args).env(INSIDE, found.path()).status();
    started.map_err(|error| format!("unshare cannot be started: {error}"))?;
    fs::read_to_string(found.path()).map_err(|error| format!("what was found cannot be read: {error}"))
}

/// The filter of the network that this program is in. It drops nothing yet.
#[derive(Debug)]
pub(crate) struct Filter(());

impl Filter {
    pub(crate) fn new() -> Self {
        assert!(is_inside(), "only in a network of its own");
        read("ip", &["link", "set", "lo", "up"]).expect("it was tried before");
        nft(FILTER);
        Self(())
    }

    /// Drops all that comes from these ports, or goes there.
    pub(crate) fn drops(&self, ports: &[u16]) {
        self.deafens(ports);
        self.silences(ports);
    }

    /// Drops all that goes to these ports.
    pub(crate) fn deafens(&self, ports: &[u16]) {
        add("deaf", ports);
    }

    /// Drops all that comes from these ports.
    pub(crate) fn silences(&self, ports: &[u16]) {
        add("mute", ports);
    }

    /// Drops nothing any more.
    pub(crate) fn heals(&self) {
        nft("flush set inet drill deaf\nflush set inet drill mute\n");
    }
}

fn add(set: &str, ports: &[u16]) {
    if !ports.is_empty() {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        nft(&format!("add element inet drill {set} {{ {} }}\n", ports.join(", ")));
    }
}

/// The ports of those that have a connection to `server`, as far as both sides of this machine know.
pub(crate) fn connected_to(server: SocketAddr) -> Vec<u16> {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string("/proc/self/net/tcp").expect("Linux has it");
    let port = |field: &str| u16::from_str_radix(field.rsplit_once(':')?.1, 16).ok();
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, state, ..] = fields[..] else { return None };
        (state == ESTABLISHED && port(remote)? == server.port()).then(|| port(local)).flatten()
    });
    rows.collect()
}

/// Has nftables do this, in the network that this program is in.
pub(crate) fn nft(script: &str) {
    let mut child = bounded("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("it was tried");
    child.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "nft: {script}");
}

fn read(program: &str, args: &[&str]) -> Result<String, String> {
    let output = bounded(program).args(args).output();
    let output = output.map_err(|error| format!("{program} cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
