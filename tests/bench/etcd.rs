//! The part of etcd's API that a registration needs, on the same client library as the control plane's.
//!
//! The messages are etcd's by their field numbers (`rpc.proto` of etcd 3.4); fields that are not used are left out,
//! which protobuf allows.

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantRequest {
    /// Seconds.
    #[prost(int64, tag = "1")]
    ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(int64, tag = "3")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// Asks to renew a lease.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseKeepAliveRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

/// Says until when a lease lives.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseKeepAliveResponse {
    /// Seconds; 0: it is gone.
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

/// An answer of which nothing is read.
#[derive(Clone, PartialEq, Message)]
struct Ignored {}

/// A client on one connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    /// A client on this connection.
    pub(crate) fn new(channel: Channel) -> Self {
        Self { grpc: Grpc::new(channel) }
    }

    /// Grants a lease of so many seconds.
    pub(crate) async fn grant(&mut self, ttl: i64) -> Result<i64> {
        let response: LeaseGrantResponse =
            self.unary("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl }).await?;
        Ok(response.id)
    }

    /// Puts a value under a lease.
    pub(crate) async fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) -> Result<()> {
        let _: Ignored = self.unary("/etcdserverpb.KV/Put", PutRequest { key, value, lease }).await?;
        Ok(())
    }

    /// Reads one key, linearizably.
    pub(crate) async fn range(&mut self, key: &[u8]) -> Result<()> {
        let _: Ignored = self.unary("/etcdserverpb.KV/Range", RangeRequest { key: key.to_vec() }).await?;
        Ok(())
    }

    /// Renews leases on one stream.
    pub(crate) async fn keep_alive(
        &mut self,
        requests: mpsc::Receiver<LeaseKeepAliveRequest>,
    ) -> Result<Streaming<LeaseKeepAliveResponse>> {
        self.grpc.ready().await.context("etcd")?;
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let request = Request::new(ReceiverStream::new(requests));
        Ok(self.grpc.streaming(request, path, ProstCodec::default()).await?.into_inner())
    }

    async fn unary<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.context("etcd")?;
        let path = PathAndQuery::from_static(path);
        let response = self.grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        Ok(response.with_context(|| "etcd refused".to_owned())?.into_inner())
    }
}
