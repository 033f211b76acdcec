//! The other control planes of the same registry: who they are, and the tasks that follow them.
//!
//! Each control plane follows each other one and mixes what it hears into its own observation, so that whoever asks any of
//! them gets the answer of all. Why not ask when somebody asks: lists go over pages, watches over hours, drains and evictions
//! are judged all the time, and all of them are to say the same. What is missing because a control plane is silent is named
//! in every answer.

mod link;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    panic::resume_unwind,
    path::PathBuf,
    sync::Arc,
};

use gateway_proto::{control_plane_url, v1};
use gateway_runtime::{
    Failure,
    credentials::TokenFile,
    tls::{ClientTls, ClientTlsFiles, Identity},
};
use http::Uri;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use self::link::{Ended, Link};
use crate::{edge::Edge, store};

/// Other control planes that one may know: each is told everything that each observes.
pub const MAX_PEERS: usize = 16;

/// Flags on the other control planes.
#[derive(Debug, Clone, clap::Args)]
pub struct PeerArgs {
    /// The other control planes of the same registry, as HOST:PORT or with http:// or https://, which is the default where
    /// --tls-cert is set: what their data planes report is shown here, too. This one may be among them; may be repeated
    #[arg(long, env = "GW_PEERS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub peers: Vec<String>,
    /// Where other control planes and people find this one, as HOST:PORT [default: --listen]
    #[arg(long, env = "GW_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Authorities, in PEM, that sign the certificates of other control planes; read again when it changes [default: those
    /// that the system trusts]
    #[arg(long, env = "GW_PEER_CA", value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,
    /// Certificate chain in PEM that other control planes are shown, where it needs the role reader; read again when it
    /// changes
    #[arg(long, env = "GW_PEER_CERT", value_name = "FILE", requires = "peer_key")]
    pub peer_cert: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, env = "GW_PEER_KEY", value_name = "FILE", requires = "peer_cert")]
    pub peer_key: Option<PathBuf>,
    /// File with the token that other control planes are shown, where it needs the role reader; read again when it changes
    #[arg(long, env = "GW_PEER_TOKEN_FILE", value_name = "FILE")]
    pub peer_token_file: Option<PathBuf>,
}

/// What the flags come to: checked, and no file read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The other control planes, and perhaps this one.
    pub addresses: Vec<Address>,
    /// Where this one is found.
    pub advertise: Option<String>,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    token_file: Option<PathBuf>,
}

/// Where a control plane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// As it was written: so it is shown.
    pub text: Arc<str>,
    url: Uri,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Address {
    /// Reads `HOST:PORT`, with TLS if `is_encrypted` says so, or a URL that says it itself.
    ///
    /// # Errors
    /// What is wrong with it, to be read after it.
    pub fn parse(text: &str, is_encrypted: bool) -> Result<Self, String> {
        let url = match text.contains("://") {
            true => text.to_owned(),
            false if is_encrypted => format!("https://{text}"),
            false => format!("http://{text}"),
        };
        let url = control_plane_url(&url)?;
        if url.port_u16().is_none() {
            return Err("has no port: write HOST:PORT".into());
        }
        Ok(Self { text: text.into(), url })
    }
}

impl PeerArgs {
    /// Checks the flags. `is_encrypted`: this control plane serves with TLS, and so do the others unless they say otherwise.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag and what is allowed.
    pub fn validate(self, is_encrypted: bool) -> Result<Settings, Failure> {
        let given = self.peers.iter().filter(|text| !text.is_empty());
        let addresses = given.map(|text| {
            Address::parse(text, is_encrypted)
                .map_err(|why| Failure::usage(format!("--peers {text:?} {why}")))
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if addresses.len() > MAX_PEERS {
            let count = addresses.len();
            return Err(Failure::usage(format!("--peers names {count}, at most {MAX_PEERS} are allowed")));
        }
        if let Some(text) = &self.advertise {
            Address::parse(text, false)
                .map_err(|why| Failure::usage(format!("--advertise {text:?} {why}")))?;
        }
        Ok(Settings {
            addresses,
            advertise: self.advertise,
            ca: self.peer_ca,
            identity: self.peer_cert.zip(self.peer_key),
            token_file: self.peer_token_file,
        })
    }
}

impl Settings {
    /// These addresses, and nothing shown to them.
    pub fn at(addresses: Vec<Address>) -> Self {
        Self { addresses, ..Self::default() }
    }

    /// As `--advertise`.
    #[must_use]
    pub fn advertising(self, address: &str) -> Self {
        Self { advertise: Some(address.to_owned()), ..self }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file.
    pub(crate) fn credentials(&self) -> Result<Credentials, Failure> {
        let identity = self.identity.clone();
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        let files = ClientTlsFiles { ca: self.ca.clone(), identity, protocols: &[b"h2"] };
        let token = self.token_file.clone().map(TokenFile::open).transpose();
        let token = token.map_err(|failure| Failure::usage(format!("--peer-token-file {failure}")))?;
        Ok(Credentials { tls: Arc::new(ClientTls::load(files)?), token })
    }
}

/// What other control planes are shown, and which of them are believed.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) tls: Arc<ClientTls>,
    pub(crate) token: Option<TokenFile>,
}

/// Where the addresses of the other control planes come from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// They are always these.
    fixed: Vec<Address>,
    /// Those that share the store come and go.
    sharing: Option<watch::Receiver<store::Known>>,
    is_encrypted: bool,
}

impl Source {
    /// Those that were named, and whoever else shares the store. `is_encrypted`: this one serves with TLS, and so do the others.
    pub(crate) fn new(fixed: Vec<Address>, sharing: Option<store::Peers>, is_encrypted: bool) -> Self {
        Self { fixed, sharing: sharing.map(|peers| peers.follow()), is_encrypted }
    }

