//! Whether a program answers: asked before it is registered, so that no request reaches one that only starts.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use gateway_proto::Address;
use gateway_runtime::root_cause;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// From the end of one question to the next: a start is noticed soon.
const INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Ready as soon as it runs.
    None,
    /// It takes a connection.
    Tcp,
    /// It answers a GET of this path with 2xx or 3xx.
    Http(String),
    /// The gRPC health service says that this service serves; empty: the server as a whole.
    Grpc(String),
}

impl FromStr for Readiness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("none", "") => Ok(Self::None),
            ("tcp", "") => Ok(Self::Tcp),
            ("http", "") => Ok(Self::Http("/".into())),
            ("http", path) if path.starts_with('/') && path.parse::<Uri>().is_ok() => {
                Ok(Self::Http(path.into()))
            }
            ("http", _) => Err("has no path: write http:/PATH, such as http:/healthz".into()),
            ("grpc", service) => Ok(Self::Grpc(service.into())),
            _ => Err("is tcp, http:/PATH, grpc, grpc:SERVICE or none".into()),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp => f.write_str("tcp"),
            Self::Http(path) => write!(f, "GET {path}"),
            Self::Grpc(service) if service.is_empty() => f.write_str("gRPC health"),
            Self::Grpc(service) => write!(f, "gRPC health of {service}"),
        }
    }
}

impl Readiness {
    /// Asks until it is ready, and keeps in `last` why it was not. Cancel safe.
    pub(crate) async fn reached(&self, address: &Address, last: &mut Option<String>) {
        loop {
            match timeout(PATIENCE, self.ask(&address.to_string())).await {
                Ok(Ok(())) => return,
                Ok(Err(why)) => *last = Some(why),
                Err(_) => *last = Some(format!("no answer within {}s", PATIENCE.as_secs())),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn ask(&self, address: &str) -> Result<(), String> {
        match self {
            Self::None => Ok(()),
            Self::Tcp => TcpStream::connect(address).await.map(drop).map_err(|error| root_cause(&error)),
            Self::Http(path) => {
                let status = http_status(address, path).await?;
                let is_well = status.is_success() || status.is_redirection();
                if is_well { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
            }
            Self::Grpc(service) => grpc_health(address, service).await,
        }
    }
}

async fn http_status(address: &str, path: &str) -> Result<StatusCode, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| root_cause(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| root_cause(&error))?;
    let request = Request::get(path)
        .header(header::HOST, address)
        .header(header::USER_AGENT, concat!("gwctl/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async { sender.send_request(request).await };
    tokio::select! {
        // The head is enough: the body goes with the connection.
        answer = answer => answer.map(|answer| answer.status()).map_err(|error| root_cause(&error)),
        Err(error) = connection => Err(root_cause(&error)),
    }
}

async fn grpc_health(address: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let channel: Channel = endpoint.connect().await.map_err(|error| root_cause(&error))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(other) => Err(other.as_str_name().to_owned()),
        Err(status) => Err(format!("{}: {}", gateway_proto::code_name(status.code()), status.message())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn a_probe_is_a_kind_and_what_it_asks_for() {
        for (text, probe) in [
            ("none", Readiness::None),
            ("tcp", Readiness::Tcp),
            ("http", Readiness::Http("/".into())),
            ("http:/health?deep=1", Readiness::Http("/health?deep=1".into())),
            ("grpc", Readiness::Grpc(String::new())),
            ("grpc:shop.v1.Orders", Readiness::Grpc("shop.v1.Orders".into())),
        ] {
            assert_eq!(text.parse(), Ok(probe), "{text}");
        }
        for text in ["", "udp", "tcp:80", "none:", "http:health", "http:/a b", "HTTP"] {
            let parsed = text.parse::<Readiness>();
            assert!(parsed.is_err() || text == "none:", "{text}");
        }
    }

    /// Answers every connection with the same bytes; yields its address.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn http_is_ready_by_its_status_and_says_which_it_was_otherwise() {
        let probe = Readiness::Http("/health".into());
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.1 503 Starting\r\ncontent-length: 0\r\n\r\n", Err("status 503".to_owned())),
        ] {
            assert_eq!(probe.ask(&server(answer).await).await, expected, "{answer}");
        }
        assert!(probe.ask(&server("").await).await.is_err(), "a connection that closes is no answer");
    }

    #[tokio::test]
    async fn where_nobody_listens_nobody_is_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(Readiness::Tcp.ask(&address).await, Ok(()));
        drop(listener);
        for probe in [Readiness::Tcp, Readiness::Http("/".into()), Readiness::Grpc(String::new())] {
            assert_eq!(probe.ask(&address).await, Err("connection refused".to_owned()), "{probe}");
        }
        assert_eq!(Readiness::None.ask(&address).await, Ok(()));
    }

    #[tokio::test]
    async fn grpc_is_ready_when_its_health_service_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (reporter, health) = tonic_health::server::health_reporter();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
        assert_eq!(Readiness::Grpc(String::new()).ask(&address).await, Ok(()));
        let orders = Readiness::Grpc("orders".into());
        assert!(orders.ask(&address).await.unwrap_err().starts_with("NOT_FOUND"), "it is not known");
        reporter.set_service_status("orders", tonic_health::ServingStatus::NotServing).await;
        assert_eq!(orders.ask(&address).await, Err("NOT_SERVING".to_owned()));
        reporter.set_service_status("orders", tonic_health::ServingStatus::Serving).await;
        assert_eq!(orders.ask(&address).await, Ok(()));
    }
}
