//! How this data plane reaches the control plane: the addresses, the connection, the pauses between attempts.
//!
//! Each process tries the addresses in an order of its own, so that many spread over all control planes, and those of one
//! that ends over all others. Discovery decides which address is in use and moves on when it fails; reports follow it, so
//! that one control plane at a time has both the acknowledgements and the breakers of this node.

mod reconnect;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use gateway_proto::ControlPlaneUrl;
use gateway_runtime::{
    credentials::TokenFile,
    tls::{self, ClientTls, Connection},
};
use http::Uri;
use hyper_util::rt::TokioIo;
use rand::{Rng, seq::SliceRandom};
use tokio::sync::watch;
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{self, Channel, Endpoint},
};
use tower::service_fn;

pub(crate) use reconnect::Reconnect;

/// A TCP connect that takes longer goes on to the next address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings find a peer that vanished without a word: one that its machine does not take ends the connection within seconds
/// ([`tls::connect_to`]). The timeout is what a stalled but living peer is granted.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The control planes that may be asked, and the one in use.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    urls: Vec<ControlPlaneUrl>,
    /// Counts moves: the address in use is the one with this number, after the last the first.
    current: watch::Sender<usize>,
    /// Of a name with several addresses, the one that is tried first is another one each time.
    turn: AtomicUsize,
    /// Where the connection in use has led, last: it is made anew when it breaks.
    found: Mutex<Whereabouts>,
    last_stream: AtomicI64,
    hold: Hold,
    identity: Identity,
}

/// A connection to a control plane that may come to be used in the place of the one in use.
#[derive(Debug)]
pub(crate) struct Candidate {
    channel: Channel,
    /// How many addresses after the one in use.
    steps: usize,
    found: Whereabouts,
}

impl Candidate {
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// Where a connection leads, which notes it each time that it is made; `None`: to no address, or it never was.
type Whereabouts = Arc<Mutex<Option<Found>>>;

/// Where a connection led, of a URL that names a host.
#[derive(Debug, Clone)]
struct Found {
    url: ControlPlaneUrl,
    address: SocketAddr,
    /// How many addresses the name has.
    count: usize,
}

/// Host and port of a control plane's URL.
fn place(url: &Uri) -> (&str, u16) {
    (url.host().unwrap_or_default().trim_matches(['[', ']']), url.port_u16().unwrap_or_default())
}

/// The addresses of a control plane; a Unix socket has none, and needs none.
async fn resolve(url: &ControlPlaneUrl) -> io::Result<Vec<SocketAddr>> {
    let ControlPlaneUrl::Web(url) = url else { return Ok(Vec::new()) };
    let (host, port) = place(url);
    tls::resolve(host, port).await
}

/// Connects to one of these addresses of a control plane, or to its Unix socket.
async fn open(
    url: &ControlPlaneUrl,
    addresses: &[SocketAddr],
    tls: &Arc<ClientTls>,
) -> io::Result<Connection> {
    match url {
        ControlPlaneUrl::Unix(path) => tls::connect_unix(path).await,
        ControlPlaneUrl::Web(web) => {
            tls::connect_to(addresses, place(web).0, url.is_encrypted().then_some(tls)).await
        }
    }
}

/// How a channel to a control plane is made.
fn endpoint(url: &ControlPlaneUrl) -> Endpoint {
    Endpoint::from(url.origin())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// What control planes are shown, and which of them are believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) tls: Arc<ClientTls>,
    pub(crate) token: Option<TokenFile>,
}

impl ControlPlane {
    /// As [`ControlPlane::new`], in an order by chance.
    ///
    /// # Panics
    /// When `urls` is empty.
    pub(crate) fn spread(mut urls: Vec<ControlPlaneUrl>, identity: Identity, rng: &mut impl Rng) -> Self {
        urls.shuffle(rng);
        let control_plane = Self::new(urls, identity);
        control_plane.turn.store(rng.random_range(0..1024), Ordering::Relaxed);
        control_plane
    }

    /// Control planes at `urls`; the first is tried first.
    ///
    /// # Panics
    /// When `urls` is empty.
    pub(crate) fn new(urls: Vec<ControlPlaneUrl>, identity: Identity) -> Self {
        assert!(!urls.is_empty(), "validated configuration names at least one control plane");
        Self {
            urls,
            current: watch::Sender::new(0),
            turn: AtomicUsize::new(0),
            found: Mutex::default(),
            last_stream: AtomicI64::new(0),
            hold: Hold::default(),
            identity,
        }
    }

    /// The one in use.
    pub(crate) fn url(&self) -> &ControlPlaneUrl {
        self.url_after(0)
    }

