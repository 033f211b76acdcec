//! Errors as a connection tells them (RFC 9113 section 7).

use std::fmt;

/// Why a stream or a connection ends, as it is told. There may be numbers that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(
    /// The number.
    pub u32,
);

macro_rules! codes {
    ($($number:literal = $name:ident $meaning:literal,)+) => {
        impl ErrorCode {
            $(#[doc = $meaning] pub const $name: Self = Self($number);)+

            /// Its name in RFC 9113, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    0 = NO_ERROR "Nothing is wrong.",
    1 = PROTOCOL_ERROR "A rule was broken of which no other code says more.",
    2 = INTERNAL_ERROR "Something went wrong within.",
    3 = FLOW_CONTROL_ERROR "More was sent than a window had room for.",
    4 = SETTINGS_TIMEOUT "Settings were not acknowledged in time.",
    5 = STREAM_CLOSED "A frame came for a stream that had ended.",
    6 = FRAME_SIZE_ERROR "A frame has a length that it may not have.",
    7 = REFUSED_STREAM "The stream was not looked at.",
    8 = CANCEL "The stream is not needed any more.",
    9 = COMPRESSION_ERROR "A header block cannot be read.",
    10 = CONNECT_ERROR "The connection behind a CONNECT has broken.",
    11 = ENHANCE_YOUR_CALM "The other side does too much of something.",
    12 = INADEQUATE_SECURITY "The connection is not as safe as it has to be.",
    13 = HTTP_1_1_REQUIRED "HTTP/1.1 is to be used instead.",
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// A rule that the other side has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// What it is to be told.
    pub code: ErrorCode,
    /// Whose affair it is, where it is not the connection's.
    pub stream: Option<u32>,
    /// The rule, in words.
    pub why: &'static str,
}

impl Violation {
    /// Of a rule that no other code says more of.
    pub const fn protocol(stream: Option<u32>, why: &'static str) -> Self {
        Self { code: ErrorCode::PROTOCOL_ERROR, stream, why }
    }

    pub(super) const fn size(stream: Option<u32>, why: &'static str) -> Self {
        Self { code: ErrorCode::FRAME_SIZE_ERROR, stream, why }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.code)
    }
}

impl std::error::Error for Violation {}
