//! The owner of a replica, who keeps its lease alive at whichever control plane answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::AbortHandle;

use super::caller::{Caller, is_certain, registration};

/// Registered for as long as this is there, and silent from then on.
#[derive(Debug)]
pub(crate) struct Owner {
    kept: Arc<Kept>,
    renewing: AbortHandle,
}

#[derive(Debug, Default)]
struct Kept {
    renewals: AtomicU64,
    lost: AtomicU64,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Owner {
    /// Registers a replica of `orders`, and renews its lease three times in its time to live.
    pub(crate) async fn start(urls: &[String], id: &str, address: SocketAddr, ttl: Duration) -> Self {
        let callers: Vec<_> = urls.iter().map(|url| Caller::new(url)).collect();
        let kept = Arc::new(Kept::default());
        let request = registration("orders", id, &address.to_string(), ttl);
        let lease = callers[0].register(request.clone()).await.expect("it can be registered").lease_id;
        let (id, noted) = (id.to_owned(), Arc::clone(&kept));
        let renewing = tokio::spawn(async move {
            let (mut lease, mut current) = (lease, 0);
            loop {
                tokio::time::sleep(ttl / 3).await;
                for _ in 0..callers.len() {
                    let caller = &callers[current % callers.len()];
                    // One that says nothing must not use up the time to live.
                    let renewed = tokio::time::timeout(ttl / 3, caller.renew("orders", &id, &lease)).await;
                    match renewed {
                        Ok(Ok(())) => {
                            noted.renewals.fetch_add(1, Relaxed);
                            break;
                        }
                        Ok(Err(status)) if is_certain(&status) => {
                            noted.lost.fetch_add(1, Relaxed);
                            eprintln!("         {id} is told that its lease is lost: {status}");
                            if let Ok(answer) = caller.register(request.clone()).await {
                                lease = answer.lease_id;
                            }
                            break;
                        }
                        _ => current += 1,
                    }
                }
            }
        });
        Self { kept, renewing: renewing.abort_handle() }
    }

    /// How often it was heard of.
    pub(crate) fn renewals(&self) -> u64 {
        self.kept.renewals.load(Relaxed)
    }

    /// How often it was told that its lease is no more.
    pub(crate) fn lost(&self) -> u64 {
        self.kept.lost.load(Relaxed)
    }
}
