//! What the control plane is started with: flags as given, and the checked form of them.

use std::{net::SocketAddr, path::PathBuf};

use clap::builder::FalseyValueParser;
use gateway_runtime::Failure;

use crate::{
    auth::{Settings, SettingsArgs},
    listeners::{ListenAt, SocketPlace},
    peers::{self, PeerArgs},
    registry::Limits,
    store::{EtcdFiles, StoreLocation},
};

/// Flags of the control plane, each with its environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where gRPC, HTTP and metrics are served: an IP:PORT, of which port 0 is a free one, a unix:///PATH for whoever is on this
    /// machine and may use that socket, or one of each
    #[arg(
        long,
        env = "GW_LISTEN",
        default_value = "127.0.0.1:7400",
        value_delimiter = ',',
        value_name = "IP:PORT|unix:///PATH,…"
    )]
    pub listen: Vec<ListenAt>,

    /// Who may connect to the Unix socket: the mode of its file, in octal, such as 0660 for its group, too
    #[arg(long, env = "GW_SOCKET_MODE", default_value = "0600", value_name = "MODE", value_parser = parse_mode)]
    pub socket_mode: u32,

    /// Where registrations are kept: redb:PATH (a file, made when missing; one control plane at a time),
    /// etcd://HOST:PORT,HOST:PORT/PREFIX (any number of control planes; USER@HOST with a password) or memory: (gone with the
    /// process)
    #[arg(long, env = "GW_STORE", default_value = "redb:gateway.redb", value_name = "STORE")]
    pub store: String,

    /// What goes with an etcd.
    #[command(flatten)]
    pub store_flags: StoreFlags,

    /// How many replicas may be registered in all, 1..=10000000, those that are LOST among them
    #[arg(long, env = "GW_MAX_REPLICAS", default_value_t = 100_000, value_name = "N")]
    pub max_replicas: usize,

    /// How many replicas one service may have, 1..=10000000; those that are LOST leave room for as many others
    #[arg(long, env = "GW_MAX_REPLICAS_PER_SERVICE", default_value_t = 10_000, value_name = "N")]
    pub max_replicas_per_service: usize,

    /// How many data planes are followed and remembered, 1..=100000
    #[arg(long, env = "GW_MAX_NODES", default_value_t = 1000, value_name = "N")]
    pub max_nodes: usize,

    /// Snapshot streams of data planes that begin in a second, evenly, 1..=100000, where all of them come back at once; 0: as they come.
    /// None is kept waiting for longer than 8 s: for so many to come evenly, it takes an eighth of their number at least
    #[arg(long, env = "GW_SNAPSHOT_STREAM_RATE", default_value_t = 0, value_name = "N")]
    pub snapshot_stream_rate: u32,

    /// How many connections are open at once, 1..=1000000; more wait to be accepted
    #[arg(long, env = "GW_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub max_connections: usize,

    /// How many changes may wait to be made durable, 1..=1000000; more are refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "GW_QUEUE_LENGTH", default_value_t = 4096, value_name = "N")]
    pub queue_length: usize,

    /// Names that HTTP callers may use for this server besides IP addresses, localhost and names without a dot: NAME,
    /// .SUFFIX for all below it, or * for any; may be repeated. Others may be a web page's that was made to lead here
    #[arg(long = "allowed-host", env = "GW_ALLOWED_HOSTS", value_name = "NAME", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,

    /// Let policies inject faults into requests on purpose, each for 24h at most. Data planes need the same flag
    #[arg(long, env = "GW_ALLOW_FAULT_INJECTION", value_parser = FalseyValueParser::new())]
    pub allow_fault_injection: bool,

    /// Let web pages of this server, its dashboard, change things although it listens beyond this machine: whoever
    /// reaches it can. Programs always can
    #[arg(long, env = "GW_ALLOW_DASHBOARD_WRITES", value_parser = FalseyValueParser::new())]
    pub allow_dashboard_writes: bool,

    /// Who gets in, and what he may do.
    #[command(flatten)]
    pub access: SettingsArgs,

    /// The other control planes of the same registry.
    #[command(flatten)]
    pub peers: PeerArgs,
}

