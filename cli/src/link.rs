//! How a control plane is reached: TLS, what it must show, and what it is shown.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::{Args, builder::FalseyValueParser};
use gateway_proto::ControlPlaneUrl;
use gateway_runtime::{
    credentials::TokenFile,
    root_cause,
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
    endpoint as control_plane,
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
    /// Show tokens beyond this machine without TLS, too: whoever is on the way reads them
    #[arg(id = "insecure", long = "insecure", global = true, env = "GWCTL_INSECURE", value_parser = FalseyValueParser::new())]
    pub(crate) insecure: bool,
}

/// What is shown with each call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials(Option<TokenFile>);

impl Access {
    /// Reads the token, to be shown to this control plane.
    ///
    /// # Errors
    /// A usage error that names the file, and one where others would read the token on its way.
    pub(crate) fn credentials(&self, endpoint: &control_plane::Endpoint) -> Result<Credentials, Error> {
        let token = self.token_file.clone().map(TokenFile::open).transpose();
        let hint = "--token-file names the file; gwctl config view --show-origin says who chose it";
        let token = token.map_err(|failure| Error::from(failure).hint(hint))?;
        let overheard = endpoint.places.urls().iter().find(|url| url.is_overheard());
        if let Some(url) = overheard.filter(|_| token.is_some() && !self.insecure) {
            return Err(
                overheard_error(&format!("the control plane at {url}")).because(endpoint.origin.describe())
            );
        }
        Ok(Credentials(token))
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
        Ok(Shown { tls: self.tls_for(&[b"http/1.1"])?, token, is_insecure: self.insecure })
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

/// Says why no token is shown there.
pub(crate) fn overheard_error(whom: &str) -> Error {
    Error::new(
        Exit::Usage,
        format!("the token is not shown to {whom}: without TLS it would be sent for all to read"),
    )
    .hint("name it by https://, or say --insecure if whoever is on the way may read the token")
}

/// Of several control planes, one that has not answered for so long has the next one tried.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// Of several, one that hangs is left within both together: well within a lease.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Control planes of one registry, any of which will do. Clones share which one is in use.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    urls: Vec<ControlPlaneUrl>,
    /// The one that was connected to last.
    current: AtomicUsize,
}

impl PartialEq for Places {
    fn eq(&self, other: &Self) -> bool {
        self.0.urls == other.0.urls
    }
}

impl Eq for Places {}

impl Places {
    /// At these URLs; the first that answers is used.
    ///
    /// # Panics
    /// Without any.
    pub(crate) fn new(urls: Vec<ControlPlaneUrl>) -> Self {
        assert!(!urls.is_empty(), "an endpoint has a URL");
        Self(Arc::new(Inner { urls, current: AtomicUsize::new(0) }))
    }

    /// All of them.
    pub(crate) fn urls(&self) -> &[ControlPlaneUrl] {
        &self.0.urls
    }

    /// The one in use, or the first.
    pub(crate) fn current(&self) -> &ControlPlaneUrl {
        &self.0.urls[self.0.current.load(Relaxed) % self.0.urls.len()]
    }

    /// How a channel to any of them is made.
    pub(crate) fn channel(&self) -> Endpoint {
        let channel = Channel::builder(self.current().origin());
        match self.0.urls.len() {
            1 => channel,
            _ => channel.http2_keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT),
        }
    }

