//! Flags and environment become a configuration that can only be valid.
//!
//! [`Args`] is what was written, [`Config`] is what holds; [`Args::validate`] is the only way from one to the other.

mod access_log;
mod admin;
mod defaults;
mod forwarding;
mod limits;
mod traces;

use std::{
    fmt,
    net::SocketAddr,
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, SystemTime},
};

use clap::builder::FalseyValueParser;
use gateway_proto::{ControlPlaneUrl, Locality, NodeId, v1, without_user};
use gateway_runtime::{
    Failure,
    credentials::TokenFile,
    tls::{ClientTls, ClientTlsFiles, Identity, Tls, TlsFiles, Uses},
};

use crate::{
    access_log::AccessLog,
    admin::Access,
    control_plane,
    discovery::{Cache, Services, ServicesFile},
    handover::MAX_PATH_BYTES,
    proxy::{Forwarding, Limits, PROTOCOLS, ProxyHeaders},
    routing::Rate,
    static_file::{self, StaticFile},
    traces::Tracer,
};

pub use access_log::AccessLogArgs;
pub use admin::AdminArgs;
pub use forwarding::ForwardingArgs;
pub use limits::LimitArgs;
pub use traces::TraceArgs;

/// Control planes that one data plane may know.
const MAX_CONTROL_PLANES: usize = 16;
/// More workers than any machine has cores are a slip of the finger.
const MAX_WORKERS: usize = 1024;

