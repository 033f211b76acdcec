//! The gate: finds out who asks, by what is known now. It keeps that current, and is all of this that is not pure.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use gateway_runtime::{
    Shutdown,
    files::{self, Watched, Words},
    tls::PeerCertificate,
};
use http::{Extensions, HeaderMap, header};
use tokio::{sync::Notify, time::sleep_until};

use super::{
    Audit, Caller, CredentialError, Denied, Share,
    book::{Book, Credential},
    caller::{Known, Who},
    endpoints::EndpointRules,
    file::{self, Loaded},
    limit::Buckets,
    pace::Pace,
    rates::Rates,
    remote::{Remote, Schedule},
    share::Place,
    token::{Secret, jwks::Jwks},
};
use crate::{clock, listeners::Whence, strangers::Peer};

/// Wrong credentials in a second that are looked at from one address; twice as many at once.
const GUESSES_PER_SECOND: u32 = 50;

/// Where everybody must pass.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(super) lock: Option<Lock>,
    pub(super) rules: EndpointRules,
    pub(super) audit: Audit,
    /// Whether `/metrics` and reflection are for everybody.
    pub(crate) opens_metrics: bool,
    pub(crate) opens_reflection: bool,
}

/// Who is known; without one, nobody is asked.
#[derive(Debug)]
pub(crate) struct Lock {
    book: ArcSwap<Book>,
    /// Grows when what is known has changed.
    generation: AtomicU64,
    rates: Option<Mutex<Rates>>,
    /// Of answers that somebody asks for too much.
    pace: Pace,
    /// Of wrong credentials, by where they come from.
    guesses: Mutex<Buckets<Place>>,
    file: Option<PathBuf>,
    files: Mutex<Watched>,
    /// That there may be keys to fetch: somebody's are not known, or the file names another place.
    wants_keys: Notify,
}

impl Lock {
    /// Goes by a file, which was read.
    pub(crate) fn by_file(path: PathBuf, loaded: Loaded, rate: u32) -> Self {
        Self { file: Some(path), files: Mutex::new(loaded.files), ..Self::new(loaded.book, rate) }
    }

    /// Goes by certificates alone.
    pub(crate) fn by_certificates(rate: u32) -> Self {
        Self::new(Book::of_certificates(), rate)
    }

    fn new(book: Book, rate: u32) -> Self {
        Self {
            book: ArcSwap::from_pointee(book),
            generation: AtomicU64::new(0),
            rates: (rate > 0).then(|| Mutex::new(Rates::new(rate, clock::now()))),
            pace: Pace::new(),
            guesses: Mutex::new(Buckets::new(GUESSES_PER_SECOND, clock::now())),
            file: None,
            files: Mutex::default(),
            wants_keys: Notify::new(),
        }
    }

    pub(super) fn put(&self, loaded: Loaded) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = loaded.files;
        self.book.rcu(|before| loaded.book.keeping_keys(before));
        self.generation.fetch_add(1, Ordering::Release);
        self.wants_keys.notify_one();
    }

    /// Goes by keys that were fetched, if they are others than before.
    fn put_keys(&self, remote: &Remote, keys: &Jwks) {
        let mut is_news = false;
        self.book.rcu(|before| {
            let book = before.with_keys(remote, keys);
            is_news = book.is_some();
            book.map_or_else(|| Arc::clone(before), Arc::new)
        });
        if is_news {
            self.generation.fetch_add(1, Ordering::Release);
            tracing::info!(url = %remote, "keys for JWTs were fetched: requests and streams go by them from now on");
        }
    }
}

impl Gate {
    pub(crate) fn new(lock: Option<Lock>, rules: EndpointRules, audit: Audit) -> Self {
        Self { lock, rules, audit, opens_metrics: false, opens_reflection: false }
    }

    /// With metrics or reflection for everybody.
    pub(super) fn opening(self, metrics: bool, reflection: bool) -> Self {
        Self { opens_metrics: metrics, opens_reflection: reflection, ..self }
    }

    /// For tests of what is behind it.
    #[cfg(test)]
    pub(crate) fn open() -> Self {
        let (observation, metrics) = (crate::observe::Observation::new(1), crate::metrics::Metrics::new());
        let audit = Audit::new(&Arc::new(observation), &Arc::new(metrics));
        Self::new(None, EndpointRules::default(), audit)
    }

