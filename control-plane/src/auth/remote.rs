//! The keys of an issuer that publishes them at a URL: fetched there, and again before they are old.
//!
//! Who knows no more than the URL sets no pace: a token by a key that nobody knows has the keys fetched, and not more often than
//! every ten seconds. Whatever goes wrong, the keys from before go on to be believed. Where the authorities are in a file, it is
//! read at each fetch.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_runtime::{
    root_cause,
    tls::{self, ClientTls, ClientTlsFiles},
};
use http::{HeaderMap, Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{task::JoinSet, time::timeout};

use super::token::jwks::{self, Jwks};

/// How long one fetch may take, from the connect to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long keys are good when whoever publishes them does not say.
const FRESH: Duration = Duration::from_secs(300);
/// Whatever he says.
const MIN_FRESH: Duration = Duration::from_secs(60);
const MAX_FRESH: Duration = Duration::from_secs(3600);
/// The pause after the first failure in a row; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Between the beginnings of two fetches that somebody's token brought about.
const ASKED_PAUSE: Duration = Duration::from_secs(10);

/// Where an issuer publishes his keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    url: Uri,
    host: String,
    port: u16,
    is_encrypted: bool,
    /// Who signs the certificate there; `None`: whom the system trusts.
    ca: Option<PathBuf>,
}

/// What came of a fetch.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: Jwks,
    /// As whoever publishes them says.
    fresh_for: Option<Duration>,
}

impl Remote {
    /// Reads a URL, and the file of authorities once.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(super) fn parse(text: &str, ca: Option<PathBuf>) -> Result<Self, String> {
        // A password in it is not repeated.
        let refused = |why: &str| Err(format!("jwks-url {why}: write https://HOST/PATH"));
        let Ok(url) = text.parse::<Uri>() else { return refused("is no URL") };
        let Some(authority) = url.authority() else { return refused("has no host") };
        if authority.as_str().contains('@') {
            return refused("has a user in it");
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let is_encrypted = match url.scheme_str() {
            Some("https") => true,
            Some("http") if is_here => false,
            Some("http") => {
                return refused("has no TLS, so that anybody on the way could put his keys there");
            }
            _ => return refused("has another scheme"),
        };
        if ca.is_some() && !is_encrypted {
            return Err("jwks-ca is for a jwks-url with https".into());
        }
        let port = url.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        if port == 0 || host.is_empty() {
            return refused("has no host and port that can be connected to");
        }
        let remote = Self { host, port, is_encrypted, ca, url };
        remote.tls().map(|_| remote)
    }

    /// Gets the keys once. Cancel safe.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn fetch(&self) -> Result<Fetched, String> {
        let fetched = timeout(FETCH_TIMEOUT, self.ask()).await;
        fetched.unwrap_or_else(|_| Err(format!("there was no whole answer within {FETCH_TIMEOUT:?}")))
    }

    async fn ask(&self) -> Result<Fetched, String> {
        let tls = Arc::new(self.tls()?);
        let stream = tls::connect(&self.host, self.port, self.is_encrypted.then_some(&tls)).await;
        let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| root_cause(&error))?;
        // Ends with this call, whatever comes of it.
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let answered = sender.send_request(self.request()).await.map_err(|error| root_cause(&error))?;
        let (head, body) = answered.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("the answer is {}, and redirects are not followed", head.status));
        }
        let body = Limited::new(body, jwks::MAX_FILE_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => "the answer is larger than 1 MiB".to_owned(),
            false => format!("the answer broke off: {error}"),
        })?;
        let keys = Jwks::parse(&body.to_bytes()).map_err(|why| format!("the answer {why}"))?;
        Ok(Fetched { keys, fresh_for: fresh_for(&head.headers) })
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let path = self.url.path_and_query().map_or("/", PathAndQuery::as_str);
        let host = self.url.authority().map(ToString::to_string).unwrap_or_default();
        Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, concat!("gw-control-plane/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .expect("the parts of a URL make a request")
    }

    fn tls(&self) -> Result<ClientTls, String> {
        let files = ClientTlsFiles { ca: self.ca.clone(), identity: None, protocols: &[b"http/1.1"] };
        ClientTls::load(files).map_err(|failure| failure.to_string())
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}

/// RFC 9111, section 5.2.2: what a shared cache would go by. What is not to be kept is kept for the shortest time.
fn fresh_for(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(','));
    let mut fresh_for = None;
    for directive in directives.map(|directive| directive.trim().to_ascii_lowercase()) {
        if directive == "no-store" || directive == "no-cache" {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            fresh_for = seconds.parse().ok().map(Duration::from_secs).or(fresh_for);
        }
    }
    fresh_for
}

/// When keys are fetched next. Pure: time and chance are arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) due: Instant,
    /// When the last fetch began.
    began: Option<Instant>,
    /// Fetches that failed, in a row.
    failures: u32,
}

