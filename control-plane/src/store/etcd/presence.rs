//! This control plane among those that share the store: a key under a lease, for as long as the process lives.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Status;

use super::{client::Client, keeper::renew_once, keys::Keys, transaction::leased};

/// Seconds that a control plane is believed to be there after its last sign of life.
const TTL: i64 = 10;
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
const RENEW_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(1);

/// Says what is in `own` until it is taken back, or nobody can change it any more.
pub(super) async fn run(client: Client, keys: Keys, mut own: watch::Receiver<Option<(String, String)>>) {
    while own.wait_for(Option::is_some).await.is_ok() {
        let said = own.borrow_and_update().clone();
        let Some((node, address)) = said else { continue };
        if let Err(status) = be_present(&client, &keys, &node, &address, &mut own).await {
            tracing::debug!(message = status.message(), "etcd does not know of this control plane");
            sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        }
        if own.borrow().is_none() {
            return;
        }
    }
}

/// Until something else is to be said, or etcd has forgotten it.
async fn be_present(
    client: &Client,
    keys: &Keys,
    node: &str,
    address: &str,
    own: &mut watch::Receiver<Option<(String, String)>>,
) -> Result<(), Status> {
    let id = i64::from(rand::random::<u32>()) << 24 | i64::from(rand::random::<u16>()) | 1;
    client.grant(id, TTL).await?;
    client.txn(leased(keys.peer(node), address.as_bytes().to_vec(), id)).await?;
    loop {
        tokio::select! {
            // With its lease, the key goes at once.
            _ = own.changed() => return client.revoke(id).await,
            () = sleep(RENEW_INTERVAL) => {}
        }
        let renewed = timeout(RENEW_TIMEOUT, renew_once(client, id)).await;
        match renewed {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            // Its time to live takes a few failures.
            Ok(Err(status)) => tracing::debug!(message = status.message(), "not renewed"),
            Err(_) => tracing::debug!("not renewed in time"),
        }
    }
}