/// Flags of the data plane.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where clients connect, HTTP/1.1 and HTTP/2, as IP:PORT; port 0 takes a free one
    #[arg(long, env = "GW_PROXY_LISTEN", default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Where clients connect with TLS, HTTP/1.1 and HTTP/2, as IP:PORT, beside --listen; needs --tls-certificate and
    /// --tls-key
    #[arg(long, env = "GW_TLS_LISTEN", value_name = "IP:PORT")]
    pub tls_listen: Option<SocketAddr>,
    /// Certificate chains in PEM, each for the names that it has, the first for all others; read again when they change
    #[arg(long, env = "GW_TLS_CERTIFICATE", value_delimiter = ',', value_name = "FILE,…")]
    pub tls_certificate: Vec<PathBuf>,
    /// Their keys in PEM, in the same order
    #[arg(long, env = "GW_TLS_KEY", value_delimiter = ',', value_name = "FILE,…")]
    pub tls_key: Vec<PathBuf>,
    /// Let only clients in that show a certificate which one of these authorities has signed, in PEM
    #[arg(long, env = "GW_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Authorities, in PEM, that sign the certificates of replicas which speak TLS; read again when it changes [default:
    /// those that the system trusts]
    #[arg(long, env = "GW_UPSTREAM_CA", value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// Certificate chain in PEM that replicas are shown when they ask for one; read again when it changes
    #[arg(long, env = "GW_UPSTREAM_CERTIFICATE", value_name = "FILE")]
    pub upstream_certificate: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, env = "GW_UPSTREAM_KEY", value_name = "FILE")]
    pub upstream_key: Option<PathBuf>,
    /// Control planes of one registry, as http://HOST:PORT, https://HOST:PORT or unix:///PATH, at most 16: one of them is followed, in
    /// an order by chance, and the next when it fails; may be repeated [default: http://127.0.0.1:7400]
    #[arg(long, env = "GW_CONTROL_PLANE", value_delimiter = ',', value_name = "URL,…")]
    pub control_plane: Vec<String>,
    /// Carry these services only, at most 1000, and hold nothing of others; may be repeated [default: all]
    #[arg(long, env = "GW_SERVICES", value_delimiter = ',', value_name = "NAME,…")]
    pub services: Vec<String>,
    /// The same in a file, separated by white space or commas, or * for all; what follows # on a line is a remark. Read again when
    /// it changes, and carried from then on
    #[arg(long, env = "GW_SERVICES_FILE", value_name = "FILE", conflicts_with = "services")]
    pub services_file: Option<PathBuf>,
    /// Authorities, in PEM, that sign the certificates of control planes at https://; read again when it changes [default:
    /// those that the system trusts]
    #[arg(long, env = "GW_CONTROL_PLANE_CA", value_name = "FILE")]
    pub control_plane_ca: Option<PathBuf>,
    /// Certificate chain in PEM that control planes are shown, who know this data plane by it; read again when it changes
    #[arg(long, env = "GW_CONTROL_PLANE_CERT", value_name = "FILE", requires = "control_plane_key")]
    pub control_plane_cert: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, env = "GW_CONTROL_PLANE_KEY", value_name = "FILE", requires = "control_plane_cert")]
    pub control_plane_key: Option<PathBuf>,
    /// File with the token that control planes are shown, who know this data plane by it; read again when it changes
    #[arg(long, env = "GW_CONTROL_PLANE_TOKEN_FILE", value_name = "FILE")]
    pub control_plane_token_file: Option<PathBuf>,
    /// Name of this data plane, stable over restarts: a-z, 0-9 and '-' [default: the host's name, and the port
    /// behind it unless that is 8080; by chance with port 0 or without a host name]
    #[arg(long, env = "GW_NODE_ID", value_name = "ID")]
    pub node_id: Option<String>,
    /// Directory of the last snapshot, for starts without a control plane [default: a directory named by the node id
    /// in $STATE_DIRECTORY, $XDG_STATE_HOME/gateway or ~/.local/state/gateway; none when the id is left to chance]
    #[arg(long, env = "GW_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Keep no snapshot on disk: a start without a control plane then has nothing to route by
    #[arg(long, env = "GW_NO_CACHE", value_parser = FalseyValueParser::new())]
    pub no_cache: bool,
    /// Oldest snapshot on disk that a start may route by, such as 30m or 24h
    #[arg(long, env = "GW_CACHE_MAX_AGE", default_value = "24h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub cache_max_age: Duration,
    /// Threads that carry requests, 1..=1024 [default: one for each core]
    #[arg(long, env = "GW_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Route by the services of this TOML file, without a control plane; excludes --control-plane and --cache-dir
    #[arg(long = "static", env = "GW_STATIC", value_name = "FILE")]
    pub static_file: Option<PathBuf>,
    /// The region that this data plane is in, for policies with balancing.prefer_local: up to 63 visible ASCII characters
    #[arg(long, env = "GW_REGION", value_name = "NAME")]
    pub region: Option<String>,
    /// The zone that it is in, likewise
    #[arg(long, env = "GW_ZONE", value_name = "NAME")]
    pub zone: Option<String>,
    /// Reach services as SERVICE.SUFFIX too, beside SERVICE.localhost
    #[arg(long, env = "GW_DOMAIN", value_name = "SUFFIX")]
    pub domain: Option<String>,
    /// Name the replica, the number of attempts and the time that they took in responses: X-GW-Replica, X-GW-Attempts,
    /// Server-Timing and Proxy-Status. This shows clients the topology
    #[arg(long, env = "GW_DEBUG_HEADERS", value_parser = FalseyValueParser::new())]
    pub debug_headers: bool,
    /// Inject the faults into requests that policies say, each until its end. Without it they are ignored
    #[arg(long, env = "GW_ALLOW_FAULT_INJECTION", value_parser = FalseyValueParser::new())]
    pub allow_fault_injection: bool,
    /// What is written of each request.
    #[command(flatten)]
    pub access_log: AccessLogArgs,
    /// What is told of it to a collector of traces.
    #[command(flatten)]
    pub traces: TraceArgs,
    /// Whose word on the client holds.
    #[command(flatten)]
    pub forwarding: ForwardingArgs,
    /// Keep the last so many outcomes of each replica, sixteen bytes each, for `gwctl policy what-if`; 0 keeps none
    #[arg(long, env = "GW_RECORD_OUTCOMES", default_value = "0", value_parser = clap::value_parser!(u32).range(..=1_000_000), value_name = "COUNT")]
    pub record_outcomes: u32,
    /// Health checks that begin in a second at most, of all services together, 1..=100000, a tenth of them at once; with more
    /// replicas than that allows each is checked less often
    #[arg(long, env = "GW_HEALTH_CHECK_RATE", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "COUNT")]
    pub health_check_rate: u32,
    /// Services up to which /metrics has histograms of each; with more there is one for all, as service="*"
    #[arg(long, env = "GW_METRICS_HISTOGRAM_SERVICES", default_value = "500", value_parser = clap::value_parser!(u32).range(..=100_000), value_name = "COUNT")]
    pub metrics_histogram_services: u32,
    /// After SIGTERM, how long requests in flight may take, such as 500ms or 30s
    #[arg(long, env = "GW_DRAIN_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// After SIGTERM, how long connections are still accepted while /readyz already fails, such as 5s
    #[arg(long, env = "GW_DRAIN_DELAY", default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_delay: Duration,
    /// Unix socket of the handover, the same for each: where a data plane listens there already, take its sockets over once there
    /// is something to route by, and have it drain; then listen there
    #[arg(long, env = "GW_HANDOVER_SOCKET", value_name = "PATH")]
    pub handover_socket: Option<PathBuf>,
    /// How long a handover may wait for something to route by before this process gives up, and the other goes on
    #[arg(long, env = "GW_HANDOVER_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub handover_timeout: Duration,
    /// Who may look at it, and where.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How much clients may take up.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<(SocketAddr, Arc<Tls>)>,
    pub(crate) upstream_tls: Arc<ClientTls>,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) access: Arc<Access>,
    pub(crate) registry: Registry,
    pub(crate) identity: control_plane::Identity,
    pub(crate) node_id: NodeId,
    pub(crate) workers: usize,
    pub(crate) locality: Locality,
    pub(crate) domain: Option<String>,
    pub(crate) debug_headers: bool,
    pub(crate) record_outcomes: usize,
    pub(crate) health_check_rate: Rate,
    pub(crate) histogram_services: usize,
    pub(crate) allow_fault_injection: bool,
    pub(crate) limits: Limits,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) tracer: Option<Arc<Tracer>>,
    pub(crate) proxy_headers: Option<ProxyHeaders>,
    pub(crate) forwarding: Forwarding,
    pub(crate) drain_timeout: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) handover_socket: Option<PathBuf>,
    pub(crate) handover_timeout: Duration,
}

