//! What a stranger asks, read to its end before anybody works on it: gRPC's machinery holds tens of kilobytes for each call from its
//! beginning, and a stranger may begin as many as he likes and never say what he asks.

use axum::{
    body::{Body, Bytes},
    extract::Request,
};
use http_body_util::BodyExt as _;
use tokio_stream::StreamExt as _;

use super::{MAX_OPEN_BYTES, remainder::PREFIX};

/// The request with its message at hand, if that is no longer than such messages may be; what is longer is left to whoever refuses it.
/// Takes as long as the client does. Cancel safe only in that what was read is lost with the request.
pub(super) async fn read_whole(request: Request) -> Request {
    let (head, mut body) = request.into_parts();
    // A copy: frames keep the buffers alive into which connections are read, of many times their size.
    let mut read = Vec::new();
    while !is_too_long(&read) {
        match body.frame().await {
            Some(Ok(frame)) => read.extend(frame.data_ref().into_iter().flatten()),
            // Nobody waits for the answer of a request that broke off.
            Some(Err(_)) | None => return Request::from_parts(head, Body::from(read)),
        }
    }
    let before = tokio_stream::once(Ok::<_, axum::Error>(Bytes::from(read)));
    Request::from_parts(head, Body::from_stream(before.chain(body.into_data_stream())))
}

/// Whether this is, or begins, more than one message of a stranger's may be.
fn is_too_long(read: &[u8]) -> bool {
    let announced = match read {
        [_, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    };
    announced.max(read.len().saturating_sub(PREFIX)) > MAX_OPEN_BYTES
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    type Part = Result<Frame<Bytes>, axum::Error>;

    /// A request, and what sends its body.
    fn request() -> (mpsc::UnboundedSender<Part>, Request) {
        let (sender, parts) = mpsc::unbounded_channel();
        (sender, Request::new(Body::new(StreamBody::new(UnboundedReceiverStream::new(parts)))))
    }

    fn part(bytes: &[u8]) -> Part {
        Ok(Frame::data(Bytes::copy_from_slice(bytes)))
    }

    fn message(length: u32, there: usize) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; there]].concat()
    }

    async fn bytes_of(request: Request) -> Vec<u8> {
        request.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_handed_on_once_all_of_it_is_there() {
        let (sender, request) = request();
        let reading = tokio::spawn(read_whole(request));
        let whole = message(4096, 4096);
        for part in whole.chunks(1000) {
            sender.send(self::part(part)).unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            assert!(!reading.is_finished());
        }
        drop(sender);
        assert_eq!(bytes_of(reading.await.unwrap()).await, whole);
    }

    #[tokio::test]
    async fn what_is_too_long_for_a_question_is_handed_on_by_its_length_and_nothing_of_it_is_lost() {
        for (announced, there) in [(4097, 10), (3, 4097)] {
            let (sender, request) = request();
            let begun = message(announced, there);
            sender.send(part(&begun)).unwrap();
            let handed_on = read_whole(request).await;
            sender.send(part(b"rest")).unwrap();
            drop(sender);
            assert_eq!(bytes_of(handed_on).await, [&begun[..], b"rest"].concat());
        }
    }

    #[tokio::test]
    async fn no_question_at_all_is_handed_on_as_such() {
        let (sender, request) = request();
        drop(sender);
        assert_eq!(bytes_of(read_whole(request).await).await, b"");
    }
}
