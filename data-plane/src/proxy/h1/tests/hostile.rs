//! A corpus of what attackers and broken software send, each with its exact verdict.

use http::Method;

use super::{
    super::{
        body::BodyFault,
        limits::HeadLimits,
        refusal::{Defect, Refusal},
    },
    Message, Verdict, read_answer, read_request, read_response,
};

fn refused(defect: Defect) -> Verdict {
    Verdict::Refused(Refusal::Malformed(defect))
}

fn request(text: &str) -> Verdict {
    read_request([text.as_bytes()])
}

fn whole(verdict: Verdict) -> Message {
    match verdict {
        Verdict::Whole(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_that_are_not_exactly_one_thing_are_refused_with_the_reason() {
    use Defect as D;
    let cases: &[(&str, Defect)] = &[
        // Lines.
        ("GET / HTTP/1.1\nhost: a\n\n", D::BareLineFeed),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", D::BareLineFeed),
        ("GET / HTTP/1.1\r\nhost: a\r\n\n", D::BareLineFeed),
        ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", D::BareLineFeed),
        ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", D::StartLine),
        ("GET / HTTP/1.1\r\nhost: a\rx: b\r\n\r\n", D::FieldValue),
        ("GET / HTTP/1.1\rhost: a\r\n\r\n", D::StartLine),
        ("GET / HTTP/1.1\rhost:a\r\n\r\n", D::Version),
        ("\rGET / HTTP/1.1\r\nhost: a\r\n\r\n", D::Method),
        // The first line.
        ("\x16\x03\x01\x02\x00\x01", D::Method),
        (" GET / HTTP/1.1\r\nhost: a\r\n\r\n", D::Method),
        ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", D::StartLine),
        ("GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", D::StartLine),
        ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", D::StartLine),
        ("GET / x HTTP/1.1\r\nhost: a\r\n\r\n", D::StartLine),
        ("GET /\r\n\r\n", D::StartLine),
        ("GET\r\n\r\n", D::StartLine),
        ("G(T / HTTP/1.1\r\nhost: a\r\n\r\n", D::Method),
        ("GET / http/1.1\r\nhost: a\r\n\r\n", D::Version),
        ("GET / HTTP/11\r\nhost: a\r\n\r\n", D::Version),
        ("GET / HTTP/1.1x\r\nhost: a\r\n\r\n", D::Version),
        ("GET / HTTP/1.01\r\nhost: a\r\n\r\n", D::Version),
        ("GET / ICAP/1.0\r\nhost: a\r\n\r\n", D::Version),
        // Targets.
        ("GET x HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET * HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("OPTIONS *x HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET /a\0b HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET /a\x7fb HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET /<a> HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET http:///x HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET http://u:p@a/ HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("GET http://a b/ HTTP/1.1\r\nhost: a\r\n\r\n", D::StartLine),
        ("CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        ("CONNECT http://a/ HTTP/1.1\r\nhost: a\r\n\r\n", D::Target),
        // Fields.
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", D::SpaceBeforeColon),
        ("GET / HTTP/1.1\r\nhost\t: a\r\n\r\n", D::SpaceBeforeColon),
        ("GET / HTTP/1.1\r\n host: a\r\n\r\n", D::FoldedLine),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", D::FoldedLine),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n\t2\r\n\r\n", D::FoldedLine),
        ("GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", D::FieldName),
        ("GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n", D::FieldName),
        ("GET / HTTP/1.1\r\nhost: a\r\nx(y): 1\r\n\r\n", D::FieldName),
        ("GET / HTTP/1.1\r\nhost: a\r\nx\0: 1\r\n\r\n", D::FieldName),
        ("GET / HTTP/1.1\r\nhost: a\r\nx\u{e4}: 1\r\n\r\n", D::FieldName),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\0\r\n\r\n", D::FieldValue),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: \x0b\r\n\r\n", D::FieldValue),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: \x7f\r\n\r\n", D::FieldValue),
        // Hosts.
        ("GET / HTTP/1.1\r\n\r\n", D::NoHost),
        ("GET http://a/ HTTP/1.1\r\n\r\n", D::NoHost),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", D::SeveralHosts),
        ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", D::SeveralHosts),
        ("GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", D::SeveralHosts),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: a,b\"\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: a:b\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: a:1:2\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: [::1\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: [a]\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: %61\r\n\r\n", D::InvalidHost),
        ("GET / HTTP/1.1\r\nhost: :80\r\n\r\n", D::InvalidHost),
        // The end of the body.
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
            D::SeveralContentLengths,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
            D::SeveralContentLengths,
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\nx", D::SeveralContentLengths),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\nx", D::ContentLength),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx", D::ContentLength),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nx", D::ContentLength),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\nx", D::ContentLength),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1 1\r\n\r\nx", D::ContentLength),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9223372036854775808\r\n\r\n", D::ContentLength),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n", D::ContentLength),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            D::LengthAndCoding,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
            D::LengthAndCoding,
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked,\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: , chunked\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \"chunked\"\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked;q=1\r\n\r\n", D::TransferEncoding),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n\r\n", D::TransferEncoding),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n",
            D::TransferEncoding,
        ),
        ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", D::OldVersionWithCoding),
    ];
    for (text, defect) in cases {
        assert_eq!(request(text), refused(*defect), "{text:?}");
    }
}

