//! What a head pays for being passed on, for `tests/bench/run counts`. There with the feature `counted` alone.

use std::hint::black_box;

use gateway_proto::NodeId;
use http::{Method, Version};

use super::head::{
    RequestHead,
    fields::Fields,
    forwarding::Peer,
    headers::{self, Onward, Via},
    request_id::RequestId,
};
use crate::routes::Rewrite;

/// What browsers send, about.
const REQUEST: [(&str, &str); 12] = [
    ("Host", "orders.localhost"),
    ("Connection", "keep-alive"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-GB,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "https://shop.example/orders"),
    ("Cookie", "session=5f2b1c0e9d8a7b6c5d4e3f2a1b0c9d8e; theme=dark"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Priority", "u=0, i"),
];

const RESPONSE: [(&str, &str); 6] = [
    ("Content-Type", "application/json"),
    ("Content-Length", "2048"),
    ("Date", "Sat, 28 Nov 2026 12:00:00 GMT"),
    ("Server", "orders/1.4"),
    ("Cache-Control", "private, max-age=0"),
    ("Connection", "keep-alive"),
];

/// Makes a browser's request head one to a replica, and a replica's response head one to the browser, so many times. Only
/// what happens in `counted_rewrite` is to be counted.
pub fn rewrite(times: u32) {
    let (via, request_id) = (Via::new(&NodeId::parse("dp-1").expect("a valid id")), RequestId::new(1 << 100));
    for _ in 0..times {
        let mut fields = section(&REQUEST);
        let target = fields.store(b"/orders/42?page=2");
        let host = fields.store(b"orders.localhost");
        let mut request = RequestHead::new(Method::GET, Version::HTTP_11, target, Some(host), fields);
        // Both are of memory that was used before, as they are between a client and a replica.
        let mut response = section(&RESPONSE);
        counted_rewrite(black_box(&mut request), black_box(&mut response), &via, &request_id);
        black_box((request, response));
    }
}

#[inline(never)]
fn counted_rewrite(request: &mut RequestHead, response: &mut Fields, via: &Via, request_id: &RequestId) {
    let onward = Onward {
        peer: Peer { ip: "192.0.2.7", scheme: "http", is_trusted: false },
        writes_forwarded: false,
        via,
        request_id,
        rewrite: Some(Rewrite::new("/orders/42", "/orders".len(), "")),
    };
    headers::prepare_request(request, &onward);
    headers::prepare_response(response, via, request_id);
}

fn section(pairs: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    pairs.iter().for_each(|(name, value)| fields.append_other(name.as_bytes(), value.as_bytes()));
    fields
}
