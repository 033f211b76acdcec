//! Header compression (RFC 7541).
//!
//! A head is a list of fields, each a reference to a table that both sides keep in step, or the text itself. Whoever reads has to read all of a
//! block, also of one that is refused: the next one builds on it. So the limits of a list ([`ListLimits`]) end what is handed out, and not the reading.

mod decoder;
mod encoder;
mod huffman;
mod integer;
pub mod known;
mod table;

use std::fmt;

pub use decoder::{Decoder, Field, ListLimits, ListSize};
pub use encoder::{Encoder, Keep};

/// With which table every connection begins, and the largest that is written from (RFC 9113 section 6.5.2).
pub const DEFAULT_TABLE: usize = 4096;

/// What a field is counted with beside its bytes, in a table (RFC 7541 section 4.1) as in a list (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Why a block cannot be read. Nothing that comes behind it can be, either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// It ends in the middle of a field.
    Truncated,
    /// A number is larger than any that is of use.
    Integer,
    /// There is no entry of such a number.
    Index,
    /// What is compressed is no text, or does not end as it has to.
    Huffman,
    /// The table's size changes behind a field.
    LateResize,
    /// The table is made larger than was allowed.
    LargeTable,
    /// The list is far larger than anybody wants to read.
    LargeList,
}

impl Error {
    /// In words, for whoever wrote the block.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Truncated => "a header block ends in the middle of a field",
            Self::Integer => "a number in a header block is too large",
            Self::Index => "a header block refers to an entry that its table does not have",
            Self::Huffman => "a header block has text that is not compressed as RFC 7541 has it",
            Self::LateResize => "a header block changes its table's size behind a field",
            Self::LargeTable => "a header block makes its table larger than the settings allow",
            Self::LargeList => "a head is far too large",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
