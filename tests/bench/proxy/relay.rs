//! A bare relay of bytes in a process of its own: nothing that proxies can cost less.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};

/// Relays until it is killed, on one thread, from every other address to the one behind it.
pub(crate) fn run(addresses: &[SocketAddr]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for &[listen, to] in addresses.as_chunks().0 {
            tokio::spawn(relay(TcpListener::bind(listen).await?, to));
        }
        std::future::pending().await
    })
}

async fn relay(listener: TcpListener, to: SocketAddr) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
