//! An authority that signs certificates for tests: good ones, and such as nobody should believe.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use tempfile::TempDir;

/// An authority, and a folder for what it signs; its own certificate is `ca.pem`.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// One of this name, with a key of its own.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let mut params = of(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("keys can be made");
        let signed = params.self_signed(&key).expect("it can be signed");
        std::fs::write(folder.path().join("ca.pem"), signed.pem()).expect("the folder can be written");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub fn sign(&self, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("keys can be made");
        let signed = params.signed_by(&key, &self.issuer).expect("it can be signed");
        self.write(name, &key, &signed.pem());
    }

    /// The same for a certificate that stands for itself.
    pub fn sign_by_itself(&self, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("keys can be made");
        let signed = params.self_signed(&key).expect("it can be signed");
        self.write(name, &key, &signed.pem());
    }

    /// Whole or not at all, as people do who replace certificates: the key first.
    fn write(&self, name: &str, key: &KeyPair, certificate: &str) {
        for (end, text) in [("key", key.serialize_pem()), ("pem", certificate.to_owned())] {
            let new = PathBuf::from(self.path(&format!("{name}.{end}.new")));
            std::fs::write(&new, text).expect("the folder can be written");
            std::fs::rename(&new, self.path(&format!("{name}.{end}"))).expect("the folder can be written");
        }
    }
}

fn of(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("they are names")
}

/// What a control plane shows that has these names.
pub fn server(names: &[&str]) -> CertificateParams {
    let mut params = of(names);
    params.distinguished_name.push(DnType::CommonName, "control plane");
    params
}

/// What a client shows.
pub fn client(common: &str, uri: Option<&str>) -> CertificateParams {
    let mut params = of(&[]);
    params.distinguished_name.push(DnType::CommonName, common);
    params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().expect("it is a URI"))));
    params
}

/// The same, of the past.
pub fn expired(mut params: CertificateParams) -> CertificateParams {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    params
}
