//! How much of this gateway's memory and time its clients may take up: docs/limits.md says what happens beyond.

use std::time::Duration;

use crate::proxy::body::pace::MinRate;
pub use crate::proxy::h1::HeadLimits;

/// What one client, and all of them together, may ask for. The defaults are those of the flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How large a message's head may be.
    pub head: HeadLimits,
    /// Most client connections at once, over all workers.
    pub connections: usize,
    /// Most of those from one address, of IPv6 from one /64; `None` without a limit.
    pub connections_per_address: Option<u32>,
    /// Time for the first bytes of a connection, with TLS for its handshake.
    pub begin_timeout: Duration,
    /// Time for a whole request head, from its first byte.
    pub head_timeout: Duration,
    /// Time between two requests.
    pub idle_timeout: Duration,
    /// Time for a client to send the rest of what nobody reads, or to close its side once it has been told to.
    pub linger_timeout: Duration,
    /// Time for a client to take anything of what is sent to it.
    pub unread_timeout: Duration,
    /// How fast a client has to send a body whose length it told, while it is waited for.
    pub min_body_rate: MinRate,
    /// How fast it has to take an answer that is there.
    pub min_response_rate: MinRate,
    /// Most requests on one connection; `None` without a limit.
    pub requests_per_connection: Option<u64>,
    /// Most requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Most streams that a client may reset at once, and again over half a minute.
    pub resets: u32,
    /// Most frames without a request, or a byte of one, at once and again over half a minute, beside those that answer.
    pub control_frames: u32,
    /// Most bytes of one request's body that wait to be sent on, in HTTP/2.
    pub stream_window: u32,
    /// The same of all requests of a connection.
    pub connection_window: u32,
    /// Most bytes of one answer that wait to be taken, in HTTP/2.
    pub send_buffer: u32,
    /// Most bytes of one request's body that are kept to be sent again.
    pub replay_bytes: usize,
    /// Most bytes kept so over all requests of all workers, of which each worker has its share.
    pub replay_memory: usize,
    /// Bytes of answers that are kept for when nobody gives another, of all workers together.
    pub stale_memory: usize,
    /// Most idle connections to one replica that one worker keeps.
    pub idle_upstream: usize,
    /// How long it keeps one.
    pub idle_upstream_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            connections: 10_000,
            connections_per_address: None,
            begin_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(2),
            unread_timeout: Duration::from_secs(60),
            min_body_rate: MinRate { bytes_per_second: 100, grace: Duration::from_secs(10) },
            min_response_rate: MinRate { bytes_per_second: 100, grace: Duration::from_secs(60) },
            requests_per_connection: None,
            streams: 128,
            resets: 1000,
            control_frames: 1000,
            stream_window: 1 << 20,
            connection_window: 1 << 20,
            send_buffer: 64 << 10,
            replay_bytes: 64 << 10,
            replay_memory: 256 << 20,
            stale_memory: 64 << 20,
            idle_upstream: 256,
            // Before most servers close it from their side.
            idle_upstream_timeout: Duration::from_secs(30),
        }
    }
}
