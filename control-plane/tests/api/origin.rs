//! Web pages of others are kept out.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{plane::Plane, rest::send};

const BODY: &str = r#"{"service":"orders","address":"10.0.0.1:80"}"#;

#[tokio::test]
async fn a_name_that_is_somebody_else_s_is_refused_unless_it_is_allowed() {
    let plane = Plane::start_with(|config| config.allowed_hosts = vec![".example.org".into()]).await;
    for path in ["/v1/services", "/statistics", "/metrics", "/openapi.json", "/nowhere"] {
        let refused = send(&plane, "GET", path, "host: evil.example:7400", "").await;
        assert_eq!(refused.problem(), (421, "HOST_NOT_ALLOWED".into(), String::new()), "{path}");
        assert!(refused.json()["detail"].as_str().unwrap().contains("--allowed-host"), "{}", refused.body);
    }
    for host in ["localhost:7400", "127.0.0.1", "[::1]:7400", "control-plane", "gw.example.org"] {
        let taken = send(&plane, "GET", "/v1/services", &format!("host: {host}"), "").await;
        assert_eq!(taken.status, 200, "{host}");
    }
    // A target with a name in it goes before the header.
    let absolute = send(&plane, "GET", "http://evil.example/v1/services", "host: localhost", "").await;
    assert_eq!((absolute.status, absolute.header("x-content-type-options")), (421, Some("nosniff")));
    // Load balancers ask by whatever name they have.
    assert_eq!(send(&plane, "GET", "/readyz", "host: lb.example", "").await.status, 200);
}

#[tokio::test]
async fn a_page_of_another_site_can_change_nothing() {
    let plane = Plane::start().await;
    let json = "content-type: application/json";
    for (method, path, page) in [
        ("POST", "/register", "origin: http://evil.example"),
        ("DELETE", "/register", "origin: null"),
        ("POST", "/v1/services/orders/replicas", "origin: http://localhost:3000"),
        ("POST", "/v1/services/orders/replicas", "sec-fetch-site: cross-site"),
        ("DELETE", "/v1/services/orders/replicas/r-1?force=1", "sec-fetch-site: same-site"),
    ] {
        let headers = format!("host: localhost:7400\n{json}\n{page}");
        let refused = send(&plane, method, path, &headers, BODY).await;
        assert_eq!(refused.problem(), (403, "ORIGIN_NOT_ALLOWED".into(), String::new()), "{page}");
    }
    let services = send(&plane, "GET", "/v1/services", "", "").await;
    assert_eq!(services.json()["services"], json!([]));
    let own = format!("host: localhost:7400\n{json}\norigin: http://localhost:7400");
    assert_eq!(send(&plane, "POST", "/register", &own, BODY).await.status, 201);
}

#[tokio::test]
async fn grpc_is_not_served_to_what_a_page_can_send() {
    let plane = Plane::start().await;
    let request = "POST /gateway.v1.RegistryService/ListServices HTTP/1.1\r\nhost: evil.example\r\n\
                   content-type: application/grpc\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(plane.listen()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(&[0; 5]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}