impl Schedule {
    /// At once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, began: None, failures: 0 }
    }

    /// A fetch begins.
    pub(super) fn begins(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// Somebody showed a token by a key that is not known.
    pub(super) fn is_asked(&mut self, now: Instant) {
        let earliest = self.began.map_or(now, |began| began + ASKED_PAUSE);
        // Failures set their own pace: whoever asks must not speed that up.
        if self.failures == 0 {
            self.due = self.due.min(earliest.max(now));
        }
    }

    /// There are keys. `random` is uniform in 0..1: not all control planes come at once.
    pub(super) fn succeeded(&mut self, now: Instant, fetched: &Fetched, random: f64) {
        self.failures = 0;
        let fresh = fetched.fresh_for.unwrap_or(FRESH).clamp(MIN_FRESH, MAX_FRESH);
        self.due = now + fresh.mul_f64(0.8 + 0.2 * random);
    }

    /// There are none. Whether it is the first failure in a row.
    pub(super) fn failed(&mut self, now: Instant, random: f64) -> bool {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures)).min(MAX_PAUSE);
        self.due = now + pause.mul_f64(0.5 + 0.5 * random);
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fetched(cache_control: Option<&str>) -> Fetched {
        let set = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
        let value = cache_control.map(|text| (header::CACHE_CONTROL, HeaderValue::from_str(text).unwrap()));
        let fresh_for = fresh_for(&value.into_iter().collect());
        Fetched { keys: Jwks::parse(set.as_bytes()).unwrap(), fresh_for }
    }

    #[test]
    fn a_url_is_of_tls_unless_it_stays_on_this_machine() {
        for text in ["https://idp.example/keys", "https://[2001:db8::1]:8443/", "http://127.0.0.1:80/k?x=1"] {
            assert_eq!(Remote::parse(text, None).unwrap().to_string(), text);
        }
        assert_eq!(Remote::parse("http://localhost/k", None).unwrap().port, 80);
        for (text, why) in [
            ("keys", "has another scheme"),
            ("/keys", "has no host"),
            ("http://idp.example/keys", "has no TLS"),
            ("ftp://idp.example/keys", "has another scheme"),
            ("https://ana:sesame@idp.example/keys", "has a user in it"),
            ("https://idp.example:0/keys", "has no host and port"),
            ("https://a b/", "is no URL"),
        ] {
            let told = Remote::parse(text, None).unwrap_err();
            assert!(told.contains(why) && !told.contains("sesame"), "{text}: {told}");
        }
        assert!(Remote::parse("http://127.0.0.1/k", Some("ca.pem".into())).unwrap_err().contains("jwks-ca"));
        let absent = Remote::parse("https://idp.example/k", Some("/absent/ca.pem".into())).unwrap_err();
        assert!(absent.contains("/absent/ca.pem"), "{absent}");
    }

    #[test]
    fn keys_are_fetched_again_before_they_are_old_and_within_bounds_of_ours() {
        let now = Instant::now();
        for (cache_control, random, seconds) in [
            (None, 0.0, 240),
            (None, 1.0, 300),
            (Some("public, max-age=600"), 1.0, 600),
            (Some("Max-Age=86400"), 1.0, 3600),
            (Some("max-age=1"), 1.0, 60),
            (Some("max-age=600, no-store"), 1.0, 60),
            (Some("max-age=soon"), 1.0, 300),
        ] {
            let mut schedule = Schedule::new(now);
            schedule.succeeded(now, &fetched(cache_control), random);
            assert_eq!(schedule.due - now, Duration::from_secs(seconds), "{cache_control:?}");
        }
    }

    #[test]
    fn whoever_shows_unknown_keys_has_them_fetched_once_in_ten_seconds() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        schedule.begins(now);
        schedule.succeeded(now, &fetched(None), 1.0);
        schedule.is_asked(now + Duration::from_secs(1));
        assert_eq!(schedule.due - now, ASKED_PAUSE);
        schedule.is_asked(now + Duration::from_secs(40));
        assert_eq!(schedule.due - now, ASKED_PAUSE, "what is due already does not move");
        let later = now + Duration::from_secs(100);
        schedule.succeeded(later, &fetched(None), 1.0);
        schedule.is_asked(later);
        assert_eq!(schedule.due, later);
    }

    #[test]
    fn failures_come_ever_more_seldom_and_nobody_speeds_them_up() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        let mut pauses = Vec::new();
        for number in 0..10 {
            schedule.begins(now);
            assert_eq!(schedule.failed(now, 1.0), number == 0);
            schedule.is_asked(now);
            pauses.push((schedule.due - now).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        schedule.failed(now, 0.0);
        assert_eq!(schedule.due - now, MAX_PAUSE / 2);
    }
}
