//! Everything that can be due: the only way in which parts of the simulated world act on each other.

use control_plane::registry::{Answer, Command, RegistryError};
use gateway_proto::{LeaseId, ReplicaKey, v1};

use crate::env::Phase;

/// Numbers data planes from zero.
pub(crate) type NodeId = usize;
/// Numbers owners of registrations from zero.
pub(crate) type OwnerId = usize;
/// Numbers snapshot streams over the whole run.
pub(crate) type StreamId = u64;
/// Numbers requests over the whole run.
pub(crate) type RequestId = u64;

/// What is due, at whom.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something breaks, or somebody changes something.
    Trouble,
    /// The run goes on to its next phase.
    Enter(Phase),
    /// Operators put right what they had decided.
    Tidy,
    Control(ControlEvent),
    Owner(OwnerId, OwnerEvent),
    Node(NodeId, NodeEvent),
}

/// What is due at the control plane. What belongs to one run of its process names the run.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    Start,
    Call(Call),
    WriterTurn { run: u32 },
    CommitEnds { run: u32 },
    Sweep { run: u32 },
    Evict { run: u32 },
    Report { node: NodeId, rows: Vec<v1::Breaker> },
    Hello { node: NodeId, stream: StreamId, hello: v1::Hello },
    Ack { stream: StreamId, ack: v1::Ack },
    StreamDue { stream: StreamId },
    StreamLost { stream: StreamId },
}

/// A call of the control plane's API.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who waits for the answer; nobody for an operator, who looks at the result later.
    pub(crate) from: Option<Caller>,
    pub(crate) ask: Ask,
}

/// An owner's call, by which he knows the answer to it from one to an earlier call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) owner: OwnerId,
    pub(crate) serial: u64,
}

/// What is called for.
#[derive(Debug)]
pub(crate) enum Ask {
    Change(Command),
    Heartbeat { key: ReplicaKey, lease: LeaseId },
}

/// What is due at an owner.
#[derive(Debug)]
pub(crate) enum OwnerEvent {
    Start,
    Answer {
        serial: u64,
        reply: Reply,
    },
    /// No answer came in time.
    GiveUp {
        serial: u64,
    },
    Register {
        term: u32,
    },
    Heartbeat {
        term: u32,
    },
}

/// What the control plane answers.
#[derive(Debug)]
pub(crate) enum Reply {
    Done(Answer),
    Refused(RegistryError),
    Unavailable,
    Alive,
    LeaseEnded,
    LeaseMismatch,
}

/// What is due at a data plane.
#[derive(Debug)]
pub(crate) enum NodeEvent {
    Connect {
        life: u32,
    },
    Update {
        stream: StreamId,
        message: Box<v1::StreamSnapshotsResponse>,
    },
    StreamEnds {
        stream: StreamId,
    },
    /// The stream has been silent for long, if it has.
    Silence {
        stream: StreamId,
    },
    /// Its checks are due.
    Check {
        life: u32,
    },
    /// A client sends a request.
    Client,
    /// The next attempt of a request, after its pause.
    Attempt {
        request: RequestId,
    },
    /// An attempt reaches its replica.
    Reach {
        request: RequestId,
        attempt: u32,
    },
    /// An attempt's response head, its fault, or its end of time.
    Head {
        request: RequestId,
        attempt: u32,
        head: Head,
    },
    /// The response body ends.
    Body {
        request: RequestId,
        whole: bool,
    },
    /// The client goes away.
    Leave {
        request: RequestId,
    },
}

/// What an attempt comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// A response whose body will come to its end, or not.
    Status {
        status: u16,
        retry_after: bool,
        whole: bool,
    },
    Refused,
    ConnectTimeout,
    Reset,
    /// Refused unseen, as HTTP/2 has it.
    RefusedStream,
    /// The attempt's own time is over.
    TryTimeout,
    /// The request's time is over.
    OutOfTime,
}
