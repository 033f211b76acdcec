//! Reads heads.

use std::ops::Range;

use super::{
    DEFAULT_TABLE, Error, FIELD_OVERHEAD, huffman, integer, known,
    table::{Name, Table, Valid},
};

/// One field of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// As it came.
    pub name: &'a [u8],
    /// As it came.
    pub value: &'a [u8],
    /// The number of its name among those that everybody knows ([`known`]), in whatever way it was written.
    pub known: Option<u8>,
    /// Whether the name is one of HTTP/2, in lower case, perhaps with a colon in front, and the value has no control bytes but tabs. Looked at once for
    /// all fields that are the same entry of a table.
    pub is_valid: bool,
    /// Whether its writer wants it to be written out by everybody, for nobody to find out by trying (RFC 7541 section 7.1.3).
    pub is_sensitive: bool,
}

/// How much of a list is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListLimits {
    /// As RFC 9113 counts it: 32 for each field beside its bytes.
    pub bytes: usize,
    /// Number of fields.
    pub fields: usize,
}

/// How large a list is, whatever was handed out of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListSize {
    /// As RFC 9113 counts it: 32 for each field beside its bytes.
    pub bytes: usize,
    /// Number of fields.
    pub fields: usize,
    /// Whether that is beyond a limit, so that what was handed out is only its beginning.
    pub is_over: bool,
}

impl ListSize {
    /// Counts one more. Whether it is within the limits.
    #[inline]
    fn take(&mut self, name: &[u8], value: &[u8], limits: ListLimits) -> bool {
        self.bytes = self.bytes.saturating_add(name.len() + value.len() + FIELD_OVERHEAD);
        self.fields += 1;
        self.is_over |= self.bytes > limits.bytes || self.fields > limits.fields;
        !self.is_over
    }
}

/// As much room is kept for the next field that is compressed. A connection that has sent one large head does not hold that for ever.
const MAX_SCRATCH: usize = 4096;

/// What one direction of a connection has told so far.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The largest table that the other side may have us keep.
    max_table: usize,
    /// The largest list that is read to its end.
    max_list: usize,
    /// What was compressed, for as long as its field is looked at.
    scratch: Vec<u8>,
}

/// Text of a block: as it stands there, or a part of the scratch.
#[derive(Debug, Clone)]
enum Text<'a> {
    Raw(&'a [u8]),
    Unpacked(Range<usize>),
}

impl<'a> Text<'a> {
    fn of<'b>(&self, scratch: &'b [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Self::Raw(text) => text,
            Self::Unpacked(range) => &scratch[range.clone()],
        }
    }
}

