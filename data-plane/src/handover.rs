//! One data plane takes over from another on the same machine, and no client notices.
//!
//! The new process, the successor, asks the old one over a Unix socket for its listening sockets, and begins to accept from
//! them once it has something to route by. Only then it says so, and the old one leaves: it stops accepting, and drains. The
//! sockets themselves are never closed on the way, so no connection that waits in their queues is lost; until the last word
//! either process can die and the other one serves.
//!
//! ```text
//! successor                      predecessor
//!     │ ── ask ───────────────────▶ │  serves
//!     │ ◀────────── sockets, more ─ │  serves, and leaves the control plane to the successor
//!   has a snapshot, accepts         │
//!     │ ── serving ───────────────▶ │
//!     │ ◀──────────────── leaving ─ │  accepts no more, drains
//!     │ ◀───── end of the stream ── │  is gone
//! ```

mod channel;
mod listener;
mod predecessor;
mod successor;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    listener::{Claim, MAX_PATH_BYTES},
    predecessor::{Predecessor, TASK, serve},
    successor::{Inherited, inherit, not_waited_for},
};

/// The version of what is said here. One that differs is refused, with both named.
const PROTOCOL: u32 = 1;

/// What one process says to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
enum Message {
    /// From the successor, first.
    Ask { protocol: u32, version: String, pid: u32 },
    /// No, and why; also later, to a successor that has not served for too long.
    Refused { why: String },
    /// The sockets that come with the message, in their order; more of them follow, or not.
    Sockets { version: String, pid: u32, sockets: Vec<SocketKind>, more: bool },
    /// The successor accepts.
    Serving,
    /// The predecessor does so no more.
    Leaving,
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SocketKind {
    Plain,
    Tls,
    Admin,
}
