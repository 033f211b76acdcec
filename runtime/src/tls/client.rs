//! TLS to servers, by files that are read again when they change.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use super::{Ends, Identity, PeerCertificate, Shown, Standing, certificates, unusable};
use crate::{
    Failure, Shutdown,
    files::{self, ReadAt, Watched, Words},
};

/// Whom a client believes, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// Authorities in PEM, who sign what is believed; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Shown to a server that asks for it.
    pub identity: Option<Identity>,
    /// Protocols that are offered by ALPN, best first.
    pub protocols: &'static [&'static [u8]],
}

/// What a client needs for its next connection. TLS 1.2 and 1.3, with resumption, without early data.
#[derive(Debug, Default)]
pub struct ClientTls {
    files: ClientTlsFiles,
    current: ArcSwapOption<ClientConfig>,
    /// The files as they were when `current` was read.
    watched: ArcSwap<Watched>,
    read_at: ReadAt,
    standing: Arc<Standing>,
    /// What a server said against us last.
    refusal: ArcSwapOption<String>,
    /// What a server showed last.
    shown: ArcSwapOption<PeerCertificate>,
}

impl ClientTls {
    /// Reads the files. Where none are named, nothing is read yet: the authorities that the system trusts are, when they are
    /// first needed.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file and what is wrong with it.
    pub fn load(files: ClientTlsFiles) -> Result<Self, Failure> {
        let watched = ArcSwap::from_pointee(Watched::look(&files.paths()));
        let is_needed = files.ca.is_some() || files.identity.is_some();
        let read = is_needed.then(|| read(&files)).transpose().map_err(Failure::usage)?;
        let (config, ends) = read.unzip();
        let read_at = if is_needed { ReadAt::now() } else { ReadAt::default() };
        Ok(Self {
            files,
            current: ArcSwapOption::from(config.map(Arc::new)),
            watched,
            read_at,
            standing: Standing::new(ends.unwrap_or_default()),
            refusal: ArcSwapOption::empty(),
            shown: ArcSwapOption::empty(),
        })
    }

    /// For a connection that begins now. Those that are there keep what they have.
    ///
    /// # Errors
    /// Why no authority can be believed.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.current.load_full() {
            return Ok(config);
        }
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || read(&files)).await;
        let (config, _) = read.unwrap_or_else(|panicked| Err(panicked.to_string()))?;
        let config = Arc::new(config);
        self.current.store(Some(Arc::clone(&config)));
        Ok(config)
    }

    /// What a server said last against the certificate that it was shown: it says so when the handshake is over, and then
    /// whoever uses the connection only learns that it is closed.
    pub fn refusal(&self) -> Option<Arc<String>> {
        self.refusal.load_full()
    }

    /// The certificate that a server showed last.
    pub fn shown(&self) -> Option<Arc<PeerCertificate>> {
        self.shown.load_full()
    }

    pub(super) fn was_shown(&self, certificate: Option<PeerCertificate>) {
        self.shown.store(certificate.map(Arc::new));
    }

    pub(super) fn was_refused(&self, sentence: Option<String>) {
        self.refusal.store(sentence.map(Arc::new));
    }

    /// When the files were last read with success; the beginning of time where there are none.
    pub fn read_at(&self) -> SystemTime {
        self.read_at.at()
    }

    /// Until when what is shown is good, and whether the files could be used when they were read again.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Whether there are files to be looked at.
    pub fn has_files(&self) -> bool {
        !self.files.paths().is_empty()
    }

    /// Reads the files again whenever one of them has changed, until the shutdown. Files that cannot be used change
    /// nothing, and are said to be so once. Cancel safe.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        const WORDS: Words = Words {
            read_again: "the files for TLS to servers were read again: new connections go by them",
            unusable: "the files for TLS to servers changed and cannot be used: going on with those before",
        };
        let (files, standing) = (self.files.clone(), Arc::clone(&self.standing));
        let put = |(watched, config)| {
            self.current.store(Some(Arc::new(config)));
            self.watched.store(Arc::new(watched));
            self.read_at.again();
        };
        let read = move || {
            let (watched, read) = (Watched::look(&files.paths()), read(&files));
            standing.was_read(&read);
            Ok((watched, read?.0))
        };
        files::follow(|| Watched::clone(&self.watched.load()), read, put, WORDS, shutdown).await;
    }
}

impl ClientTlsFiles {
    fn paths(&self) -> Vec<PathBuf> {
        let identity = self.identity.iter().flat_map(|it| [&it.certificate, &it.key]);
        identity.chain(&self.ca).cloned().collect()
    }
}

fn read(files: &ClientTlsFiles) -> Result<(ClientConfig, Ends), String> {
    let mut ends = Ends::new();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = match &files.ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
            roots
        }
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let shown = Shown::read(identity, &provider)?;
            ends.extend(shown.end_of(identity));
            let Shown(key) = shown;
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
        }
    };
    config.alpn_protocols = files.protocols.iter().map(|name| name.to_vec()).collect();
    Ok((config, ends))
}

/// The authorities that the system trusts. What of them cannot be read is trusted by nobody.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => {
            let why = found.errors.first().map_or_else(|| "it names none".to_owned(), ToString::to_string);
            Err(format!("the system has no authorities to trust ({why}): name a file of them"))
        }
    }
}