    /// Whether callers are asked who they are.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Finds out who asks, by his request's headers and what it has of his connection: certificate, address, and whether he is
    /// a stranger there. A token goes before a certificate, and that before the user at the other end of a Unix socket.
    pub(crate) fn caller(self: &Arc<Self>, headers: &HeaderMap, connection: &Extensions) -> Caller {
        let from = connection.get::<Whence>().copied();
        let certificate = connection.get::<Arc<PeerCertificate>>();
        let who = match &self.lock {
            None => Who::Anybody,
            Some(lock) => match lock.meet(shown(headers, certificate, from), from) {
                Ok(known) => {
                    let share = Share::of(&known.identity.name, from);
                    match connection.get::<Arc<Peer>>().map_or(Ok(()), |peer| peer.is_known_as(share)) {
                        Ok(()) => Who::Known(Arc::new(known)),
                        Err(limit) => Who::Nobody(Denied::Crowd { name: known.identity.name, limit }),
                    }
                }
                Err(denied) => Who::Nobody(denied),
            },
        };
        Caller { who, from, gate: Arc::clone(self) }
    }

    /// Has something done with the rates of callers, if there are any.
    pub(super) fn rates<T>(&self, act: impl FnOnce(&mut Rates, Instant) -> T) -> Option<T> {
        let rates = self.lock.as_ref()?.rates.as_ref()?;
        Some(act(&mut rates.lock().unwrap_or_else(PoisonError::into_inner), clock::now()))
    }

    /// Waits for a caller's turn to be told that he asks for too much, if there are turns, so long at most.
    pub(super) async fn pace(&self, whose: &Share, longest: Duration) {
        if let Some(lock) = &self.lock {
            lock.pace.turn(whose, longest).await;
        }
    }

    /// Reads the auth file again whenever it, or one that it names, has changed. A file that cannot be used changes nothing.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        const WORDS: Words = Words {
            read_again: "the auth file was read again: requests and streams go by it from now on",
            unusable: "the auth file changed and cannot be used: going on with what it said before",
        };
        let Some((lock, path)) = self.lock.as_ref().and_then(|lock| Some((lock, lock.file.clone()?))) else {
            return shutdown.begun().await;
        };
        let files = || lock.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let gate = Arc::clone(&self);
        let read = move || {
            let loaded = file::load(&path);
            gate.audit.read_file(loaded.is_ok());
            loaded
        };
        let tell = || self.audit.tokens_end(&lock.book.load());
        tell();
        let put = |loaded| {
            lock.put(loaded);
            tell();
        };
        files::follow(files, read, put, WORDS, shutdown).await;
    }
}

impl Gate {
    /// Fetches the keys of the issuer, where he publishes them, and again before they are old or when one is missed.
    pub(crate) async fn follow_keys(self: Arc<Self>, shutdown: Shutdown) {
        let Some(lock) = &self.lock else { return shutdown.begun().await };
        let (mut known, mut schedule) = (None, Schedule::new(clock::now()));
        loop {
            let remote = lock.book.load().remote().cloned();
            if remote != known {
                (known, schedule) = (remote, Schedule::new(clock::now()));
            }
            tokio::select! {
                () = shutdown.begun() => return,
                () = lock.wants_keys.notified() => {
                    schedule.is_asked(clock::now());
                    continue;
                }
                () = sleep_until(schedule.due.into()), if known.is_some() => {}
            }
            let Some(remote) = &known else { continue };
            schedule.begins(clock::now());
            let fetched = tokio::select! {
                fetched = remote.fetch() => fetched,
                () = shutdown.begun() => return,
            };
            self.audit.fetched_keys(fetched.is_ok());
            match fetched {
                Ok(fetched) => {
                    lock.put_keys(remote, &fetched.keys);
                    schedule.succeeded(clock::now(), &fetched, rand::random());
                }
                Err(why) if schedule.failed(clock::now(), rand::random()) => {
                    tracing::error!(url = %remote, why, "keys for JWTs cannot be fetched: going on with those before, if there are any");
                }
                Err(why) => tracing::debug!(url = %remote, why, "keys for JWTs still cannot be fetched"),
            }
        }
    }
}

impl Lock {
    /// Finds out who shows this from there. From where wrong ones come all the time, no signature is verified, which takes long, and
    /// what is wrong is no answer any more; who has a token or a certificate that is known passes all the same, for he may be behind
    /// the same address.
    fn meet(
        &self,
        shown: Result<Credential, CredentialError>,
        from: Option<Whence>,
    ) -> Result<Known, Denied> {
        let credential = shown.map_err(Denied::Nobody)?;
        let (guesses, now) = (|| self.guesses.lock().unwrap_or_else(PoisonError::into_inner), clock::now());
        let place = from.map(Place::of);
        if let Some(place) = place.filter(|_| credential.is_signed()) {
            guesses().look(&place, 1, now).map_err(|retry| Denied::Guesses { retry })?;
        }
        self.identify(credential).map_err(|error| {
            use CredentialError::{Expired, Missing, NoKeys, UnknownKey};
            // What was right once, or may be right, is no guess; nor is who comes over a Unix socket and has shown nothing.
            let is_guess = !matches!(error, Expired | NoKeys | UnknownKey | Missing);
            match place.filter(|_| is_guess).map(|place| guesses().take(&place, 1, now)) {
                Some(Err(retry)) => Denied::Guesses { retry },
                _ => Denied::Nobody(error),
            }
        })
    }

