//! What a connection is once its protocol was switched: bytes in both directions, untouched.
//!
//! One task drives both sides. A buffer is borrowed only while there are bytes in it, and nothing more is read from one side
//! before the other has taken what was: whoever reads slowly slows the other one down, and memory is bounded.
//!
//! The end of what one side sends is passed on, and the other one goes on until its own. A side that breaks breaks the other
//! one, too. Both sides are set to look broken from the start, until both have ended properly: whatever ends a tunnel before,
//! a panic or the end of the process included, does not look like an end of its data.

mod http2;
pub(super) mod upgrade;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;

use super::{
    forward::attempt::Attempt,
    h1::Wire,
    trail::{self, Trail},
    upstream::ReplicaSide,
    worker::{Worker, active::ActiveRequest},
};
use crate::{routing::Tick, table::Direction};
pub(super) use http2::StreamSide;

/// How often it is looked whether a side is gone that has said all.
const GONE_LOOK: Duration = Duration::from_secs(1);

/// One side of a tunnel.
pub(super) trait Side {
    /// Reads more. Ready with the count, zero at the end of what this side sends.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;
    /// What was read and is still to be passed on.
    fn input(&self) -> &[u8];
    /// So many bytes of it were passed on.
    fn consume(&mut self, count: usize);
    /// Writes some of `data`, behind all that was written before.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Tells, behind all that was written, that nothing more comes.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Whether it is known by now that this side takes no more.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool;
    /// From now on, this side finds its connection broken, and not ended, when it is dropped; and one that has vanished is
    /// missed after some minutes, also while nothing moves.
    fn begin(&mut self);
    /// Takes that back: there is nothing more to lose.
    fn end_well(&mut self);
}

impl Side for Wire {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Self::poll_fill(self, cx)
    }

    fn input(&self) -> &[u8] {
        &self.input
    }

    fn consume(&mut self, count: usize) {
        self.input.advance(count);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self, cx, data)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self, cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Self::poll_flush(self, cx))?;
        Self::poll_shutdown(self, cx)
    }

    fn is_gone(&mut self, _: &mut Context<'_>) -> bool {
        self.takes_no_more()
    }

    fn begin(&mut self) {
        self.reset_on_close();
        self.keep_alive();
    }

    fn end_well(&mut self) {
        self.end_on_close();
    }
}

/// A tunnel's end at a replica, and the attempt that lasts as long as the tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    replica: ReplicaSide,
    attempt: Attempt,
    /// How long no byte may move.
    idle_limit: Duration,
    _active: ActiveRequest,
    upstream: Flow,
    downstream: Flow,
    end: Option<End>,
    /// Its request's story, if anybody listens.
    trail: Option<Box<Trail>>,
}

/// Why a tunnel has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both sides have sent all that they had to.
    Whole,
    /// The client broke off.
    ClientGone,
    /// The replica did.
    ReplicaGone,
    /// No byte moved for too long.
    Idle,
    /// The replica's drain is over.
    Drained,
}

impl End {
    /// As the access log has it. A tunnel that was cut off, with its gateway perhaps, has lost its replica.
    fn told(end: Option<Self>) -> trail::End {
        match end {
            Some(Self::Whole | Self::Idle) => trail::End::Complete,
            Some(Self::ClientGone) => trail::End::ClientGone,
            Some(Self::ReplicaGone | Self::Drained) | None => trail::End::UpstreamBrokeOff,
        }
    }
}

impl Tunnel {
    /// Of a replica that has switched protocols, on the connection or the stream that it did so on.
    pub(super) fn new(mut replica: ReplicaSide, attempt: Attempt, idle_limit: Duration) -> Self {
        replica.begin();
        attempt.counts().opened(attempt.worker().index());
        let _active = attempt.worker().request_begins();
        Self {
            replica,
            attempt,
            idle_limit,
            _active,
            upstream: Flow::default(),
            downstream: Flow::default(),
            end: None,
            trail: None,
        }
    }

    /// Has its end told, if anybody listens.
    pub(super) fn tell(&mut self, trail: Option<Box<Trail>>) {
        self.trail = trail;
    }

    /// Passes bytes on between the client and the replica until there is nothing more to pass on.
    pub(super) async fn run(mut self, client: &mut impl Side) {
        client.begin();
        let end = self.pass_on(client).await;
        self.end = Some(end);
        tracing::debug!(replica = %self.attempt.replica().key(), ?end, "tunnel ended");
        if end == End::Idle {
            // Nobody has read for long, perhaps: one try is all.
            poll_fn(|cx| {
                let _ = client.poll_shutdown(cx);
                let _ = self.replica.poll_shutdown(cx);
                Poll::Ready(())
            })
            .await;
        }
        if matches!(end, End::Whole | End::Idle) {
            client.end_well();
            self.replica.end_well();
        }
    }

