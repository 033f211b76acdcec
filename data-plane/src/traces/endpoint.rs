//! Where spans are sent, as it is written on the command line.

use std::{fmt, path::PathBuf, sync::Arc};

use gateway_proto::without_user;
use gateway_runtime::{
    Failure,
    tls::{ClientTls, ClientTlsFiles},
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

/// What OTLP adds to an endpoint that names no path.
const PATH: &str = "/v1/traces";
/// Headers at most.
const MAX_HEADERS: usize = 32;

/// What of a collector's API is called by gRPC.
const CALL: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1
    Http,
    /// gRPC, which is HTTP/2
    Grpc,
}

impl Protocol {
    /// As OpenTelemetry has them.
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 4318,
            Self::Grpc => 4317,
        }
    }

    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http => &[b"http/1.1"],
            Self::Grpc => &[b"h2"],
        }
    }
}

/// A collector that takes OTLP.
#[derive(Clone)]
pub(crate) struct Collector {
    pub(super) protocol: Protocol,
    pub(super) host: String,
    pub(super) port: u16,
    /// As the Host field has them.
    pub(super) authority: String,
    /// Of HTTP only.
    pub(super) path: String,
    /// What each request says beside what OTLP asks for. They hold secrets.
    pub(super) headers: HeaderMap,
    /// Whom it is believed by, if it speaks TLS.
    pub(super) tls: Option<Arc<ClientTls>>,
}

impl Collector {
    /// Reads its URL, `NAME=VALUE` headers, and the authorities that sign its certificate.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag and what is wrong.
    pub(crate) fn parse(
        url: &str,
        headers: &[String],
        ca: Option<PathBuf>,
        protocol: Protocol,
    ) -> Result<Self, Failure> {
        let refuse = |why: &str| {
            let url = without_user(url);
            Err(Failure::usage(format!(
                "--otlp-endpoint {url:?} {why}: write http://HOST:PORT or https://HOST:PORT"
            )))
        };
        let Ok(uri) = url.parse::<Uri>() else { return refuse("is no URL") };
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return refuse("has no scheme that is known"),
        };
        let Some(authority) = uri.authority() else { return refuse("has no host") };
        if authority.as_str().contains('@') {
            return refuse("has a user in it");
        }
        if uri.query().is_some() {
            return refuse("has a query");
        }
        if protocol == Protocol::Grpc && uri.path() != "/" {
            return refuse("has a path, which gRPC has no use for");
        }
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { protocol.default_port() });
        if port == 0 || authority.host().is_empty() {
            return refuse("has no port that can be connected to");
        }
        if ca.is_some() && !is_secure {
            return Err(Failure::usage("--otlp-ca is for an --otlp-endpoint with https"));
        }
        let tls = is_secure.then(|| {
            let files = ClientTlsFiles { ca, identity: None, protocols: protocol.alpn() };
            ClientTls::load(files).map(Arc::new)
        });
        let base = uri.path().trim_end_matches('/');
        let path = match protocol {
            Protocol::Grpc => String::new(),
            Protocol::Http if base.ends_with(PATH) => base.to_owned(),
            Protocol::Http => format!("{base}{PATH}"),
        };
        Ok(Self {
            protocol,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path,
            headers: parse_headers(headers)?,
            tls: tls.transpose()?,
        })
    }
}

impl Collector {
    /// The URL of the call by gRPC.
    pub(super) fn call(&self) -> String {
        format!("{self}{CALL}")
    }

    /// What is to be read again whenever a file of it has changed, if it has any.
    pub(crate) fn tls_with_files(&self) -> Option<Arc<ClientTls>> {
        self.tls.clone().filter(|tls| tls.has_files())
    }
}

