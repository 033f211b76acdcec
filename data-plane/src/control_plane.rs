//! How this data plane reaches the control plane: the addresses, the connection, the pauses between attempts.
//!
//! Discovery decides which address is in use and moves on when it fails; reports follow it, so that one control plane
//! at a time has both the acknowledgements and the breakers of this node.

mod reconnect;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway_runtime::{
    credentials::TokenFile,
    tls::{self, ClientTls},
};
use http::Uri;
use hyper_util::rt::TokioIo;
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
/// HTTP/2 pings find a peer that vanished without a word; the timeout is what a stalled but living peer is granted.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The control planes that may be asked, and the one in use.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    endpoints: Vec<Endpoint>,
    current: AtomicUsize,
    hold: Hold,
    identity: Identity,
}

/// What control planes are shown, and which of them are believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) tls: Arc<ClientTls>,
    pub(crate) token: Option<TokenFile>,
}

impl ControlPlane {
    /// Control planes at `urls`, which [`gateway_proto::control_plane_url`] accepted; the first is tried first.
    ///
    /// # Panics
    /// When `urls` is empty.
    pub(crate) fn new(urls: Vec<Uri>, identity: Identity) -> Self {
        assert!(!urls.is_empty(), "validated configuration names at least one control plane");
        let endpoints = urls.into_iter().map(|url| {
            Endpoint::from(url)
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true)
        });
        Self { endpoints: endpoints.collect(), current: AtomicUsize::new(0), hold: Hold::default(), identity }
    }

    /// The address in use.
    pub(crate) fn url(&self) -> &Uri {
        self.endpoint().uri()
    }

    /// Connects to the address in use. Cancel safe.
    ///
    /// # Errors
    /// When it refuses, does not answer within 2 s, or shows a certificate that is not believed.
    pub(crate) async fn connect(&self) -> Result<Channel, transport::Error> {
        let tls = Arc::clone(&self.identity.tls);
        let connector = service_fn(move |url: Uri| {
            let tls = Arc::clone(&tls);
            async move {
                let is_encrypted = url.scheme_str() == Some("https");
                let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
                let port = url.port_u16().unwrap_or_default();
                tls::connect(host, port, is_encrypted.then_some(&tls)).await.map(TokioIo::new)
            }
        });
        self.endpoint().connect_with_connector(connector).await
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
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// What keeps both streams from being opened.
    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.current.load(Ordering::Relaxed) % self.endpoints.len()]
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
    use super::*;

    #[test]
    fn addresses_are_used_in_turn() {
        let urls = ["http://a:1", "http://b:2"].map(Uri::from_static);
        let control_plane = ControlPlane::new(urls.to_vec(), Identity::default());
        let mut used = Vec::new();
        for _ in 0..3 {
            used.push(control_plane.url().host().unwrap().to_owned());
            control_plane.advance();
        }
        assert_eq!(used, ["a", "b", "a"]);
    }
}