impl Config {
    /// All files for TLS, by what they are for.
    pub(crate) fn certificates(&self) -> Uses {
        let mut uses = Uses::default();
        let listeners =
            [("listener", self.tls.as_ref().map(|(_, tls)| tls)), ("admin", self.access.tls.as_ref())];
        for (of, tls) in listeners {
            tls.into_iter().for_each(|tls| uses.add(of, tls.standing()));
        }
        let collector = self.tracer.as_ref().and_then(|tracer| tracer.tls_with_files());
        let clients = [
            ("replicas", Some(&self.upstream_tls)),
            ("control_plane", Some(&self.identity.tls)),
            ("collector", collector.as_ref()),
        ];
        for (of, tls) in clients {
            tls.filter(|tls| tls.has_files()).into_iter().for_each(|tls| uses.add(of, tls.standing()));
        }
        uses
    }
}

/// Where services and replicas come from.
#[derive(Debug, Clone)]
pub(crate) enum Registry {
    ControlPlane {
        urls: Vec<ControlPlaneUrl>,
        cache: Option<Cache>,
        services: Services,
        /// Where they were read, to be read again.
        services_file: Option<Arc<ServicesFile>>,
    },
    Static(StaticFile),
}

impl fmt::Display for Registry {
    /// For the log line that says how the process was started.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(file) => {
                write!(f, "static, services: {}, routes: {}", file.services.len(), file.routes.len())
            }
            Self::ControlPlane { urls, cache, services, .. } => {
                for (index, url) in urls.iter().enumerate() {
                    write!(f, "{}{url}", if index == 0 { "" } else { "," })?;
                }
                if let Services::Some(names) = services {
                    write!(f, ", services: {}", names.len())?;
                }
                match cache {
                    Some(cache) => write!(f, ", cached in {}", cache.path().display()),
                    None => f.write_str(", not cached"),
                }
            }
        }
    }
}

impl Args {
    /// Checks every flag, reads the static file, and fills in what depends on the machine.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag and what is allowed.
    pub fn validate(self) -> Result<Config, Failure> {
        let (node_id, is_stable) = match &self.node_id {
            Some(text) => NodeId::parse(text)
                .map(|id| (id, true))
                .map_err(|invalid| Failure::usage(format!("--node-id {text:?}: {invalid}")))?,
            None => defaults::node_id(defaults::hostname().as_deref(), self.listen.port(), rand::random()),
        };
        let registry = self.registry(&node_id, is_stable)?;
        let limits = self.limits.clone().validate()?;
        let cores = || available_parallelism().map_or(1, NonZeroUsize::get);
        // One that may have no connection has nothing to do.
        let workers = self.workers.unwrap_or_else(|| cores().min(limits.connections));
        check("--workers", workers, MAX_WORKERS)?;
        if limits.connections < workers {
            return Err(Failure::usage(format!(
                "--max-connections {} is less than --workers {workers}: each of them has a share of it, of one at least",
                limits.connections
            )));
        }
        let tracer = self.traces.tracer(node_id.as_str())?;
        Ok(Config {
            listen: self.listen,
            tls: self.tls()?,
            upstream_tls: Arc::new(self.upstream_tls()?),
            admin_listen: self.admin.admin_listen,
            access: self.admin.access()?,
            registry,
            identity: self.identity()?,
            node_id,
            workers,
            locality: parse_locality(self.region, self.zone)?,
            domain: self.domain.as_deref().map(parse_domain).transpose()?,
            debug_headers: self.debug_headers,
            record_outcomes: self.record_outcomes as usize,
            health_check_rate: Rate::new(self.health_check_rate.into(), self.health_check_rate.div_ceil(10)),
            histogram_services: self.metrics_histogram_services as usize,
            allow_fault_injection: self.allow_fault_injection,
            limits,
            access_log: self.access_log.open()?,
            tracer,
            proxy_headers: self.forwarding.proxy_headers()?,
            forwarding: self.forwarding.validate()?,
            drain_timeout: self.drain_timeout,
            drain_delay: self.drain_delay,
            handover_socket: self.handover_socket.map(check_socket).transpose()?,
            handover_timeout: self.handover_timeout,
        })
    }

