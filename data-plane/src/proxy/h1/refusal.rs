//! Why bytes are not taken for a message.

use std::fmt;

/// Why a head is refused. Of a client's request it decides the answer; a replica's response is malformed in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Refusal {
    /// It is not HTTP/1, or could be read in more than one way: 400.
    Malformed(Defect),
    /// The head is too long or has too many fields: 431.
    HeadTooLarge,
    /// 414.
    TargetTooLong,
    /// The body is in a coding that nobody here knows: 501.
    UnknownCoding,
    /// 505.
    UnknownVersion,
    /// Its first line looks like one of HTTP/1 by its spaces only: 400, unless it could as well be meant for HTTP/2.
    OtherProtocol,
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Defect {
    BareLineFeed,
    StartLine,
    Method,
    Target,
    Version,
    Status,
    FieldName,
    SpaceBeforeColon,
    FoldedLine,
    FieldValue,
    NoHost,
    SeveralHosts,
    InvalidHost,
    ContentLength,
    SeveralContentLengths,
    TransferEncoding,
    LengthAndCoding,
    CodingWithoutBody,
    OldVersionWithCoding,
    UnaskedProtocol,
    SwitchWithoutUpgrade,
    SwitchWithBody,
}

impl Defect {
    /// One sentence for whoever sent it.
    pub(in crate::proxy) const fn text(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line of the head ends without a carriage return",
            Self::StartLine => "the first line is not one of HTTP/1",
            Self::Method => "the method is not a token, or longer than 32 bytes",
            Self::Target => "the target is not valid",
            Self::Version => "the version is not one of HTTP",
            Self::Status => "the status is not valid",
            Self::FieldName => "a header field's name is not a token",
            Self::SpaceBeforeColon => "there is white space between a header field's name and its colon",
            Self::FoldedLine => "a header field goes on in a second line",
            Self::FieldValue => "a header field's value has control characters",
            Self::NoHost => "the request has no Host field",
            Self::SeveralHosts => "the request has more than one Host field",
            Self::InvalidHost => "the request's host is not valid",
            Self::ContentLength => "Content-Length is not a number, or too large",
            Self::SeveralContentLengths => "there is more than one Content-Length",
            Self::TransferEncoding => "Transfer-Encoding does not end in a single chunked",
            Self::LengthAndCoding => "there are both Content-Length and Transfer-Encoding",
            Self::CodingWithoutBody => "there is a Transfer-Encoding where no body can be",
            Self::OldVersionWithCoding => "there is a Transfer-Encoding in HTTP/1.0",
            Self::UnaskedProtocol => "the protocol was switched to one that was not asked for",
            Self::SwitchWithoutUpgrade => "101 does not name one protocol in Upgrade, and that in Connection",
            Self::SwitchWithBody => "101 has a Content-Length, as if a body could follow",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(defect) => defect.text(),
            Self::HeadTooLarge => "the head is too large",
            Self::TargetTooLong => "the target is too long",
            Self::UnknownCoding => "the body is in an unknown transfer coding",
            Self::UnknownVersion => "the version of HTTP is not one that is spoken here",
            Self::OtherProtocol => "neither the target nor the version is one of HTTP",
        })
    }
}

impl From<Defect> for Refusal {
    fn from(defect: Defect) -> Self {
        Self::Malformed(defect)
    }
}
