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
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use gateway_proto::{ControlPlaneUrl, v1, web_url};
use gateway_runtime::{
    Failure,
    credentials::TokenFile,
    tls::{ClientTls, ClientTlsFiles, Identity},
};
use http::Uri;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use self::link::{Ended, Link};
use crate::{edge::Edge, store};

/// Other control planes that one may know: each is told everything that each observes.
pub const MAX_PEERS: usize = 16;
/// Longer names of those that cannot be followed are cut.
const MAX_NAME_CHARS: usize = 300;
/// A store remembers a process that has ended for some seconds, and its address may be the one of this process.
const SETTLE: Duration = Duration::from_secs(20);

/// Flags on the other control planes.
#[derive(Debug, Clone, clap::Args)]
pub struct PeerArgs {
    /// The other control planes of the same registry, as HOST:PORT or with http:// or https://, which is the default where
    /// --tls-cert is set: what their data planes report is shown here, too. This one may be among them; may be repeated
    #[arg(long, env = "GW_PEERS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub peers: Vec<String>,
    /// Where other control planes and people find this one, as HOST:PORT; needed on etcd when --listen is all addresses, such
    /// as 0.0.0.0 [default: --listen]
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
        let url = web_url(&url)?;
        if url.port_u16().is_none() {
            return Err("has no port: write HOST:PORT".into());
        }
        Ok(Self { text: text.into(), url })
    }

    /// Whether a token that it is shown can be read by all between.
    fn is_overheard(&self) -> bool {
        ControlPlaneUrl::Web(self.url.clone()).is_overheard()
    }

    /// Unless it has a name.
    fn ip(&self) -> Option<IpAddr> {
        let ip: IpAddr = self.url.host()?.trim_matches(['[', ']']).parse().ok()?;
        Some(ip.to_canonical())
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
            let refused = |why: &str| Failure::usage(format!("--advertise {text:?} {why}"));
            let address = Address::parse(text, false).map_err(|why| refused(&why))?;
            if address.ip().is_some_and(|ip| ip.is_unspecified()) {
                return Err(refused(
                    "is all addresses of a machine and leads nowhere: name one at which others reach it",
                ));
            }
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

    /// Whether others who share the store find this control plane by what it tells them of itself, when it listens at
    /// `listen`, to which `what` leads: `--listen`, or a socket that was passed.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag to set.
    pub(crate) fn check_found(&self, what: &str, listen: SocketAddr) -> Result<(), Failure> {
        if self.advertise.is_some() || !listen.ip().to_canonical().is_unspecified() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{what} {listen} is all addresses of this machine, so the other control planes on this --store would be told of one \
             that leads nowhere, and would not know what the data planes of this one see: set --advertise HOST:PORT to where \
             they reach it"
        )))
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

/// Where the control planes of this registry are, this one among them: no replicas are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Whereabouts {
    /// By the flags.
    fixed: Vec<gateway_proto::Address>,
    /// What those that share the store say of themselves.
    sharing: Option<watch::Receiver<store::Known>>,
}

impl Whereabouts {
    /// As far as this one is told of them.
    pub(crate) fn new(settings: &Settings, sharing: Option<&store::Peers>) -> Self {
        let fixed = settings.addresses.iter().map(|address| &*address.text);
        let fixed = fixed.chain(settings.advertise.as_deref()).filter_map(place).collect();
        Self { fixed, sharing: sharing.map(store::Peers::follow) }
    }

    /// Whether one is at a place like that.
    pub(crate) fn any(&self, is_like_that: impl Fn(&gateway_proto::Address) -> bool) -> bool {
        let is_there = |text: &String| place(text).is_some_and(|place| is_like_that(&place));
        self.fixed.iter().any(&is_like_that)
            || self.sharing.as_ref().is_some_and(|known| known.borrow().values().any(is_there))
    }
}

/// Where a control plane is, as a replica's address would have it; `None` for a Unix socket.
fn place(text: &str) -> Option<gateway_proto::Address> {
    let authority = text.rsplit("://").next()?.trim_end_matches('/');
    gateway_proto::Address::parse(authority).ok()
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
    /// Where this one says that it is there, too.
    own: Option<store::Peers>,
    /// Those that share the store come and go.
    sharing: Option<watch::Receiver<store::Known>>,
    is_encrypted: bool,
    myself: Myself,
    /// From then on, no earlier process of this one's address is remembered.
    settled_at: Instant,
}

