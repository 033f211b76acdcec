//! Calls an RPC in this process: the very service that gRPC clients reach, without a socket.
//!
//! The whole gRPC router is called and not the function behind it, so that what stands before it (limits, counting,
//! catching panics) stands before REST, too, and no RPC needs a line of its own here.

use axum::{Router, body::Body};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use gateway_proto::json::pool;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::auth::Caller;

/// A flag and a length before each message (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;

/// The gRPC side of this server.
#[derive(Debug, Clone)]
pub(super) struct Grpc(pub(super) Router);

/// The responses of one RPC, in order. Dropping it cancels the RPC.
#[derive(Debug)]
pub(super) struct Responses {
    body: Body,
    output: MessageDescriptor,
    received: BytesMut,
    /// How it ended, when the head says so already.
    ended: Option<Status>,
}

impl Grpc {
    /// What the contract says of an RPC.
    ///
    /// # Panics
    /// When it has none of this name: callers name what is in it.
    pub(super) fn method(service: &str, rpc: &str) -> MethodDescriptor {
        let service = pool().get_service_by_name(&format!("gateway.v1.{service}"));
        let rpc = service.and_then(|service| service.methods().find(|method| method.name() == rpc));
        rpc.expect("callers name RPCs of the contract")
    }

    /// Begins an RPC for a caller.
    ///
    /// # Errors
    /// The RPC's status, when it has none of its responses to give.
    pub(super) async fn begin(
        &self,
        rpc: &MethodDescriptor,
        message: &DynamicMessage,
        caller: &Caller,
    ) -> Result<Responses, Status> {
        let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        let mut request = Request::new(Body::from(framed(message)));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = path.parse().expect("names of RPCs make a path");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        request.extensions_mut().insert(caller.clone());
        let response: Response<Body> =
            self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let ended = status_in(response.headers());
        match ended {
            Some(status) if status.code() != Code::Ok => Err(status),
            ended => Ok(Responses {
                body: response.into_body(),
                output: rpc.output(),
                received: BytesMut::new(),
                ended,
            }),
        }
    }

    /// Calls an RPC that has one response.
    ///
    /// # Errors
    /// The RPC's status.
    pub(super) async fn call(
        &self,
        rpc: &MethodDescriptor,
        message: &DynamicMessage,
        caller: &Caller,
    ) -> Result<DynamicMessage, Status> {
        let mut responses = self.begin(rpc, message, caller).await?;
        let response = responses.next().await?.ok_or_else(|| Status::internal("the RPC gave no response"))?;
        // Only the end says whether it went well.
        match responses.next().await? {
            None => Ok(response),
            Some(_) => Err(Status::internal("the RPC gave more than one response")),
        }
    }
}

impl Responses {
    /// The next response; `None` at the end of an RPC that went well. Cancel safe.
    ///
    /// # Errors
    /// The status of an RPC that did not.
    pub(super) async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received.extend_from_slice(&data),
                    Err(frame) => self.ended = frame.trailers_ref().and_then(status_in),
                },
                Some(Err(error)) => return Err(Status::internal(error.to_string())),
                None => break,
            }
        }
        match self.ended.take() {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(None),
        }
    }

    fn take(&mut self) -> Result<Option<DynamicMessage>, Status> {
        let Some((prefix, rest)) = self.received.split_at_checked(PREFIX_BYTES) else { return Ok(None) };
        let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if rest.len() < length {
            return Ok(None);
        }
        self.received.advance(PREFIX_BYTES);
        let message: Bytes = self.received.split_to(length).freeze();
        DynamicMessage::decode(self.output.clone(), message)
            .map(Some)
            .map_err(|error| Status::internal(format!("a response is not of its type: {error}")))
    }
}

fn framed(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("requests are bounded far below 4 GiB"));
    message.encode(&mut bytes).expect("a buffer grows");
    bytes.freeze()
}

fn status_in(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

#[cfg(test)]
mod tests;
