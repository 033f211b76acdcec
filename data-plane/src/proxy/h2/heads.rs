//! Heads between the engine and the pipeline: they are decoded into what the pipeline reads, and encoded from it.

mod request;

use gateway_http2::{
    Block, Heads, Pseudo, Received, Sent,
    hpack::{Keep, known},
};
use http::Method;

use crate::proxy::head::{
    ResponseHead,
    field_name::{Name, Names},
    fields::{Fields, Span},
};

pub(in crate::proxy) use request::RequestTo;

/// What each field of a head counts for beside its bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// Of other fields, names of this length at most are written in small letters without a copy on the heap.
const SHORT: usize = 64;

/// How connections of the proxy keep heads.
#[derive(Debug)]
pub(in crate::proxy) struct ProxyHeads;

impl Heads for ProxyHeads {
    type Received = Heading;
    type Sent = Head;
}

/// A head, or a trailer section, as it has come.
#[derive(Debug)]
pub(in crate::proxy) struct Heading {
    pub(in crate::proxy) fields: Fields,
    pub(super) method: Option<Span>,
    pub(super) path: Option<Span>,
    pub(super) authority: Option<Span>,
    pub(super) protocol: Option<Span>,
    /// Bytes of it, as they count against its limit.
    pub(super) size: usize,
}

impl Default for Heading {
    fn default() -> Self {
        let fields = Fields::over(b"");
        Self { fields, method: None, path: None, authority: None, protocol: None, size: 0 }
    }
}

impl Heading {
    /// The request's method. It is a token.
    pub(super) fn method(&self) -> Method {
        let method = self.method.map(|method| Method::from_bytes(self.fields.text(method)));
        method.and_then(Result::ok).unwrap_or_default()
    }
}

impl Received for Heading {
    fn pseudo(&mut self, pseudo: Pseudo, value: &[u8]) {
        self.size += value.len();
        let place = match pseudo {
            Pseudo::Method => &mut self.method,
            Pseudo::Path => &mut self.path,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Protocol => &mut self.protocol,
            // What is secure the connection knows, and the engine what the status is.
            Pseudo::Scheme | Pseudo::Status => return,
        };
        *place = Some(self.fields.store(value));
    }

    fn field(&mut self, name: &[u8], value: &[u8], known: Option<u8>, is_sensitive: bool) {
        self.size += name.len() + value.len() + FIELD_OVERHEAD;
        let known = match known {
            Some(index) => of_index(index),
            None => Name::of(name),
        };
        self.fields.append_decoded(known, name, value, is_sensitive);
    }
}

/// A head, or a trailer section, that is to go.
#[derive(Debug)]
pub(in crate::proxy) enum Head {
    Request(Box<RequestTo>),
    Answer(ResponseHead),
    Trailers(Fields),
}

impl Sent for Head {
    fn encode(&self, block: &mut Block<'_>) {
        let fields = match self {
            Self::Answer(head) => {
                block.known(known::STATUS, head.status.as_str().as_bytes(), Keep::Index);
                &head.fields
            }
            Self::Trailers(fields) => fields,
            Self::Request(request) => return request.encode(block),
        };
        encode_fields(fields, Names::default(), block);
    }
}

/// Writes all fields but those of these names.
fn encode_fields(fields: &Fields, without: Names, block: &mut Block<'_>) {
    for (name, text, value, is_sensitive) in fields.spans() {
        let value = fields.text(value);
        let keep = match name {
            // So its writer wants it (RFC 7541 section 6.2.3).
            _ if is_sensitive => Keep::Never,
            // No two requests have the same: kept in the table of what was said before, each would drive out what is said again.
            Some(Name::XRequestId) => Keep::Once,
            _ => Keep::Index,
        };
        let Some(name) = name else {
            other(fields.text(text), value, keep, block);
            continue;
        };
        if without.contains(name) {
            continue;
        }
        match index_of(name) {
            Some(index) => block.known(index, value, keep),
            None => block.field(name.as_str().as_bytes(), value, keep),
        }
    }
}

/// Writes a field whose name means nothing to the gateway, and may have come in any letters.
fn other(name: &[u8], value: &[u8], keep: Keep, block: &mut Block<'_>) {
    if !name.iter().any(u8::is_ascii_uppercase) {
        return block.field(name, value, keep);
    }
    let mut short = [0; SHORT];
    match short.get_mut(..name.len()) {
        Some(small) => {
            small.copy_from_slice(name);
            small.make_ascii_lowercase();
            block.field(small, value, keep);
        }
        None => block.field(&name.to_ascii_lowercase(), value, keep),
    }
}

/// Names by their indices in HPACK's static table, and the other way round.
macro_rules! indices {
    ($($index:ident = $name:ident,)+) => {
        fn of_index(index: u8) -> Option<Name> {
            match index {
                $(known::$index => Some(Name::$name),)+
                _ => None,
            }
        }

        fn index_of(name: Name) -> Option<u8> {
            match name {
                $(Name::$name => Some(known::$index),)+
                _ => None,
            }
        }
    };
}

indices! {
    ALLOW = Allow,
    CONTENT_LENGTH = ContentLength,
    CONTENT_TYPE = ContentType,
    COOKIE = Cookie,
    DATE = Date,
    EXPECT = Expect,
    HOST = Host,
    PROXY_AUTHENTICATE = ProxyAuthenticate,
    RETRY_AFTER = RetryAfter,
    TRANSFER_ENCODING = TransferEncoding,
    VIA = Via,
}

#[cfg(test)]
mod tests {
    use gateway_http2::hpack::{Decoder, Encoder, ListLimits};

    use super::*;

    #[test]
    fn what_its_writer_wants_nobody_to_keep_is_passed_on_so() {
        let mut heading = Heading::default();
        let fields = [("x-a", true), ("x-b", false), ("date", true), ("via", false)];
        for (name, is_sensitive) in fields {
            heading.field(name.as_bytes(), b"some", known::of(name.as_bytes()), is_sensitive);
        }
        // A trailer section passes as what the traits of bodies have.
        let trailers = crate::proxy::h2::fields(&crate::proxy::h2::map(&heading.fields));
        for fields_sent in [heading.fields, trailers] {
            let (mut encoder, mut out) = (Encoder::new(), Vec::new());
            Head::Trailers(fields_sent).encode(&mut Block::new(&mut encoder, &mut out));
            let (mut read, limits) = (Vec::new(), ListLimits { bytes: usize::MAX, fields: usize::MAX });
            let decoded = Decoder::new(0, usize::MAX).decode(&out, limits, &mut |field| {
                read.push((str::from_utf8(field.name).unwrap().to_owned(), field.is_sensitive));
            });
            assert_eq!(decoded.unwrap().fields, 4);
            read.sort();
            let mut expected = fields.map(|(name, is_sensitive)| (name.to_owned(), is_sensitive));
            expected.sort();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn every_name_that_the_static_table_has_is_known_by_its_index() {
        for &name in Name::ALL {
            assert_eq!(index_of(name), known::of(name.as_str().as_bytes()), "{name:?}");
            assert!(index_of(name).is_none_or(|index| of_index(index) == Some(name)), "{name:?}");
        }
    }
}
