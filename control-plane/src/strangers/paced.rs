//! A connection that is read at a pace for as long as nobody on it is known: what is not read is neither held nor worked on, and the
//! other side waits.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::Peer;

/// Read at once, and how long until more is: what was read is to be counted by then, and HTTP/2 hands out what it has only once it
/// can read no more.
const PART: usize = 512;
const BREATH: Duration = Duration::from_millis(1);
/// Between looks at whether somebody has become known by what was read already.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What one peer sends and is sent.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    peer: Arc<Peer>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, peer: Arc<Peer>) -> Self {
        Self { stream, peer, pause: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, peer, pause } = self.get_mut();
        loop {
            if !peer.is_stranger() {
                *pause = None;
                return Pin::new(stream).poll_read(cx, buffer);
            }
            if let Some(waiting) = pause {
                ready!(waiting.as_mut().poll(cx));
                *pause = None;
            }
            let wait = peer.is_read_in();
            if wait.is_zero() {
                break;
            }
            *pause = Some(Box::pin(sleep(wait.min(LOOK_INTERVAL))));
        }
        let room = buffer.remaining().min(PART);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        ready!(Pin::new(stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        peer.has_sent(read);
        *pause = Some(Box::pin(sleep(BREATH)));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{auth::Share, strangers::Strangers};

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection from which as much can be read as anybody likes.
    async fn endless(peer: &Arc<Peer>) -> Paced<tokio::io::DuplexStream> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(&vec![7; 1 << 20]).await.unwrap();
        tokio::spawn(async move { while far.write_all(&[7; 4096]).await.is_ok() {} });
        Paced::new(near, Arc::clone(peer))
    }

    async fn read_within(stream: &mut (impl AsyncRead + Unpin), time: Duration) -> usize {
        let (mut buffer, mut count) = (vec![0; 1 << 14], 0);
        let _ = timeout(time, async {
            loop {
                count += stream.read(&mut buffer).await.unwrap();
            }
        })
        .await;
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_read_at_a_pace_and_who_is_known_as_fast_as_he_sends() {
        let peer = Strangers::new(4, true).meet();
        let mut stream = endless(&peer).await;
        let at_first = read_within(&mut stream, SECOND / 2).await;
        assert!((48 << 10..=58 << 10).contains(&at_first), "{at_first}");
        let later = read_within(&mut stream, 10 * SECOND).await;
        assert!((150 << 10..=170 << 10).contains(&later), "{later}");
        peer.is_known_as(Share::of(&"ana".into(), None)).unwrap();
        let began = Instant::now();
        let mut all = vec![0; 1 << 20];
        stream.read_exact(&mut all).await.unwrap();
        assert!(
            all.iter().all(|byte| *byte == 7) && began.elapsed() <= LOOK_INTERVAL,
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_asked_who_he_is_nobody_waits() {
        let peer = Strangers::new(4, false).meet();
        let mut stream = endless(&peer).await;
        let began = Instant::now();
        stream.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_of_what_is_read_in_parts_is_lost_or_changed_to_its_end() {
        let peer = Strangers::new(4, true).meet();
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..100_000_u32).map(|number| (number % 251).to_le_bytes()[0]).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut read = Vec::new();
        Paced::new(near, peer).read_to_end(&mut read).await.unwrap();
        assert!(read == sent);
    }
}