#[test]
fn what_is_too_much_or_unknown_has_a_status_of_its_own() {
    let HeadLimits { bytes, fields, target } = HeadLimits::default();
    let line = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    let long = |length: usize| format!("/{}", "x".repeat(length - 1));
    let verdict = |text: &str| match request(text) {
        Verdict::Refused(refusal) => Some(refusal),
        Verdict::Whole(_) => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(verdict(&line(&long(target), "")), None);
    assert_eq!(verdict(&line(&long(target + 1), "")), Some(Refusal::TargetTooLong));
    assert_eq!(verdict(&line("/", &"x: 1\r\n".repeat(fields - 1))), None);
    assert_eq!(verdict(&line("/", &"x: 1\r\n".repeat(fields))), Some(Refusal::HeadTooLarge));
    let rest = bytes - line("/", "x: \r\n").len();
    assert_eq!(verdict(&line("/", &format!("x: {}\r\n", "y".repeat(rest)))), None);
    assert_eq!(verdict(&line("/", &format!("x: {}\r\n", "y".repeat(rest + 1)))), Some(Refusal::HeadTooLarge));
    // Before the line has an end.
    assert_eq!(
        request(&format!("GET /{}", "x".repeat(target + 200))),
        Verdict::Refused(Refusal::TargetTooLong)
    );
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        assert_eq!(verdict(&format!("GET / {version}\r\nhost: a\r\n\r\n")), Some(Refusal::UnknownVersion));
    }
    // One word that is HTTP's is enough for an answer in HTTP/1.
    for line in ["INVALID CONNECTION PREFACE", "a b c", "GET x y", "CONNECT a HTT"] {
        assert_eq!(verdict(&format!("{line}\r\n\r\n")), Some(Refusal::OtherProtocol), "{line}");
    }
    for line in ["GET / c", "GET x HTTP", "get x http/1.1", "OPTIONS * c", "GET http://b c", "CONNECT a:1 c"]
    {
        let answered = verdict(&format!("{line}\r\n\r\n"));
        assert!(matches!(answered, Some(Refusal::Malformed(_))), "{line}");
    }
    let coded = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
    assert_eq!(verdict(coded), Some(Refusal::UnknownCoding));
}

#[test]
fn chunks_are_exact_or_refused() {
    let body = |body: &str| {
        request(&format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n{body}"))
    };
    use BodyFault as F;
    let too_long = format!("1;{}\r\nx\r\n", "y".repeat(1024));
    let many = format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(17));
    let trailers = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(65));
    let large = format!("0\r\nx: {}\r\n\r\n", "y".repeat(8192));
    let cases: &[(&str, BodyFault)] = &[
        ("\r\n", F::ChunkSize),
        ("x\r\n", F::ChunkSize),
        ("-1\r\n", F::ChunkSize),
        ("+1\r\n", F::ChunkSize),
        ("0x1\r\n", F::ChunkSize),
        (" 1\r\n", F::ChunkSize),
        ("1 \r\n", F::ChunkSize),
        ("1 ;x\r\n", F::ChunkSize),
        ("1\t\r\n", F::ChunkSize),
        ("1_0\r\n", F::ChunkSize),
        ("ffffffffffffffff\r\n", F::ChunkSize),
        ("0000000000000001\r\n", F::ChunkSize),
        ("1;x\0\r\n", F::ChunkSize),
        ("1;a\rb\r\n", F::ChunkSize),
        ("1\n", F::ChunkLine),
        ("1;x\n", F::ChunkLine),
        (&too_long, F::ChunkLine),
        (&many, F::Extensions),
        ("1\r\nxy\r\n", F::ChunkEnd),
        ("1\r\nx\n", F::ChunkEnd),
        ("1\r\nx\r\r", F::ChunkEnd),
        ("1\r\nx0\r\n\r\n", F::ChunkEnd),
        ("0\r\nx\r\n\r\n", F::Trailers),
        ("0\r\nx : 1\r\n\r\n", F::Trailers),
        ("0\r\n x: 1\r\n\r\n", F::Trailers),
        ("0\r\nx: 1\n\r\n", F::Trailers),
        ("0\r\n\n", F::Trailers),
        ("0\r\nx: \0\r\n\r\n", F::Trailers),
        (&trailers, F::Trailers),
        (&large, F::Trailers),
    ];
    for (text, fault) in cases {
        assert_eq!(body(text), Verdict::BrokenBody(*fault), "{text:?}");
    }
    for text in ["", "1", "1\r", "3\r\nab", "1\r\nx", "1\r\nx\r", "0\r\n", "0\r\nx: 1\r\n"] {
        assert_eq!(body(text), Verdict::Unfinished, "{text:?}");
    }
    let message = whole(body("3;a=b;c=\"d e\"\r\nabc\r\nA\r\n0123456789\r\n000\r\nx-sum: 1 \r\n\r\nGET"));
    assert_eq!(message.body, b"abc0123456789");
    assert_eq!(message.trailers, [("x-sum".to_owned(), b"1".to_vec())]);
}

