//! What a head is to a connection: fields that are given to its owner as they are decoded, and asked of it as they are
//! encoded; and what RFC 9113 section 8 has a head be.

use std::fmt::Debug;

use crate::hpack::{Encoder, Field, Keep, known};

/// How the owner of a connection keeps heads.
pub trait Heads: Debug + 'static {
    /// Those that come.
    type Received: Received;
    /// Those that go.
    type Sent: Sent;
}

/// A head, or a trailer section, as it is filled. Whatever it gets is valid by itself and in its place, but of a head that
/// turns out to be malformed nobody sees anything.
pub trait Received: Default + Debug {
    /// A pseudo-field has come. Each comes once at most, all before the first field.
    fn pseudo(&mut self, pseudo: Pseudo, value: &[u8]);
    /// A field has come. Its name is in small letters, its value without control bytes but tabs; `known` is the name's index
    /// in HPACK's static table, if it is there. One that `is_sensitive` is to be passed on as [`Keep::Never`], if at all.
    fn field(&mut self, name: &[u8], value: &[u8], known: Option<u8>, is_sensitive: bool);
}

/// A head, or a trailer section, that is to go.
pub trait Sent: Debug {
    /// Writes its pseudo-fields, and then its fields. Called once, when it is written.
    fn encode(&self, block: &mut Block<'_>);
}

/// Where a head is written to.
#[derive(Debug)]
pub struct Block<'a> {
    pub(crate) encoder: &'a mut Encoder,
    pub(crate) out: &'a mut Vec<u8>,
}

impl<'a> Block<'a> {
    /// One that is written behind what `out` has.
    pub fn new(encoder: &'a mut Encoder, out: &'a mut Vec<u8>) -> Self {
        Self { encoder, out }
    }

    /// A field by its name, which is in small letters.
    pub fn field(&mut self, name: &[u8], value: &[u8], keep: Keep) {
        self.encoder.field(name, value, keep, self.out);
    }

    /// One whose name is in the static table, by its index there.
    pub fn known(&mut self, index: u8, value: &[u8], keep: Keep) {
        self.encoder.field_known(index, value, keep, self.out);
    }
}

/// The pseudo-fields there are (RFC 9113 section 8.3, RFC 8441 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called what they are")]
#[repr(u8)]
pub enum Pseudo {
    Method,
    Scheme,
    Path,
    Authority,
    Protocol,
    Status,
}

/// What a head has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Trailers,
}

/// A head that is being read.
#[derive(Debug)]
pub(crate) struct Reading<R> {
    kind: Kind,
    pub(crate) head: R,
    /// What is wrong with it, if anything is.
    pub(crate) defect: Option<&'static str>,
    /// What it says of the length of what follows.
    pub(crate) length: Option<u64>,
    pub(crate) status: u16,
    is_connect: bool,
    /// A bit for each pseudo-field that it has.
    seen: u8,
    has_fields: bool,
}

impl<R: Received> Reading<R> {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            head: R::default(),
            defect: None,
            length: None,
            status: 0,
            is_connect: false,
            seen: 0,
            has_fields: false,
        }
    }

    /// The next field has come.
    pub(crate) fn take(&mut self, field: &Field<'_>) {
        if self.defect.is_none()
            && let Err(defect) = self.taken(field)
        {
            self.defect = Some(defect);
        }
    }

    fn taken(&mut self, field: &Field<'_>) -> Result<(), &'static str> {
        let &Field { name, value, known, is_valid, is_sensitive } = field;
        if !is_valid {
            return Err("a field has bytes that none may have");
        }
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.has_fields = true;
        // RFC 9113 section 8.2.1.
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return Err("a field's value begins or ends with a blank");
        }
        match known {
            // It has no meaning, and no content (RFC 9110 section 9.3.6).
            Some(known::CONTENT_LENGTH) if self.is_connect => return Ok(()),
            Some(known::CONTENT_LENGTH) => self.content_length(value)?,
            Some(known::TRANSFER_ENCODING) => return Err(OF_A_CONNECTION),
            Some(_) => {}
            None => not_of_a_connection(name, value)?,
        }
        self.head.field(name, value, known, is_sensitive);
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let pseudo = match (self.kind, name) {
            (Kind::Request, b":method") => Pseudo::Method,
            (Kind::Request, b":scheme") => Pseudo::Scheme,
            (Kind::Request, b":path") => Pseudo::Path,
            (Kind::Request, b":authority") => Pseudo::Authority,
            (Kind::Request, b":protocol") => Pseudo::Protocol,
            (Kind::Response, b":status") => Pseudo::Status,
            _ => return Err("a pseudo-field is none that may be there"),
        };
        if self.has_fields {
            return Err("a pseudo-field stands behind a field");
        }
        if self.seen & bit(pseudo) != 0 {
            return Err("a pseudo-field is there twice");
        }
        self.seen |= bit(pseudo);
        let is_right = match pseudo {
            Pseudo::Method => {
                self.is_connect = value == b"CONNECT";
                is_token(value)
            }
            Pseudo::Scheme => is_scheme(value),
            Pseudo::Path | Pseudo::Protocol => !value.is_empty(),
            Pseudo::Authority => true,
            Pseudo::Status => {
                let digits = str::from_utf8(value).ok().filter(|text| text.len() == 3);
                self.status = digits.and_then(|text| text.parse().ok()).unwrap_or(0);
                // HTTP/2 has no 101 (RFC 9113 section 8.6).
                self.status >= 100 && self.status != 101 && value.iter().all(u8::is_ascii_digit)
            }
        };
        if !is_right {
            return Err("a pseudo-field has a value that it may not have");
        }
        self.head.pseudo(pseudo, value);
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
        // Two that agree are more than anybody needs, and more than some understand.
        if length.is_none() || self.length.is_some() {
            return Err("the content's length is not told once, as a number");
        }
        self.length = length;
        Ok(())
    }

    /// All of it has come: whether what has to be there is.
    pub(crate) fn finish(&mut self) {
        let has = |pseudo| self.seen & bit(pseudo) != 0;
        let is_whole = match self.kind {
            Kind::Trailers => true,
            Kind::Response => has(Pseudo::Status),
            // RFC 9113 section 8.5, RFC 8441 section 4.
            Kind::Request if self.is_connect && !has(Pseudo::Protocol) => {
                has(Pseudo::Authority) && !has(Pseudo::Scheme) && !has(Pseudo::Path)
            }
            Kind::Request => {
                let is_tunnel = has(Pseudo::Protocol);
                let has_place = has(Pseudo::Method) && has(Pseudo::Scheme) && has(Pseudo::Path);
                has_place && is_tunnel == self.is_connect && (!is_tunnel || has(Pseudo::Authority))
            }
        };
        if !is_whole && self.defect.is_none() {
            self.defect = Some("the pseudo-fields are not those that have to be there");
        }
    }
}

const OF_A_CONNECTION: &str = "a field concerns a connection, of which HTTP/2 tells otherwise";

const fn bit(pseudo: Pseudo) -> u8 {
    1 << pseudo as u8
}

/// RFC 9113 section 8.2.2, but for what the static table knows.
fn not_of_a_connection(name: &[u8], value: &[u8]) -> Result<(), &'static str> {
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Err(OF_A_CONNECTION)
        }
        b"te" if !value.eq_ignore_ascii_case(b"trailers") => Err(OF_A_CONNECTION),
        _ => Ok(()),
    }
}

/// RFC 3986 section 3.1.
fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// RFC 9110 section 5.6.2.
fn is_token(value: &[u8]) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !value.is_empty() && value.iter().all(is_of_token)
}
