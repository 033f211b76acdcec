//! Flags on who gets in and what he may do, and what they come to.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::builder::FalseyValueParser;
use gateway_proto::{Address, Networks};
use gateway_runtime::{
    Failure,
    tls::{Identity, Tls, TlsFiles},
};

use super::{
    Audit, Gate, Lock,
    endpoints::{EndpointRules, Own},
    file::{self, Loaded},
};
use crate::{listeners, peers};

/// What is offered by ALPN.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Flags on who gets in.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsArgs {
    /// Serve with TLS: the certificate chain in PEM; read again when it changes
    #[arg(
        long,
        alias = "tls-certificate",
        env = "GW_CONTROL_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, env = "GW_CONTROL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authorities in PEM whose certificates say who a client is; read again when it changes. Without --auth-file, whoever
    /// shows one may do everything
    #[arg(long, env = "GW_CONTROL_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Who may do what, by token, client certificate or JWT: a TOML file, read again when it changes. `gwctl auth token` makes
    /// an entry
    #[arg(long, env = "GW_AUTH_FILE", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Serve beyond this machine although there is no TLS, or nobody is asked who he is: whoever reaches this may do everything
    #[arg(long, env = "GW_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,
    /// Serve /metrics to whoever asks, where others must say who they are
    #[arg(long, env = "GW_OPEN_METRICS", value_parser = FalseyValueParser::new())]
    pub open_metrics: bool,
    /// Serve gRPC reflection to whoever asks, where others must say who they are
    #[arg(long, env = "GW_OPEN_REFLECTION", value_parser = FalseyValueParser::new())]
    pub open_reflection: bool,
    /// Take replicas at addresses that are refused by default (loopback from elsewhere, link-local, metadata services, shared
    /// space), or at a port that is: CIDR or :PORT; may be repeated
    #[arg(
        long = "allow-endpoint",
        env = "GW_ALLOW_ENDPOINT",
        value_delimiter = ',',
        value_name = "CIDR|:PORT"
    )]
    pub allow_endpoints: Vec<String>,
    /// Requests and heartbeats in a second that one identity may send from one address, and four times as many from all of its
    /// addresses together; 0 for any number; twice as many at once
    #[arg(long, env = "GW_RATE_LIMIT", default_value_t = 5000, value_name = "N")]
    pub rate_limit: u32,
}

