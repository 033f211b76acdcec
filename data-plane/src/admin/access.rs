//! Who may look at the admin side. On loopback whoever is on the machine may, unless a token or a certificate is asked for; beyond
//! it, one of the two is.

use std::{net::SocketAddr, sync::Arc};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use gateway_runtime::{Failure, credentials::TokenFile, hosts::is_nobody_elses, tls::Tls};

/// They say one word, and load balancers have no credentials.
const PROBES: [&str; 3] = ["/livez", "/healthz", "/readyz"];

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub(crate) tls: Option<Arc<Tls>>,
    /// Whether a certificate, which TLS has verified, is enough.
    pub(crate) takes_certificates: bool,
    pub(crate) token: Option<TokenFile>,
    /// Whether it may be open beyond this machine.
    pub(crate) is_insecure: bool,
}

/// That the client of a connection has shown a certificate of an authority that is believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certified;

/// That nobody knows who asks, where that is asked: he is told one word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stranger;

/// Why somebody does not get to see it.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    NoToken,
    WrongToken,
    Host(String),
}

impl Access {
    /// Whether it may be served at an address, to which `what` leads: `--admin-listen`, or a socket that was passed.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flags to set.
    pub(crate) fn check(&self, what: &str, listen: SocketAddr) -> Result<(), Failure> {
        let (has_tls, is_locked) = (self.tls.is_some(), self.is_locked());
        if listen.ip().to_canonical().is_loopback() || self.is_insecure || has_tls && is_locked {
            return Ok(());
        }
        let (open, flags) = match (has_tls, is_locked) {
            (false, false) => (
                "there is no TLS and nobody is asked who he is",
                "--admin-tls-certificate, --admin-tls-key, and --admin-token-file or --admin-tls-client-ca",
            ),
            (false, true) => (
                "there is no TLS: the token would be sent for all to read",
                "--admin-tls-certificate and --admin-tls-key",
            ),
            (true, _) => ("nobody is asked who he is", "--admin-token-file or --admin-tls-client-ca"),
        };
        Err(Failure::usage(format!(
            "{what} {listen} is reached from beyond this machine, and {open}: set {flags}, or say --insecure if whoever \
             reaches it may see every service and address"
        )))
    }

    /// Whether callers are asked who they are.
    pub(crate) fn is_locked(&self) -> bool {
        self.token.is_some() || self.takes_certificates
    }

    fn admit(&self, uri: &Uri, headers: &HeaderMap, is_certified: bool) -> Result<(), Refused> {
        if PROBES.contains(&uri.path()) {
            return Ok(());
        }
        if !self.is_locked() {
            // A page of somebody else's could have its name lead here, and read what there is.
            return check_host(uri, headers);
        }
        self.identify(headers, is_certified)
    }

    /// Whether this is somebody who is asked for.
    fn identify(&self, headers: &HeaderMap, is_certified: bool) -> Result<(), Refused> {
        let shown = headers.get(header::AUTHORIZATION);
        match (shown, &self.token) {
            (Some(shown), Some(token)) if is_the_same(shown, &token.bearer()) => Ok(()),
            _ if self.takes_certificates && is_certified => Ok(()),
            (None, _) | (_, None) => Err(Refused::NoToken),
            (Some(_), Some(_)) => Err(Refused::WrongToken),
        }
    }
}

/// Whether a header is the one that is wanted: the name of its scheme has no case.
fn is_the_same(shown: &HeaderValue, wanted: &str) -> bool {
    let scheme = "Bearer ".len();
    let (Some((shown_scheme, shown)), Some((wanted_scheme, wanted))) =
        (shown.as_bytes().split_at_checked(scheme), wanted.as_bytes().split_at_checked(scheme))
    else {
        return false;
    };
    shown_scheme.eq_ignore_ascii_case(wanted_scheme)
        && verify_slices_are_equal(shown.trim_ascii(), wanted).is_ok()
}

fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let sent = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
    for host in uri.authority().map(Authority::as_str).into_iter().chain(sent) {
        if !host.parse::<Authority>().is_ok_and(|host| is_nobody_elses(host.host())) {
            return Err(Refused::Host(host.chars().take(255).flat_map(char::escape_default).collect()));
        }
    }
    Ok(())
}