    fn now(&mut self) -> Vec<Address> {
        let mut addresses = self.fixed.clone();
        let known = self.sharing.as_mut().map(|known| Arc::clone(&known.borrow_and_update()));
        for text in known.iter().flat_map(|known| known.values()) {
            match Address::parse(text, self.is_encrypted) {
                Ok(address) if addresses.iter().all(|other| other.text != address.text) => {
                    addresses.push(address)
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::warn!(address = ?text, %why, "the store names a control plane that cannot be asked")
                }
            }
        }
        if addresses.len() > MAX_PEERS {
            tracing::warn!(
                count = addresses.len(),
                at_most = MAX_PEERS,
                "too many control planes: the rest is not asked"
            );
            addresses.truncate(MAX_PEERS);
        }
        addresses
    }

    /// Completes when they are others. Cancel safe.
    async fn changed(&mut self) {
        let is_over = match &mut self.sharing {
            Some(known) => known.changed().await.is_err(),
            None => true,
        };
        if is_over {
            std::future::pending().await
        }
    }
}

/// Follows the other control planes until the shutdown begins.
pub(crate) async fn run(edge: Arc<Edge>, credentials: Credentials, mut source: Source) {
    let observation = &edge.effects.observation;
    let mut tasks = JoinSet::new();
    let mut running: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    // This one itself, by whatever names.
    let mut own: HashSet<Arc<str>> = HashSet::new();
    loop {
        let addresses = source.now();
        own.retain(|text| addresses.iter().any(|address| address.text == *text));
        let others: Vec<_> = addresses.into_iter().filter(|address| !own.contains(&address.text)).collect();
        let texts: Vec<_> = others.iter().map(|address| Arc::clone(&address.text)).collect();
        observation.expect_peers(&texts);
        running.retain(|text, task| {
            let stays = texts.contains(text);
            if !stays {
                task.abort();
            }
            stays
        });
        for address in others {
            let text = Arc::clone(&address.text);
            running.entry(text).or_insert_with(|| {
                tasks.spawn(Link::new(Arc::clone(&edge), credentials.clone(), address).follow())
            });
        }
        loop {
            tokio::select! {
                () = source.changed() => break,
                Some(ended) = tasks.join_next() => match ended {
                    Ok(Ended::Myself(text)) => {
                        running.remove(&text);
                        own.insert(text);
                        break;
                    }
                    Ok(Ended::ShuttingDown) => {}
                    // It is this task's defect: whoever supervises it hears of it.
                    Err(error) => if let Ok(panic) = error.try_into_panic() { resume_unwind(panic) },
                },
                () = edge.shutdown.begun() => return,
            }
        }
    }
}

/// Who this control plane is to the others.
#[derive(Debug, Clone)]
pub(crate) struct Myself {
    pub(crate) address: String,
    pub(crate) process_id: String,
}

impl Myself {
    pub(crate) fn to_wire(&self, epoch: &str) -> v1::PeerIdentity {
        v1::PeerIdentity {
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            process_id: self.process_id.clone(),
            epoch: epoch.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_a_scheme_and_shown_as_it_was_written() {
        for (text, is_encrypted, url) in [
            ("10.0.0.2:7400", false, "http://10.0.0.2:7400/"),
            ("10.0.0.2:7400", true, "https://10.0.0.2:7400/"),
            ("http://b.example:7400", true, "http://b.example:7400/"),
            ("[::1]:7400", false, "http://[::1]:7400/"),
        ] {
            let address = Address::parse(text, is_encrypted).unwrap();
            assert_eq!((address.to_string().as_str(), address.url.to_string().as_str()), (text, url));
        }
        for bad in ["", "b.example", "b.example:", "b:1/x", "ftp://b:1"] {
            assert!(Address::parse(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn too_many_are_refused_by_the_name_of_the_flag() {
        let args = |peers: Vec<String>| PeerArgs {
            peers,
            advertise: None,
            peer_ca: None,
            peer_cert: None,
            peer_key: None,
            peer_token_file: None,
        };
        let many = (1..=17).map(|number| format!("10.0.0.{number}:7400")).collect();
        assert_eq!(
            args(many).validate(false).unwrap_err().to_string(),
            "--peers names 17, at most 16 are allowed"
        );
        let bad = args(vec!["nowhere".into()]).validate(false).unwrap_err().to_string();
        assert!(bad.starts_with("--peers \"nowhere\" "), "{bad}");
    }
}