    fn url_after(&self, steps: usize) -> &ControlPlaneUrl {
        &self.urls[self.current.borrow().wrapping_add(steps) % self.urls.len()]
    }

    /// Connects to the address in use. Where its name has several, each call begins with another one. Cancel safe.
    ///
    /// # Errors
    /// When it refuses, does not answer within 2 s, or shows a certificate that is not believed.
    pub(crate) async fn connect(&self) -> Result<Channel, transport::Error> {
        let (channel, found) = self.dial(self.url()).await?;
        self.leads(found);
        Ok(channel)
    }

    /// Connects to the address so many after the one in use, which stays in use. Cancel safe.
    ///
    /// # Errors
    /// As [`ControlPlane::connect`].
    pub(crate) async fn try_another(&self, steps: usize) -> Result<Candidate, transport::Error> {
        let (channel, found) = self.dial(self.url_after(steps)).await?;
        Ok(Candidate { channel, steps, found })
    }

    /// Uses this one from now on, by the connection that there is.
    pub(crate) fn adopt(&self, candidate: Candidate) -> Channel {
        let Candidate { channel, steps, found } = candidate;
        self.leads(found);
        self.current.send_modify(|current| *current = current.wrapping_add(steps));
        channel
    }

    /// Notes where the connection in use leads.
    fn leads(&self, whereabouts: Whereabouts) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = whereabouts;
    }

    /// Connects, and yields where that leads. Of a name with several addresses, each call begins with another one.
    async fn dial(&self, url: &ControlPlaneUrl) -> Result<(Channel, Whereabouts), transport::Error> {
        let found = Whereabouts::default();
        let noted = Arc::clone(&found);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (url, tls) = (url.clone(), Arc::clone(&self.identity.tls));
        let endpoint = endpoint(&url);
        let connector = service_fn(move |_: Uri| {
            let (url, tls, found) = (url.clone(), Arc::clone(&tls), Arc::clone(&noted));
            async move {
                let mut addresses = resolve(&url).await?;
                let count = addresses.len();
                addresses.rotate_left(turn % count.max(1));
                let connection = open(&url, &addresses, &tls).await?;
                let address = connection.peer_addr()?;
                *found.lock().unwrap_or_else(PoisonError::into_inner) =
                    address.map(|address| Found { url, address, count });
                Ok::<_, io::Error>(TokioIo::new(connection))
            }
        });
        Ok((endpoint.connect_with_connector(connector).await?, found))
    }

    /// Connects to where the last [`ControlPlane::connect`] has led, as long as that is of the address in use: a name may
    /// have several, and behind each may be another control plane. Cancel safe.
    ///
    /// # Errors
    /// As [`ControlPlane::connect`].
    pub(crate) async fn connect_beside(&self) -> Result<Channel, transport::Error> {
        let (url, tls) = (self.url().clone(), Arc::clone(&self.identity.tls));
        let endpoint = endpoint(&url);
        let known = self.found().filter(|found| found.url == url).map(|found| found.address);
        let connector = service_fn(move |_: Uri| {
            let (url, tls) = (url.clone(), Arc::clone(&tls));
            async move {
                let addresses = match known {
                    Some(address) => vec![address],
                    None => resolve(&url).await?,
                };
                open(&url, &addresses, &tls).await.map(TokioIo::new)
            }
        });
        endpoint.connect_with_connector(connector).await
    }

    fn found(&self) -> Option<Found> {
        let whereabouts = Arc::clone(&self.found.lock().unwrap_or_else(PoisonError::into_inner));
        whereabouts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The control plane that the connection in use leads to, for people: the URL, with the address where the name has several,
    /// for behind each may be another one.
    pub(crate) fn followed(&self) -> String {
        let url = self.url();
        match self.found().filter(|found| found.url == *url && found.count > 1) {
            Some(found) => format!("{url} ({})", found.address),
            None => url.to_string(),
        }
    }

    /// Why a connection could not be had, or was lost: what the control plane says against our certificate, else what is given.
    pub(crate) fn why(&self, otherwise: String) -> String {
        self.identity.tls.refusal().map_or(otherwise, |refusal| (*refusal).clone())
    }

    /// A call with what this data plane shows of itself.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = self.identity.token.as_ref();
        // A token is visible ASCII, which a header may have.
        if let Some(mut token) = token.and_then(|token| MetadataValue::try_from(token.bearer()).ok()) {
            token.set_sensitive(true);
            request.metadata_mut().insert("authorization", token);
        }
        request
    }

    /// Uses the next address from now on, after the last the first.
    pub(crate) fn advance(&self) {
        self.current.send_modify(|current| *current = current.wrapping_add(1));
    }