#[test]
fn a_request_is_taken_as_it_is() {
    for (text, start, body) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", ["GET", "/", "a"], ""),
        ("\r\nGET / HTTP/1.1\r\nHOST:a:80\r\n\r\n", ["GET", "/", "a:80"], ""),
        ("GET / HTTP/1.1\r\nhost:\r\n\r\n", ["GET", "/", ""], ""),
        ("GET / HTTP/1.0\r\n\r\n", ["GET", "/", "(none)"], ""),
        (
            "GET //a/./../b%2f%00?c?d=/%zz HTTP/1.1\r\nhost: a\r\n\r\n",
            ["GET", "//a/./../b%2f%00?c?d=/%zz", "a"],
            "",
        ),
        ("GET /\u{e4}?\"x HTTP/1.1\r\nhost: a\r\n\r\n", ["", "", ""], ""),
        ("GET /\u{e4}{|}^\\[] HTTP/1.1\r\nhost: a\r\n\r\n", ["GET", "/\u{e4}{|}^\\[]", "a"], ""),
        ("GET HTTP://b.c:81/x?y HTTP/1.1\r\nhost: a\r\n\r\n", ["GET", "/x?y", "b.c:81"], ""),
        ("GET https://b HTTP/1.1\r\nhost: a\r\n\r\n", ["GET", "/", "b"], ""),
        ("GET http://b?x HTTP/1.1\r\nhost: a\r\n\r\n", ["GET", "/?x", "b"], ""),
        ("OPTIONS http://b HTTP/1.1\r\nhost: a\r\n\r\n", ["OPTIONS", "*", "b"], ""),
        ("OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", ["OPTIONS", "*", "[::1]:80"], ""),
        ("CONNECT b:443 HTTP/1.1\r\nhost: a\r\n\r\n", ["CONNECT", "", "b:443"], ""),
        ("PURGE-x.1 / HTTP/1.1\r\nhost: a\r\ncontent-length: 03\r\n\r\nabcd", ["PURGE-x.1", "/", "a"], "abc"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\nx", ["GET", "/", "a"], ""),
        (
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \t CHUNKED \r\n\r\n1\r\nx\r\n0\r\n\r\n",
            ["GET", "/", "a"],
            "x",
        ),
    ] {
        if start[0].is_empty() {
            assert_eq!(request(text), refused(Defect::Target), "{text:?}");
            continue;
        }
        let message = whole(request(text));
        assert_eq!(message.start, start, "{text:?}");
        assert_eq!(message.body, body.as_bytes(), "{text:?}");
    }
}

#[test]
fn a_connection_is_kept_only_if_both_would_say_so() {
    for (text, is_kept) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: x, ClosE\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: x\r\nconnection: close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: closed\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nconnection: keep-alive, close\r\n\r\n", false),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", false),
    ] {
        assert_eq!(whole(request(text)).is_kept_alive, is_kept, "{text:?}");
    }
}

