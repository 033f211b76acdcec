//! `StreamSnapshots` as HTTP/2: the one RPC whose responses are not encoded by tonic.
//!
//! tonic encodes each message of each stream for itself and copies it into a buffer of that stream. An update is the
//! same for all data planes and, when they come back at once, as large as the registry: here it stays the same bytes up
//! to the socket, and a stream owns no more than the head of its message.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use gateway_proto::v1::{
    StreamSnapshotsRequest, StreamSnapshotsResponse, discovery_service_server::SERVICE_NAME,
};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, Streaming, codec::Codec, server::NamedService};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{MAX_REQUEST_BYTES, open};
use crate::{auth::Caller, edge::Edge, publish::Encoded};

const PATH: &str = "/gateway.v1.DiscoveryService/StreamSnapshots";
/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Up to here, an update is copied behind its head: cheaper than a frame of its own.
const COPIED: usize = 4096;

/// The service.
#[derive(Debug, Clone)]
pub(in crate::rpc) struct Discovery(pub(in crate::rpc) Arc<Edge>);

/// One response: its head, framed, and the update behind it.
#[derive(Debug)]
pub(super) struct Outgoing {
    head: Bytes,
    update: Bytes,
}

/// What a stream says, as an HTTP body: it ends with the status that its task ended with.
#[derive(Debug)]
pub(super) struct Responses {
    queue: mpsc::Receiver<Result<Outgoing, Status>>,
    /// Of the response whose head has been handed out.
    update: Bytes,
    is_over: bool,
}

impl NamedService for Discovery {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<tonic::body::Body>> for Discovery {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let response = answer(&self.0, request).unwrap_or_else(Status::into_http);
        std::future::ready(Ok(response))
    }
}

fn answer(
    edge: &Arc<Edge>,
    request: Request<tonic::body::Body>,
) -> Result<Response<tonic::body::Body>, Status> {
    if request.uri().path() != PATH {
        return Err(Status::unimplemented("DiscoveryService has no such method"));
    }
    check_encoding(request.headers())?;
    let caller = Caller::of(request.extensions()).clone();
    let decoder = ProstCodec::<StreamSnapshotsResponse, StreamSnapshotsRequest>::default().decoder();
    let inbound = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST_BYTES));
    let body = tonic::body::Body::new(open(edge, inbound, caller)?);
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// Requests come as they are or not at all, as to the other services.
fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(other) => {
            let shown = String::from_utf8_lossy(other);
            let mut status =
                Status::unimplemented(format!("compression {shown:?} is not supported: send none"));
            let accepted = "identity".parse().expect("a word is a metadata value");
            status.metadata_mut().insert("grpc-accept-encoding", accepted);
            Err(status)
        }
    }
}

impl Outgoing {
    /// The message that consists of a head, without an update, and of an update.
    pub(super) fn new(head: &StreamSnapshotsResponse, update: &Encoded) -> Self {
        let update = update.bytes().clone();
        let head_len = head.encoded_len();
        let length = head_len + update.len();
        let copied = if update.len() <= COPIED { update.len() } else { 0 };
        let mut buffer = BytesMut::with_capacity(PREFIX + head_len + copied);
        buffer.put_u8(0);
        buffer.put_u32(u32::try_from(length).expect("updates are cut into parts"));
        head.encode(&mut buffer).expect("a buffer grows");
        buffer.extend_from_slice(&update[..copied]);
        Self { head: buffer.freeze(), update: update.slice(copied..) }
    }
}

impl Responses {
    /// The responses that come out of a queue.
    pub(super) fn new(queue: mpsc::Receiver<Result<Outgoing, Status>>) -> Self {
        Self { queue, update: Bytes::new(), is_over: false }
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.update.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.update)))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let status = match ready!(self.queue.poll_recv(context)) {
            Some(Ok(Outgoing { head, update })) => {
                self.update = update;
                return Poll::Ready(Some(Ok(Frame::data(head))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::{FullSnapshot, ServiceSnapshot, stream_snapshots_response::Update};
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn messages_small_and_large_are_framed_whole_and_the_status_comes_last() {
        let head = StreamSnapshotsResponse { nonce: "1".into(), ..Default::default() };
        let (queue, receiver) = mpsc::channel(4);
        let mut expected = Vec::new();
        for size in [0, 1, COPIED, 3 * COPIED] {
            let services = vec![ServiceSnapshot { service: "x".repeat(size), ..Default::default() }];
            let update = Update::Full(FullSnapshot { services, ..Default::default() });
            queue.try_send(Ok(Outgoing::new(&head, &Encoded::new(update.clone())))).unwrap();
            expected.push(StreamSnapshotsResponse { update: Some(update), ..head.clone() });
        }
        drop(queue);
        let collected = Responses::new(receiver).collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        let decoder = ProstCodec::<StreamSnapshotsRequest, StreamSnapshotsResponse>::default().decoder();
        let body = http_body_util::Full::new(collected.to_bytes());
        let mut decoded = Streaming::new_request(decoder, body, None, None);
        for expected in expected {
            assert_eq!(decoded.message().await.unwrap(), Some(expected));
        }
        assert_eq!(decoded.message().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_refusal_is_the_status_in_the_trailers() {
        let (queue, receiver) = mpsc::channel(1);
        queue.try_send(Err(Status::aborted("taken over"))).unwrap();
        let trailers = Responses::new(receiver).collect().await.unwrap();
        let trailers = trailers.trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"10".parse().unwrap(), &"taken%20over".parse().unwrap())
        );
    }

    #[test]
    fn compressed_requests_are_refused_with_what_is_accepted() {
        let with = |encoding| {
            HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), HeaderValue::from_static(encoding))])
        };
        assert!(check_encoding(&HeaderMap::new()).is_ok() && check_encoding(&with("identity")).is_ok());
        let status = check_encoding(&with("gzip")).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "identity");
    }
}
