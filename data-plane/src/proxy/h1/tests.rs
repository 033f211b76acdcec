//! The pure layer as a whole: messages in, verdicts out, in as many pieces as one likes.

mod differential;
mod endings;
mod fuzz;
mod handover;
mod hostile;
pub(in crate::proxy) mod messages;
mod splits;
#[cfg(target_os = "linux")]
mod unread;

use http::Method;

use super::{
    body::{BodyDecoder, BodyFault, Step},
    framing::Length,
    limits::HeadLimits,
    refusal::Refusal,
    request, response,
    scan::{HeadScan, Kind},
};
use crate::proxy::head::fields::Fields;

/// What one message was taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) enum Verdict {
    /// Nothing is wrong so far, and the end is not there.
    Unfinished,
    Refused(Refusal),
    BrokenBody(BodyFault),
    Whole(Message),
}

/// A message, as far as the pipeline sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Message {
    /// Method, target and host, or status and reason.
    pub(in crate::proxy) start: [String; 3],
    /// Names in lower case.
    pub(in crate::proxy) fields: Vec<(String, Vec<u8>)>,
    pub(in crate::proxy) body: Vec<u8>,
    pub(in crate::proxy) trailers: Vec<(String, Vec<u8>)>,
    pub(in crate::proxy) length: Length,
    pub(in crate::proxy) is_kept_alive: bool,
    /// Where the next message begins.
    pub(in crate::proxy) end: usize,
}

fn owned(fields: &Fields) -> Vec<(String, Vec<u8>)> {
    let name = |name: &[u8]| String::from_utf8(name.to_ascii_lowercase()).expect("names are ASCII");
    fields.iter().map(|(key, value)| (name(key), value.to_vec())).collect()
}

/// Reads a request that comes in these pieces.
pub(in crate::proxy) fn read_request<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    read(Kind::Request, pieces, |head| {
        let (request, end) = request::parse(head, &HeadLimits::default())?;
        assert_eq!(end, head.len());
        let head = &request.head;
        let host = head.host().unwrap_or("(none)");
        let start = [head.method.as_str(), head.target(), host].map(str::to_owned);
        Ok((start, owned(&head.fields), request.length, request.is_kept_alive))
    })
}

/// Reads a response to a request by `method` that comes in these pieces, the last of them the end of the connection.
pub(in crate::proxy) fn read_response<'a>(
    method: &Method,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Verdict {
    read_answer(method, None, pieces)
}

/// The same, to a request that has `asked` to switch to one of these protocols, if it has.
fn read_answer<'a>(
    method: &Method,
    asked: Option<&[u8]>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Verdict {
    read(Kind::Response, pieces, |head| {
        let (response, end) = response::parse(method, asked, head, &HeadLimits::default())?;
        assert_eq!(end, head.len());
        let head = &response.head;
        let reason = String::from_utf8_lossy(head.reason()).into_owned();
        let start = [head.status.as_str().to_owned(), reason, String::new()];
        Ok((start, owned(&head.fields), response.length, response.is_kept_alive))
    })
}

type Head = ([String; 3], Vec<(String, Vec<u8>)>, Length, bool);

fn read<'a>(
    kind: Kind,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    parse: impl Fn(&[u8]) -> Result<Head, Refusal>,
) -> Verdict {
    let mut scan = HeadScan::new(kind);
    let mut bytes = Vec::new();
    let mut message: Option<(Message, BodyDecoder)> = None;
    for piece in pieces {
        bytes.extend_from_slice(piece);
        if message.is_none() {
            let range = match scan.find(&bytes, &HeadLimits::default()) {
                Ok(Some(range)) => range,
                Ok(None) => continue,
                Err(refusal) => return Verdict::Refused(refusal),
            };
            let end = range.end;
            let (start, fields, length, is_kept_alive) = match parse(&bytes[range]) {
                Ok(head) => head,
                Err(refusal) => return Verdict::Refused(refusal),
            };
            let (body, trailers) = (Vec::new(), Vec::new());
            let read = Message { start, fields, body, trailers, length, is_kept_alive, end };
            message = Some((read, BodyDecoder::new(length)));
        }
        if let Some((message, decoder)) = &mut message {
            loop {
                match decoder.step(&bytes[message.end..]) {
                    Ok(Step::Data(count)) => {
                        message.body.extend_from_slice(&bytes[message.end..message.end + count]);
                        message.end += count;
                    }
                    Ok(Step::Skip(count)) => message.end += count,
                    Ok(Step::More) => break,
                    Ok(Step::End) => {
                        message.trailers = decoder.take_trailers().as_ref().map(owned).unwrap_or_default();
                        return Verdict::Whole(message.clone());
                    }
                    Err(fault) => return Verdict::BrokenBody(fault),
                }
            }
        }
    }
    match message {
        Some((message, mut decoder)) => {
            // Only a response ends with its connection.
            let is_over = kind == Kind::Response && decoder.close().is_ok();
            if is_over { Verdict::Whole(message) } else { Verdict::Unfinished }
        }
        None => Verdict::Unfinished,
    }
}