    /// Follows the number of the address in use: it changes with it. With one address only, nothing ever moves.
    pub(crate) fn moves(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// How many addresses there are to try.
    pub(crate) fn count(&self) -> usize {
        self.urls.len()
    }

    /// Whether the next connection may lead to another control plane.
    pub(crate) fn has_others(&self) -> bool {
        self.urls.len() > 1 || self.found().is_some_and(|found| found.count > 1)
    }

    /// A number for a new stream, at `now`: greater than those of all streams before it.
    pub(crate) fn number_stream(&self, now: SystemTime) -> i64 {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let next = |last: i64| Some(micros.max(last.saturating_add(1)));
        let before = self.last_stream.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        micros.max(before.unwrap_or_default().saturating_add(1))
    }

    /// What keeps both streams from being opened.
    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }
}

/// Keeps this process from a control plane that another one follows under the same node id: the two would take the streams from
/// each other. Clones are handles to the same hold.
#[derive(Debug, Clone)]
pub(crate) struct Hold(Arc<watch::Sender<bool>>);

/// Ends the hold when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    hold: Hold,
    is_kept: bool,
}

impl Default for Hold {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Hold {
    /// Begins it; there is no more than one at a time.
    pub(crate) fn begin(&self) -> Held {
        self.0.send_replace(true);
        Held { hold: self.clone(), is_kept: false }
    }

    pub(crate) fn is_held(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when there is none. Cancel safe.
    pub(crate) async fn released(&self) {
        // The sender is held here, so this ends with the hold.
        let _ = self.0.subscribe().wait_for(|is_held| !is_held).await;
    }
}

impl Held {
    /// Lets the hold last for as long as the process.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_kept {
            self.hold.0.send_replace(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::fake_control_plane::FakeControlPlane;

    #[test]
    fn processes_begin_with_addresses_of_their_own_and_each_tries_all() {
        let urls = ["http://a:1", "http://b:2", "http://c:3"].map(|url| ControlPlaneUrl::parse(url).unwrap());
        let mut first = HashSet::new();
        for seed in 0..32 {
            let mut rng = StdRng::seed_from_u64(seed);
            let control_plane = ControlPlane::spread(urls.to_vec(), Identity::default(), &mut rng);
            first.insert(control_plane.url().clone());
            let tried: HashSet<_> = (0..3)
                .map(|_| {
                    control_plane.advance();
                    control_plane.url().clone()
                })
                .collect();
            assert_eq!(tried.len(), 3);
        }
        assert_eq!(first.len(), 3);
    }

    #[tokio::test]
    async fn where_an_adopted_connection_leads_when_it_is_made_anew_is_where_reports_go() {
        let fake = FakeControlPlane::start().await;
        let urls =
            ["http://127.0.0.1:1".to_owned(), fake.url()].map(|url| ControlPlaneUrl::parse(&url).unwrap());
        let control_plane = ControlPlane::new(urls.to_vec(), Identity::default());
        let candidate = control_plane.try_another(1).await.unwrap();
        let noted = Arc::clone(&candidate.found);
        control_plane.adopt(candidate);
        assert_eq!(control_plane.found().unwrap().address, fake.address);
        assert_eq!(control_plane.followed(), fake.url());
        // Its name has another address by now.
        let address = "127.0.0.1:2".parse().unwrap();
        *noted.lock().unwrap() = Some(Found { url: urls[1].clone(), address, count: 2 });
        assert_eq!(control_plane.found().unwrap().address, address);
        assert_eq!(control_plane.followed(), format!("{} (127.0.0.1:2)", fake.url()));
        assert!(control_plane.has_others());
    }

    #[test]
    fn streams_are_numbered_upwards_whatever_the_clock_does() {
        let control_plane =
            ControlPlane::new(vec![ControlPlaneUrl::parse("http://a:1").unwrap()], Identity::default());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let numbers = [10, 10, 5, 20].map(|seconds| control_plane.number_stream(at(seconds)));
        assert_eq!(numbers, [10_000_000, 10_000_001, 10_000_002, 20_000_000]);
    }

    #[test]
    fn addresses_are_used_in_turn() {
        let urls = ["http://a:1", "unix:///b", "http://c:3"].map(|url| ControlPlaneUrl::parse(url).unwrap());
        let control_plane = ControlPlane::new(urls.to_vec(), Identity::default());
        let mut used = Vec::new();
        for _ in 0..4 {
            used.push(control_plane.url().to_string());
            control_plane.advance();
        }
        assert_eq!(used, ["http://a:1", "unix:///b", "http://c:3", "http://a:1"]);
    }
}
