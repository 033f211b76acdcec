//! Keys of JWTs that their issuer publishes: a server by TLS with an authority of its own, whose keys change, and which fails.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane::{Settings, auth_file::fingerprint};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::{
    plane::{Plane, eventually},
    rest::send,
};

/// An issuer of tokens, who publishes his keys.
struct Idp {
    url: String,
    folder: TempDir,
    /// What is answered: the status line's end and the body.
    answer: Arc<Mutex<(&'static str, String)>>,
    asked: Arc<AtomicUsize>,
}

struct Key {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        Self { id, pair: Ed25519KeyPair::generate().unwrap() }
    }

    fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": encode(self.pair.public_key().as_ref())})
    }

    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"iss": "idp", "aud": "gateway", "sub": "ana", "exp": now + 600, "groups": "ops"});
        let header = json!({"alg": "EdDSA", "kid": self.id});
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.pair.sign(message.as_bytes())))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Idp {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate().unwrap();
        let signed =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/keys", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(("503 Service Unavailable", String::new())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (said, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever does not believe the certificate goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = [0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                assert!(head[..length].starts_with(b"GET /keys HTTP/1.1\r\n"));
                count.fetch_add(1, Ordering::Relaxed);
                let (status, body) = said.lock().unwrap().clone();
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nlocation: /elsewhere\r\n\r\n{body}"
                );
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, folder, answer, asked }
    }

    fn says(&self, status: &'static str, body: impl ToString) {
        *self.answer.lock().unwrap() = (status, body.to_string());
    }

    fn publishes(&self, keys: &[&Key]) {
        self.says("200 OK", json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}));
    }

    /// A control plane that believes it, and a token that is in its file.
    async fn believed_by(&self, with_ca: bool) -> Plane {
        let ca = if with_ca { "jwks-ca = \"ca.pem\"\n" } else { "" };
        let text = format!(
            "[[token]]\nname = \"see\"\nsha256 = \"{}\"\nroles = [\"reader\"]\n\n[jwt]\nissuer = \"idp\"\naudiences = \
             [\"gateway\"]\njwks-url = \"{}\"\n{ca}[[jwt.rule]]\nclaim = \"groups\"\nvalue = \"ops\"\nroles = [\"operator\"]\n",
            fingerprint("see"),
            self.url
        );
        let path = self.folder.path().join("auth.toml");
        std::fs::write(&path, text).unwrap();
        Plane::start_with(|config| config.access = Settings::default().with_auth_file(path)).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn ask(plane: &Plane, token: &str) -> (u16, String) {
    let answer = send(plane, "GET", "/v1/services", &format!("authorization: Bearer {token}"), "").await;
    (answer.status, answer.body)
}

async fn eventually_is(status: u16, plane: &Plane, token: &str) {
    eventually(async || (ask(plane, token).await.0 == status).then_some(())).await;
}

#[tokio::test]
async fn published_keys_are_believed_until_others_are_published_and_while_nobody_answers() {
    let idp = Idp::start().await;
    let (a, b, c) = (Key::new("a"), Key::new("b"), Key::new("c"));
    let plane = idp.believed_by(true).await;
    let (status, told) = ask(&plane, &a.token()).await;
    assert_eq!(status, 401);
    assert!(told.contains("have not been fetched yet"), "{told}");
    assert_eq!(ask(&plane, "see").await.0, 200, "who is in the file needs no keys");
    idp.publishes(&[&a]);
    eventually_is(200, &plane, &a.token()).await;

    // The next key: it is missed, and fetched, though the keys before are still fresh.
    idp.publishes(&[&b]);
    assert_eq!(ask(&plane, &b.token()).await.0, 401);
    let before = idp.asked();
    for _ in 0..100 {
        assert_eq!(ask(&plane, &c.token()).await.0, 401);
    }
    assert!(idp.asked() <= before + 1, "whoever knows no key has them fetched seldom");
    eventually_is(200, &plane, &b.token()).await;
    assert_eq!(ask(&plane, &a.token()).await.0, 401, "what is published no more is believed no more");

    // Whatever is answered from now on, what was believed goes on to be.
    let before = idp.asked();
    for answer in [("302 Found", String::new()), ("200 OK", "{}".into()), ("200 OK", " ".repeat(2 << 20))] {
        let asked = idp.asked();
        idp.says(answer.0, answer.1);
        eventually(async || {
            ask(&plane, &c.token()).await;
            (idp.asked() > asked).then_some(())
        })
        .await;
    }
    assert_eq!(ask(&plane, &b.token()).await.0, 200);
    assert!(idp.asked() - before < 10);
    let metrics = send(&plane, "GET", "/metrics", "authorization: Bearer see", "").await.body;
    assert!(metrics.contains("gateway_jwks_fetches_total{result=\"failed\"}"), "{metrics}");
}

#[tokio::test]
async fn keys_of_a_server_that_cannot_be_believed_are_none() {
    let idp = Idp::start().await;
    let a = Key::new("a");
    idp.publishes(&[&a]);
    let plane = idp.believed_by(false).await;
    let failed = async || {
        let metrics = send(&plane, "GET", "/metrics", "authorization: Bearer see", "").await.body;
        let line =
            metrics.lines().find(|line| line.starts_with("gateway_jwks_fetches_total{result=\"failed\"}"));
        line.unwrap().rsplit_once(' ').unwrap().1.parse::<u32>().unwrap()
    };
    eventually(async || (failed().await > 0).then_some(())).await;
    assert_eq!(ask(&plane, &a.token()).await.0, 401);
    assert_eq!(idp.asked(), 0, "the handshake is as far as it goes");
}
