//! The same bytes given to hyper: where it takes a message that is refused here, or the other way round, the reason has
//! to be one of those in docs/http1.md; where both take it, they have to take it for the same.

use std::{cell::RefCell, collections::BTreeSet, convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{
    super::{
        body::BodyFault,
        refusal::{Defect, Refusal},
    },
    Message, Verdict, messages, read_request, read_response,
};
use crate::proxy::fuzz::cases;

/// Cases of one round; each opens a connection of its own.
const ROUND: usize = 1_500;

/// What hyper took a message for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    start: [String; 3],
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

/// Names in the order of the alphabet, values of one name in theirs: hyper keeps no more.
fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

fn of_map(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    sorted(map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
}

impl From<Message> for Taken {
    fn from(message: Message) -> Self {
        let (fields, trailers) = (sorted(message.fields), sorted(message.trailers));
        Self { start: message.start, fields, body: message.body, trailers }
    }
}

async fn taken(start: [String; 3], fields: &HeaderMap, body: Incoming) -> Option<Taken> {
    let collected = body.collect().await.ok()?;
    let trailers = collected.trailers().map(of_map).unwrap_or_default();
    Some(Taken { start, fields: of_map(fields), body: collected.to_bytes().to_vec(), trailers })
}

/// What hyper's server takes the first request for, if for one.
async fn by_hyper_server(bytes: &[u8]) -> Option<Taken> {
    let (mut client, server) = duplex(1 << 20);
    let first = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&first);
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let host = head.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
            let host = host.or_else(|| head.headers.get("host").map(|host| host.as_bytes().to_vec()));
            let host = host.map_or("(none)".into(), |host| String::from_utf8_lossy(&host).into_owned());
            let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            let start = [head.method.to_string(), target, host];
            let taken = taken(start, &head.headers, body).await;
            seen.borrow_mut().get_or_insert(taken);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    client.write_all(bytes).await.expect("there is room");
    client.shutdown().await.expect("it is open");
    let mut builder = hyper::server::conn::http1::Builder::new();
    let _ = builder.half_close(true).serve_connection(TokioIo::new(server), service).await;
    first.take().flatten()
}

/// What hyper's client takes the response for, if for one, and the end of the connection behind it.
async fn by_hyper_client(bytes: &[u8]) -> Option<Taken> {
    let (client, mut server): (DuplexStream, _) = duplex(1 << 20);
    let answer = async {
        let mut request = [0; 1024];
        let _ = server.read(&mut request).await;
        let _ = server.write_all(bytes).await;
        let _ = server.shutdown().await;
        let _ = server.read_to_end(&mut Vec::new()).await;
    };
    let ask = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(client)).await.ok()?;
        let request = Request::get("/").header("host", "a").body(Full::new(Bytes::new())).ok()?;
        let taken = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let start = [head.status.as_str().to_owned(), String::new(), String::new()];
            let taken = taken(start, &head.headers, body).await;
            drop(sender);
            taken
        };
        tokio::join!(taken, connection).0
    };
    tokio::join!(ask, answer).0
}

/// Where this gateway refuses what hyper takes. Each is explained in docs/http1.md under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stricter {
    BareLineFeeds,
    OneEmptyLine,
    Hosts,
    Targets,
    RepeatedLengths,
    LengthAndCoding,
    UnknownCodings,
    CodingWithoutBody,
    CodingInOldVersions,
    UnaskedProtocol,
    FieldValues,
    ReasonPhrases,
    ChunkLines,
    Trailers,
}

