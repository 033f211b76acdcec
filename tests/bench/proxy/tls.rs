//! One certificate for all proxies, and clients that believe it.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName},
};

use crate::load::HOST;

/// A certificate for [`HOST`], in files that go with it.
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one, as HAProxy has it.
    pub(crate) both: PathBuf,
    clients: TlsConnector,
    _directory: TempDir,
}

impl Certificate {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let [chain, key, both] = ["chain.pem", "key.pem", "both.pem"].map(|name| directory.path().join(name));
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(&chain, &chain_pem)?;
        std::fs::write(&key, &key_pem)?;
        std::fs::write(&both, chain_pem + &key_pem)?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let mut clients = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // A new connection means a new handshake.
        clients.resumption = Resumption::disabled();
        Ok(Self { chain, key, both, clients: Arc::new(clients).into(), _directory: directory })
    }

    /// What clients believe.
    pub(crate) fn clients(&self) -> TlsConnector {
        self.clients.clone()
    }
}

/// A client's side of TLS on this connection.
pub(crate) async fn connect(clients: &TlsConnector, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    Ok(clients.connect(ServerName::try_from(HOST)?, stream).await?)
}