/// Flags that go with a store in an etcd, each with its environment variable.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreFlags {
    /// Whom to believe that it is etcd: certificates of authorities in PEM. With this or a certificate of our own, the
    /// connection is encrypted
    #[arg(long, env = "GW_STORE_TLS_CA", value_name = "FILE")]
    pub store_tls_ca: Option<PathBuf>,

    /// The certificate chain in PEM that etcd is shown
    #[arg(long, env = "GW_STORE_TLS_CERT", value_name = "FILE", requires = "store_tls_key")]
    pub store_tls_cert: Option<PathBuf>,

    /// The key in PEM of that certificate
    #[arg(long, env = "GW_STORE_TLS_KEY", value_name = "FILE", requires = "store_tls_cert")]
    pub store_tls_key: Option<PathBuf>,

    /// A file that holds the password of the user that --store names, and nothing else
    #[arg(long, env = "GW_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub store_password_file: Option<PathBuf>,

    /// Speak in clear text to an etcd beyond this machine: whoever is on the way reads the password and what proves ownership,
    /// and may change what is registered
    #[arg(long, env = "GW_STORE_INSECURE", value_parser = FalseyValueParser::new())]
    pub store_insecure: bool,
}

impl StoreFlags {
    /// Whether nobody on the way to the store can read what is said, or say something else, unless that is what somebody wants.
    ///
    /// # Errors
    /// What is reached in clear text, and what to set.
    pub fn check_way(&self, store: &StoreLocation) -> Result<(), String> {
        match store {
            StoreLocation::Etcd(etcd) if !self.store_insecure => etcd.check_way(&self.files()),
            _ => Ok(()),
        }
    }

    /// The files that they name.
    pub fn files(&self) -> EtcdFiles {
        EtcdFiles {
            ca: self.store_tls_ca.clone(),
            identity: self.store_tls_cert.clone().zip(self.store_tls_key.clone()),
            password: self.store_password_file.clone(),
        }
    }
}

/// A configuration that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to serve. Here, at a socket, or at both.
    pub listen: Option<SocketAddr>,
    /// The Unix socket.
    pub socket: Option<SocketPlace>,
    /// Where registrations are kept.
    pub store: StoreLocation,
    /// What goes with it, if it is an etcd.
    pub store_files: EtcdFiles,
    /// How many replicas are taken.
    pub limits: Limits,
    /// How many data planes are followed and remembered.
    pub max_nodes: usize,
    /// Snapshot streams of data planes that begin in a second, evenly; 0: as they come.
    pub snapshot_stream_rate: u32,
    /// How many connections are open at once.
    pub max_connections: usize,
    /// How many changes may wait.
    pub queue_length: usize,
    /// Names that HTTP callers may use besides those that are nobody else's: lower case, `.suffix` for all below it,
    /// `*` for any.
    pub allowed_hosts: Vec<String>,
    /// Whether policies may inject faults.
    pub allow_fault_injection: bool,
    /// Whether web pages may change things where the listener is not on loopback.
    pub allow_dashboard_writes: bool,
    /// Who gets in, and what he may do.
    pub access: Settings,
    /// The other control planes of the same registry.
    pub peers: peers::Settings,
}

