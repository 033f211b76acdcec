//! The gate: finds out who asks, by what is known now. It keeps that current, and is all of this that is not pure.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use gateway_runtime::{
    Shutdown,
    files::{self, Words},
    tls::PeerCertificate,
};
use http::{HeaderMap, header};

use super::{
    Audit, Caller, CredentialError, Denied,
    book::{Book, Credential},
    caller::{Known, Who},
    endpoints::EndpointRules,
    file::{self, Loaded},
    limit::Buckets,
    token::Secret,
};
use crate::clock;

/// Where everybody must pass.
#[derive(Debug)]
pub(crate) struct Gate {
    lock: Option<Lock>,
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
    buckets: Option<Mutex<Buckets>>,
    file: Option<PathBuf>,
    files: Mutex<Vec<PathBuf>>,
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
            buckets: (rate > 0).then(|| Mutex::new(Buckets::new(rate, clock::now()))),
            file: None,
            files: Mutex::default(),
        }
    }

    fn put(&self, loaded: Loaded) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = loaded.files;
        self.book.store(Arc::new(loaded.book));
        self.generation.fetch_add(1, Ordering::Release);
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

    /// Finds out who asks, by his request's headers and his connection's certificate. A token goes before a certificate.
    pub(crate) fn caller(
        self: &Arc<Self>,
        headers: &HeaderMap,
        certificate: Option<&Arc<PeerCertificate>>,
        from: Option<SocketAddr>,
    ) -> Caller {
        let who = match &self.lock {
            None => Who::Anybody,
            Some(lock) => {
                match shown(headers, certificate).and_then(|credential| lock.identify(credential)) {
                    Ok(known) => Who::Known(Arc::new(known)),
                    Err(error) => Who::Nobody(error),
                }
            }
        };
        Caller { who, from, gate: Arc::clone(self) }
    }

    /// Has something done with the buckets of callers, if there are any.
    pub(super) fn buckets<T>(&self, act: impl FnOnce(&mut Buckets, Instant) -> T) -> Option<T> {
        let buckets = self.lock.as_ref()?.buckets.as_ref()?;
        Some(act(&mut buckets.lock().unwrap_or_else(PoisonError::into_inner), clock::now()))
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
        files::follow(files, move || file::load(&path), |loaded| lock.put(loaded), WORDS, shutdown).await;
    }
}

impl Lock {
    fn identify(&self, credential: Credential) -> Result<Known, CredentialError> {
        // Before the book, so that who is identified by an older one is looked at again.
        let generation = self.generation.load(Ordering::Acquire);
        let identity = self.book.load().identify(&credential, clock::wall())?;
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
) -> Result<Credential, CredentialError> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = sent.next() else {
        return certificate
            .map(|shown| Credential::Certificate(Arc::clone(shown)))
            .ok_or(CredentialError::Missing);
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
