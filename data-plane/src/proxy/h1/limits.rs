//! How much room one message may ask for, in one place.

/// How large a head may be, of a request as of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes, from its first line to the empty one.
    pub bytes: usize,
    /// Most fields.
    pub fields: usize,
    /// Most bytes of a request's target. RFC 9112 section 3 asks for 8000 at least.
    pub target: usize,
}

impl HeadLimits {
    /// Most bytes of the line that has the target.
    pub(super) fn start_line(&self) -> usize {
        self.target + 128
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes: 64 * 1024, fields: 256, target: 16 * 1024 }
    }
}

/// Most bytes of a method. The longest registered one has 17.
pub(in crate::proxy) const MAX_METHOD: usize = 32;
/// Most interim responses (1xx) that a replica may send in front of one response, in any version of HTTP.
pub(in crate::proxy) const MAX_INTERIM: usize = 32;
/// Most bytes of a line with a chunk's size and extensions.
pub(super) const MAX_CHUNK_LINE: usize = 1024;
/// Most bytes that the extensions of all chunks of a body may have: they are dropped, and still have to be read.
pub(super) const MAX_EXTENSIONS: usize = 16 * 1024;
/// Most bytes of a trailer section.
pub(super) const MAX_TRAILERS: usize = 8 * 1024;
/// Most fields of a trailer section.
pub(super) const MAX_TRAILER_FIELDS: usize = 64;
