//! HTTP/1 (RFC 9112), from clients and to replicas.
//!
//! Two layers. The lower one is pure: bytes in, verdicts out ([`scan`], [`request`], [`response`], [`framing`],
//! [`chunked`], [`body`], [`write`]). It is strict: what could be read in two ways is refused with a reason and never
//! repaired, because the next one in the chain might read it in the other way. docs/http1.md lists where other
//! implementations take more.
//!
//! The upper one moves bytes: [`wire`] is a connection with its buffers, [`client`] one to a replica, [`server`] one from a
//! client, of which [`inbound`] is the half that reads. What nobody has to look at passes through [`pipes`].

mod body;
mod chunked;
mod client;
mod framing;
mod inbound;
mod limits;
mod pipes;
mod refusal;
mod request;
mod response;
mod scan;
mod server;
mod target;
mod wire;
mod write;

use super::head::RequestHead;

pub(super) use client::{Connection as ClientConnection, Failure, Outgoing};
pub(super) use framing::{Length, number};
pub(super) use inbound::RequestReader;
pub use limits::HeadLimits;
pub(super) use limits::{MAX_INTERIM, MAX_METHOD};
pub(super) use pipes::{Pipe, PipeCounts, Pipes, Unread};
pub(super) use refusal::Refusal;
pub(super) use server::serve;
pub(super) use target::{is_host, is_path};
pub(super) use wire::{Buffers, Wire};
pub(super) use write::{decimal, frame};

/// How a request's body is told to a replica, whichever protocol the request came by.
///
/// # Errors
/// When the head tells of a body that there is not.
pub(super) fn length_of_request(head: &RequestHead, is_empty: bool) -> Result<Length, Refusal> {
    match framing::content_length(&head.fields)? {
        Some(length) if is_empty && length > 0 => Err(refusal::Defect::ContentLength.into()),
        Some(length) if !is_empty => Ok(Length::Exact(length)),
        _ if is_empty => Ok(Length::Empty),
        _ => Ok(Length::Chunked),
    }
}

#[cfg(test)]
pub(super) mod tests;
