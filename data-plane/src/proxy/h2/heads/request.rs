//! A request's head as a replica is sent it.

use gateway_http2::{
    Block,
    hpack::{Keep, known},
};
use gateway_proto::{Address, Endpoint};
use http::{Method, header};

use super::encode_fields;
use crate::{
    proxy::{
        h1::{decimal, is_host, is_path},
        head::{
            RequestHead,
            field_name::{Name, Names},
            hints::{AttemptHints, timeout_text},
        },
    },
    traces::Traceparent,
};

/// What HTTP/2 says otherwise, or not at all.
const OF_ONE_CONNECTION: Names =
    Names::of(&[Name::Host, Name::TransferEncoding, Name::Connection, Name::Upgrade, Name::Te]);

/// A request's head. It is a copy, since it is written when there is room for it, by whoever moves the connection's bytes.
#[derive(Debug)]
pub(in crate::proxy) struct RequestTo {
    head: RequestHead,
    is_secure: bool,
    /// Where it goes, if the request names no host: HTTP/1.0 clients may not.
    address: Option<Address>,
    hints: AttemptHints,
    left_out: Names,
    /// What its stream is to be switched to.
    protocol: Option<Vec<u8>>,
}

impl RequestTo {
    /// Of a request to this replica, which is asked whether it wants the body if it `expects_continue`, and to switch to a protocol if there
    /// is one.
    ///
    /// `None` if HTTP/2 has no way to write it.
    pub(in crate::proxy) fn new(
        head: &RequestHead,
        endpoint: &Endpoint,
        expects_continue: bool,
        protocol: Option<&[u8]>,
        hints: AttemptHints,
    ) -> Option<Self> {
        let host = head.fields.get(Name::Host).unwrap_or_default();
        if !is_path(&head.method, head.target_bytes()) || !is_host(host) {
            return None;
        }
        let mut left_out = OF_ONE_CONNECTION;
        if !expects_continue {
            left_out.insert(Name::Expect);
        }
        if hints.trace.is_some() {
            left_out.insert(Name::Traceparent);
        }
        let mut sent = Self {
            is_secure: endpoint.tls_name().is_some(),
            address: host.is_empty().then(|| endpoint.address.clone()),
            head: head.clone(),
            hints,
            left_out,
            protocol: protocol.map(<[u8]>::to_vec),
        };
        if protocol.is_some() {
            sent.left_out.insert(Name::ContentLength);
            // HTTP/2 has neither this nor its answer (RFC 8441 section 5).
            let key = header::SEC_WEBSOCKET_KEY.as_str().as_bytes();
            sent.head.fields.retain(|name| !name.eq_ignore_ascii_case(key));
        }
        Some(sent)
    }

