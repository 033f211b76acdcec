//! What users of a stream hold of it: one handle for each direction. A stream of which nobody holds one is reset, and what it
//! was still to send is never sent, unless that is a whole answer, or the end of what goes to a server that has said all.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    connection::{Queued, Shared, register},
    frame::ErrorCode,
    heads::Heads,
    stream::{Failure, Purpose, Receiving},
};

/// A request that has come.
#[derive(Debug)]
pub struct Request<H: Heads> {
    /// Its head.
    pub head: H::Received,
    /// Whether that is larger than it may be, so that only its beginning is here.
    pub is_cut: bool,
    /// What comes behind it.
    pub receiver: Receiver<H>,
    /// Where its answer goes.
    pub sender: Sender<H>,
}

/// The next request that has come, of a client.
pub fn accept<H: Heads>(connection: &Shared<H>) -> Option<Request<H>> {
    let mut borrowed = connection.borrow_mut();
    let place = borrowed.next_arrived()?;
    let (head, is_cut) = borrowed.take_request(place);
    drop(borrowed);
    let (sender, receiver) = handles(connection, place);
    Some(Request { head, is_cut, receiver, sender })
}

/// Asks a server, for this `purpose`. The head is all there is if it `is_last`. Nothing of it is written before there is room for
/// that, and a stream for it.
///
/// `None` if the connection takes nothing more.
pub fn open<H: Heads>(
    connection: &Shared<H>,
    head: H::Sent,
    is_last: bool,
    purpose: Purpose,
) -> Option<(Sender<H>, Receiver<H>)> {
    let place = connection.borrow_mut().open(head, is_last, purpose)?;
    Some(handles(connection, place))
}

fn handles<H: Heads>(connection: &Shared<H>, place: u32) -> (Sender<H>, Receiver<H>) {
    (
        Sender { connection: Rc::clone(connection), place },
        Receiver { connection: Rc::clone(connection), place },
    )
}

/// The direction to the peer.
#[derive(Debug)]
pub struct Sender<H: Heads> {
    connection: Shared<H>,
    place: u32,
}

impl<H: Heads> Sender<H> {
    /// Sends an interim response, in front of the head.
    ///
    /// # Errors
    /// When the stream takes nothing more.
    pub fn send_interim(&mut self, head: H::Sent) -> Result<(), Failure> {
        self.connection.borrow_mut().send_interim(self.place, head)
    }

    /// Sends an answer's head, which is all there is if it `is_last`.
    ///
    /// # Errors
    /// When the stream takes nothing more.
    pub fn send_head(&mut self, head: H::Sent, is_last: bool) -> Result<(), Failure> {
        self.connection.borrow_mut().send_head(self.place, head, is_last)
    }

    /// How much content may be given to it now, at least a byte: what the peer's windows, and the bound of what may wait, leave.
    ///
    /// # Errors
    /// When the stream takes nothing more.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Failure>> {
        match self.connection.borrow_mut().room_or_wait(self.place, cx.waker()) {
            Ok(0) => Poll::Pending,
            room => Poll::Ready(room),
        }
    }

    /// Sends content, no more than [`Sender::poll_room`] has told. It is the end if it `is_last`, and may be empty then.
    ///
    /// # Errors
    /// When the stream takes nothing more.
    pub fn send_data(&mut self, data: Bytes, is_last: bool) -> Result<(), Failure> {
        self.connection.borrow_mut().send_data(self.place, data, is_last)
    }

    /// Sends trailers, which are the end.
    ///
    /// # Errors
    /// When the stream takes nothing more.
    pub fn send_trailers(&mut self, trailers: H::Sent) -> Result<(), Failure> {
        self.connection.borrow_mut().send_trailers(self.place, trailers)
    }

    /// Once nobody need see any more to what it was given: that is on its way, or goes with the next look at the socket. Otherwise who has
    /// the answer to give waits, and may lose patience: for a socket that takes nothing, or for room in a window that the peer has taken back.
    ///
    /// # Errors
    /// When the stream has failed.
    pub fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.connection.borrow_mut().passed_or_wait(self.place, cx.waker())
    }

    /// How what it was given comes on.
    #[must_use]
    pub fn queued(&self) -> Queued {
        self.connection.borrow().queued(self.place)
    }

    /// Resets the stream. What it was still to send is never sent.
    pub fn reset(&mut self, code: ErrorCode) {
        self.connection.borrow_mut().reset(self.place, code);
    }

    /// Why the stream has failed, once it has.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match self.connection.borrow_mut().failure_or_wait(self.place, cx.waker()) {
            Some(failure) => Poll::Ready(failure),
            None => Poll::Pending,
        }
    }

    /// As [`Receiver::is_sent`].
    #[cfg(test)]
    pub(crate) fn is_sent(&self) -> bool {
        self.connection.borrow().is_sent(self.place)
    }
}

