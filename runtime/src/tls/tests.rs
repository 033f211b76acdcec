use std::{
    fs,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, pki_types::pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::files::LOOK_INTERVAL;

/// An authority, and the files of what it has signed.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { folder: tempfile::tempdir().unwrap(), issuer: Issuer::new(params, key), certificate }
    }

    /// Writes a certificate for these names, and its key.
    fn sign(&self, file: &str, names: &[&str]) -> Identity {
        self.sign_until(file, names, 4000)
    }

    /// The same, good until a year begins.
    fn sign_until(&self, file: &str, names: &[&str], year: i32) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end| self.folder.path().join(format!("{file}.{end}"));
        fs::write(path("crt"), signed.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        Identity { certificate: path("crt"), key: path("key") }
    }

    fn file(&self) -> PathBuf {
        let path = self.folder.path().join("ca.crt");
        fs::write(&path, &self.certificate).unwrap();
        path
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A client that trusts this authority and shows what is given.
    fn client(&self, shows: Option<&Identity>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match shows {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
                builder.with_client_auth_cert(certificates(&identity.certificate).unwrap(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

fn files(identities: Vec<Identity>) -> TlsFiles {
    TlsFiles { identities, client_ca: None, takes_anonymous: false, protocols: &[b"h2", b"http/1.1"] }
}

/// Connects by this name, and yields the certificate that was shown and whether the session was resumed.
async fn shown(tls: &Tls, client: &Arc<ClientConfig>, name: &str) -> io::Result<(Vec<u8>, bool)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = TlsAcceptor::from(tls.config());
    let serving = async {
        let mut stream = acceptor.accept(listener.accept().await?.0).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        // Until the client has its tickets and goes.
        let _ = stream.read(&mut [0]).await;
        io::Result::Ok(())
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let asking = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, stream).await?;
        stream.read_exact(&mut [0]).await?;
        let (_, session) = stream.get_ref();
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
        let is_resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let certificate = session.peer_certificates().unwrap()[0].to_vec();
        let _ = stream.shutdown().await;
        io::Result::Ok((certificate, is_resumed))
    };
    let (asked, _) = tokio::join!(asking, serving);
    asked
}

fn der(identity: &Identity) -> Vec<u8> {
    certificates(&identity.certificate).unwrap()[0].to_vec()
}

#[tokio::test]
async fn each_name_is_shown_its_certificate_and_any_other_the_first() {
    let authority = Authority::new("a");
    let first = authority.sign("first", &["one.example", "127.0.0.1"]);
    let second = authority.sign("second", &["*.two.example"]);
    let tls = Tls::load(files(vec![first.clone(), second.clone()])).unwrap();
    let client = Arc::new(authority.client(None));
    assert_eq!(shown(&tls, &client, "one.example").await.unwrap().0, der(&first));
    assert_eq!(shown(&tls, &client, "x.two.example").await.unwrap().0, der(&second));
    // By address there is no name to ask for.
    assert_eq!(shown(&tls, &client, "127.0.0.1").await.unwrap().0, der(&first));
    let other = shown(&tls, &client, "three.example").await.unwrap_err().to_string();
    assert!(other.contains("not valid for name"), "{other}");
}

#[tokio::test]
async fn a_client_that_comes_again_resumes_its_session() {
    let authority = Authority::new("a");
    let tls = Tls::load(files(vec![authority.sign("one", &["one.example"])])).unwrap();
    let client = Arc::new(authority.client(None));
    assert!(!shown(&tls, &client, "one.example").await.unwrap().1);
    assert!(shown(&tls, &client, "one.example").await.unwrap().1);
}

#[tokio::test]
async fn only_a_client_whose_authority_is_trusted_gets_in() {
    let (authority, stranger) = (Authority::new("a"), Authority::new("b"));
    let identity = authority.sign("one", &["one.example"]);
    let tls = Tls::load(TlsFiles { client_ca: Some(authority.file()), ..files(vec![identity]) }).unwrap();
    let ask = async |shows: Option<&Identity>| {
        shown(&tls, &Arc::new(authority.client(shows)), "one.example").await.is_ok()
    };
    assert!(ask(Some(&authority.sign("client", &["client"]))).await);
    assert!(!ask(Some(&stranger.sign("client", &["client"]))).await);
    assert!(!ask(None).await);
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let authority = Authority::new("a");
    let (one, two) = (authority.sign("one", &["one.example"]), authority.sign("two", &["two.example"]));
    let refused = |certificate: &Path, key: &Path| {
        let identity = Identity { certificate: certificate.into(), key: key.into() };
        Tls::load(files(vec![identity])).unwrap_err().to_string()
    };
    let mixed = refused(&one.certificate, &two.key);
    assert!(mixed.contains("one.crt") && mixed.contains("two.key") && mixed.contains("belong"), "{mixed}");
    let swapped = refused(&one.key, &one.certificate);
    assert!(swapped.contains("one.key: it holds no certificate"), "{swapped}");
    let no_key = refused(&one.certificate, &one.certificate);
    assert!(no_key.contains("one.crt: it holds no key"), "{no_key}");
    let missing = refused(Path::new("/no/such.crt"), &one.key);
    assert!(missing.starts_with("/no/such.crt: No such file"), "{missing}");
    let wrong_ca = TlsFiles { client_ca: Some(one.key.clone()), ..files(vec![one.clone()]) };
    let wrong_ca = Tls::load(wrong_ca).unwrap_err().to_string();
    assert!(wrong_ca.contains("one.key: it holds no certificate"), "{wrong_ca}");
}

#[tokio::test(start_paused = true)]
async fn files_that_change_are_shown_and_such_that_cannot_be_used_change_nothing() {
    let authority = Authority::new("a");
    let identity = authority.sign("one", &["one.example"]);
    let tls = Arc::new(Tls::load(files(vec![identity.clone()])).unwrap());
    let shutdown = Shutdown::new();
    let following = tokio::spawn(Arc::clone(&tls).follow(shutdown.clone()));
    let began = tls.config();
    // Half of the pair, as it is while somebody copies them one after the other.
    let key = fs::read(&identity.key).unwrap();
    fs::write(&identity.key, "soon").unwrap();
    tokio::time::sleep(3 * LOOK_INTERVAL).await;
    assert!(Arc::ptr_eq(&tls.config(), &began));
    fs::write(&identity.key, key).unwrap();
    authority.sign("one", &["one.example", "other.example"]);
    let patience = Instant::now();
    while Arc::ptr_eq(&tls.config(), &began) {
        assert!(patience.elapsed() < Duration::from_secs(20), "it never looks");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    shutdown.begin();
    following.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whom_a_client_believes_is_read_again_and_half_written_files_change_nothing() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let ca = before.file();
    let files = ClientTlsFiles { ca: Some(ca.clone()), identity: None, protocols: &[] };
    let tls = Arc::new(ClientTls::load(files).unwrap());
    let shutdown = Shutdown::new();
    let following = tokio::spawn(Arc::clone(&tls).follow(shutdown.clone()));
    let began = tls.config().await.unwrap();
    fs::write(&ca, "-----BEGIN CERT").unwrap();
    tokio::time::sleep(3 * LOOK_INTERVAL).await;
    assert!(Arc::ptr_eq(&tls.config().await.unwrap(), &began));
    fs::write(&ca, &after.certificate).unwrap();
    let patience = Instant::now();
    while Arc::ptr_eq(&tls.config().await.unwrap(), &began) {
        assert!(patience.elapsed() < Duration::from_secs(20), "it never looks");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    shutdown.begin();
    following.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn until_when_what_is_shown_is_good_is_told_and_whether_what_is_in_the_files_now_can_be_used() {
    const OF_2040: u64 = 2_208_988_800;
    const OF_2030: u64 = 1_893_456_000;
    let authority = Authority::new("a");
    let shown = authority.sign_until("one", &["one.example"], 2040);
    let of_clients =
        ClientTlsFiles { identity: Some(shown.clone()), ca: Some(authority.file()), protocols: &[] };
    let (tls, client) =
        (Tls::load(files(vec![shown.clone()])).unwrap(), ClientTls::load(of_clients).unwrap());
    let (tls, client) = (Arc::new(tls), Arc::new(client));
    let mut uses = Uses::default();
    uses.add("listener", tls.standing());
    uses.add("replicas", client.standing());
    let told = |end, is_unusable| {
        let file = shown.certificate.display().to_string();
        let both = ["listener", "replicas"];
        let ends = both.map(|of| ([of.to_owned(), file.clone()], end));
        (ends.to_vec(), both.map(|of| ([of], is_unusable)).to_vec())
    };
    assert_eq!((uses.ends(), uses.unusable()), told(OF_2040, 0));

    let shutdown = Shutdown::new();
    let following = tokio::spawn(Arc::clone(&tls).follow(shutdown.clone()));
    let client_following = tokio::spawn(client.follow(shutdown.clone()));
    let becomes = async |end, is_unusable| {
        let (patience, expected) = (Instant::now(), told(end, is_unusable));
        while (uses.ends(), uses.unusable()) != expected {
            assert!(patience.elapsed() < Duration::from_secs(20), "{:?} {:?}", uses.ends(), uses.unusable());
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    // A chain is as good as the first of it that ends.
    let other = authority.sign_until("other", &["other.example"], 2030);
    let chain = [&shown, &other].map(|one| fs::read_to_string(&one.certificate).unwrap()).concat();
    fs::write(&shown.certificate, &chain).unwrap();
    becomes(OF_2030, 0).await;
    fs::write(&shown.certificate, &chain[..chain.len() / 3]).unwrap();
    becomes(OF_2030, 1).await;
    authority.sign_until("one", &["one.example"], 2040);
    becomes(OF_2040, 0).await;
    shutdown.begin();
    following.await.unwrap();
    client_following.await.unwrap();
}

#[test]
fn a_clients_files_are_refused_by_their_names_and_none_are_read_where_none_are_named() {
    let files = ClientTlsFiles { ca: Some("/no/such/ca".into()), ..ClientTlsFiles::default() };
    assert!(ClientTls::load(files).unwrap_err().to_string().contains("/no/such/ca"));
    assert!(!ClientTls::load(ClientTlsFiles::default()).unwrap().has_files());
}

#[tokio::test]
async fn what_a_server_has_against_our_certificate_is_heard_by_one_who_only_writes_too() {
    let authority = Authority::new("a");
    let mut files = files(vec![authority.sign("one", &["127.0.0.1"])]);
    files.client_ca = Some(authority.file());
    let acceptor = TlsAcceptor::from(Tls::load(files).unwrap().config());
    let client = ClientTlsFiles { ca: Some(authority.file()), identity: None, protocols: &[b"h2"] };
    let client = Arc::new(ClientTls::load(client).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving =
        tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await.is_ok() });
    let mut connection = connect("127.0.0.1", port, Some(&client)).await.unwrap();
    // The refusal comes after the handshake, and by now the connection is closed.
    assert!(!serving.await.unwrap());
    let refused = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Err(error) = connection.write_all(b"request").await {
                break error;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let refused = refused.await.unwrap().to_string();
    assert!(refused.contains("asks for a client certificate"), "{refused}");
    assert_eq!(*client.refusal().unwrap(), refused);
}