fn why_stricter(verdict: &Verdict) -> Option<Stricter> {
    use Defect as D;
    Some(match verdict {
        Verdict::Refused(Refusal::Malformed(defect)) => match defect {
            D::BareLineFeed => Stricter::BareLineFeeds,
            D::StartLine | D::Method => Stricter::OneEmptyLine,
            D::NoHost | D::SeveralHosts | D::InvalidHost => Stricter::Hosts,
            D::Target => Stricter::Targets,
            D::SeveralContentLengths | D::ContentLength => Stricter::RepeatedLengths,
            D::LengthAndCoding => Stricter::LengthAndCoding,
            D::TransferEncoding => Stricter::UnknownCodings,
            D::CodingWithoutBody => Stricter::CodingWithoutBody,
            D::OldVersionWithCoding => Stricter::CodingInOldVersions,
            D::UnaskedProtocol => Stricter::UnaskedProtocol,
            D::FieldValue => Stricter::FieldValues,
            D::Status => Stricter::ReasonPhrases,
            _ => return None,
        },
        Verdict::Refused(Refusal::UnknownCoding) => Stricter::UnknownCodings,
        Verdict::BrokenBody(BodyFault::ChunkLine | BodyFault::ChunkSize | BodyFault::ChunkEnd) => {
            Stricter::ChunkLines
        }
        Verdict::BrokenBody(BodyFault::Trailers) => Stricter::Trailers,
        _ => return None,
    })
}

/// Compares what both say to one message.
fn compare(
    is_response: bool,
    bytes: &[u8],
    ours: &Verdict,
    hypers: Option<Taken>,
    seen: &mut BTreeSet<Stricter>,
) {
    match (ours, hypers) {
        (Verdict::Whole(message), Some(taken)) => {
            let mut ours = Taken::from(message.clone());
            let mut taken = taken;
            if is_response {
                // hyper keeps no reason that is not its own.
                ours.start[1] = String::new();
            } else if ours.start[..2] == ["OPTIONS", "*"] && taken.start[1] == "/" {
                // RFC 9112 section 3.2.4: an absolute target without a path asks about the server itself.
                taken.start[1] = "*".into();
            }
            assert_eq!(ours, taken, "{}", bytes.escape_ascii());
        }
        (Verdict::Whole(message), None) => {
            panic!("hyper refuses what we take for {message:?}: {}", bytes.escape_ascii());
        }
        (ours, Some(taken)) => {
            let why = why_stricter(ours);
            assert!(why.is_some(), "hyper takes it for {taken:?}, we say {ours:?}: {}", bytes.escape_ascii());
            seen.extend(why);
        }
        (_, None) => {}
    }
}

/// Every difference that was met is in the document, and the test met some.
fn assert_explained(seen: &BTreeSet<Stricter>, at_least: usize) {
    let document = include_str!("../../../../../docs/http1.md");
    for difference in seen {
        assert!(
            document.contains(&format!("| {difference:?} |")),
            "docs/http1.md does not explain {difference:?}"
        );
    }
    assert!(seen.len() >= at_least, "the cases are too tame: {seen:?}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

#[test]
fn requests_are_taken_for_what_hyper_takes_them_for_or_refused_for_a_known_reason() {
    let runtime = runtime();
    let mut seen = BTreeSet::new();
    cases(ROUND, |random| {
        let mut bytes = messages::request(random);
        messages::mutate(random, &mut bytes);
        let hypers = runtime.block_on(by_hyper_server(&bytes));
        compare(false, &bytes, &read_request([&bytes[..]]), hypers, &mut seen);
    });
    assert_explained(&seen, 3);
}

#[test]
fn responses_are_taken_for_what_hyper_takes_them_for_or_refused_for_a_known_reason() {
    let runtime = runtime();
    let mut seen = BTreeSet::new();
    cases(ROUND, |random| {
        let mut bytes = messages::response(random);
        messages::mutate(random, &mut bytes);
        let ours = read_response(&Method::GET, [&bytes[..]]);
        // Of interim responses hyper tells nothing, and goes on to what follows them.
        if !matches!(&ours, Verdict::Whole(message) if message.start[0].starts_with('1')) {
            compare(true, &bytes, &ours, runtime.block_on(by_hyper_client(&bytes)), &mut seen);
        }
    });
    assert_explained(&seen, 3);
}