impl<H: Heads> Drop for Sender<H> {
    fn drop(&mut self) {
        self.connection.borrow_mut().drop_handle(self.place);
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub struct Receiver<H: Heads> {
    connection: Shared<H>,
    place: u32,
}

impl<H: Heads> Receiver<H> {
    /// The next interim response, with its status; `None` once there are no more.
    pub fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u16, H::Received)>> {
        let mut connection = self.connection.borrow_mut();
        let stream = connection.stream(self.place);
        if let Some(interim) = stream.interim.pop_front() {
            return Poll::Ready(Some(interim));
        }
        if stream.receiving != Receiving::Head || stream.failure.is_some() {
            return Poll::Ready(None);
        }
        register(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// The response's status and head.
    ///
    /// # Errors
    /// When there will be none.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(u16, H::Received), Failure>> {
        let mut connection = self.connection.borrow_mut();
        let stream = connection.stream(self.place);
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(failure) = stream.failure {
            return Poll::Ready(Err(failure));
        }
        register(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// The next content; `None` behind all of it. As much is to be [`release`](Receiver::release)d as the peer may send again.
    ///
    /// # Errors
    /// When the rest of it will not come.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let mut connection = self.connection.borrow_mut();
        let stream = connection.stream(self.place);
        if let Some(data) = stream.take_data() {
            return Poll::Ready(Some(Ok(data)));
        }
        if stream.receiving == Receiving::Ended {
            return Poll::Ready(None);
        }
        if let Some(failure) = stream.failure {
            return Poll::Ready(Some(Err(failure)));
        }
        register(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// The trailers, if there are any, behind all content.
    ///
    /// # Errors
    /// When the end will not come.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<H::Received>, Failure>> {
        let mut connection = self.connection.borrow_mut();
        let stream = connection.stream(self.place);
        if stream.receiving == Receiving::Ended {
            return Poll::Ready(Ok(stream.trailers.take()));
        }
        if let Some(failure) = stream.failure {
            return Poll::Ready(Err(failure));
        }
        register(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// Whether the peer may see anything of the request, now or later. Once the connection is lost, whether it may have seen it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.connection.borrow().is_sent(self.place)
    }

    /// Whether a byte of the request is on its way. Until then it may turn out that the peer has seen nothing of it.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.connection.borrow().is_taken(self.place)
    }

    /// Whether all has come, and was asked for.
    #[must_use]
    pub fn is_end(&self) -> bool {
        let mut connection = self.connection.borrow_mut();
        let stream = connection.stream(self.place);
        stream.receiving == Receiving::Ended && !stream.has_data() && stream.trailers.is_none()
    }

    /// The peer may send so many bytes more: they were read, and are on their way. What is not released by then is when this is
    /// dropped, for the other streams of the connection.
    pub fn release(&mut self, bytes: usize) {
        self.connection.borrow_mut().release_by_user(self.place, bytes);
    }
}

impl<H: Heads> Drop for Receiver<H> {
    fn drop(&mut self) {
        self.connection.borrow_mut().drop_receiver(self.place);
    }
}
