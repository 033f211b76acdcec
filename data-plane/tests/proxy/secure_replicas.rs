//! Replicas that speak TLS, and those that only say so.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gateway_proto::{Address, Endpoint, Policy, Protocol, TlsServerName};
use gateway_runtime::tls::{ClientTls, ClientTlsFiles, Identity};
use http::Response;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use crate::harness::{Gateway, body, eventually, field, reason, status};

/// An authority, and what it signs.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

struct Signed {
    chain: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { folder: tempfile::tempdir().unwrap(), issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, name: &str) -> Signed {
        self.sign_until(name, SystemTime::now() + Duration::from_secs(3600))
    }

    fn sign_until(&self, name: &str, until: SystemTime) -> Signed {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = (until - Duration::from_secs(7200)).into();
        params.not_after = until.into();
        let key = KeyPair::generate().unwrap();
        Signed { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// What believes this authority, and shows `identity`.
    fn believed(&self, identity: Option<&Signed>) -> Arc<ClientTls> {
        let identity = identity.map(|signed| Identity {
            certificate: self.file("own.crt", &signed.chain),
            key: self.file("own.key", &signed.key),
        });
        let ca = Some(self.file("ca.crt", &self.pem));
        Arc::new(ClientTls::load(ClientTlsFiles { ca, identity, protocols: &[b"h2", b"http/1.1"] }).unwrap())
    }
}

/// A replica that speaks what is asked for by ALPN, and shows a certificate.
struct SecureReplica {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl SecureReplica {
    async fn start(shown: &Signed, protocols: &[&[u8]], client_ca: Option<RootCertStore>) -> Self {
        let builder = ServerConfig::builder();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(roots) => builder
                .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()),
        };
        let chain = CertificateDer::pem_slice_iter(shown.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, resumed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (accepted, again) = (Arc::clone(&connections), Arc::clone(&resumed));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Relaxed);
                let (acceptor, again) = (acceptor.clone(), Arc::clone(&again));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    if session.handshake_kind() == Some(tokio_rustls::rustls::HandshakeKind::Resumed) {
                        again.fetch_add(1, Relaxed);
                    }
                    if session.alpn_protocol() == Some(b"h2") {
                        let mut connection = h2::server::handshake(stream).await.unwrap();
                        while let Some(Ok((_, mut answering))) = connection.accept().await {
                            let mut sending = answering.send_response(Response::new(()), false).unwrap();
                            sending.send_data(Bytes::from_static(b"by h2"), true).unwrap();
                        }
                        return;
                    }
                    let mut request = Vec::new();
                    while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
                        let is_whole = request.ends_with(b"\r\n\r\n") || request.ends_with(b"paid once");
                        if is_whole {
                            request.clear();
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nby http";
                            stream.write_all(answer).await.unwrap();
                            stream.flush().await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, connections, resumed, task }
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for SecureReplica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn endpoint(address: SocketAddr, name: Option<&str>) -> Endpoint {
    let name = name.map(|name| TlsServerName::parse(name).unwrap());
    Endpoint { address: Address::parse(&address.to_string()).unwrap(), protocol: Protocol::tls(name) }
}

fn gateway(address: SocketAddr, name: Option<&str>, tls: Arc<ClientTls>) -> Gateway {
    Gateway::start_to(vec![endpoint(address, name)], tls, Policy::default())
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

#[tokio::test]
async fn a_replica_chooses_the_version_and_its_connections_are_used_again() {
    let authority = Authority::new("ours");
    let shown = authority.sign("orders.example");
    for (protocols, expected) in [(BOTH, "by h2"), (&[&b"http/1.1"[..]][..], "by http"), (&[][..], "by http")]
    {
        let replica = SecureReplica::start(&shown, protocols, None).await;
        let gateway = gateway(replica.address, Some("orders.example"), authority.believed(None));
        for _ in 0..3 {
            let response = gateway.get("/orders/x").await;
            assert_eq!(status(&response), 200, "{response}");
            assert!(body(&response).contains(expected), "{response}");
        }
        assert_eq!(replica.connections(), 1, "{expected}");
    }
}

#[tokio::test]
async fn requests_that_come_at_once_find_out_together_what_a_replica_speaks() {
    let authority = Authority::new("ours");
    let shown = authority.sign("127.0.0.1");
    for (protocols, connections) in [(BOTH, 1..=1), (&[&b"http/1.1"[..]][..], 2..=12)] {
        let replica = SecureReplica::start(&shown, protocols, None).await;
        let gateway = Arc::new(gateway(replica.address, None, authority.believed(None)));
        let asked = (0..12).map(|_| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { gateway.get("/orders/x").await })
        });
        for asked in asked.collect::<Vec<_>>() {
            assert_eq!(status(&asked.await.unwrap()), 200);
        }
        assert!(connections.contains(&replica.connections()), "{}", replica.connections());
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_believed_is_refused_with_the_name_and_the_reason() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let past = SystemTime::now() - Duration::from_secs(60);
    for (shown, why) in [
        (authority.sign_until("orders.example", past), "certificate has expired"),
        (authority.sign("users.example"), "certificate is for another name"),
        (stranger.sign("orders.example"), "certificate is signed by no known authority"),
    ] {
        let replica = SecureReplica::start(&shown, BOTH, None).await;
        let gateway = gateway(replica.address, Some("orders.example"), authority.believed(None));
        let response = gateway.post("/orders/x", "secret").await;
        assert_eq!((status(&response), reason(&response).as_str()), (502, "certificate_refused"), "{why}");
        let proxy_status = field(&response, "proxy-status").unwrap();
        assert!(proxy_status.contains("error=tls_certificate_error"), "{proxy_status}");
        assert!(body(&response).contains(why) && body(&response).contains("orders.example"), "{response}");
        let failures = gateway.service().replicas()[0].last_failures();
        assert_eq!(failures[0].fault.to_string(), why);
    }
}

#[tokio::test]
async fn an_address_stands_for_the_name_where_none_is_given() {
    let authority = Authority::new("ours");
    let replica = SecureReplica::start(&authority.sign("127.0.0.1"), BOTH, None).await;
    let response = gateway(replica.address, None, authority.believed(None)).get("/orders/x").await;
    assert_eq!(status(&response), 200, "{response}");
    let replica = SecureReplica::start(&authority.sign("orders.example"), BOTH, None).await;
    let response = gateway(replica.address, None, authority.believed(None)).get("/orders/x").await;
    assert!(body(&response).contains("another name; it was asked for 127.0.0.1"), "{response}");
}

#[tokio::test]
async fn a_replica_that_wants_a_certificate_is_shown_one_or_says_why_not() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let shown = authority.sign("orders.example");
    let (own, strange) = (authority.sign("gateway"), stranger.sign("gateway"));
    for protocols in [BOTH, &[&b"http/1.1"[..]][..]] {
        for (identity, expected) in [(Some(&own), 200), (None, 502), (Some(&strange), 502)] {
            let replica = SecureReplica::start(&shown, protocols, Some(authority.roots())).await;
            let gateway = gateway(replica.address, Some("orders.example"), authority.believed(identity));
            let response = gateway.post("/orders/x", "paid once").await;
            assert_eq!(status(&response), expected, "{response}");
            if expected == 502 {
                assert_eq!(reason(&response), "tls_failed");
                assert!(
                    body(&response).contains("refused the gateway's certificate, or wants one"),
                    "{response}"
                );
                let proxy_status = field(&response, "proxy-status").unwrap();
                assert!(proxy_status.contains("error=tls_protocol_error"), "{proxy_status}");
            }
        }
    }
}

#[tokio::test]
async fn a_replica_that_speaks_no_tls_is_said_to_and_one_that_hangs_in_the_handshake_is_too_slow() {
    let authority = Authority::new("ours");
    let plain = crate::harness::raw_replica(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let response = gateway(plain, Some("a"), authority.believed(None)).get("/orders/x").await;
    assert_eq!((status(&response), reason(&response).as_str()), (502, "tls_failed"));
    let silent = crate::harness::raw_replica(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut policy = Policy::default();
    policy.timeout.connect = Duration::from_millis(200);
    let gateway = Gateway::start_to(vec![endpoint(silent, Some("a"))], authority.believed(None), policy);
    let response = gateway.get("/orders/x").await;
    assert_eq!((status(&response), reason(&response).as_str()), (504, "connect_timeout"));
}

#[tokio::test]
async fn a_second_connection_resumes_the_session_of_the_first() {
    let authority = Authority::new("ours");
    let replica = SecureReplica::start(&authority.sign("a"), &[b"http/1.1"], None).await;
    let gateway = gateway(replica.address, Some("a"), authority.believed(None));
    for _ in 0..2 {
        assert_eq!(status(&gateway.get("/orders/x").await), 200);
        gateway.drain(0, Duration::from_secs(1)).await;
        gateway.respecify(0, |spec| spec.mode = gateway_proto::Mode::Serving).await;
    }
    eventually("the second was resumed", || replica.resumed.load(Relaxed) == 1).await;
    assert_eq!(replica.connections(), 2);
}
