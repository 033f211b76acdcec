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
use data_plane::table::ServiceSpec;
use gateway_proto::{Address, Endpoint, Policy, Protocol, ServiceName, TlsServerName};
use gateway_runtime::tls::{ClientTls, ClientTlsFiles, Identity};
use http::Response;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{
    LazyConfigAcceptor, TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{Acceptor, WebPkiClientVerifier},
    },
    server::TlsStream,
};

use crate::{
    harness::{Gateway, body, eventually, field, raw_replica, reason, status},
    http2_replicas::H2Replica,
    tunnels::{ASK, SWITCH, end, head},
};

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
        let acceptor = TlsAcceptor::from(config(shown, protocols, client_ca));
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

fn config(shown: &Signed, protocols: &[&[u8]], client_ca: Option<RootCertStore>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(shown.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A replica that speaks HTTP/2 to whoever offers it, and else switches protocols, and goes on as told. Yields what it was
/// offered by ALPN, by connection.
async fn switching<F: Future<Output = ()> + Send + 'static>(
    shown: &Signed,
    then: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + Clone + 'static,
) -> (SocketAddr, mpsc::Receiver<Vec<String>>) {
    let config = config(shown, BOTH, None);
    let (told, offers) = mpsc::channel(16);
    let address = raw_replica(move |stream| {
        let (told, then, config) = (told.clone(), then.clone(), Arc::clone(&config));
        async move {
            let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await.unwrap();
            let offered = begun.client_hello().alpn().into_iter().flatten();
            told.send(offered.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
                .await
                .unwrap();
            let mut stream = begun.into_stream(config).await.unwrap();
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut answering))) = connection.accept().await {
                    answering.send_response(Response::new(()), true).unwrap();
                }
                return;
            }
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            assert!(String::from_utf8(asked).unwrap().contains("\r\nupgrade: WebSocket\r\n"));
            stream.write_all(SWITCH.as_bytes()).await.unwrap();
            then(stream).await;
        }
    })
    .await;
    (address, offers)
}

/// A client's connection, switched.
async fn switched(gateway: &Gateway) -> TcpStream {
    let mut client = gateway.connect().await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 101);
    client
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
async fn a_failure_names_the_certificate_of_its_own_service_and_not_that_of_one_that_could_not_stand_in() {
    let authority = Authority::new("ours");
    let other = SecureReplica::start(&authority.sign("somebody.example"), BOTH, None).await;
    let mut policy = Policy::default();
    policy.fallback.service = "spare".parse().unwrap();
    let own = endpoint(other.address, Some("orders.example"));
    let gateway = Gateway::start_to(vec![own], authority.believed(None), policy);
    let mut replica = gateway.service().replicas()[0].spec().clone();
    replica.endpoint = endpoint(other.address, Some("spare.example"));
    let spare = ServiceSpec {
        name: ServiceName::parse("spare").unwrap(),
        policy: Policy::default(),
        replicas: vec![replica],
    };
    gateway.table.apply(&[spare], &[], gateway.clock.now());
    let response = gateway.get("/orders/x").await;
    assert_eq!(reason(&response), "certificate_refused", "{response}");
    assert!(body(&response).contains("it was asked for orders.example"), "{response}");
    assert_eq!(gateway.table.service("spare").unwrap().attempts().attempts, 1, "it was asked");
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
    let plain = raw_replica(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let response = gateway(plain, Some("a"), authority.believed(None)).get("/orders/x").await;
    assert_eq!((status(&response), reason(&response).as_str()), (502, "tls_failed"));
    let silent = raw_replica(|stream| async move {
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

#[tokio::test]
async fn a_websocket_has_a_tls_connection_of_its_own_on_which_http_1_1_alone_is_offered() {
    let authority = Authority::new("ours");
    let (address, mut offers) = switching(&authority.sign("chat.example"), |mut stream| async move {
        let mut heard = Vec::new();
        while !heard.ends_with(b"how are you?") {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
            stream.write_all(b"fine").await.unwrap();
        }
        // The client has said all: it is told so, and still hears what there is to say.
        assert_eq!(stream.read_buf(&mut heard).await.unwrap(), 0);
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let gateway = gateway(address, Some("chat.example"), authority.believed(None));
    assert_eq!(status(&gateway.get("/orders/x").await), 200);
    for _ in 0..2 {
        let mut client = switched(&gateway).await;
        client.write_all(b"how are you?").await.unwrap();
        let mut heard = [0; 4];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"fine");
        client.shutdown().await.unwrap();
        let (rest, ended) = end(&mut client).await;
        assert!(rest.ends_with(b"bye"), "{}", String::from_utf8_lossy(&rest));
        assert_eq!(ended, Ok(()));
    }
    assert_eq!(status(&gateway.get("/orders/x").await), 200);
    drop(gateway);
    let mut offered = Vec::new();
    while let Ok(offer) = offers.try_recv() {
        offered.push(offer.join(" "));
    }
    assert_eq!(offered, ["h2 http/1.1", "http/1.1", "http/1.1"]);
}

#[tokio::test]
async fn a_tunnel_over_tls_that_is_cut_off_without_a_last_word_does_not_look_ended() {
    let authority = Authority::new("ours");
    let (address, _offers) = switching(&authority.sign("chat.example"), |mut stream| async move {
        stream.write_all(b"there").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        // Without close_notify.
    })
    .await;
    let gateway = gateway(address, Some("chat.example"), authority.believed(None));
    let mut client = switched(&gateway).await;
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    client.write_all(b"here").await.unwrap();
    assert_eq!(end(&mut client).await, (Vec::new(), Err(std::io::ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn who_speaks_http_2_only_and_takes_no_extended_connect_is_asked_for_no_switch_and_another_is() {
    let authority = Authority::new("ours");
    let plain = H2Replica::start(h2::server::Builder::new(), |_, _, _| async {}).await;
    let secure = SecureReplica::start(&authority.sign("orders.example"), &[b"h2"], None).await;
    let unable = [plain.endpoint(), endpoint(secure.address, Some("orders.example"))];
    let alone = Gateway::start_to(unable.to_vec(), authority.believed(None), Policy::default());
    for _ in 0..8 {
        let response = alone.send(ASK).await;
        assert_eq!((status(&response), reason(&response).as_str()), (501, "cannot_switch"), "{response}");
    }
    let (address, mut offers) = switching(&authority.sign("chat.example"), |mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let able = endpoint(address, Some("chat.example"));
    let beside =
        Gateway::start_to([&unable[..], &[able]].concat(), authority.believed(None), Policy::default());
    for _ in 0..4 {
        switched(&beside).await;
        assert_eq!(offers.recv().await.unwrap(), ["http/1.1"]);
    }
    for gateway in [&alone, &beside] {
        for replica in gateway.service().replicas().iter() {
            assert_eq!(replica.counters().failures, 0, "{:?}", replica.last_failures());
        }
    }
    assert!(plain.seen().is_empty());
}
