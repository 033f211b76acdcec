//! TLS for a listener, and to servers, by files that are read again when they change.
//!
//! Several certificates may be shown, each for the names that it has; the first is for whoever asks for another name, or
//! for none. What is read is put to use whole or not at all: while a new file is half written, the old ones stay.

mod accept;
mod client;
mod connect;
mod peer;
mod standing;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use crate::{
    Failure, Shutdown,
    files::{self, ReadAt, Watched, Words},
};
pub use accept::{accept, certificate_of};
pub use client::{ClientTls, ClientTlsFiles};
pub use connect::{Connection, connect, connect_to, connect_unix, resolve};
pub use peer::PeerCertificate;
use standing::Ends;
pub use standing::{Standing, Uses};

/// What a listener shows, and of whom it asks the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Chains with their keys; at least one.
    pub identities: Vec<Identity>,
    /// Clients must show a certificate that these authorities have signed.
    pub client_ca: Option<PathBuf>,
    /// Whether clients may also show none; one that cannot be believed ends the connection all the same.
    pub takes_anonymous: bool,
    /// Protocols that are offered by ALPN, best first.
    pub protocols: &'static [&'static [u8]],
}

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then those that lead from it to an authority.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
}

/// What a listener needs for its next connection. TLS 1.2 and 1.3, with resumption, without early data.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// The files as they were when `current` was read.
    watched: ArcSwap<Watched>,
    read_at: ReadAt,
    standing: Arc<Standing>,
}

impl Tls {
    /// Reads all files.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file and what is wrong with it.
    pub fn load(files: TlsFiles) -> Result<Self, Failure> {
        let watched = ArcSwap::from_pointee(Watched::look(&files.paths()));
        let (config, ends) = read(&files).map_err(Failure::usage)?;
        let (current, standing) = (ArcSwap::from_pointee(config), Standing::new(ends));
        Ok(Self { files, current, watched, read_at: ReadAt::now(), standing })
    }

    /// For a connection that begins now. Those that are there keep what they have.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// When the files were last read with success.
    pub fn read_at(&self) -> SystemTime {
        self.read_at.at()
    }

    /// Until when what is shown is good, and whether the files could be used when they were read again.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Reads the files again whenever one of them has changed, until the shutdown. Files that cannot be used change
    /// nothing, and are said to be so once. Cancel safe.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        const WORDS: Words = Words {
            read_again: "TLS certificates were read again: new connections are shown them",
            unusable: "TLS certificates changed and cannot be used: going on with those before",
        };
        let (files, standing) = (self.files.clone(), Arc::clone(&self.standing));
        let put = |(watched, config)| {
            self.current.store(Arc::new(config));
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

impl TlsFiles {
    fn paths(&self) -> Vec<PathBuf> {
        let identities = self.identities.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        identities.chain(&self.client_ca).cloned().collect()
    }
}

fn read(files: &TlsFiles) -> Result<(ServerConfig, Ends), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let shown = files.identities.iter().map(|identity| Shown::read(identity, &provider));
    let shown = Certificates(shown.collect::<Result<_, _>>()?);
    let ends = files.identities.iter().zip(&shown.0).filter_map(|(identity, shown)| shown.end_of(identity));
    let ends = ends.collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if files.takes_anonymous { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(path, &error))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = files.protocols.iter().map(|name| name.to_vec()).collect();
    // Tickets are good until the next time the files are read: what is trusted then may be another.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
    Ok((config, ends))
}

/// The certificates of a listener.
#[derive(Debug)]
struct Certificates(Vec<Shown>);

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl Shown {
    fn read(identity: &Identity, provider: &CryptoProvider) -> Result<Self, String> {
        let chain = certificates(&identity.certificate)?;
        let key = PrivateKeyDer::from_pem_reader(&mut open(&identity.key)?)
            .map_err(|error| format!("{}: it holds no key in PEM: {error}", identity.key.display()))?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let (certificate, key) = (identity.certificate.display(), identity.key.display());
            format!("{certificate} and {key} do not belong together, or cannot be used: {error}")
        })?;
        Ok(Self(Arc::new(certified)))
    }

    /// When the first certificate of the chain ends, with its file.
    fn end_of(&self, identity: &Identity) -> Option<(PathBuf, SystemTime)> {
        let end = self.0.cert.iter().filter_map(|certificate| peer::end(certificate)).min()?;
        Some((identity.certificate.clone(), end))
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let Ok(certificate) = self.0.end_entity_cert() else { return false };
        ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Self(shown) = self;
        // Nothing to look for where there is no choice.
        let name =
            hello.server_name().filter(|_| shown.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| shown.iter().find(|shown| shown.is_for(&name)));
        named.or(shown.first()).map(|Shown(key)| Arc::clone(key))
    }
}

/// All certificates of a file, of which there must be one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(&mut open(path)?).collect();
    let read = read.map_err(|error| unusable(path, &error))?;
    match read.is_empty() {
        true => Err(format!("{}: it holds no certificate in PEM", path.display())),
        false => Ok(read),
    }
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    let open = |path| -> io::Result<_> { Ok(BufReader::new(File::open(path)?)) };
    open(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: it cannot be used: {error}", path.display())
}