/// What the flags come to: checked, and no file read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    tls: Option<TlsPaths>,
    auth_file: Option<PathBuf>,
    is_insecure: bool,
    opens_metrics: bool,
    opens_reflection: bool,
    networks: Networks,
    ports: Vec<u16>,
    rate_limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TlsPaths {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Default for Settings {
    /// Whoever reaches the listener may do everything, and only this machine does.
    fn default() -> Self {
        Self {
            tls: None,
            auth_file: None,
            is_insecure: false,
            opens_metrics: false,
            opens_reflection: false,
            networks: Networks::default(),
            ports: Vec::new(),
            rate_limit: 5000,
        }
    }
}

impl SettingsArgs {
    /// Checks the flags.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag and what is allowed.
    pub fn validate(self) -> Result<Settings, Failure> {
        let (ports, networks): (Vec<&String>, Vec<_>) =
            self.allow_endpoints.iter().partition(|text| is_port(text));
        let refused = |text: &str, why: String| Failure::usage(format!("--allow-endpoint {text:?} {why}"));
        let port = |text: &&String| {
            let port = text[1..].parse::<u16>().ok().filter(|port| *port > 0);
            port.ok_or_else(|| refused(text, "is no port such as :8080".into()))
        };
        let ports = ports.iter().map(port).collect::<Result<_, _>>()?;
        if networks.len() > Networks::MAX {
            return Err(refused(
                "",
                format!("names {} networks, {} are allowed", networks.len(), Networks::MAX),
            ));
        }
        let networks = Networks::parse(networks.into_iter().map(String::as_str))
            .map_err(|(text, why)| refused(text, why.to_string()))?;
        let tls = self.tls_cert.zip(self.tls_key);
        Ok(Settings {
            tls: tls.map(|(certificate, key)| TlsPaths { certificate, key, client_ca: self.tls_client_ca }),
            auth_file: self.auth_file,
            is_insecure: self.insecure,
            opens_metrics: self.open_metrics,
            opens_reflection: self.open_reflection,
            networks,
            ports,
            rate_limit: self.rate_limit,
        })
    }
}

impl Settings {
    /// As `--insecure`.
    #[must_use]
    pub fn insecure(self) -> Self {
        Self { is_insecure: true, ..self }
    }

    /// As `--auth-file`.
    #[must_use]
    pub fn with_auth_file(self, path: PathBuf) -> Self {
        Self { auth_file: Some(path), ..self }
    }

    /// As `--rate-limit`.
    #[must_use]
    pub fn with_rate_limit(self, rate: u32) -> Self {
        Self { rate_limit: rate, ..self }
    }

    /// Whether it may serve at an address, to which `what` leads: `--listen`, or a socket that was passed.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flags to set.
    pub(crate) fn check(&self, what: &str, listen: SocketAddr) -> Result<(), Failure> {
        let (has_tls, has_lock) = (self.tls.is_some(), self.is_locked());
        if listen.ip().to_canonical().is_loopback() || self.is_insecure || has_tls && has_lock {
            return Ok(());
        }
        let (open, flags) = match (has_tls, has_lock) {
            (false, false) => (
                "there is no TLS and nobody is asked who he is",
                "--tls-cert, --tls-key, and --auth-file or --tls-client-ca",
            ),
            (false, true) => {
                ("there is no TLS: tokens would be sent for all to read", "--tls-cert and --tls-key")
            }
            (true, _) => ("nobody is asked who he is", "--auth-file or --tls-client-ca"),
        };
        Err(Failure::usage(format!(
            "{what} {listen} is reached from beyond this machine, and {open}: set {flags}, or say --insecure if whoever \
             reaches it may do everything"
        )))
    }

    /// Whether a certificate is all by which somebody can be known.
    pub(crate) fn asks_for_certificates_only(&self) -> bool {
        self.auth_file.is_none() && self.is_locked()
    }

    fn is_locked(&self) -> bool {
        self.auth_file.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Whether the files that are named can be used, without keeping what is in them.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file.
    pub(crate) fn check_files(&self) -> Result<(), Failure> {
        self.tls()?;
        self.auth_file.as_deref().map_or(Ok(()), |path| load(path).map(drop))
    }

    /// Reads the certificate, if there is one.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file.
    pub(crate) fn tls(&self) -> Result<Option<Arc<Tls>>, Failure> {
        let Some(TlsPaths { certificate, key, client_ca }) = self.tls.clone() else { return Ok(None) };
        let identities = vec![Identity { certificate, key }];
        // Those who show none are asked for a token, request by request: probes have neither.
        let files = TlsFiles { identities, client_ca, takes_anonymous: true, protocols: PROTOCOLS };
        Ok(Some(Arc::new(Tls::load(files)?)))
    }

    /// Reads who may do what.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file and the entry.
    pub(crate) fn gate(
        &self,
        own: Option<SocketAddr>,
        control_planes: peers::Whereabouts,
        store: Vec<Address>,
        audit: Audit,
    ) -> Result<Gate, Failure> {
        let lock = match &self.auth_file {
            Some(path) => {
                let loaded = load(path)?;
                let (tokens, certificates, users, rules) = loaded.book.counts();
                tracing::info!(
                    tokens,
                    certificates,
                    users,
                    jwt_rules = rules,
                    "callers are asked who they are"
                );
                Some(Lock::by_file(path.clone(), loaded, self.rate_limit))
            }
            None if self.is_locked() => Some(Lock::by_certificates(self.rate_limit)),
            None => None,
        };
        let (networks, ports) = (self.networks.clone(), self.ports.clone());
        let own = own.map(|listen| Own { listen, is_of_this_machine: listeners::is_of_this_machine });
        let rules = EndpointRules { networks, ports, own, control_planes, store };
        let gate = Gate::new(lock, rules, audit);
        Ok(gate.opening(self.opens_metrics, self.opens_reflection))
    }
}

fn load(path: &Path) -> Result<Loaded, Failure> {
    file::load(path).map_err(|why| Failure::usage(format!("--auth-file {why}")))
}

/// Whether it is meant as one: an IPv6 address may begin with a colon, too, but has another one.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|rest| !rest.contains(':'))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: SettingsArgs,
    }

    fn settings(flags: &[&str]) -> Settings {
        Program::try_parse_from(std::iter::once(&"x").chain(flags)).unwrap().args.validate().unwrap()
    }

    fn refusal(flags: &[&str], listen: &str) -> Option<String> {
        settings(flags).check("--listen", listen.parse().unwrap()).err().map(|failure| failure.to_string())
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        assert_eq!(settings(&[]), Settings::default());
    }

    #[test]
    fn beyond_this_machine_it_starts_only_with_tls_and_with_somebody_to_ask_or_when_told_to() {
        let tls = ["--tls-cert", "c", "--tls-key", "k"];
        let all = [&tls[..], &["--auth-file", "a"]].concat();
        let by_certificate = [&tls[..], &["--tls-client-ca", "ca"]].concat();
        for listen in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(refusal(&[], listen), None, "{listen}");
        }
        for listen in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            let why = refusal(&[], listen).unwrap();
            assert!(
                why.contains("--tls-cert") && why.contains("--auth-file") && why.contains("--insecure"),
                "{why}"
            );
            assert!(refusal(&tls, listen).unwrap().contains("nobody is asked"));
            assert!(refusal(&["--auth-file", "a"], listen).unwrap().contains("no TLS"));
            for flags in [&all[..], &by_certificate, &["--insecure"]] {
                assert_eq!(refusal(flags, listen), None, "{flags:?}");
            }
        }
    }

    #[test]
    fn what_is_allowed_is_a_network_or_a_port() {
        let settings = settings(&["--allow-endpoint", "169.254.0.0/16,:6379", "--allow-endpoint", "::1"]);
        assert_eq!(
            (settings.networks.to_string().as_str(), &settings.ports[..]),
            ("169.254.0.0/16,::1/128", &[6379][..])
        );
        for bad in ["x", ":0", ":", ":65536", "10.0.0.1/8"] {
            let args = Program::try_parse_from(["x", "--allow-endpoint", bad]).unwrap().args;
            assert!(args.validate().unwrap_err().to_string().contains("--allow-endpoint"), "{bad}");
        }
    }

    #[test]
    fn a_certificate_and_its_key_need_each_other() {
        for flags in [["--tls-cert", "c"], ["--tls-key", "k"], ["--tls-client-ca", "a"]] {
            assert!(Program::try_parse_from(["x"].iter().chain(&flags)).is_err());
        }
    }
}
