use std::net::SocketAddr;

use gateway_proto::Protocol;
use gateway_runtime::tls::ClientTlsFiles;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

fn policy(change: impl FnOnce(&mut HealthCheck)) -> HealthCheck {
    let mut policy = HealthCheck { timeout: Duration::from_secs(5), ..HealthCheck::default() };
    change(&mut policy);
    policy
}

async fn check(address: SocketAddr, method: CheckMethod, policy: &HealthCheck) -> Result<(), String> {
    let endpoint = gateway_proto::Address::parse(&address.to_string()).unwrap().into();
    check_at(endpoint, &ClientTls::default(), method, policy).await
}

async fn check_at(
    endpoint: Endpoint,
    tls: &ClientTls,
    method: CheckMethod,
    policy: &HealthCheck,
) -> Result<(), String> {
    let ended = Probe::new(endpoint, method, policy).run(&Lookups::default(), tls, None).await;
    ended.map_err(|failure| match failure {
        Failure::Failed(why) => why,
        Failure::Void(why) => format!("void: {why}"),
    })
}

#[tokio::test]
async fn the_admin_side_of_this_data_plane_is_no_replica_that_passes() {
    let (address, _replica) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let endpoint: Endpoint = gateway_proto::Address::parse(&address.to_string()).unwrap().into();
    let probe = Probe::new(endpoint, CheckMethod::Http, &HealthCheck::default());
    let ended = probe.run(&Lookups::default(), &ClientTls::default(), Some(address)).await;
    let Err(Failure::Failed(why)) = ended else { panic!("{ended:?}") };
    assert!(why.contains("leads to the admin side of this data plane"), "{why}");
}

/// A replica that reads a head, answers so, and yields what it read.
async fn answering(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let replica = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut chunk = [0; 1024];
            let count = stream.read(&mut chunk).await.unwrap();
            assert!(count > 0, "the check went away");
            read.extend_from_slice(&chunk[..count]);
        }
        // It may be cut off.
        let _ = stream.write_all(answer).await;
        String::from_utf8(read).unwrap()
    });
    (address, replica)
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_connection_is_enough_for_tcp_and_none_is_told_as_what_it_was() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let policy = policy(|_| {});
    assert_eq!(check(listener.local_addr().unwrap(), CheckMethod::Tcp, &policy).await, Ok(()));
    for method in [CheckMethod::Tcp, CheckMethod::Http, CheckMethod::Grpc] {
        assert_eq!(check(nobody().await, method, &policy).await, Err("connect refused".into()));
    }
}

#[tokio::test]
async fn http_asks_for_the_path_at_the_host_and_passes_by_the_status() {
    let set = policy(|policy| {
        policy.path = "/ready?full=1".parse().unwrap();
        policy.host = "orders.example".parse().unwrap();
        policy.expected_statuses = "200..=299,404".parse().unwrap();
    });
    let (address, replica) = answering(b"HTTP/1.1 404 Not Found\r\ncontent-length: 1000000\r\n\r\n").await;
    assert_eq!(check(address, CheckMethod::Http, &set).await, Ok(()));
    let asked = replica.await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /ready?full=1 http/1.1\r\n"), "{asked}");
    assert!(
        asked.contains("\r\nhost: orders.example\r\n")
            && asked.contains("\r\nuser-agent: gateway-health-check/")
    );

    let (address, replica) = answering(b"HTTP/1.1 503 Busy\r\n\r\n").await;
    let failed = check(address, CheckMethod::Http, &policy(|_| {})).await;
    assert_eq!(failed, Err("status 503, expected 200..=399".into()));
    assert!(replica.await.unwrap().contains(&address.to_string()), "without a host, the address is named");
}

#[tokio::test]
async fn what_is_no_answer_fails_with_what_it_was() {
    let policy = policy(|_| {});
    let huge: &'static [u8] =
        Box::leak([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; 100_000]].concat().into());
    for (answer, why) in [
        (b"".as_slice(), "closed without an answer"),
        (b"HTTP/1.1 200", "closed without an answer"),
        (b"220 mail.example ESMTP\r\n", "an answer that is no HTTP"),
        (huge, "an answer that is no HTTP"),
    ] {
        let (address, _replica) = answering(answer).await;
        assert_eq!(check(address, CheckMethod::Http, &policy).await, Err(why.into()));
    }
}

#[tokio::test]
async fn a_replica_that_says_endlessly_little_is_not_listened_to_for_long() {
    // Each piece by itself would be read on and on: interim responses, and frames of HTTP/2 that ask for an answer.
    let interim: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
    let ping = b"\0\0\x08\x06\0\0\0\0\0endless!";
    for (method, greeting, piece) in
        [(CheckMethod::Http, &b""[..], interim), (CheckMethod::Grpc, &b"\0\0\0\x04\0\0\0\0\0"[..], ping)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replica = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            let reading =
                tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
            let _ = writer.write_all(greeting).await;
            while writer.write_all(&piece.repeat(100)).await.is_ok() {}
            reading.abort();
        });
        let why = check(address, method, &policy(|_| {})).await.unwrap_err();
        assert!(why.ends_with("an answer of more than 64 KiB"), "{why}");
        replica.await.unwrap();
    }
}

#[tokio::test]
async fn a_replica_that_says_nothing_fails_when_the_time_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let policy = policy(|policy| policy.timeout = Duration::from_millis(50));
    for method in [CheckMethod::Http, CheckMethod::Grpc] {
        assert_eq!(check(address, method, &policy).await, Err("no answer in 50ms".into()));
    }
}

