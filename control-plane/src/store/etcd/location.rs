//! Where an etcd is, as `--store` says it, and the files that go with it.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use gateway_runtime::{
    Failure,
    tls::{ClientTls, ClientTlsFiles, Identity},
};

const DEFAULT_PORT: u16 = 2379;
/// Members of one cluster; more than nine are of no use.
const MAX_ENDPOINTS: usize = 16;
const MAX_PREFIX: usize = 200;

/// Where an etcd is, who we are there, and which of its keys are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLocation {
    /// Who we say we are; `None`: nobody asks.
    pub(super) user: Option<String>,
    /// `host:port` of each member, the first to be tried first.
    pub(in crate::store) endpoints: Vec<String>,
    /// Of all our keys, without slashes at its ends.
    pub(super) prefix: String,
}

/// What shows who we are, and whom we believe. Files, for flags are seen by whoever lists processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdFiles {
    /// Authorities in PEM that etcd's certificate must come from; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate chain in PEM, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The password of the user that the location names, and nothing else but white space at its end.
    pub password: Option<PathBuf>,
}

impl EtcdLocation {
    /// Whether the files that go with it show who we say we are.
    ///
    /// # Errors
    /// What is missing, or of no use.
    pub fn check(&self, files: &EtcdFiles) -> Result<(), String> {
        match (&self.user, &files.password) {
            (None, Some(_)) => {
                Err("--store-password-file is whose? Name him as in etcd://USER@HOST:PORT/PREFIX".into())
            }
            (Some(user), None) if files.identity.is_none() => {
                Err(format!("--store names user {user}: his password goes into --store-password-file"))
            }
            _ => Ok(()),
        }
    }

    /// Whether nobody on the way can read what is said, or say something else.
    ///
    /// # Errors
    /// Which member is reached in clear text, and what to set.
    pub(crate) fn check_way(&self, files: &EtcdFiles) -> Result<(), String> {
        let beyond = self.endpoints.iter().find(|member| !is_here(member));
        match beyond.filter(|_| !files.are_for_tls()) {
            Some(member) => Err(format!(
                "--store {self}: {member} is beyond this machine, and there is no TLS: the password and what renews leases would be \
                 sent for all to read. Set --store-tls-ca, or say --store-insecure if whoever is on the way may do everything"
            )),
            None => Ok(()),
        }
    }
}

/// Whether a member is reached without leaving this machine.
fn is_here(member: &str) -> bool {
    let host = member.rsplit_once(':').map_or(member, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl EtcdFiles {
    /// Whether the connection is encrypted: as soon as a file says something about that.
    pub(super) fn are_for_tls(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }

    /// Reads what TLS needs.
    pub(super) fn tls(&self) -> Result<ClientTls, Failure> {
        let identity = self.identity.clone();
        ClientTls::load(ClientTlsFiles {
            ca: self.ca.clone(),
            identity: identity.map(|(certificate, key)| Identity { certificate, key }),
            protocols: &[b"h2"],
        })
    }
}

impl FromStr for EtcdLocation {
    type Err = String;

    /// Reads what follows `etcd:`.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "must be etcd://HOST:PORT,HOST:PORT/PREFIX";
        let rest = text.strip_prefix("//").ok_or(FORM)?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, _)) if user.contains(':') => {
                // Not repeated here: it would be in the log.
                return Err("names a password, which others can see: put it into a file, and name that by \
                            --store-password-file"
                    .into());
            }
            Some(("", _)) => return Err("names an empty user before @".into()),
            Some((user, hosts)) => (Some(user.to_owned()), hosts),
        };
        let endpoints = hosts.split(',').map(read_endpoint).collect::<Result<Vec<_>, _>>()?;
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(format!("names {} members, at most {MAX_ENDPOINTS} are allowed", endpoints.len()));
        }
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return Err("needs a prefix for its keys, e.g. etcd://127.0.0.1:2379/gateway".into());
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        if prefix.len() > MAX_PREFIX || !prefix.chars().all(is_plain) || prefix.contains("//") {
            return Err(format!(
                "has the prefix {prefix:?}, which is not letters, digits and any of .-_/ up to {MAX_PREFIX} characters"
            ));
        }
        Ok(Self { user, endpoints, prefix: prefix.to_owned() })
    }
}

fn read_endpoint(text: &str) -> Result<String, String> {
    let wrong = || format!("names the member {text:?}, which is not HOST:PORT");
    if text.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong());
    }
    let (host, port) = match text.rsplit_once(':') {
        // The colon is one inside an IPv6 address.
        Some((_, after)) if after.ends_with(']') => (text, DEFAULT_PORT),
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        None => (text, DEFAULT_PORT),
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(':') && !is_bracketed {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

impl fmt::Display for EtcdLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        write!(f, "etcd://{user}{}/{}", self.endpoints.join(","), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_may_be_several_and_their_ports_left_out() {
        for (text, members, prefix) in [
            ("//a:1/gw", vec!["a:1"], "gw"),
            ("//a,b:2/gw/", vec!["a:2379", "b:2"], "gw"),
            ("//[::1],[::1]:2/a/b", vec!["[::1]:2379", "[::1]:2"], "a/b"),
        ] {
            let location: EtcdLocation = text.parse().unwrap();
            assert_eq!(
                (location.endpoints, location.prefix.as_str()),
                (members.iter().map(ToString::to_string).collect(), prefix)
            );
        }
        let named: EtcdLocation = "//gw@a/gw".parse().unwrap();
        assert_eq!(named.to_string(), "etcd://gw@a:2379/gw");
    }

    #[test]
    fn what_is_wrong_with_a_location_is_said_and_a_password_is_not_repeated() {
        for (text, why) in [
            ("a:1/gw", "must be etcd://"),
            ("//a:1", "needs a prefix"),
            ("//a:1/", "needs a prefix"),
            ("///gw", "names the member \"\""),
            ("//a:0/gw", "names the member \"a:0\""),
            ("//a:b:1/gw", "names the member \"a:b:1\""),
            ("//a:99999/gw", "names the member"),
            ("//@a/gw", "names an empty user"),
            ("//a/g w", "has the prefix \"g w\""),
            ("//a/g//w", "has the prefix"),
            ("//gw:secret@a/gw", "names a password"),
        ] {
            let refused = text.parse::<EtcdLocation>().unwrap_err();
            assert!(refused.starts_with(why), "{text:?}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