    fn tls(&self) -> Result<Option<(SocketAddr, Arc<Tls>)>, Failure> {
        let is_given =
            !self.tls_certificate.is_empty() || !self.tls_key.is_empty() || self.tls_client_ca.is_some();
        let Some(listen) = self.tls_listen else {
            return match is_given {
                true => {
                    Err(Failure::usage("--tls-certificate, --tls-key and --tls-client-ca need --tls-listen"))
                }
                false => Ok(None),
            };
        };
        let (certificates, keys) = (self.tls_certificate.len(), self.tls_key.len());
        if certificates == 0 || certificates != keys {
            return Err(Failure::usage(format!(
                "--tls-listen needs as many keys as certificates, at least one of each: --tls-certificate names \
                 {certificates}, --tls-key {keys}"
            )));
        }
        let pairs = self.tls_certificate.iter().zip(&self.tls_key);
        let identities =
            pairs.map(|(certificate, key)| Identity { certificate: certificate.clone(), key: key.clone() });
        let files = TlsFiles {
            identities: identities.collect(),
            client_ca: self.tls_client_ca.clone(),
            takes_anonymous: false,
            protocols: PROTOCOLS,
        };
        Ok(Some((listen, Arc::new(Tls::load(files)?))))
    }

    fn upstream_tls(&self) -> Result<ClientTls, Failure> {
        let identity = match (&self.upstream_certificate, &self.upstream_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: certificate.clone(), key: key.clone() })
            }
            _ => return Err(Failure::usage("--upstream-certificate and --upstream-key need each other")),
        };
        ClientTls::load(ClientTlsFiles { ca: self.upstream_ca.clone(), identity, protocols: PROTOCOLS })
    }

    fn identity(&self) -> Result<control_plane::Identity, Failure> {
        let pair = self.control_plane_cert.clone().zip(self.control_plane_key.clone());
        let identity = pair.map(|(certificate, key)| Identity { certificate, key });
        let files = ClientTlsFiles { ca: self.control_plane_ca.clone(), identity, protocols: &[b"h2"] };
        let token = self.control_plane_token_file.clone().map(TokenFile::open).transpose();
        let token =
            token.map_err(|failure| Failure::usage(format!("--control-plane-token-file {failure}")))?;
        let urls = self.control_plane.iter().filter_map(|url| ControlPlaneUrl::parse(url).ok());
        let overheard = urls.filter(|_| token.is_some()).find(ControlPlaneUrl::is_overheard);
        match overheard {
            Some(url) if self.admin.insecure => {
                tracing::warn!(%url, "the token is sent to a control plane without TLS, for all to read: use https://");
            }
            Some(url) => {
                return Err(Failure::usage(format!(
                    "--control-plane {url} is reached beyond this machine without TLS: the token of --control-plane-token-file \
                     would be sent for all to read. Name it by https://, or say --insecure if whoever is on the way may read it"
                )));
            }
            None => {}
        }
        Ok(control_plane::Identity { tls: Arc::new(ClientTls::load(files)?), token })
    }

    fn registry(&self, node_id: &NodeId, is_stable: bool) -> Result<Registry, Failure> {
        if let Some(path) = &self.static_file {
            let beside = [
                (!self.control_plane.is_empty(), "--control-plane"),
                (self.cache_dir.is_some(), "--cache-dir"),
                (!self.services.is_empty(), "--services"),
                (self.services_file.is_some(), "--services-file"),
            ];
            if let Some((_, flag)) = beside.into_iter().find(|(given, _)| *given) {
                return Err(Failure::usage(format!(
                    "--static excludes {flag}: a fixed list of services follows no control plane"
                )));
            }
            let loaded = static_file::load(path, self.allow_fault_injection, SystemTime::now());
            return loaded
                .map(Registry::Static)
                .map_err(|error| Failure::usage(format!("--static {}: {error}", path.display())));
        }
        let given = self.control_plane.iter().map(String::as_str).filter(|url| !url.is_empty());
        let urls: Vec<&str> = given.collect();
        let urls = if urls.is_empty() { vec![defaults::CONTROL_PLANE] } else { urls };
        if urls.len() > MAX_CONTROL_PLANES {
            let count = urls.len();
            return Err(Failure::usage(format!(
                "--control-plane names {count}, at most {MAX_CONTROL_PLANES} are allowed"
            )));
        }
        let urls = urls.into_iter().map(|text| {
            let shown = without_user(text);
            ControlPlaneUrl::parse(text)
                .map_err(|why| Failure::usage(format!("--control-plane {shown:?} {why}")))
        });
        let urls = urls.collect::<Result<_, _>>()?;
        let (services, services_file) = self.services()?;
        let cache = self.cache(node_id, is_stable)?.map(|cache| cache.of(&services));
        Ok(Registry::ControlPlane { urls, cache, services, services_file })
    }

    fn services(&self) -> Result<(Services, Option<Arc<ServicesFile>>), Failure> {
        if let Some(path) = &self.services_file {
            let opened = ServicesFile::open(path.clone());
            let (file, services) = opened.map_err(|why| Failure::usage(format!("--services-file {why}")))?;
            return Ok((services, Some(Arc::new(file))));
        }
        let given: Vec<&str> =
            self.services.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        if given.is_empty() {
            return Ok((Services::All, None));
        }
        let services = Services::parse(&given).map_err(|why| Failure::usage(format!("--services {why}")))?;
        Ok((services, None))
    }

    fn cache(&self, node_id: &NodeId, is_stable: bool) -> Result<Option<Cache>, Failure> {
        if self.no_cache {
            return match &self.cache_dir {
                Some(_) => Err(Failure::usage("--no-cache excludes --cache-dir: give one of them")),
                None => Ok(None),
            };
        }
        // Under a name that chance gave, the next start would not look there, and every start would leave a directory.
        let by_default =
            || is_stable.then(|| defaults::cache_directory(|name| std::env::var_os(name), node_id)).flatten();
        let directory = self.cache_dir.clone().or_else(by_default);
        let cache = directory.map(|directory| Cache::new(directory, self.cache_max_age));
        // Who names a directory relies on it; the default one may be missing where nobody needs it.
        if let (Some(directory), Some(cache)) = (&self.cache_dir, &cache) {
            cache.prepare().map_err(|error| {
                let directory = directory.display();
                Failure::usage(format!("--cache-dir {directory}: snapshots cannot be kept there: {error}"))
            })?;
        }
        Ok(cache)
    }
}

