//! Messages between two processes, with the sockets that come along: a length, and then JSON.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

use super::Message;

/// Sockets in one message; the kernel allows 253.
pub(super) const MAX_SOCKETS: usize = 64;
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// One side of the conversation.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The user that the other process runs as, by the kernel's word.
    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.0.peer_cred()?.uid())
    }

    /// Sends a message and these sockets, at most [`MAX_SOCKETS`].
    pub(super) async fn send(&mut self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = [&length.to_be_bytes()[..], &text].concat();
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        let sent = sent.await?;
        self.0.write_all(&bytes[sent..]).await
    }

    /// The next message and the sockets that came with it; `None` at the end of the stream. Not cancel safe.
    pub(super) async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut sockets = Vec::new();
        let mut length = [0; 4];
        if !self.fill(&mut length, &mut sockets).await? {
            return Ok(None);
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(invalid(format!("a message of {length} bytes")));
        }
        let mut text = vec![0; length];
        if !self.fill(&mut text, &mut sockets).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        Ok(Some((message, sockets)))
    }

    /// Completes with the end of the stream, or with the other side's reason not to wait for it. Cancel safe: what may come
    /// comes at once.
    pub(super) async fn ended(&self) -> Option<String> {
        while let Ok(Some((message, _))) = self.receive().await {
            if let Message::Refused { why } = message {
                return Some(why);
            }
        }
        None
    }

    /// Fills `bytes`; `false` when the stream ends before the first of them.
    async fn fill(&self, bytes: &mut [u8], sockets: &mut Vec<OwnedFd>) -> io::Result<bool> {
        let mut filled = 0;
        while filled < bytes.len() {
            let rest = &mut bytes[filled..];
            let count = self.0.async_io(Interest::READABLE, || receive_some(&self.0, rest, sockets)).await?;
            match (count, filled) {
                (0, 0) => return Ok(false),
                (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => filled += count,
            }
        }
        Ok(true)
    }
}

fn receive_some(stream: &UnixStream, bytes: &mut [u8], sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            sockets.extend(came);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || sockets.len() > MAX_SOCKETS {
        return Err(invalid(format!("more than {MAX_SOCKETS} sockets in a message")));
    }
    Ok(received.bytes)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd};

    use super::*;

    #[tokio::test]
    async fn messages_arrive_in_their_order_each_with_its_own_sockets() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut one, two) = (Channel::new(one), Channel::new(two));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let many = vec![listener.as_fd(); MAX_SOCKETS];
        one.send(&Message::Serving, &many).await.unwrap();
        one.send(&Message::Leaving, &[]).await.unwrap();
        drop(one);
        let (message, sockets) = two.receive().await.unwrap().unwrap();
        assert_eq!((message, sockets.len()), (Message::Serving, MAX_SOCKETS));
        for socket in sockets {
            assert_eq!(TcpListener::from(socket).local_addr().unwrap(), listener.local_addr().unwrap());
        }
        let (message, sockets) = two.receive().await.unwrap().unwrap();
        assert_eq!((message, sockets.len()), (Message::Leaving, 0));
        assert!(two.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error_and_not_waited_for() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x02{}", b"\0\0\0\x09{}"] {
            let (mut one, two) = UnixStream::pair().unwrap();
            one.write_all(bytes).await.unwrap();
            drop(one);
            assert!(Channel::new(two).receive().await.is_err(), "{bytes:?}");
        }
    }
}
