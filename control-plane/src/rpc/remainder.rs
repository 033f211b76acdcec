//! What a client still sends of a message of which its head was enough to refuse it: for its size, or because the caller may not.
//!
//! Its answer is on its way, and most of the message, too. A stream that is reset then is forgotten after a while, or at once
//! when many are: each frame that arrives for it is an error of the connection's by then, and after a thousand of those the
//! HTTP/2 library ends the connection, on which others ask, too. So what is under way is read and dropped, within bounds: of each
//! message, and of how many are read at once on all connections together, of which those of strangers take no place of others.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::strangers::Peer;

/// What has more left is reset.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// So is what takes longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is before each message of gRPC: a byte of flags and four of its length.
pub(super) const PREFIX: usize = 5;
/// Messages that are read at once, of strangers and of all others each. What is refused beyond that is reset, which ends the
/// connection of whoever has very much under way.
const MAX_AT_ONCE: usize = 256;

/// How many more messages may be read at once.
#[derive(Debug)]
pub(super) struct Readers {
    of_strangers: Arc<Semaphore>,
    of_others: Arc<Semaphore>,
}

/// Runs an RPC, and reads to its end the message under way when it is answered.
pub(super) async fn read(State(readers): State<Arc<Readers>>, request: Request, next: Next) -> Response {
    let from = request.extensions().get::<Arc<Peer>>().cloned();
    next.run(request.map(|body| Body::new(Messages::of(body, readers, from)))).await
}

impl Readers {
    pub(super) fn new() -> Arc<Self> {
        let [of_strangers, of_others] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_AT_ONCE)));
        Arc::new(Self { of_strangers, of_others })
    }

    /// One of them for what somebody has sent, if there is one.
    fn take(&self, from: Option<&Peer>) -> Option<OwnedSemaphorePermit> {
        let is_strange = from.is_some_and(Peer::is_stranger);
        let free = if is_strange { &self.of_strangers } else { &self.of_others };
        Arc::clone(free).try_acquire_owned().ok()
    }
}

/// The body of an RPC.
#[derive(Debug)]
struct Messages {
    readers: Arc<Readers>,
    /// Who sends it; `None`: a part of this process.
    from: Option<Arc<Peer>>,
    body: Body,
    place: Place,
    /// Whether anybody has asked for it.
    is_asked: bool,
}

/// Where one is in a body: within a message, or within what is before the next one.
#[derive(Debug, Default)]
struct Place {
    prefix: [u8; PREFIX],
    known: usize,
    /// Of the message under way.
    left: usize,
}

impl Messages {
    fn of(body: Body, readers: Arc<Readers>, from: Option<Arc<Peer>>) -> Self {
        Self { readers, from, body, place: Place::default(), is_asked: false }
    }
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_asked = true;
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.place.pass(data);
                }
            }
            // Nothing more comes.
            Poll::Ready(_) => self.place = Place::default(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        // Of a body that nobody has asked for, the first message is under way.
        let is_under_way = !self.is_asked || (1..=MAX_BYTES).contains(&self.place.left);
        if !is_under_way || self.body.is_end_stream() {
            return;
        }
        // Outside of a runtime there is nobody to read from.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // By now it is known who he is, if he has shown it.
        let Some(reader) = self.readers.take(self.from.as_deref()) else { return };
        let rest = drop_rest(std::mem::take(&mut self.body), std::mem::take(&mut self.place));
        runtime.spawn(async move {
            let _ = timeout(PATIENCE, rest).await;
            drop(reader);
        });
    }
}

/// Reads the message to its end, and then the end of the body, if nothing else comes before that.
async fn drop_rest(mut body: Body, mut place: Place) {
    let mut is_read = false;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        if is_read {
            return;
        }
        place.pass(data);
        if place.left > MAX_BYTES {
            return;
        }
        is_read = place.is_between();
    }
}

impl Place {
    /// Whether all of a message is known, and nothing of another one.
    fn is_between(&self) -> bool {
        self.left == 0 && self.known == 0
    }

