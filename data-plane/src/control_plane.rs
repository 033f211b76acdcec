//! How this data plane reaches the control plane: the addresses, the connection, the pauses between attempts.
//!
//! Discovery decides which address is in use and moves on when it fails; reports follow it, so that one control plane
//! at a time has both the acknowledgements and the breakers of this node.

mod reconnect;

use std::{
    error::Error,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::Uri;
use tonic::transport::{self, Channel, Endpoint};

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
}

impl ControlPlane {
    /// Control planes at `urls`, which [`parse_url`] accepted; the first is tried first.
    ///
    /// # Panics
    /// When `urls` is empty.
    pub(crate) fn new(urls: Vec<Uri>) -> Self {
        assert!(!urls.is_empty(), "validated configuration names at least one control plane");
        let endpoints = urls.into_iter().map(|url| {
            Endpoint::from(url)
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true)
        });
        Self { endpoints: endpoints.collect(), current: AtomicUsize::new(0) }
    }

    /// The address in use.
    pub(crate) fn url(&self) -> &Uri {
        self.endpoint().uri()
    }

    /// Connects to the address in use. Cancel safe.
    ///
    /// # Errors
    /// When it refuses, or does not answer within 2 s.
    pub(crate) async fn connect(&self) -> Result<Channel, transport::Error> {
        self.endpoint().connect().await
    }

    /// Uses the next address from now on, after the last the first.
    pub(crate) fn advance(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.current.load(Ordering::Relaxed) % self.endpoints.len()]
    }
}

/// Reads `http://HOST:PORT`.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub(crate) fn parse_url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
    match url.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(format!("{text:?} asks for TLS, which this version does not have")),
        _ => return Err(format!("{text:?} has no scheme: write http://HOST:PORT")),
    }
    if url.port_u16().is_none_or(|port| port == 0) {
        return Err(format!("{text:?} needs a port between 1 and 65535: write http://HOST:PORT"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(format!("{text:?} has a path: write http://HOST:PORT"));
    }
    Ok(url)
}

/// The innermost cause of an error: gRPC's own texts only say that something went wrong in transport.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_scheme_a_host_and_a_port() {
        for text in ["http://127.0.0.1:7400", "http://gateway.example:1/", "http://[::1]:7400"] {
            assert!(parse_url(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn any_other_url_is_refused_with_what_to_write() {
        for (text, why) in [
            ("127.0.0.1:7400", "has no scheme: write http://HOST:PORT"),
            ("https://a:1", "asks for TLS, which this version does not have"),
            ("http://a", "needs a port between 1 and 65535: write http://HOST:PORT"),
            ("http://a:0", "needs a port between 1 and 65535: write http://HOST:PORT"),
            ("http://a:1/x", "has a path: write http://HOST:PORT"),
            ("http://a b:1", "is no URL: invalid uri character"),
        ] {
            assert_eq!(parse_url(text).unwrap_err(), format!("{text:?} {why}"));
        }
    }

    #[test]
    fn addresses_are_used_in_turn() {
        let urls = ["http://a:1", "http://b:2"].map(|url| parse_url(url).unwrap());
        let control_plane = ControlPlane::new(urls.to_vec());
        let mut used = Vec::new();
        for _ in 0..3 {
            used.push(control_plane.url().host().unwrap().to_owned());
            control_plane.advance();
        }
        assert_eq!(used, ["a", "b", "a"]);
    }
}
