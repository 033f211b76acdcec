//! A control plane that asks who its callers are, on a file in a folder of its own.

use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};

use gateway_proto::v1::registry_service_client::RegistryServiceClient;
use gateway_tests::{ControlPlane, http1};
use tempfile::TempDir;
use tonic::{Request, transport::Channel};

pub(crate) struct Locked {
    pub(crate) control: ControlPlane,
    _folder: TempDir,
}

impl Locked {
    /// With this auth file. Each `token-file` of it holds the token that [`shown`] shows.
    pub(crate) async fn start(auth: &str, flags: &[&str]) -> Self {
        Self::start_beside(auth, &[], flags).await
    }

    /// With further files that it names.
    pub(crate) async fn start_beside(auth: &str, files: &[(&str, String)], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the folder can be written");
            path.display().to_string()
        };
        for name in auth.lines().filter_map(|line| line.strip_prefix("token-file = \"")?.strip_suffix('"')) {
            write(name, &format!("gwt_{name}\n"));
        }
        for (name, text) in files {
            write(name, text);
        }
        let auth = write("auth.toml", auth);
        let flags = [&["--auth-file", &auth], flags].concat();
        let control = ControlPlane::start_with(&folder.path().join("r.redb"), &flags).await;
        Self { control, _folder: folder }
    }

    /// The sum of all numbers whose metric, with its labels, begins like this. It has to be started with `--open-metrics`.
    pub(crate) async fn counted(&self, prefix: &str) -> u64 {
        let text = http1::get(self.control.address(), "/metrics").await;
        let text = String::from_utf8_lossy(text.body()).into_owned();
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// The request of whoever has the token in the `token-file` of this name.
pub(crate) fn shown<T>(token: &str, message: T) -> Request<T> {
    with_bearer(&format!("gwt_{token}"), message)
}

/// The request of whoever shows this for a token.
pub(crate) fn with_bearer<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().expect("tokens are text");
    request.metadata_mut().insert("authorization", value);
    request
}

/// A client on a connection of its own.
pub(crate) async fn connect(url: &str) -> RegistryServiceClient<Channel> {
    RegistryServiceClient::new(channel(url).await)
}

pub(crate) async fn channel(url: &str) -> Channel {
    let endpoint = Channel::from_shared(url.to_owned()).expect("an address makes a URL");
    endpoint.connect().await.expect("it listens")
}
