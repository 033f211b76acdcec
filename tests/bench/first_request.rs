//! How long from a registration to the first request that is routed by it, through a real data plane?
//!
//! Timed from the moment the registration is sent to the moment its service answers 200 through the gateway; it is
//! asked for over and over meanwhile, on one connection, so the figure is too high by up to one request.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use gateway_proto::v1::{Endpoint, RegisterRequest, registry_service_client::RegistryServiceClient};
use gateway_tests::http1::{Connection, request};
use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{Args, callers::connect, figures::Figures, programs::Programs, replicas, samples::percentile_ms};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    let upstream = upstream().await?;
    for others in [0, args.replicas] {
        let what = |of: &str| format!("registration to first request, {others} replicas beside: {of}");
        let control_plane = programs.control_plane()?;
        if others > 0 {
            replicas::register(&control_plane, 0..others).await?;
        }
        let data_plane = programs.data_plane(&control_plane)?;
        let mut registry = RegistryServiceClient::new(connect(&control_plane.url()).await?);
        let mut times = Vec::new();
        for number in 0..=args.changes {
            let mut client = Connection::open(data_plane.address()).await.map_err(|why| anyhow!(why))?;
            let service = format!("first-{number}");
            let registration = RegisterRequest {
                service: service.clone(),
                endpoint: Some(Endpoint { address: upstream.to_string(), ..Default::default() }),
                ..Default::default()
            };
            let began = Instant::now();
            let asking = async {
                loop {
                    let answer = client.send(request(Method::GET, &format!("/{service}/"))).await;
                    if answer.map_err(|why| anyhow!(why))?.status() == 200 {
                        return Ok::<_, anyhow::Error>(began.elapsed());
                    }
                    ensure!(began.elapsed() < PATIENCE, "{service} is not routed to");
                }
            };
            let (registered, time) = tokio::join!(registry.register(registration), asking);
            registered?;
            // The first one waits until the data plane has its first snapshot.
            if number > 0 {
                times.push(time?);
            }
        }
        figures.ours(what("p50"), "ms", percentile_ms(&times, 0.5));
        figures.ours(what("p99"), "ms", percentile_ms(&times, 0.99));
    }
    Ok(())
}

/// A server that answers everything with 200.
async fn upstream() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                // Each request of the data plane's comes in one piece: they have no body.
                while matches!(stream.read(&mut request).await, Ok(1..)) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}