/// A replica that speaks gRPC: answers what the health service would with this status, or only with trailers.
async fn grpc(status: Result<i32, &'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve_grpc(listener.accept().await.unwrap().0, status).await });
    address
}

async fn serve_grpc(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    status: Result<i32, &'static str>,
) {
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let asked = HealthCheckRequest::decode(&asked[5..]).unwrap();
        assert_eq!(asked.service, "shop.v1.Orders");
        let response = http::Response::builder().header("content-type", "application/grpc");
        let frames: Vec<Result<_, std::convert::Infallible>> = match status {
            Ok(status) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let message = framed(&HealthCheckResponse { status });
                vec![Ok(hyper::body::Frame::data(message)), Ok(hyper::body::Frame::trailers(trailers))]
            }
            Err(_) => Vec::new(),
        };
        let response = match status {
            Ok(_) => response,
            Err(code) => response.header("grpc-status", code).header("grpc-message", "who?"),
        };
        response.body(http_body_util::StreamBody::new(tokio_stream::iter(frames)))
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

#[tokio::test]
async fn grpc_passes_when_the_health_service_says_serving_and_nothing_else() {
    let policy = policy(|policy| policy.grpc_service = "shop.v1.Orders".parse().unwrap());
    for (status, expected) in [
        (Ok(1), Ok(())),
        (Ok(0), Err("its health is UNKNOWN")),
        (Ok(2), Err("its health is NOT_SERVING")),
        (Ok(9), Err("its health is 9, which says nothing")),
        (Err("5"), Err("gRPC status NOT_FOUND: who?")),
        (Err("12"), Err("gRPC status UNIMPLEMENTED: who?")),
    ] {
        let ended = check(grpc(status).await, CheckMethod::Grpc, &policy).await;
        assert_eq!(ended, expected.map_err(str::to_owned));
    }
}

#[tokio::test]
async fn what_speaks_no_http_2_fails_a_grpc_check() {
    let (address, _replica) = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let why = check(address, CheckMethod::Grpc, &policy(|_| {})).await.unwrap_err();
    assert!(!why.starts_with("void") && !why.starts_with("no answer"), "{why}");
}

#[tokio::test]
async fn a_name_is_looked_up_and_one_that_is_none_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let policy = policy(|_| {});
    let ended = async |name: String| {
        let endpoint = gateway_proto::Address::parse(&name).unwrap().into();
        Probe::new(endpoint, CheckMethod::Tcp, &policy)
            .run(&Lookups::default(), &ClientTls::default(), None)
            .await
    };
    assert_eq!(ended(format!("localhost:{port}")).await, Ok(()));
    assert!(matches!(ended("nobody.invalid:80".into()).await, Err(Failure::Failed(_))));
}

/// What a replica named orders.example shows, which speaks HTTP/2 only, and who believes it.
fn secure() -> (tokio_rustls::TlsAcceptor, ClientTls) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["orders.example".to_owned()]).unwrap();
    std::fs::write(folder.path().join("ca"), made.cert.pem()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let shown = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut shown = shown.unwrap();
    shown.alpn_protocols = vec![b"h2".to_vec()];
    let ca = Some(folder.path().join("ca"));
    let tls = ClientTls::load(ClientTlsFiles { ca, identity: None, protocols: &[b"h2"] }).unwrap();
    (tokio_rustls::TlsAcceptor::from(Arc::new(shown)), tls)
}

#[tokio::test]
async fn a_grpc_check_is_made_over_tls_with_a_replica_that_speaks_it() {
    let policy = policy(|policy| policy.grpc_service = "shop.v1.Orders".parse().unwrap());
    for (name, status, expected) in [
        ("orders.example", 1, Ok(())),
        ("orders.example", 2, Err("its health is NOT_SERVING")),
        ("users.example", 1, Err("certificate is for another name")),
    ] {
        let (acceptor, tls) = secure();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gateway_proto::Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        tokio::spawn(async move {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await;
            if let Ok(stream) = stream {
                serve_grpc(stream, Ok(status)).await;
            }
        });
        let endpoint = Endpoint { address, protocol: Protocol::tls(None).named(name).unwrap() };
        let ended = check_at(endpoint, &tls, CheckMethod::Grpc, &policy).await;
        assert_eq!(ended, expected.map_err(str::to_owned), "{name} {status}");
    }
}

#[tokio::test]
async fn a_replica_is_checked_in_the_protocol_that_it_speaks() {
    let (acceptor, tls) = secure();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gateway_proto::Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    tokio::spawn(async move {
        for is_tls in [false, true, true] {
            let (stream, _) = listener.accept().await.unwrap();
            if is_tls {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                tokio::spawn(serve_http2(stream));
            } else {
                tokio::spawn(serve_http2(stream));
            }
        }
    });
    let policy = policy(|_| {});
    for (protocol, expected) in [
        (Protocol::h2c(), Ok(())),
        (Protocol::tls(None).named("orders.example").unwrap(), Ok(())),
        (
            Protocol::tls(None).named("users.example").unwrap(),
            Err("certificate is for another name".to_owned()),
        ),
    ] {
        let endpoint = Endpoint { address: address.clone(), protocol };
        assert_eq!(check_at(endpoint, &tls, CheckMethod::Http, &policy).await, expected);
    }
}

async fn serve_http2(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut answering))) = connection.accept().await {
        let _ = answering.send_response(http::Response::new(()), true);
    }
}
