//! HTTP/2 (RFC 9113) for one thread: bytes in, bytes out, and streams between them.
//!
//! Nothing here does IO, reads a clock or knows what heads are kept in: whoever owns a [`Connection`] moves its bytes, bounds
//! it by a [`Config`], judges it by a [`Guard`] and says by [`Heads`] what its heads are. [`accept`] and [`open`] give a stream
//! to its user, as a [`Sender`] and a [`Receiver`].

pub mod frame;
pub mod hpack;

mod connection;
mod handles;
mod heads;
mod output;
mod stream;
mod window;

pub use connection::{Config, Connection, End, Guard, Peer, Queued, Shared};
pub use handles::{Receiver, Request, Sender, accept, open};
pub use heads::{Block, Heads, Pseudo, Received, Sent};
pub use stream::{Failure, Purpose};

#[cfg(test)]
mod tests;