    /// Goes on behind this.
    fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(data.len());
                self.left -= passed;
                data = &data[passed..];
                continue;
            }
            let passed = (PREFIX - self.known).min(data.len());
            self.prefix[self.known..][..passed].copy_from_slice(&data[..passed]);
            self.known += passed;
            data = &data[passed..];
            if self.known == PREFIX {
                let [_, length @ ..] = self.prefix;
                *self = Self { left: u32::from_be_bytes(length) as usize, ..Self::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::{auth::Share, strangers::Strangers};

    fn message(length: usize) -> Vec<u8> {
        [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &vec![b'x'; length]].concat()
    }

    proptest! {
        #[test]
        fn it_is_known_how_much_of_a_message_is_left_wherever_frames_are_cut(
            lengths in proptest::collection::vec(0_usize..40, 1..5),
            cuts in proptest::collection::vec(1_usize..20, 1..200),
            last in 1_usize..1000,
        ) {
            let mut place = Place::default();
            let sent: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            let begun = message(last);
            let all = [sent.as_slice(), &begun[..PREFIX + last / 2]].concat();
            let (mut rest, mut cuts) = (all.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (data, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                place.pass(data);
                rest = after;
            }
            prop_assert_eq!(place.left, last - last / 2);
        }
    }

    /// A body that begins with so much of a message, and how often it is asked for more.
    fn body(begun: Vec<u8>, frames: usize) -> (Messages, Arc<AtomicUsize>) {
        body_from(begun, frames, &Readers::new(), None)
    }

    fn body_from(
        begun: Vec<u8>,
        frames: usize,
        readers: &Arc<Readers>,
        from: Option<&Arc<Peer>>,
    ) -> (Messages, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&asked);
        let more = tokio_stream::iter(0..frames).map(move |_| {
            noted.fetch_add(1, Relaxed);
            Bytes::from_static(&[b'x'; 100])
        });
        let stream = tokio_stream::once(Bytes::from(begun)).chain(more);
        let frames = stream.map(|data| Ok::<_, axum::Error>(Frame::data(data)));
        (Messages::of(Body::new(StreamBody::new(frames)), Arc::clone(readers), from.cloned()), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_message_is_read_when_nobody_wants_it_any_more() {
        let (mut refused, asked) = body(message(1000)[..PREFIX].to_vec(), 10);
        refused.frame().await.unwrap().unwrap();
        drop(refused);
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(asked.load(Relaxed), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_nobody_has_asked_for_is_read_unless_it_is_far_too_large() {
        let huge = [&[0][..], &u32::MAX.to_be_bytes()].concat();
        // The end of the body is asked for, too, or what comes in its place.
        for (begun, frames, read) in [
            (&message(1000)[..PREFIX], 10, 10),
            (&message(1000)[..3], 0, 0),
            (&huge, 10, 0),
            (&message(100), 10, 1),
        ] {
            let (refused, asked) = body(begun.to_vec(), frames);
            drop(refused);
            tokio::time::sleep(PATIENCE).await;
            assert_eq!(asked.load(Relaxed), read);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_messages_and_of_one_that_is_far_too_large_nothing_more_is_read() {
        let huge = [&[0][..], &u32::MAX.to_be_bytes()].concat();
        for begun in [message(1000), huge] {
            let (mut body, asked) = body(begun, 10);
            body.frame().await.unwrap().unwrap();
            drop(body);
            tokio::time::sleep(PATIENCE).await;
            assert_eq!(asked.load(Relaxed), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_refused_messages_so_many_are_read_at_once_and_those_of_strangers_in_nobody_else_s_place() {
        let readers = Readers::new();
        let strangers = Strangers::new(1000, true);
        let known = strangers.meet();
        known.is_known_as(Share::of(&"ana".into(), None)).unwrap();
        // Each on a connection of its own, and none says any more.
        let silent = |peer: &Arc<Peer>| {
            let body =
                Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, axum::Error>>()));
            drop(Messages::of(body, Arc::clone(&readers), Some(Arc::clone(peer))));
        };
        (0..2 * MAX_AT_ONCE).for_each(|_| silent(&strangers.meet()));
        let refused =
            |peer: &Arc<Peer>| body_from(message(1000)[..PREFIX].to_vec(), 10, &readers, Some(peer));
        let read = async |peer: &Arc<Peer>| {
            let (body, asked) = refused(peer);
            drop(body);
            // Long enough for all that is not waiting for more.
            tokio::time::sleep(PATIENCE / 1000).await;
            asked.load(Relaxed)
        };
        assert_eq!(read(&strangers.meet()).await, 0, "one more of a stranger is cut");
        assert_eq!(read(&known).await, 10);
        (0..2 * MAX_AT_ONCE).for_each(|_| silent(&known));
        assert_eq!(read(&known).await, 0);
        tokio::time::sleep(2 * PATIENCE).await;
        assert_eq!((read(&strangers.meet()).await, read(&known).await), (10, 10), "all is free again");
    }
}