impl Args {
    /// Checks the flags.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag and what is allowed.
    pub fn validate(self) -> Result<Config, Failure> {
        let store = self.store.parse().map_err(|why: String| Failure::usage(told(&self.store, &why)))?;
        let store_files = self.store_flags.files();
        check_store(&store, &store_files)?;
        self.store_flags.check_way(&store).map_err(Failure::usage)?;
        // The upper bounds are those of what holds them: a semaphore, a channel, memory.
        check("--max-replicas", self.max_replicas, 10_000_000)?;
        check("--max-replicas-per-service", self.max_replicas_per_service, 10_000_000)?;
        check("--max-nodes", self.max_nodes, 100_000)?;
        if self.snapshot_stream_rate > 0 {
            check("--snapshot-stream-rate", self.snapshot_stream_rate as usize, 100_000)?;
        }
        check("--max-connections", self.max_connections, 1_000_000)?;
        check("--queue-length", self.queue_length, 1_000_000)?;
        let (listen, socket) = places(&self.listen, self.socket_mode)?;
        Ok(Config {
            listen,
            socket,
            store,
            store_files,
            limits: Limits {
                replicas: self.max_replicas,
                replicas_per_service: self.max_replicas_per_service,
            },
            max_nodes: self.max_nodes,
            snapshot_stream_rate: self.snapshot_stream_rate,
            max_connections: self.max_connections,
            queue_length: self.queue_length,
            allowed_hosts: self
                .allowed_hosts
                .iter()
                .map(|name| check_host(name))
                .collect::<Result<_, _>>()?,
            allow_fault_injection: self.allow_fault_injection,
            allow_dashboard_writes: self.allow_dashboard_writes,
            peers: self.peers.validate(self.access.tls_cert.is_some())?,
            access: self.access.validate()?,
        })
    }
}

impl Default for Config {
    /// The flags' defaults, whatever the environment says.
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 7400))),
            socket: None,
            store: StoreLocation::Redb("gateway.redb".into()),
            store_files: EtcdFiles::default(),
            limits: Limits { replicas: 100_000, replicas_per_service: 10_000 },
            max_nodes: 1000,
            snapshot_stream_rate: 0,
            max_connections: 10_000,
            queue_length: 4096,
            allowed_hosts: Vec::new(),
            allow_fault_injection: false,
            allow_dashboard_writes: false,
            access: Settings::default(),
            peers: peers::Settings::default(),
        }
    }
}

impl Config {
    /// Whether it may serve where it says.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flags to set.
    pub(crate) fn check_listeners(&self) -> Result<(), Failure> {
        self.check_socket()?;
        match (self.listen, &self.socket) {
            (Some(listen), _) => self.check_listener("--listen", listen),
            (None, Some(socket)) if matches!(self.store, StoreLocation::Etcd(_)) => {
                Err(Failure::usage(format!(
                    "--listen {socket} is reached on this machine only, and the other control planes on this --store have to reach \
                     this one: add an IP:PORT to --listen"
                )))
            }
            (None, _) => Ok(()),
        }
    }

    /// Whether anybody could be known at the Unix socket, if there is one.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag to set.
    pub(crate) fn check_socket(&self) -> Result<(), Failure> {
        match self.socket.as_ref().filter(|_| self.access.asks_for_certificates_only()) {
            Some(socket) => Err(Failure::usage(format!(
                "--listen {socket} needs --auth-file beside --tls-client-ca: no certificate can be shown there, so nobody would be known"
            ))),
            None => Ok(()),
        }
    }

    /// Whether it may serve at `listen`, to which `what` leads: `--listen`, or a socket that was passed.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flags to set.
    pub(crate) fn check_listener(&self, what: &str, listen: SocketAddr) -> Result<(), Failure> {
        self.access.check(what, listen)?;
        match self.store {
            // Those who share it learn from it where the others are.
            StoreLocation::Etcd(_) => self.peers.check_found(what, listen),
            StoreLocation::Redb(_) | StoreLocation::Memory => Ok(()),
        }
    }
}

/// One of each kind at most.
fn places(listen: &[ListenAt], mode: u32) -> Result<(Option<SocketAddr>, Option<SocketPlace>), Failure> {
    let (mut address, mut socket) = (None, None);
    for place in listen {
        let before = match place {
            ListenAt::Address(at) => address.replace(*at).is_some(),
            ListenAt::Socket(path) => socket.replace(SocketPlace { path: path.clone(), mode }).is_some(),
        };
        if before {
            return Err(Failure::usage("--listen takes one IP:PORT and one unix:///PATH at most"));
        }
    }
    Ok((address, socket))
}