fn check(flag: &str, value: usize, max: usize) -> Result<(), Failure> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(Failure::usage(format!("{flag} {value} is not in 1..={max}")))
}

/// A Unix socket's path, which the kernel wants short.
fn check_socket(path: PathBuf) -> Result<PathBuf, Failure> {
    let bytes = path.as_os_str().len();
    if bytes == 0 || bytes > MAX_PATH_BYTES {
        let path = path.display();
        return Err(Failure::usage(format!(
            "--handover-socket {path}: is {bytes} bytes long, 1..={MAX_PATH_BYTES} are allowed"
        )));
    }
    Ok(path)
}

/// Reads a DNS suffix; a leading dot and capitals are a matter of taste.
fn parse_locality(region: Option<String>, zone: Option<String>) -> Result<Locality, Failure> {
    let wire = v1::Locality { region: region.unwrap_or_default(), zone: zone.unwrap_or_default() };
    Locality::parse(wire).map_err(|invalid| {
        // As the flags are named.
        Failure::usage(invalid.to_string().replace("locality.", "--"))
    })
}

fn parse_domain(text: &str) -> Result<String, Failure> {
    let domain = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
    // A suffix has the form of a host; the vocabulary knows hosts as part of an address.
    match gateway_proto::Address::parse(&format!("{domain}:1")) {
        Ok(address) if address.socket().is_none() => Ok(domain),
        _ => Err(Failure::usage(format!("--domain {text:?} is no DNS name such as example.com"))),
    }
}

#[cfg(test)]
mod tests;