#[test]
fn responses_are_held_to_the_same() {
    use Defect as D;
    let cases: &[(&str, Defect)] = &[
        ("garbage\r\n\r\n", D::StartLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", D::StartLine),
        ("HTTP/1.1\r\n\r\n", D::StartLine),
        ("HTTP/1.1200 OK\r\n\r\n", D::StartLine),
        ("HTTP/1.1 200 OK\n\n", D::BareLineFeed),
        ("HTTP/1.1 20 OK\r\n\r\n", D::Status),
        ("HTTP/1.1 099 OK\r\n\r\n", D::Status),
        ("HTTP/1.1 2000 OK\r\n\r\n", D::Status),
        ("HTTP/1.1 200 O\0K\r\n\r\n", D::Status),
        ("HTTP/1.1 200 O\rK\r\n\r\n", D::Status),
        ("HTTP/1.1 101 Switching\r\n\r\n", D::UnaskedProtocol),
        ("HTTP/1.1 200 OK\r\nx : 1\r\n\r\n", D::SpaceBeforeColon),
        ("HTTP/1.1 200 OK\r\nx: 1\r\n y\r\n\r\n", D::FoldedLine),
        ("HTTP/1.1 200 OK\r\nx: \0\r\n\r\n", D::FieldValue),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", D::SeveralContentLengths),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", D::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", D::LengthAndCoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", D::TransferEncoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", D::TransferEncoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", D::TransferEncoding),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", D::OldVersionWithCoding),
        ("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", D::CodingWithoutBody),
        ("HTTP/1.1 103 Hints\r\ntransfer-encoding: chunked\r\n\r\n", D::CodingWithoutBody),
    ];
    for (text, defect) in cases {
        assert_eq!(read_response(&Method::GET, [text.as_bytes()]), refused(*defect), "{text:?}");
    }
    let newer = read_response(&Method::GET, [&b"HTTP/2.0 200 OK\r\n\r\n"[..]]);
    assert_eq!(newer, Verdict::Refused(Refusal::UnknownVersion));
}

#[test]
fn a_response_ends_where_rfc_9112_says() {
    for (method, text, body, is_kept) in [
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd", "abc", true),
        (Method::GET, "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\nabcd", "", true),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nuntil close", "until close", false),
        (Method::GET, "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nab", "a", false),
        (Method::GET, "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nab", "a", true),
        (Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "a", true),
        (Method::GET, "HTTP/1.1 204 No\r\ncontent-length: 3\r\n\r\nabc", "", true),
        (Method::GET, "HTTP/1.1 304 Not\r\ncontent-length: 3\r\n\r\nabc", "", true),
        (Method::GET, "HTTP/1.1 304 Not\r\ntransfer-encoding: chunked\r\n\r\nabc", "", true),
        (Method::GET, "HTTP/1.1 103 Hints\r\ncontent-length: 3\r\n\r\nabc", "", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc", "", false),
    ] {
        let message = whole(read_response(&method, [text.as_bytes()]));
        assert_eq!((message.body.as_slice(), message.is_kept_alive), (body.as_bytes(), is_kept), "{text:?}");
    }
}

#[test]
fn a_response_that_breaks_off_is_not_whole() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n",
        "",
    ] {
        assert_eq!(read_response(&Method::GET, [text.as_bytes()]), Verdict::Unfinished, "{text:?}");
    }
}

#[test]
fn a_switch_that_is_not_exactly_one_thing_is_refused_with_the_reason() {
    use Defect as D;
    let both = "connection: upgrade\r\nupgrade: websocket\r\n";
    for (fields, defect) in [
        (both.to_owned(), None),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n".into(), None),
        (format!("{both}content-length: 0\r\n"), None),
        (format!("{both}content-length: 1\r\n"), Some(D::SwitchWithBody)),
        (format!("{both}transfer-encoding: chunked\r\n"), Some(D::CodingWithoutBody)),
        (format!("{both}upgrade: websocket\r\n"), Some(D::SwitchWithoutUpgrade)),
        ("upgrade: websocket\r\n".into(), Some(D::SwitchWithoutUpgrade)),
        ("connection: upgrade\r\n".into(), Some(D::SwitchWithoutUpgrade)),
        ("connection: upgrade\r\nupgrade: h2c\r\n".into(), Some(D::UnaskedProtocol)),
        ("connection: upgrade\r\nupgrade: websocket/2\r\n".into(), Some(D::UnaskedProtocol)),
    ] {
        let text = format!("HTTP/1.1 101 Switching\r\n{fields}\r\n");
        let verdict = read_answer(&Method::GET, Some(b"websocket"), [text.as_bytes()]);
        match defect {
            Some(defect) => assert_eq!(verdict, Verdict::Refused(defect.into()), "{text}"),
            None => assert!(matches!(verdict, Verdict::Whole(_)), "{text}: {verdict:?}"),
        }
        let unasked = read_response(&Method::GET, [text.as_bytes()]);
        assert_eq!(unasked, Verdict::Refused(D::UnaskedProtocol.into()), "{text}");
    }
}