/// Reads permission bits. Whoever owns the socket may use it, whatever he writes: else he has mistyped something.
fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & 0o600 == 0o600 && mode <= 0o777 => Ok(mode),
        _ => Err("is no mode of a socket in octal, such as 0600 or 0660".to_owned()),
    }
}

/// What is wrong with the location of a store, which may hold a password.
fn told(store: &str, why: &str) -> String {
    match store.rsplit_once('@') {
        Some((_, hosts)) => format!("--store \"etcd://…@{hosts}\" {why}"),
        None => format!("--store {store:?} {why}"),
    }
}

/// Whether the files that go with a store are of any use to it.
fn check_store(store: &StoreLocation, files: &EtcdFiles) -> Result<(), Failure> {
    match store {
        StoreLocation::Etcd(etcd) => etcd.check(files).map_err(Failure::usage),
        _ if *files == EtcdFiles::default() => Ok(()),
        _ => Err(Failure::usage(format!(
            "--store {store} needs no certificates and no password: --store-tls-* and --store-password-file are for etcd://"
        ))),
    }
}

fn check(flag: &str, value: usize, max: usize) -> Result<(), Failure> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(Failure::usage(format!("{flag} {value} is not in 1..={max}")))
}

/// A name without scheme, port and path; what is more would never match.
fn check_host(name: &str) -> Result<String, Failure> {
    let labels = name.strip_prefix('.').unwrap_or(name);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name == "*" || (!labels.is_empty() && labels.chars().all(is_name)) {
        return Ok(name.to_ascii_lowercase());
    }
    Err(Failure::usage(format!("--allowed-host {name:?} is not NAME, .SUFFIX or *, without scheme and port")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn validate(flags: &[&str]) -> Result<Config, Failure> {
        let flags = std::iter::once(&"gw-control-plane").chain(flags);
        Program::try_parse_from(flags).unwrap().args.validate()
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        assert_eq!(validate(&[]), Ok(Config::default()));
    }

    #[test]
    fn hosts_may_be_repeated_or_listed() {
        let config =
            validate(&["--allowed-host", "GW.example.com,.svc.cluster.local", "--allowed-host", "*"])
                .unwrap();
        assert_eq!(config.allowed_hosts, ["gw.example.com", ".svc.cluster.local", "*"]);
    }

    #[test]
    fn a_bad_value_is_refused_by_the_name_of_its_flag() {
        for (flags, message) in [
            (
                ["--store", "etcd://a"],
                "--store \"etcd://a\" needs a prefix for its keys, e.g. etcd://127.0.0.1:2379/gateway",
            ),
            (
                ["--allowed-host", "http://gw"],
                "--allowed-host \"http://gw\" is not NAME, .SUFFIX or *, without scheme and port",
            ),
            (["--max-nodes", "0"], "--max-nodes 0 is not in 1..=100000"),
            (["--snapshot-stream-rate", "100001"], "--snapshot-stream-rate 100001 is not in 1..=100000"),
            (["--queue-length", "9999999"], "--queue-length 9999999 is not in 1..=1000000"),
        ] {
            let failure = validate(&flags).unwrap_err();
            assert_eq!((failure.to_string().as_str(), failure.code()), (message, 2));
        }
    }

    #[test]
    fn a_password_in_the_stores_location_is_refused_and_not_repeated() {
        let failure = validate(&["--store", "etcd://gw:secret@a/gw"]).unwrap_err();
        assert!(failure.to_string().contains("--store-password-file"), "{failure}");
        assert!(!failure.to_string().contains("secret"), "{failure}");
    }

    #[test]
    fn files_that_no_store_needs_are_refused() {
        for flags in [
            &["--store", "memory:", "--store-password-file", "x"][..],
            &["--store", "redb:x", "--store-tls-ca", "x"],
            &["--store", "etcd://a/gw", "--store-password-file", "x"],
            &["--store", "etcd://gw@a/gw"],
        ] {
            assert_eq!(validate(flags).unwrap_err().code(), 2, "{flags:?}");
        }
        assert!(validate(&["--store", "etcd://gw@localhost/gw", "--store-password-file", "x"]).is_ok());
    }

    #[test]
    fn an_etcd_beyond_this_machine_is_spoken_to_in_tls_unless_somebody_says_that_it_need_not_be() {
        for store in
            ["etcd://gw@127.0.0.1,10.0.0.5/gw", "etcd://gw@etcd-0.example:2379/gw", "etcd://gw@[fe80::1]/gw"]
        {
            let flags = ["--store", store, "--store-password-file", "x"];
            let refused = validate(&flags).unwrap_err();
            assert!(refused.to_string().contains("--store-tls-ca"), "{refused}");
            assert!(refused.to_string().contains("--store-insecure"), "{refused}");
            assert_eq!(refused.code(), 2);
            let served = validate(&[&flags[..], &["--insecure"]].concat());
            assert_eq!(served, Err(refused), "who opens the door of this one opens no way to another");
            for way in [&["--store-insecure"][..], &["--store-tls-ca", "ca.pem"]] {
                assert!(validate(&[&flags[..], way].concat()).is_ok(), "{store} {way:?}");
            }
        }
        assert!(validate(&["--store", "etcd://a/gw"]).is_err(), "what renews a lease is no less a secret");
        for store in ["etcd://127.0.0.1/gw", "etcd://[::1]:1,localhost:2/gw"] {
            assert!(validate(&["--store", store]).is_ok(), "{store}");
        }
    }

    #[test]
    fn on_a_store_that_others_share_all_addresses_are_no_place_to_be_found_at() {
        let listen = ["--insecure", "--store-insecure", "--listen", "0.0.0.0:7400"];
        let check = |flags: &[&str]| {
            let config = validate(&[&listen[..], flags].concat()).unwrap();
            config.check_listeners()
        };
        let refused = check(&["--store", "etcd://a/gw"]).unwrap_err();
        assert!(refused.to_string().contains("set --advertise HOST:PORT"), "{refused}");
        assert_eq!(check(&["--store", "etcd://a/gw", "--advertise", "cp-0.example:7400"]), Ok(()));
        assert_eq!(check(&["--store", "redb:x"]), Ok(()), "nobody else looks there");
    }

    #[test]
    fn it_listens_at_an_address_at_a_socket_or_at_both() {
        let socket = |mode| Some(SocketPlace { path: "/run/gw.sock".into(), mode });
        let both =
            validate(&["--listen", "127.0.0.1:1,unix:///run/gw.sock", "--socket-mode", "0660"]).unwrap();
        assert_eq!((both.listen, both.socket), (Some("127.0.0.1:1".parse().unwrap()), socket(0o660)));
        let alone = validate(&["--listen", "unix:///run/gw.sock"]).unwrap();
        assert_eq!((alone.listen, &alone.socket), (None, &socket(0o600)));
        assert_eq!(alone.check_listeners(), Ok(()), "it needs no TLS: it is no network");
        let twice = validate(&["--listen", "unix:///a", "--listen", "unix:///b"]).unwrap_err();
        assert_eq!(twice.to_string(), "--listen takes one IP:PORT and one unix:///PATH at most");
        for mode in ["600x", "0", "0060", "1777", ""] {
            assert!(Program::try_parse_from(["x", "--socket-mode", mode]).is_err(), "{mode}");
        }
    }

    #[test]
    fn a_socket_where_nobody_could_be_known_is_refused() {
        let flags =
            ["--listen", "unix:///run/gw.sock", "--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"];
        let refused = validate(&flags).unwrap().check_listeners().unwrap_err().to_string();
        assert!(refused.contains("needs --auth-file"), "{refused}");
    }

    #[test]
    fn on_a_store_that_others_share_a_socket_is_no_place_to_be_found_at() {
        let flags = ["--listen", "unix:///run/gw.sock", "--store", "etcd://[::1]/gw"];
        let refused = validate(&flags).unwrap().check_listeners().unwrap_err().to_string();
        assert!(refused.contains("add an IP:PORT to --listen"), "{refused}");
    }
}