impl Decoder {
    /// One that lets the other side use a table of so many bytes, if the settings have said so. With less than [`DEFAULT_TABLE`] no connection begins.
    /// A list of more than `max_list` bytes, counted as [`ListSize::bytes`], is an error: a block of a few kilobytes can mean one of many megabytes.
    pub fn new(max_table: usize, max_list: usize) -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE),
            max_table: max_table.max(DEFAULT_TABLE),
            max_list,
            scratch: Vec::new(),
        }
    }

    /// Reads one whole block, and gives its fields to `sink` in their order for as long as they are within the limits.
    ///
    /// # Errors
    /// When it breaks a rule: the connection has to end, since nobody knows what the table of the other side is now.
    pub fn decode(
        &mut self,
        block: &[u8],
        limits: ListLimits,
        sink: &mut impl FnMut(Field<'_>),
    ) -> Result<ListSize, Error> {
        let mut list = ListSize::default();
        let mut rest = block;
        while let Some((&first, behind)) = rest.split_first() {
            rest = behind;
            match first {
                0x80.. => self.indexed(integer::read(first, 7, &mut rest)?, limits, &mut list, sink)?,
                0x40.. => self.literal(first, 6, &mut rest, limits, &mut list, sink)?,
                0x20.. => {
                    let size = integer::read(first, 5, &mut rest)?;
                    if list.fields > 0 {
                        return Err(Error::LateResize);
                    }
                    if size > self.max_table {
                        return Err(Error::LargeTable);
                    }
                    self.table.resize(size);
                }
                _ => self.literal(first, 4, &mut rest, limits, &mut list, sink)?,
            }
            if list.bytes > self.max_list {
                return Err(Error::LargeList);
            }
        }
        if self.scratch.capacity() > MAX_SCRATCH {
            self.scratch = Vec::new();
        }
        Ok(list)
    }

    #[cfg(test)]
    pub(super) fn scratch(&self) -> usize {
        self.scratch.capacity()
    }

    #[cfg(test)]
    pub(super) fn table_len(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }

    #[inline]
    fn indexed(
        &mut self,
        index: usize,
        limits: ListLimits,
        list: &mut ListSize,
        sink: &mut impl FnMut(Field<'_>),
    ) -> Result<(), Error> {
        let field = match index {
            0 => return Err(Error::Index),
            1..=known::COUNT => {
                let (name, value) = known::FIELDS[index - 1];
                let known = Some(known::first_of(index as u8));
                let (name, value) = (name.as_bytes(), value.as_bytes());
                Field { name, value, known, is_valid: true, is_sensitive: false }
            }
            _ => {
                let entry = self.table.entry(index - known::COUNT - 1).ok_or(Error::Index)?;
                let (name, value) = (self.table.name(entry), self.table.value(entry));
                let is_valid = entry.valid == Valid::Field;
                Field { name, value, known: entry.known, is_valid, is_sensitive: false }
            }
        };
        if list.take(field.name, field.value, limits) {
            sink(field);
        }
        Ok(())
    }

    /// A field that is written out, at least its value, behind an octet of which the lowest `bits` name the entry with its name.
    fn literal(
        &mut self,
        first: u8,
        bits: u32,
        rest: &mut &[u8],
        limits: ListLimits,
        list: &mut ListSize,
        sink: &mut impl FnMut(Field<'_>),
    ) -> Result<(), Error> {
        let index = integer::read(first, bits, rest)?;
        self.scratch.clear();
        let new_name = if index == 0 { Some(self.text(rest)?) } else { None };
        let value = self.text(rest)?;
        let (scratch, table) = (&self.scratch, &self.table);
        let value = value.of(scratch);
        let (place, name, known, has_valid_name) = match (&new_name, index) {
            (Some(name), _) => {
                let name = name.of(scratch);
                let known = known::of(name);
                (Name::Text(name), name, known, known.is_some() || is_name(name))
            }
            (None, 1..=known::COUNT) => {
                let name = known::FIELDS[index - 1].0.as_bytes();
                (Name::Text(name), name, Some(known::first_of(index as u8)), true)
            }
            (None, _) => {
                let number = index - known::COUNT - 1;
                let entry = table.entry(number).ok_or(Error::Index)?;
                let name = table.name(entry);
                (Name::Entry(number), name, entry.known, entry.valid != Valid::Nothing)
            }
        };
        let valid = match has_valid_name {
            true if is_value(value) => Valid::Field,
            true => Valid::Name,
            false => Valid::Nothing,
        };
        if list.take(name, value, limits) {
            let is_valid = valid == Valid::Field;
            sink(Field { name, value, known, is_valid, is_sensitive: first & 0xf0 == 0x10 });
        }
        if bits == 6 {
            self.table.insert(place, value, known, valid);
        }
        Ok(())
    }

    /// A string of the block (RFC 7541 section 5.2).
    #[inline]
    fn text<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Text<'a>, Error> {
        let (&first, behind) = rest.split_first().ok_or(Error::Truncated)?;
        *rest = behind;
        let length = integer::read(first, 7, rest)?;
        let (text, behind) = rest.split_at_checked(length).ok_or(Error::Truncated)?;
        *rest = behind;
        if first & 0x80 == 0 {
            return Ok(Text::Raw(text));
        }
        let start = self.scratch.len();
        huffman::decode(text, &mut self.scratch)?;
        Ok(Text::Unpacked(start..self.scratch.len()))
    }
}

/// Bytes of names, which HTTP/2 has in lower case (RFC 9113 section 8.2.1).
static NAME_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        let is_sign = matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        bytes[byte as usize] = is_sign || byte.is_ascii_lowercase() || byte.is_ascii_digit();
        byte += 1;
    }
    bytes
};

fn is_name(name: &[u8]) -> bool {
    let name = name.strip_prefix(b":").unwrap_or(name);
    !name.is_empty() && name.iter().all(|&byte| NAME_BYTES[usize::from(byte)])
}

fn is_value(value: &[u8]) -> bool {
    // Looked at to the end, so that many can be at once.
    !value.iter().fold(false, |found, &byte| found | (byte < 0x20 && byte != b'\t') | (byte == 0x7f))
}