    fn identify(&self, credential: Credential) -> Result<Known, CredentialError> {
        // Before the book, so that who is identified by an older one is looked at again.
        let generation = self.generation.load(Ordering::Acquire);
        let identity = self.book.load().identify(&credential, clock::wall());
        let identity = identity.inspect_err(|error| {
            if *error == CredentialError::UnknownKey {
                self.wants_keys.notify_one();
            }
        })?;
        Ok(Known { identity, credential, generation })
    }
}

impl Caller {
    /// Finds out whether he is still who he was, with the same rights.
    pub(super) fn look_again(&mut self) -> Result<(), Denied> {
        let (Who::Known(known), Some(lock)) = (&self.who, &self.gate.lock) else { return Ok(()) };
        let is_over = known.identity.expires.is_some_and(|expires| clock::wall() >= expires);
        if !is_over && lock.generation.load(Ordering::Acquire) == known.generation {
            return Ok(());
        }
        let now = lock.identify(known.credential.clone()).map_err(Denied::Nobody)?;
        if now.identity.name != known.identity.name || now.identity.grants != known.identity.grants {
            let sentence = format!("what {} may do has changed: begin anew", known.identity.name);
            return Err(Denied::Permission { sentence, service: None });
        }
        self.who = Who::Known(Arc::new(now));
        Ok(())
    }
}

/// What he shows.
fn shown(
    headers: &HeaderMap,
    certificate: Option<&Arc<PeerCertificate>>,
    from: Option<Whence>,
) -> Result<Credential, CredentialError> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = sent.next() else {
        let shown = certificate.map(|shown| Credential::Certificate(Arc::clone(shown)));
        let user = || from.and_then(Whence::user).map(Credential::User);
        return shown.or_else(user).ok_or(CredentialError::Missing);
    };
    let invalid = CredentialError::invalid;
    if sent.next().is_some() {
        return Err(invalid("is there twice"));
    }
    let text = first.to_str().map_err(|_| invalid("is no visible ASCII"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim();
    match scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        true => Ok(Credential::Bearer(Secret::new(token))),
        false => Err(invalid("is not sent as authorization: Bearer TOKEN")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        auth::token::Fingerprint, metrics::Metrics, observe::Observation, publish::Publisher, registry::View,
    };

    /// Writes an auth file of tokens: the name, which is the token, and the rest of the entry.
    pub(in crate::auth) fn auth_file(folder: &Path, entries: &[(&str, &str)]) -> PathBuf {
        let entry = |(name, rest): &(&str, &str)| {
            let hash = Fingerprint::of(&Secret::new(name));
            format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rest}\n")
        };
        let path = folder.join("auth.toml");
        std::fs::write(&path, entries.iter().map(entry).collect::<String>()).unwrap();
        path
    }

    #[tokio::test(start_paused = true)]
    async fn when_tokens_end_and_that_a_file_cannot_be_used_any_more_is_told_by_gauges() {
        let folder = tempfile::tempdir().unwrap();
        let ends = "roles = [\"reader\"]\nexpires = \"2100-01-01T00:00:00Z\"";
        let path = auth_file(folder.path(), &[("ana", "roles = [\"reader\"]"), ("ci", ends)]);
        let lock = Lock::by_file(path.clone(), file::load(&path).unwrap(), 0);
        let (observation, metrics) = (Arc::new(Observation::new(1)), Arc::new(Metrics::new()));
        let audit = Audit::new(&observation, &metrics);
        let gate = Arc::new(Gate { lock: Some(lock), audit, ..Gate::open() });
        let (shutdown, good) = (Shutdown::new(), std::fs::read_to_string(&path).unwrap());
        let following = tokio::spawn(gate.follow(shutdown.clone()));
        let publisher = Publisher::new("e".into(), View::default());
        let is_told = async |line: &str| {
            let told = async {
                while !metrics
                    .text(&publisher, &observation, Duration::ZERO, clock::wall())
                    .lines()
                    .any(|l| l == line)
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), told).await.expect(line);
        };
        is_told("gateway_auth_file_unusable 0").await;
        is_told("gateway_auth_token_not_after_timestamp_seconds{token=\"ci\"} 4102444800").await;
        std::fs::write(&path, "[[token]]").unwrap();
        is_told("gateway_auth_file_unusable 1").await;
        is_told("gateway_auth_token_not_after_timestamp_seconds{token=\"ci\"} 4102444800").await;
        std::fs::write(&path, good.replace("2100", "2101")).unwrap();
        is_told("gateway_auth_file_unusable 0").await;
        is_told("gateway_auth_token_not_after_timestamp_seconds{token=\"ci\"} 4133980800").await;
        shutdown.begin();
        following.await.unwrap();
    }
}
