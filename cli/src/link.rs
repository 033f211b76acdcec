//! How a control plane is reached: TLS, what it must show, and what it is shown.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use gateway_runtime::{
    credentials::TokenFile,
    tls::{self, ClientTls, ClientTlsFiles, Identity},
};
use hyper_util::rt::TokioIo;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{
    control::Shown,
    error::{Error, Exit},
};

/// A connection whose every call carries what its caller shows.
pub(crate) type Link = InterceptedService<Channel, Credentials>;

/// Files that say who a control plane must be, and who we are.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Access {
    /// Authorities in PEM that sign the certificate of a control plane at https:// [default: those that the system trusts]
    #[arg(id = "ca-file", long = "ca-file", global = true, env = "GWCTL_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate chain in PEM that the control plane is shown
    #[arg(id = "cert-file", long = "cert-file", global = true, env = "GWCTL_CERT_FILE", value_name = "FILE")]
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key in PEM
    #[arg(id = "key-file", long = "key-file", global = true, env = "GWCTL_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// File with the token that the control plane is shown
    #[arg(
        id = "token-file",
        long = "token-file",
        global = true,
        env = "GWCTL_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub(crate) token_file: Option<PathBuf>,
}

/// What is shown with each call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials(Option<TokenFile>);

impl Access {
    /// Reads the token.
    ///
    /// # Errors
    /// A usage error that names the file.
    pub(crate) fn credentials(&self) -> Result<Credentials, Error> {
        let token = self.token_file.clone().map(TokenFile::open).transpose();
        let hint = "--token-file names the file; gwctl config view --show-origin says who chose it";
        Ok(Credentials(token.map_err(|failure| Error::from(failure).hint(hint))?))
    }

    /// Reads the certificates.
    ///
    /// # Errors
    /// A usage error that names the file.
    pub(crate) fn tls(&self) -> Result<Arc<ClientTls>, Error> {
        self.tls_for(&[b"h2"])
    }

    /// What the admin sides of data planes are shown: the same certificate, and a token of their own.
    ///
    /// # Errors
    /// A usage error that names the file.
    pub(crate) fn shown_to_data_planes(&self, token_file: Option<PathBuf>) -> Result<Shown, Error> {
        let token = token_file.map(TokenFile::open).transpose();
        let token =
            token.map_err(|failure| Error::from(failure).hint("--data-plane-token-file names the file"))?;
        Ok(Shown { tls: self.tls_for(&[b"http/1.1"])?, token })
    }

    fn tls_for(&self, protocols: &'static [&'static [u8]]) -> Result<Arc<ClientTls>, Error> {
        let identity = match (&self.cert_file, &self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: certificate.clone(), key: key.clone() })
            }
            _ => return Err(Error::new(Exit::Usage, "--cert-file and --key-file need each other")),
        };
        let files = ClientTlsFiles { ca: self.ca_file.clone(), identity, protocols };
        Ok(Arc::new(ClientTls::load(files)?))
    }
}

/// Connects to an endpoint, with TLS where its URL says https.
///
/// # Errors
/// Why nobody answers there, or is not believed.
pub(crate) async fn connect(endpoint: &Endpoint, tls: &Arc<ClientTls>) -> Result<Channel, transport::Error> {
    let tls = Arc::clone(tls);
    endpoint.connect_with_connector(service_fn(move |url| open(url, Arc::clone(&tls)))).await
}

/// As [`connect`], when it is first needed, and again whenever the connection is lost.
pub(crate) fn connect_lazy(endpoint: &Endpoint, tls: &Arc<ClientTls>) -> Channel {
    let tls = Arc::clone(tls);
    endpoint.connect_with_connector_lazy(service_fn(move |url| open(url, Arc::clone(&tls))))
}

async fn open(url: Uri, tls: Arc<ClientTls>) -> std::io::Result<TokioIo<tls::Connection>> {
    let is_encrypted = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or_default();
    tls::connect(host, port, is_encrypted.then_some(&tls)).await.map(TokioIo::new)
}

impl Credentials {
    /// A connection whose calls carry them.
    pub(crate) fn over(&self, channel: Channel) -> Link {
        InterceptedService::new(channel, self.clone())
    }

    /// The value of an `Authorization` header.
    pub(crate) fn header(&self) -> Option<String> {
        self.0.as_ref().map(TokenFile::bearer)
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // A token is visible ASCII, which a header may have.
        if let Some(mut token) = self.header().and_then(|token| MetadataValue::try_from(token).ok()) {
            token.set_sensitive(true);
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }
}
