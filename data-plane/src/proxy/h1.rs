//! HTTP/1 (RFC 9112), from clients and to replicas.
//!
//! Two layers. The lower one is pure: bytes in, verdicts out ([`scan`], [`request`], [`response`], [`framing`],
//! [`chunked`], [`body`], [`write`]). It is strict: what could be read in two ways is refused with a reason and never
//! repaired, because the next one in the chain might read it in the other way. docs/http1.md lists where other
//! implementations take more.

mod body;
mod chunked;
mod framing;
mod limits;
mod refusal;
mod request;
mod response;
mod scan;
mod target;
mod write;

#[cfg(test)]
mod tests;