    /// Opens a connection to the one in use, or to the next that answers.
    async fn open(&self, tls: Arc<ClientTls>) -> io::Result<TokioIo<tls::Connection>> {
        let Inner { urls, current } = &*self.0;
        if let [only] = &urls[..] {
            return open(only, tls).await;
        }
        let first = current.load(Relaxed);
        let mut tried = Vec::new();
        for index in (first..first + urls.len()).map(|index| index % urls.len()) {
            let why = match tokio::time::timeout(PLACE_TIMEOUT, open(&urls[index], Arc::clone(&tls))).await {
                Ok(Ok(connection)) => {
                    current.store(index, Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => root_cause(&error),
                Err(_) => format!("no answer within {PLACE_TIMEOUT:?}"),
            };
            tried.push(format!("{} ({why})", urls[index]));
        }
        Err(io::Error::other(tried.join(", ")))
    }
}

/// Connects to the first place that answers, with TLS where its URL says https.
///
/// # Errors
/// Why nobody answers there, or is not believed.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    places: &Places,
    tls: &Arc<ClientTls>,
) -> Result<Channel, transport::Error> {
    let (tls, places) = (Arc::clone(tls), places.clone());
    let connector = service_fn(move |_: Uri| {
        let (tls, places) = (Arc::clone(&tls), places.clone());
        async move { places.open(tls).await }
    });
    endpoint.connect_with_connector(connector).await
}

/// As [`connect`], when it is first needed, and again whenever the connection is lost.
pub(crate) fn connect_lazy(endpoint: &Endpoint, places: &Places, tls: &Arc<ClientTls>) -> Channel {
    let (tls, places) = (Arc::clone(tls), places.clone());
    let connector = service_fn(move |_: Uri| {
        let (tls, places) = (Arc::clone(&tls), places.clone());
        async move { places.open(tls).await }
    });
    endpoint.connect_with_connector_lazy(connector)
}

async fn open(url: &ControlPlaneUrl, tls: Arc<ClientTls>) -> io::Result<TokioIo<tls::Connection>> {
    let connection = match url {
        ControlPlaneUrl::Unix(path) => tls::connect_unix(path).await,
        ControlPlaneUrl::Web(web) => {
            let host = web.host().unwrap_or_default().trim_matches(['[', ']']);
            tls::connect(host, web.port_u16().unwrap_or_default(), url.is_encrypted().then_some(&tls)).await
        }
    };
    connection.map(TokioIo::new)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::get_from_data_plane, endpoint::Origin};

    fn shown(insecure: bool) -> (tempfile::NamedTempFile, Access) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "sesame-sesame-sesame").unwrap();
        let access = Access { token_file: Some(file.path().into()), insecure, ..Access::default() };
        (file, access)
    }

    #[test]
    fn a_token_is_shown_to_a_control_plane_elsewhere_in_tls_only_unless_told_otherwise() {
        let (_file, access) = shown(false);
        let endpoint = |urls: &str| control_plane::Endpoint::parse(urls, Origin::Environment).unwrap();
        for (urls, plain) in [
            ("http://control.example:7400", "http://control.example:7400"),
            ("http://127.0.0.1:1,https://a:1,http://10.0.0.2:1", "http://10.0.0.2:1"),
        ] {
            let error = access.credentials(&endpoint(urls)).unwrap_err();
            assert_eq!(
                (error.exit, error.details),
                (Exit::Usage, vec![Origin::Environment.describe().into()])
            );
            let told = format!("the token is not shown to the control plane at {plain}: without TLS");
            assert!(error.headline.starts_with(&told), "{}", error.headline);
            assert!(error.hints[0].contains("https://, or say --insecure"), "{:?}", error.hints);
            let (_file, insecure) = shown(true);
            assert!(insecure.credentials(&endpoint(urls)).unwrap().header().is_some(), "{urls}");
            assert!(Access::default().credentials(&endpoint(urls)).unwrap().header().is_none(), "{urls}");
        }
        for urls in ["http://127.0.0.1:1", "http://[::1]:1,https://a:1", "unix:///run/gw.sock"] {
            assert!(access.credentials(&endpoint(urls)).unwrap().header().is_some(), "{urls}");
        }
    }

    #[tokio::test]
    async fn nor_is_one_to_the_admin_side_of_a_data_plane() {
        // All addresses are not loopback, and lead to it all the same, where nobody listens at this port.
        let refused = async |insecure: bool, has_token: bool, url: &str| {
            let (file, access) = shown(insecure);
            let token = has_token.then(|| file.path().to_owned());
            let shown = access.shown_to_data_planes(token).unwrap();
            get_from_data_plane(url, "/readyz", &shown, Duration::from_secs(10)).await.unwrap_err()
        };
        let error = refused(false, true, "http://0.0.0.0:1").await;
        assert_eq!(error.exit, Exit::Usage, "{error:?}");
        assert!(error.headline.contains("the data plane at http://0.0.0.0:1: without TLS"), "{error:?}");
        for (insecure, has_token, url) in [
            (true, true, "http://0.0.0.0:1"),
            (false, false, "http://0.0.0.0:1"),
            (false, true, "http://127.0.0.1:1"),
            (false, true, "https://0.0.0.0:1"),
        ] {
            let error = refused(insecure, has_token, url).await;
            assert_eq!(error.exit, Exit::Unreachable, "{url}: {error:?}");
        }
    }
}
