//! Clients that speak TLS.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    fs,
    io::{ErrorKind, Result},
    sync::Arc,
    time::Duration,
};

use data_plane::proxy::{Limits, Networks, ProxyConfig, ProxyHeaders};
use gateway_proto::Policy;
use gateway_runtime::tls::{Identity, Tls, TlsFiles};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::harness::{Act, Gateway, Replica, body, field, ok, status};

/// For what takes no time worth speaking of.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with a certificate for `gw.example`, and a client that trusts it.
struct Secure {
    gateway: Gateway,
    connector: TlsConnector,
}

impl Secure {
    async fn start(replica: &Replica) -> Self {
        Self::start_as(|_| {}, replica).await
    }

    async fn start_as(configure: impl FnOnce(&mut ProxyConfig), replica: &Replica) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["gw.example".to_owned()]).unwrap();
        let path = |name| folder.path().join(name);
        fs::write(path("crt"), made.cert.pem()).unwrap();
        fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        let tls = Tls::load(TlsFiles {
            identities: vec![Identity { certificate: path("crt"), key: path("key") }],
            client_ca: None,
            takes_anonymous: false,
            protocols: &[b"h2", b"http/1.1"],
        });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let configure = |config: &mut ProxyConfig| {
            config.tls = Some(("127.0.0.1:0".parse().unwrap(), Arc::new(tls.unwrap())));
            configure(config);
        };
        let gateway = Gateway::start_as(configure, &[replica.address], Policy::default()).await;
        Self { gateway, connector: TlsConnector::from(Arc::new(client)) }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_behind(b"").await
    }

    /// With these bytes in front of the handshake.
    async fn connect_behind(&self, header: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = TcpStream::connect(self.gateway.proxy.tls_listen().unwrap()).await.unwrap();
        stream.write_all(header).await.unwrap();
        self.connector.connect(ServerName::try_from("gw.example").unwrap(), stream).await.unwrap()
    }
}

/// All that comes until the connection ends.
async fn rest(stream: &mut TlsStream<TcpStream>) -> (String, Result<()>) {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).await.map(drop);
    (String::from_utf8(bytes).unwrap(), ended)
}

/// A listener at which nobody connects keeps no place from another one's clients.
#[tokio::test]
async fn the_last_place_for_a_connection_is_for_whichever_listener_has_a_client() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let limits = Limits { connections: 1, ..Limits::default() };
    let secure = Secure::start_as(|config| config.limits = limits, &replica).await;
    for _ in 0..3 {
        let plain = "PUT /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        for _ in 0..2 {
            let mut stream = timeout(PATIENCE, secure.connect()).await.expect("TLS has no place");
            stream.write_all(plain.as_bytes()).await.unwrap();
            assert_eq!(status(&rest(&mut stream).await.0), 200);
        }
        for _ in 0..2 {
            let answer = timeout(PATIENCE, secure.gateway.send(plain)).await.expect("plain has no place");
            assert_eq!(status(&answer), 200);
        }
    }
}

#[tokio::test]
async fn requests_over_tls_are_answered_one_after_the_other_and_said_to_have_come_so() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let secure = Secure::start(&replica).await;
    let mut stream = secure.connect().await;
    // Larger than what a socket takes at once, in both directions.
    let large = "0123456789abcdef".repeat(128 * 1024);
    for (text, connection) in [("small", "keep-alive"), (&large, "close")] {
        let head = format!(
            "PUT /orders/x HTTP/1.1\r\nhost: gw\r\nconnection: {connection}\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let sending = async {
            writing.write_all(head.as_bytes()).await.unwrap();
            writing.write_all(text.as_bytes()).await.unwrap();
            writing.flush().await.unwrap();
        };
        let receiving = async {
            let mut bytes = Vec::new();
            while !bytes.ends_with(text.as_bytes()) {
                let count = reading.read_buf(&mut bytes).await.unwrap();
                assert!(count > 0, "it ended after {} bytes", bytes.len());
            }
            String::from_utf8(bytes).unwrap()
        };
        let ((), answer) = tokio::join!(sending, receiving);
        assert_eq!((status(&answer), body(&answer) == text), (200, true));
    }
    let (left, ended) = rest(&mut stream).await;
    assert!(left.is_empty() && ended.is_ok(), "{left:?} {ended:?}");
    assert_eq!(field(&replica.seen()[0], "x-forwarded-proto").as_deref(), Some("https"));
    // Beside it, without TLS.
    secure.gateway.get("/orders/x").await;
    assert_eq!(field(replica.seen().last().unwrap(), "x-forwarded-proto").as_deref(), Some("http"));
}

#[tokio::test]
async fn a_response_that_is_cut_off_does_not_look_whole_over_tls() {
    // Without a length, only the end of the connection could tell.
    let replica = Replica::start(|_, _| {
        Act::SendAndClose("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin".into())
    })
    .await;
    let secure = Secure::start(&replica).await;
    for version in ["1.0", "1.1"] {
        let mut stream = secure.connect().await;
        let request = format!("GET /orders/x HTTP/{version}\r\nhost: gw\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (answer, ended) = rest(&mut stream).await;
        assert!(body(&answer).contains("begin"), "{answer}");
        assert!(!answer.contains("0\r\n\r\n"), "{answer}");
        let kind = ended.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{version}: {kind}");
    }
}

#[tokio::test]
async fn who_speaks_no_tls_gets_nothing_and_disturbs_nobody() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let secure = Secure::start(&replica).await;
    let mut plain = TcpStream::connect(secure.gateway.proxy.tls_listen().unwrap()).await.unwrap();
    plain.write_all(b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let mut stream = secure.connect().await;
    stream.write_all(b"GET /orders/x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(body(&rest(&mut stream).await.0), "fine");
    assert_eq!(replica.seen().len(), 1);
}

#[tokio::test]
async fn a_handshake_follows_a_proxy_header() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let configure = |config: &mut ProxyConfig| {
        let from = Networks::parse(["127.0.0.1"]).unwrap();
        config.proxy_headers = Some(ProxyHeaders::new(from, true));
    };
    let secure = Secure::start_as(configure, &replica).await;
    let mut stream = secure.connect_behind(b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n").await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&rest(&mut stream).await.0), 200);
    let seen = replica.seen().remove(0);
    assert_eq!(field(&seen, "x-forwarded-for").as_deref(), Some("2001:db8::7"));
    assert_eq!(field(&seen, "x-forwarded-proto").as_deref(), Some("https"));
}