    pub(super) fn encode(&self, block: &mut Block<'_>) {
        let Self { head, is_secure, address, hints, left_out, protocol } = self;
        let method = if protocol.is_some() { Method::CONNECT.as_str() } else { head.method.as_str() };
        let host = address.as_ref().map(|address| address.as_str().as_bytes());
        let host = host.or_else(|| head.fields.get(Name::Host)).unwrap_or_default();
        let scheme = if *is_secure { "https" } else { "http" };
        block.known(known::METHOD, method.as_bytes(), Keep::Index);
        block.known(known::SCHEME, scheme.as_bytes(), Keep::Index);
        block.known(known::AUTHORITY, host, Keep::Index);
        block.known(known::PATH, head.target_bytes(), Keep::Index);
        if let Some(protocol) = protocol {
            block.field(b":protocol", protocol, Keep::Index);
        }
        encode_fields(&head.fields, *left_out, block);
        for (name, value) in hints.fields() {
            block.field(name.as_bytes(), decimal(value, &mut [0; 20]), Keep::Index);
        }
        if let Some(left) = hints.call {
            block.field(Name::GrpcTimeout.as_str().as_bytes(), timeout_text(left).as_bytes(), Keep::Once);
        }
        if let Some(trace) = hints.trace {
            block.field(Traceparent::NAME.as_bytes(), trace.to_string().as_bytes(), Keep::Once);
        }
        if protocol.is_none() {
            // Trailers pass, whatever the client's own connection can carry.
            block.field(b"te", b"trailers", Keep::Index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_http2::hpack::{Decoder, Encoder, ListLimits};
    use gateway_proto::Protocol;
    use http::Version;

    use super::*;
    use crate::proxy::head::fields::Fields;

    const HINTS: AttemptHints =
        AttemptHints { attempt: 2, time: Duration::from_millis(800), call: None, trace: None };

    fn head(target: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut block = Fields::default();
        for (name, value) in fields {
            block.append_other(name.as_bytes(), value.as_bytes());
        }
        let target = block.store(target.as_bytes());
        RequestHead::new(Method::POST, Version::HTTP_11, target, None, block)
    }

    fn endpoint(protocol: Protocol) -> Endpoint {
        Endpoint { address: Address::parse("10.0.0.1:80").unwrap(), protocol }
    }

    /// What the replica reads.
    fn sent(request: &RequestTo) -> Vec<(String, String)> {
        let (mut encoder, mut block) = (Encoder::new(), Vec::new());
        request.encode(&mut Block::new(&mut encoder, &mut block));
        let mut fields = Vec::new();
        let limits = ListLimits { bytes: usize::MAX, fields: usize::MAX };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let read = Decoder::new(0, usize::MAX).decode(&block, limits, &mut |field| {
            assert!(field.is_valid, "{field:?}");
            fields.push((text(field.name), text(field.value)));
        });
        read.unwrap();
        fields
    }

    fn list(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_host_becomes_the_authority_and_what_concerns_one_connection_stays_behind() {
        let fields = [
            ("Host", "shop.example:8080"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("X-Id", "7"),
        ];
        let head = head("/a/../b?c=%20", &fields);
        let request =
            |expects| RequestTo::new(&head, &endpoint(Protocol::h2c()), expects, None, HINTS).unwrap();
        let pseudo = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "shop.example:8080"),
            (":path", "/a/../b?c=%20"),
        ];
        let behind = [("x-id", "7"), ("x-gw-attempt", "2"), ("x-gw-timeout-ms", "800"), ("te", "trailers")];
        assert_eq!(sent(&request(false)), list(&[&pseudo[..], &behind].concat()));
        let expect = [("expect", "100-continue")];
        assert_eq!(sent(&request(true)), list(&[&pseudo[..], &expect, &behind].concat()));
    }

    #[test]
    fn who_names_no_host_is_sent_to_the_address_and_over_tls_by_https() {
        let request =
            RequestTo::new(&head("/", &[("host", "")]), &endpoint(Protocol::tls(None)), false, None, HINTS);
        let pseudo =
            [(":method", "POST"), (":scheme", "https"), (":authority", "10.0.0.1:80"), (":path", "/")];
        assert_eq!(sent(&request.unwrap())[..4], list(&pseudo));
    }

    #[test]
    fn a_switch_of_protocols_is_asked_for_by_an_extended_connect() {
        let fields =
            [("host", "a"), ("upgrade", "websocket"), ("Sec-WebSocket-Key", "x"), ("content-length", "0")];
        let request = RequestTo::new(
            &head("/chat", &fields),
            &endpoint(Protocol::h2c()),
            false,
            Some(b"websocket"),
            HINTS,
        );
        let expected = [
            (":method", "CONNECT"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/chat"),
            (":protocol", "websocket"),
            ("x-gw-attempt", "2"),
            ("x-gw-timeout-ms", "800"),
        ];
        assert_eq!(sent(&request.unwrap()), list(&expected));
    }

    #[test]
    fn a_target_that_http2_cannot_carry_is_not_sent() {
        for (target, host) in [("/a\u{7f}", "a"), ("/a b", "a"), ("", "a"), ("/", "a b")] {
            let head = head(target, &[("host", host)]);
            assert!(
                RequestTo::new(&head, &endpoint(Protocol::h2c()), false, None, HINTS).is_none(),
                "{target:?} {host:?}"
            );
        }
    }
}