    async fn pass_on(&mut self, client: &mut impl Side) -> End {
        let worker = self.attempt.worker().clone();
        let mut deadline = Deadline { worker: &worker, place: worker.deadlines().begin() };
        let mut moved_at = worker.now();
        let Self { replica, attempt, idle_limit, upstream, downstream, .. } = self;
        poll_fn(|cx| {
            if worker.flights().is_cut(attempt.replica()) {
                return Poll::Ready(End::Drained);
            }
            // What the replica has sent first: it may have closed behind it, and resets what is written to it then.
            let before = [downstream.moved, upstream.moved];
            let was_refused = [downstream.state, upstream.state].map(|state| state == Passing::Refused);
            downstream.poll(cx, replica, client);
            upstream.poll(cx, client, replica);
            // Of a side that has said all there is nothing more to read, by which it would show that it is gone.
            downstream.look(cx, upstream, client);
            upstream.look(cx, downstream, replica);
            let now = worker.now();
            let moved = [downstream.moved - before[0], upstream.moved - before[1]];
            if moved != [0, 0] {
                moved_at = now;
                let counts = attempt.counts();
                counts.moved(worker.index(), Direction::Downstream, moved[0]);
                counts.moved(worker.index(), Direction::Upstream, moved[1]);
                if moved[0] > 0 {
                    attempt.shows_life();
                }
            }
            match (downstream.state, upstream.state) {
                (Passing::Lost, _) => return Poll::Ready(End::ReplicaGone),
                (_, Passing::Lost) => return Poll::Ready(End::ClientGone),
                (Passing::Over, Passing::Over) => return Poll::Ready(End::Whole),
                // Who had said all before takes no more because it has closed.
                (Passing::Over, Passing::Refused) if !was_refused[1] => return Poll::Ready(End::Whole),
                (Passing::Refused, Passing::Over) if !was_refused[0] => return Poll::Ready(End::Whole),
                (Passing::Over | Passing::Refused, Passing::Refused) => return Poll::Ready(End::ReplicaGone),
                (Passing::Refused, Passing::Over) => return Poll::Ready(End::ClientGone),
                _ => {}
            }
            let due = moved_at.plus(*idle_limit);
            if now >= due {
                return Poll::Ready(End::Idle);
            }
            attempt.waits(cx.waker());
            let is_half = [upstream.state, downstream.state].contains(&Passing::Over);
            deadline.set(if is_half { due.min(now.plus(GONE_LOOK)) } else { due }, cx);
            Poll::Pending
        })
        .await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.attempt.counts().closed(self.attempt.worker().index());
        if let Some(trail) = self.trail.take() {
            let received = trail.received();
            received.set(received.get() + self.upstream.moved);
            trail.finish(End::told(self.end), self.downstream.moved);
        }
    }
}

/// A tunnel's place among its worker's deadlines.
struct Deadline<'a> {
    worker: &'a Worker,
    place: usize,
}

impl Deadline<'_> {
    fn set(&mut self, due: Tick, cx: &mut Context<'_>) {
        self.worker.deadlines().set(self.place, due, cx.waker());
    }
}

impl Drop for Deadline<'_> {
    fn drop(&mut self) {
        self.worker.deadlines().end(self.place);
    }
}

/// How bytes pass in one direction.
#[derive(Debug, Default)]
struct Flow {
    state: Passing,
    /// Bytes that the receiving side has taken.
    moved: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Passing {
    #[default]
    Moving,
    /// The end has come, and is to be told.
    Ending,
    /// It was.
    Over,
    /// The receiving side takes no more. What it still says is passed on before the tunnel ends.
    Refused,
    /// The sending side broke off.
    Lost,
}

impl Flow {
    /// Moves what can be moved.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side) {
        while matches!(self.state, Passing::Moving | Passing::Ending) {
            match self.step(cx, from, to) {
                Poll::Ready(next) => self.state = next,
                Poll::Pending => return,
            }
        }
    }

    /// Finds out whether the receiving side is gone, where `back`, the other direction, does not tell.
    fn look(&mut self, cx: &mut Context<'_>, back: &Self, to: &mut impl Side) {
        let may_end = matches!(self.state, Passing::Moving | Passing::Ending);
        if may_end && back.state == Passing::Over && to.is_gone(cx) {
            self.state = Passing::Refused;
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side) -> Poll<Passing> {
        if self.state == Passing::Ending {
            // It flushes, too.
            return to
                .poll_shutdown(cx)
                .map(|shut| if shut.is_ok() { Passing::Over } else { Passing::Refused });
        }
        if !from.input().is_empty() {
            return match ready!(to.poll_write(cx, from.input())) {
                Ok(count) => {
                    from.consume(count);
                    self.moved += count as u64;
                    Poll::Ready(Passing::Moving)
                }
                Err(_) => Poll::Ready(Passing::Refused),
            };
        }
        match from.poll_fill(cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Passing::Ending),
            Poll::Ready(Ok(_)) => Poll::Ready(Passing::Moving),
            Poll::Ready(Err(_)) => Poll::Ready(Passing::Lost),
            // Whatever has been written so far goes out before anybody waits.
            Poll::Pending => match to.poll_flush(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(Passing::Refused),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            },
        }
    }
}
