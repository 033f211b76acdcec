//! How much one message may ask of this gateway's memory and time, in one place.

/// Most bytes of a head, from its first line to the empty one.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Most bytes of a request's target. RFC 9112 section 3 asks for 8000 at least.
pub(super) const MAX_TARGET: usize = 16 * 1024;
/// Most bytes of the line that has the target.
pub(super) const MAX_START_LINE: usize = MAX_TARGET + 128;
/// Most bytes of a method. The longest registered one has 17.
pub(super) const MAX_METHOD: usize = 32;
/// Most fields of a head.
pub(super) const MAX_FIELDS: usize = 256;
/// Most bytes of a line with a chunk's size and extensions.
pub(super) const MAX_CHUNK_LINE: usize = 1024;
/// Most bytes that the extensions of all chunks of a body may have: they are dropped, and still have to be read.
pub(super) const MAX_EXTENSIONS: usize = 16 * 1024;
/// Most bytes of a trailer section.
pub(super) const MAX_TRAILERS: usize = 8 * 1024;
/// Most fields of a trailer section.
pub(super) const MAX_TRAILER_FIELDS: usize = 64;
