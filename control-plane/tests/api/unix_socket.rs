//! A control plane at a Unix socket: whoever may use that is on this machine, and the kernel says who he is.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use control_plane::{Config, Running, Settings, listeners::SocketPlace, store::StoreLocation};
use gateway_proto::v1::{self, registry_service_client::RegistryServiceClient};
use gateway_runtime::{Failure, Shutdown};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use crate::plane::{PATIENCE, explain, request};

/// One that serves at a socket, and at no address.
struct Local {
    running: Running,
    shutdown: Shutdown,
    path: PathBuf,
    _folder: TempDir,
}

fn config(path: &Path, mode: u32) -> Config {
    let socket = Some(SocketPlace { path: path.to_owned(), mode });
    Config { listen: None, socket, store: StoreLocation::Memory, ..Config::default() }
}

async fn start(config: Config) -> Result<(Running, Shutdown), Failure> {
    let shutdown = Shutdown::new();
    Ok((control_plane::start(config, shutdown.clone()).await?, shutdown))
}

impl Local {
    async fn start(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let mut config = config(&path, 0o600);
        change(&mut config, folder.path());
        let (running, shutdown) = start(config).await.unwrap();
        Self { running, shutdown, path, _folder: folder }
    }

    /// As any client of gRPC connects there.
    async fn registry(&self) -> RegistryServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.path.display())).unwrap();
        RegistryServiceClient::new(endpoint.connect().await.unwrap())
    }

    async fn whoami(&self) -> Value {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        let asked = "GET /whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// The user that these tests run as, by what he owns.
fn uid(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().uid()
}

#[tokio::test]
async fn it_serves_at_a_socket_alone_and_takes_it_away_at_the_end() {
    let local = Local::start(|_, _| {}).await;
    assert_eq!(local.running.listen(), None);
    assert_eq!(std::fs::metadata(&local.path).unwrap().permissions().mode() & 0o777, 0o600);
    // Who leaves his host out is on this machine.
    let registered = local.registry().await.register(request("orders", ":8080")).await.unwrap().into_inner();
    assert_eq!(registered.replica.unwrap().endpoint.unwrap().address, "127.0.0.1:8080");
    let told = local.whoami().await;
    let name = format!("uid {}", uid(&local.path));
    assert_eq!((told["name"].as_str(), told["authentication"].as_bool()), (Some(&*name), Some(false)));

    local.shutdown.begin();
    timeout(PATIENCE, local.running.finished()).await.unwrap().unwrap();
    assert!(!local.path.exists());
}

#[tokio::test]
async fn it_serves_at_an_address_and_at_a_socket_side_by_side() {
    let local = Local::start(|config, _| config.listen = Some("127.0.0.1:0".parse().unwrap())).await;
    let address = local.running.listen().unwrap();
    assert_eq!(local.running.served().to_string(), format!("{address} and unix://{}", local.path.display()));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let by_address = RegistryServiceClient::new(channel);
    local.registry().await.register(request("orders", "10.0.0.1:80")).await.unwrap();
    let listed = by_address.clone().list_services(v1::ListServicesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().services.len(), 1);
}

#[tokio::test]
async fn who_is_asked_who_he_is_shows_a_token_there_too_or_is_a_user_of_the_file() {
    let locked = async |entry: fn(u32) -> String| {
        Local::start(|config, folder| {
            let path = folder.join("auth.toml");
            std::fs::write(&path, entry(uid(folder))).unwrap();
            config.access = Settings::default().with_auth_file(path);
        })
        .await
    };
    let known =
        locked(|uid| format!("[[user]]\nname = \"ana\"\nuid = {uid}\nroles = [\"operator\"]\n")).await;
    assert!(known.registry().await.register(request("orders", "10.0.0.1:80")).await.is_ok());
    let told = known.whoami().await;
    assert_eq!((told["name"].as_str(), told["kind"].as_str()), (Some("ana"), Some("user")));

    let stranger =
        locked(|uid| format!("[[user]]\nname = \"bob\"\nuid = {}\nroles = [\"operator\"]\n", uid + 1)).await;
    let refused = stranger.registry().await.register(request("orders", "10.0.0.1:80")).await.unwrap_err();
    assert_eq!(explain(&refused).1, "CREDENTIALS_REQUIRED");
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_replaced_and_that_of_a_living_one_is_refused() {
    let local = Local::start(|_, _| {}).await;
    let refused = start(config(&local.path, 0o600)).await.unwrap_err();
    assert_eq!(refused.code(), 1);
    assert_eq!(
        refused.to_string(),
        format!(
            "--listen unix://{}: cannot listen there: another process listens there: end it first, or name another path",
            local.path.display()
        )
    );

    // What is left of a process that was killed: a file, and nobody behind it.
    let left = local.path.with_file_name("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let (running, shutdown) = start(config(&left, 0o660)).await.unwrap();
    assert_eq!(std::fs::metadata(&left).unwrap().permissions().mode() & 0o777, 0o660);
    shutdown.begin();
    timeout(PATIENCE, running.finished()).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "of value").unwrap();
    let refused = start(config(&precious, 0o600)).await.unwrap_err().to_string();
    assert!(refused.contains("something that is no socket"), "{refused}");
    assert_eq!(std::fs::read(&precious).unwrap(), b"of value");
    let refused = start(config(&folder.path().join("none/x.sock"), 0o600)).await.unwrap_err().to_string();
    assert!(refused.contains("there is no folder ") && refused.contains("none"), "{refused}");
}
