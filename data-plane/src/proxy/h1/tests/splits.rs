//! The same bytes have the same verdict however they are split, and what is written is read back as it was.

use http::{Method, Version};
use proptest::prelude::*;

use super::{
    super::{framing::Length, limits::HeadLimits, request, target::is_host, write},
    Verdict, read_request, read_response,
};
use crate::proxy::head::fields::Fields;

/// Cuts `bytes` at these places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut at = 0;
    for place in places {
        pieces.push(&bytes[at..place]);
        at = place;
    }
    pieces.push(&bytes[at..]);
    pieces
}

/// Chunks of this data, as the gateway writes them.
fn encoded(chunks: &[Vec<u8>], trailers: Option<&Fields>) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks {
        write::chunk_size(&mut out, chunk.len());
        out.extend_from_slice(chunk);
        out.extend_from_slice(write::CHUNK_END);
    }
    write::last_chunk(&mut out, trailers);
    out
}

proptest! {
    #[test]
    fn any_text_of_lines_has_one_verdict_in_any_pieces(
        text in "(GET|POST|\r\n)? ?(/[a-z?]{0,4}|http://a) HTTP/1\\.[01]\r?\n((host|x|content-length|transfer-encoding) ?: ?(a|1|3|chunked)\r?\n){0,4}(\r?\n)?[0-3a-c;\r\n]{0,24}",
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = text.as_bytes();
        prop_assert_eq!(read_request(cut(bytes, &places)), read_request([bytes]));
    }

    #[test]
    fn any_bytes_have_one_verdict_in_any_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(read_request(cut(&bytes, &places)), read_request([&bytes[..]]));
        let response = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &bytes[..]].concat();
        let whole = read_response(&Method::GET, [&response[..]]);
        prop_assert_eq!(read_response(&Method::GET, cut(&response, &places)), whole);
    }

    #[test]
    fn what_is_written_in_chunks_is_read_back_as_it_was(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..6),
        sum in prop::option::of("[!-~]{0,20}"),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let trailers = sum.as_ref().map(|sum| {
            let mut trailers = Fields::default();
            trailers.append_other(b"x-sum", sum.as_bytes());
            trailers
        });
        let mut bytes = b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        bytes.extend(encoded(&chunks, trailers.as_ref()));
        let end = bytes.len();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let Verdict::Whole(message) = read_request(cut(&bytes, &places)) else { panic!("not whole") };
        prop_assert_eq!(message.end, end);
        prop_assert_eq!(message.body, chunks.concat());
        let expected: Vec<_> = sum.into_iter().map(|sum| ("x-sum".to_owned(), sum.into_bytes())).collect();
        prop_assert_eq!(message.trailers, expected);
    }

    #[test]
    fn an_onward_head_is_read_as_what_it_was_written_from(
        target in "/[!$-;=@-Z_a-z~]{0,30}(\\?[!$-;=?-Z_a-z~]{0,30})?",
        fields in prop::collection::vec(("x-[A-Za-z0-9]{1,8}", "[!-~]([ -~\t]{0,20}[!-~])?"), 0..8),
        body in prop::option::of(any::<u32>()),
    ) {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("PUT {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let (mut parsed, _) = request::parse(text.as_bytes(), &HeadLimits::default()).unwrap();
        let length = body.map_or(Length::Chunked, |length| Length::Exact(length.into()));
        write::frame(&mut parsed.head.fields, length);
        let mut out = Vec::new();
        write::request_head(&mut out, &parsed.head, None);
        let (again, _) = request::parse(&out, &HeadLimits::default()).unwrap();
        prop_assert_eq!((again.length, again.head.target()), (length, target.as_str()));
        let written: Vec<_> = again.head.fields.iter().skip(1).take(fields.len()).collect();
        let expected: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn a_target_is_taken_exactly_if_http_2_could_tell_it_too(target in "/[\u{20}-\u{ff}]{0,12}") {
        let text = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        let told = http::uri::PathAndQuery::try_from(target.as_str()).is_ok_and(|told| told.as_str() == target);
        prop_assert_eq!(request::parse(text.as_bytes(), &HeadLimits::default()).is_ok(), told, "{:?}", target);
    }

    #[test]
    fn every_host_is_an_authority(host in "[a-zA-Z0-9.:%@\\[\\]_!$,-]{1,12}") {
        if is_host(host.as_bytes()) {
            prop_assert!(http::uri::Authority::try_from(host.as_str()).is_ok(), "{}", host);
        }
    }
}

#[test]
fn a_response_is_framed_so_that_its_client_can_find_the_end() {
    use http::StatusCode as S;
    let of = |version, method: Method, status, exact| write::length_for(version, &method, status, exact);
    let (new, old) = (Version::HTTP_11, Version::HTTP_10);
    assert_eq!(of(new, Method::GET, S::OK, Some(3)), Length::Exact(3));
    assert_eq!(of(new, Method::GET, S::OK, None), Length::Chunked);
    assert_eq!(of(old, Method::GET, S::OK, None), Length::UntilClose);
    for status in [S::NO_CONTENT, S::NOT_MODIFIED, S::EARLY_HINTS] {
        assert_eq!(of(new, Method::GET, status, Some(0)), Length::Empty);
    }
    assert_eq!(of(new, Method::HEAD, S::OK, None), Length::Empty);
}