/// The other control planes, as far as is known.
#[derive(Debug, Default)]
struct Found {
    /// To be followed, and perhaps this one itself.
    asked: Vec<Address>,
    /// Those that cannot be, and why. What their data planes report is missing.
    left_out: Vec<(Arc<str>, &'static str)>,
}

impl Source {
    /// Those that were named, and whoever else shares the store. `is_encrypted`: this one serves with TLS, and so do the others.
    pub(crate) fn new(
        fixed: Vec<Address>,
        sharing: Option<store::Peers>,
        is_encrypted: bool,
        myself: Myself,
    ) -> Self {
        let own = sharing.clone();
        let sharing = sharing.map(|peers| peers.follow());
        Self { fixed, own, sharing, is_encrypted, myself, settled_at: Instant::now() + SETTLE }
    }

    fn now(&mut self) -> Found {
        let known = self.sharing.as_mut().map(|known| Arc::clone(&known.borrow_and_update()));
        let is_settled = Instant::now() >= self.settled_at;
        let mut found = Found { asked: self.fixed.clone(), left_out: Vec::new() };
        for (node, text) in known.iter().flat_map(|known| known.iter()) {
            if *node == self.myself.process_id || found.asked.iter().any(|other| *other.text == **text) {
                continue;
            }
            let address = match Address::parse(text, self.is_encrypted) {
                Ok(_) if *text == self.myself.address && is_settled => Err((
                    format!("{text} ({node})"),
                    "it says that it is where this one is: set --advertise of both",
                )),
                // Who was here before this process.
                Ok(_) if *text == self.myself.address => continue,
                Ok(address) if found.asked.len() < MAX_PEERS => Ok(address),
                Ok(_) => Err((text.clone(), "there are more control planes than each can follow")),
                Err(why) => {
                    tracing::warn!(address = ?text, %why, "the store names a control plane that cannot be asked");
                    Err((text.clone(), "the address that it gives of itself is none"))
                }
            };
            match address {
                Ok(address) => found.asked.push(address),
                Err((name, why)) if found.left_out.len() < MAX_PEERS => {
                    let name = name.chars().take(MAX_NAME_CHARS).collect::<String>();
                    found.left_out.push((name.into(), why));
                }
                Err(_) => {}
            }
        }
        for (name, why) in &found.left_out {
            tracing::warn!(peer = %name, why, "a control plane that shares the store cannot be followed");
        }
        found
    }