fn parse_headers(texts: &[String]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if texts.len() > MAX_HEADERS {
        let count = texts.len();
        return Err(Failure::usage(format!(
            "--otlp-header is there {count} times, at most {MAX_HEADERS} are allowed"
        )));
    }
    for text in texts.iter().filter(|text| !text.is_empty()) {
        // The value may be a secret, so that no message has it.
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::usage("--otlp-header has no '=': write NAME=VALUE"))?;
        let refuse = |why: &str| Failure::usage(format!("--otlp-header {name:?}: {why}"));
        let parsed: HeaderName = name.trim().parse().map_err(|_| refuse("is no name of a field"))?;
        let ours = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::TE,
        ];
        if ours.contains(&parsed) {
            return Err(refuse("is set by this program"));
        }
        let mut value: HeaderValue =
            value.trim().parse().map_err(|_| refuse("its value cannot be one of a field"))?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    Ok(headers)
}

impl fmt::Debug for Collector {
    /// Without what its headers say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.keys().collect();
        f.debug_struct("Collector").field("url", &self.to_string()).field("headers", &names).finish()
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_is_asked_at_the_one_of_otlp() {
        for (url, shown, port) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces", 4318),
            ("http://collector", "http://collector/v1/traces", 4318),
            ("https://otel.example/tenant/", "https://otel.example/tenant/v1/traces", 443),
            ("http://[::1]:9/v1/traces", "http://[::1]:9/v1/traces", 9),
        ] {
            let collector = Collector::parse(url, &[], None, Protocol::Http).unwrap();
            assert_eq!((collector.to_string().as_str(), collector.port), (shown, port), "{url}");
        }
        assert_eq!(Collector::parse("http://[::1]:9", &[], None, Protocol::Http).unwrap().host, "::1");
    }

    #[test]
    fn by_grpc_there_is_a_port_of_its_own_and_no_path() {
        let parse = |url| Collector::parse(url, &[], None, Protocol::Grpc);
        for (url, shown, port) in [
            ("http://collector", "http://collector", 4317),
            ("https://otel.example/", "https://otel.example", 443),
            ("http://[::1]:9", "http://[::1]:9", 9),
        ] {
            let collector = parse(url).unwrap();
            assert_eq!((collector.to_string().as_str(), collector.port), (shown, port), "{url}");
        }
        let call = "http://collector/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        assert_eq!(parse("http://collector").unwrap().call(), call);
        let refused = parse("http://collector/v1/traces").unwrap_err().to_string();
        assert!(refused.contains("--otlp-endpoint") && refused.contains("has a path"), "{refused}");
    }

    #[test]
    fn any_other_endpoint_is_refused_with_the_flag_and_what_to_write() {
        for url in
            ["", "127.0.0.1:4318", "grpc://a:1", "http://a b", "http://u:p@a:1", "http://a:0", "http://a:1?x"]
        {
            let refused = Collector::parse(url, &[], None, Protocol::Http).unwrap_err().to_string();
            assert!(
                refused.contains("--otlp-endpoint")
                    && refused.contains("http://HOST:PORT")
                    && !refused.contains("u:p"),
                "{url}: {refused}"
            );
        }
        let refused = Collector::parse("http://a:1", &[], Some("ca.pem".into()), Protocol::Http)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("--otlp-ca"), "{refused}");
    }

    #[test]
    fn headers_are_set_and_never_shown() {
        let headers = ["authorization=Bearer s3cret=".to_owned(), String::new()];
        let collector = Collector::parse("http://a:1", &headers, None, Protocol::Http).unwrap();
        assert_eq!(collector.headers["authorization"], "Bearer s3cret=");
        assert!(!format!("{collector:?}").contains("s3cret"), "{collector:?}");
        for bad in ["s3cret", "a b=s3cret", "host=s3cret", "te=s3cret", "x=s3\ncret"] {
            let refused = Collector::parse("http://a:1", &[bad.to_owned()], None, Protocol::Http)
                .unwrap_err()
                .to_string();
            assert!(refused.contains("--otlp-header") && !refused.contains("s3"), "{bad}: {refused}");
        }
    }
}