/// Lets those pass who may look.
pub(super) async fn gate(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let is_certified = request.extensions().get::<Certified>().is_some();
    if access.is_locked() && access.identify(request.headers(), is_certified).is_err() {
        request.extensions_mut().insert(Stranger);
    }
    match access.admit(request.uri(), request.headers(), is_certified) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let unknown = |challenge: &'static str, text: &'static str| {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], text).into_response()
        };
        match self {
            Self::NoToken => unknown(
                "Bearer realm=\"gateway\"",
                "this needs credentials: send the token of --admin-token-file as authorization: Bearer TOKEN, or show a client \
                 certificate of --admin-tls-client-ca\n",
            ),
            Self::WrongToken => unknown(
                "Bearer realm=\"gateway\", error=\"invalid_token\"",
                "the token is not the one of --admin-token-file\n",
            ),
            Self::Host(host) => {
                let text = format!(
                    "asked by the name {host}, which somebody else may have made to lead here: ask by an address, or have \
                     --admin-token-file\n"
                );
                (StatusCode::FORBIDDEN, text).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Access {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, text).unwrap();
        Access { token: Some(TokenFile::open(path).unwrap()), ..Access::default() }
    }

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn admit(access: &Access, path: &str, pairs: &[(header::HeaderName, &str)]) -> Result<(), Refused> {
        access.admit(&path.parse().unwrap(), &headers(pairs), false)
    }

    #[test]
    fn with_a_token_whoever_sends_it_sees_everything_and_everybody_else_whether_it_lives() {
        let access = token("sesame");
        for shown in ["Bearer sesame", "bearer sesame", "BEARER  sesame "] {
            assert_eq!(admit(&access, "/snapshot", &[(header::AUTHORIZATION, shown)]), Ok(()), "{shown}");
        }
        for shown in ["Bearer sesam", "Bearer sesame2", "Bearer ", "Basic sesame", "sesame", "Bearer"] {
            let refused = admit(&access, "/snapshot", &[(header::AUTHORIZATION, shown)]);
            assert_eq!(refused, Err(Refused::WrongToken), "{shown}");
        }
        for path in ["/snapshot", "/metrics", "/nothing", "/readyz/", "/version"] {
            assert_eq!(admit(&access, path, &[]), Err(Refused::NoToken), "{path}");
        }
        for path in ["/livez", "/readyz", "/readyz?verbose", "/healthz"] {
            assert_eq!(admit(&access, path, &[]), Ok(()), "{path}");
        }
    }

    #[test]
    fn a_certificate_is_as_good_as_a_token_where_it_is_asked_for() {
        let access = Access { takes_certificates: true, ..Access::default() };
        let ask = |is_certified| access.admit(&"/snapshot".parse().unwrap(), &HeaderMap::new(), is_certified);
        assert_eq!((ask(true), ask(false)), (Ok(()), Err(Refused::NoToken)));
        let with_token = Access { takes_certificates: false, ..token("sesame") };
        let asked = with_token.admit(&"/snapshot".parse().unwrap(), &HeaderMap::new(), true);
        assert_eq!(asked, Err(Refused::NoToken));
    }

    #[test]
    fn where_nobody_is_asked_the_name_must_be_one_that_nobody_else_gave_out() {
        let access = Access::default();
        for host in ["127.0.0.1:7401", "localhost", "[::1]:7401", "gw-dp-1:7401"] {
            assert_eq!(admit(&access, "/snapshot", &[(header::HOST, host)]), Ok(()), "{host}");
        }
        let evil = [(header::HOST, "evil.example:7401")];
        assert_eq!(admit(&access, "/snapshot", &evil), Err(Refused::Host("evil.example:7401".into())));
        assert_eq!(
            admit(&access, "http://evil.example/snapshot", &[]),
            Err(Refused::Host("evil.example".into()))
        );
        assert_eq!(admit(&access, "/livez", &evil), Ok(()), "load balancers ask by any name");
        let locked = [evil[0].clone(), (header::AUTHORIZATION, "Bearer sesame")];
        assert_eq!(admit(&token("sesame"), "/snapshot", &locked), Ok(()), "no page knows the token");
    }

    #[test]
    fn beyond_this_machine_it_is_served_only_when_somebody_is_asked_or_when_told_to() {
        let refusal = |access: &Access, listen: &str| {
            access.check("--admin-listen", listen.parse().unwrap()).err().map(|failure| failure.to_string())
        };
        for listen in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(refusal(&Access::default(), listen), None, "{listen}");
        }
        for listen in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let why = refusal(&Access::default(), listen).unwrap();
            assert!(why.contains("--admin-token-file") && why.contains("--insecure"), "{why}");
            assert!(refusal(&token("sesame"), listen).unwrap().contains("no TLS"));
            assert_eq!(refusal(&Access { is_insecure: true, ..token("sesame") }, listen), None);
        }
    }
}