    /// Completes when they are others. Cancel safe.
    async fn changed(&mut self) {
        let Some(known) = &mut self.sharing else { return std::future::pending().await };
        let is_over = tokio::select! {
            changed = known.changed() => changed.is_err(),
            () = sleep_until(self.settled_at), if Instant::now() < self.settled_at => false,
        };
        if is_over {
            std::future::pending().await
        }
    }
}

/// Follows the other control planes until the shutdown begins, and takes back then that this one is there.
pub(crate) async fn run(edge: Arc<Edge>, credentials: Credentials, mut source: Source) {
    let observation = &edge.effects.observation;
    let mut tasks = JoinSet::new();
    let mut running: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    // This one itself, by whatever names.
    let mut own: HashSet<Arc<str>> = HashSet::new();
    loop {
        let Found { asked, left_out } = source.now();
        own.retain(|text| asked.iter().any(|address| address.text == *text));
        let others: Vec<_> = asked.into_iter().filter(|address| !own.contains(&address.text)).collect();
        let texts: Vec<_> = others.iter().map(|address| Arc::clone(&address.text)).collect();
        let names = left_out.iter().map(|(name, _)| name);
        observation.expect_peers(&texts.iter().chain(names).cloned().collect::<Vec<_>>());
        left_out.iter().for_each(|(name, why)| observation.lose_peer(name, why));
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
                if credentials.token.is_some() && address.is_overheard() {
                    tracing::warn!(
                        peer = %address,
                        "the token of --peer-token-file is sent to a control plane without TLS, for all to read: name it by https://"
                    );
                }
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
                () = edge.shutdown.begun() => {
                    if let Some(own) = &source.own {
                        own.withdraw().await;
                    }
                    return;
                }
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
    fn a_token_is_overheard_beyond_this_machine_where_there_is_no_tls() {
        for (text, is_encrypted, is_overheard) in [
            ("10.0.0.2:7400", false, true),
            ("10.0.0.2:7400", true, false),
            ("http://b.example:7400", true, true),
            ("https://b.example:7400", false, false),
            ("127.0.0.1:7400", false, false),
            ("[::1]:7400", false, false),
            ("localhost:7400", false, false),
        ] {
            assert_eq!(Address::parse(text, is_encrypted).unwrap().is_overheard(), is_overheard, "{text}");
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
        for everywhere in ["0.0.0.0:7400", "[::]:7400", "http://0.0.0.0:7400"] {
            let args = PeerArgs { advertise: Some(everywhere.into()), ..args(Vec::new()) };
            let bad = args.validate(false).unwrap_err().to_string();
            assert!(bad.starts_with("--advertise ") && bad.contains("leads nowhere"), "{bad}");
        }
    }

    #[test]
    fn who_listens_at_all_addresses_is_found_only_by_one_that_he_names() {
        let check =
            |settings: &Settings, listen: &str| settings.check_found("--listen", listen.parse().unwrap());
        for listen in ["0.0.0.0:7400", "[::]:7400", "[::ffff:0.0.0.0]:7400"] {
            let refused = check(&Settings::default(), listen).unwrap_err();
            let said = refused.to_string();
            assert!(said.starts_with("--listen ") && said.contains("set --advertise HOST:PORT"), "{said}");
            assert_eq!(refused.code(), 2);
            assert_eq!(check(&Settings::default().advertising("10.0.0.1:7400"), listen), Ok(()));
        }
        assert_eq!(check(&Settings::default(), "10.0.0.1:7400"), Ok(()));
    }

    fn found(known: &[(&str, &str)], settles: Duration) -> (Vec<String>, Vec<String>) {
        let known = known.iter().map(|(node, text)| ((*node).to_owned(), (*text).to_owned())).collect();
        let (_known, sharing) = watch::channel(Arc::new(known));
        let myself = Myself { address: "a:1".into(), process_id: "p-a".into() };
        let settled_at = Instant::now() + settles;
        let mut source = Source {
            fixed: Vec::new(),
            own: None,
            sharing: Some(sharing),
            is_encrypted: false,
            myself,
            settled_at,
        };
        let Found { asked, left_out } = source.now();
        let asked = asked.iter().map(ToString::to_string).collect();
        (asked, left_out.iter().map(|(name, why)| format!("{name} {why}")).collect())
    }

    #[test]
    fn those_that_share_the_store_are_followed_and_those_that_cannot_be_are_missed() {
        let (asked, left_out) = found(&[("p-a", "a:1"), ("p-b", "b:1"), ("p-c", "nowhere")], SETTLE);
        assert_eq!(asked, ["b:1"]);
        assert!(left_out.len() == 1 && left_out[0].starts_with("nowhere "), "{left_out:?}");
        let many: Vec<_> =
            (0..MAX_PEERS + 2).map(|number| (format!("p-{number}"), format!("b:{}", number + 1))).collect();
        let many: Vec<_> = many.iter().map(|(node, text)| (node.as_str(), text.as_str())).collect();
        let (asked, left_out) = found(&many, SETTLE);
        assert_eq!((asked.len(), left_out.len()), (MAX_PEERS, 2));
    }

    #[test]
    fn one_that_says_that_it_is_where_this_one_is_is_missed_unless_it_was_there_before() {
        let same = [("p-a", "a:1"), ("p-b", "a:1")];
        assert_eq!(found(&same, SETTLE), (vec![], vec![]), "this one's process before");
        let (asked, left_out) = found(&same, Duration::ZERO);
        assert!(
            asked.is_empty() && left_out.len() == 1 && left_out[0].contains("--advertise"),
            "{left_out:?}"
        );
    }
}
