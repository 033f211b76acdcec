//! Writes heads.

use super::{
    DEFAULT_TABLE, FIELD_OVERHEAD, huffman, integer, known,
    table::{Name, Table, Valid},
};

/// How a field is to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// In the table, once it is sent for the second time: what is told once, as most of what names a moment or a request, pushes nothing out. Only what
    /// enters the table is compressed, which is paid for once.
    Index,
    /// Not at all, and it costs no look either.
    Once,
    /// By nobody who passes it on, so that it cannot be found out by trying (RFC 7541 section 7.1.3).
    Never,
}

/// A cookie with less is guessed before it is used again.
const SHORT_COOKIE: usize = 20;

/// Of twice as many as a table may have entries, of which the usual ones are larger than they need to be.
const SLOTS: usize = 128;

/// What one direction of a connection has been told so far.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// How many entries there have been; wraps around.
    entered: u16,
    /// There once something is to be remembered.
    places: Option<Box<Places>>,
    /// The smallest that the table has been made since its size was told, if it has changed.
    untold: Option<usize>,
}

/// Where to look for a field, by what its bytes come to. Of several that come to the same, the last one is found: that costs some bytes on the wire, and nothing
/// else, as whatever is found is compared.
#[derive(Debug)]
struct Places {
    /// The number of the entry, counted as [`Encoder::entered`] does.
    by_field: [u16; SLOTS],
    by_name: [u16; SLOTS],
    /// What was sent before without being entered.
    seen: [u16; SLOTS],
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// One that has told nothing yet.
    pub fn new() -> Self {
        Self { table: Table::new(DEFAULT_TABLE), entered: 0, places: None, untold: None }
    }

    /// The other side lets a table of so many bytes be used, of which no more than [`DEFAULT_TABLE`] are.
    pub fn set_max_table(&mut self, size: u32) {
        let size = DEFAULT_TABLE.min(size as usize);
        if size != self.table.max() {
            self.untold = Some(self.untold.unwrap_or(self.table.max()).min(size));
            self.table.resize(size);
        }
    }

    /// Begins a block: to be called before its first field.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.untold.take() {
            // What went when it was small is gone on the other side, too (RFC 7541 section 4.2).
            if smallest < self.table.max() {
                integer::write(0x20, 5, smallest, out);
            }
            integer::write(0x20, 5, self.table.max(), out);
        }
    }

    /// Writes a field. Its name has to be in lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], keep: Keep, out: &mut Vec<u8>) {
        match known::of(name) {
            Some(known) => self.field_known(known, value, keep, out),
            None if keep == Keep::Index || self.table.len() > 0 => {
                let sum = sum(0, name);
                self.write(None, name, sum, value, keep, out);
            }
            None => write_literal(keep, 0, name, value, out),
        }
    }

    /// Writes a field whose name is the one with this number ([`known`]), the first one where there are more. Credentials are never kept: many
    /// share a connection, and who sees how long a head is could try theirs (RFC 7541 section 7.1).
    ///
    /// # Panics
    /// When there is no such number.
    #[inline]
    pub fn field_known(&mut self, known: u8, value: &[u8], keep: Keep, out: &mut Vec<u8>) {
        if keep != Keep::Never
            && let Some(index) = known::with_value(known, value)
        {
            return integer::write(0x80, 7, usize::from(index), out);
        }
        match keep {
            Keep::Index if is_credential(known, value) => {
                write_literal(Keep::Never, usize::from(known), b"", value, out);
            }
            Keep::Index => {
                let name = known::FIELDS[usize::from(known) - 1].0.as_bytes();
                self.write(Some(known), name, u64::from(known), value, keep, out);
            }
            Keep::Once | Keep::Never => write_literal(keep, usize::from(known), b"", value, out),
        }
    }

    #[cfg(test)]
    pub(super) fn table_len(&self) -> usize {
        self.table.len()
    }

    /// Writes a field that perhaps is in the table, or its name is, and that perhaps enters it.
    fn write(
        &mut self,
        known: Option<u8>,
        name: &[u8],
        name_sum: u64,
        value: &[u8],
        keep: Keep,
        out: &mut Vec<u8>,
    ) {
        let places = self.places.get_or_insert_with(|| {
            Box::new(Places { by_field: [0; SLOTS], by_name: [0; SLOTS], seen: [0; SLOTS] })
        });
        let (table, entered) = (&self.table, self.entered);
        // The newest entry has the number 0; what has gone, or was never there, has one that there is no entry of.
        let number = |place: u16| usize::from(entered.wrapping_sub(place).wrapping_sub(1));
        let name_slot = slot(name_sum);
        let name_index = match known {
            Some(known) => usize::from(known),
            None => {
                let number = number(places.by_name[name_slot]);
                let found = table.entry(number).is_some_and(|entry| table.name(entry) == name);
                if found { known::COUNT + 1 + number } else { 0 }
            }
        };
        if keep != Keep::Index {
            return write_literal(keep, name_index, name, value, out);
        }
        let sum = sum(name_sum, value);
        let (slot, mark) = (slot(sum), (sum >> 32) as u16);
        let found = number(places.by_field[slot]);
        let is_same = |entry| table.value(entry) == value && table.name(entry) == name;
        if table.entry(found).is_some_and(is_same) {
            return integer::write(0x80, 7, known::COUNT + 1 + found, out);
        }
        // What would take more than half of the table would come in place of too much.
        let fits = 2 * (name.len() + value.len() + FIELD_OVERHEAD) <= table.max();
        if !fits || std::mem::replace(&mut places.seen[slot], mark) != mark {
            return write_literal(Keep::Once, name_index, name, value, out);
        }
        integer::write(0x40, 6, name_index, out);
        if name_index == 0 {
            write_packed(name, out);
        }
        write_packed(value, out);
        places.by_field[slot] = entered;
        if known.is_none() {
            places.by_name[name_slot] = entered;
        }
        self.table.insert(Name::Text(name), value, known, Valid::Field);
        self.entered = entered.wrapping_add(1);
    }
}

/// Whether this says who somebody is, and can be guessed.
fn is_credential(known: u8, value: &[u8]) -> bool {
    match known {
        known::AUTHORIZATION | known::PROXY_AUTHORIZATION => true,
        known::COOKIE | known::SET_COOKIE => value.len() < SHORT_COOKIE,
        _ => false,
    }
}

/// Writes a field that does not enter the table.
fn write_literal(keep: Keep, name_index: usize, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    integer::write(if keep == Keep::Never { 0x10 } else { 0 }, 4, name_index, out);
    if name_index == 0 {
        write_plain(name, out);
    }
    write_plain(value, out);
}

fn write_plain(text: &[u8], out: &mut Vec<u8>) {
    integer::write(0, 7, text.len(), out);
    out.extend_from_slice(text);
}

/// Writes text compressed, where that makes it shorter.
fn write_packed(text: &[u8], out: &mut Vec<u8>) {
    let packed = huffman::encoded_len(text);
    if packed >= text.len() {
        return write_plain(text, out);
    }
    integer::write(0x80, 7, packed, out);
    huffman::encode(text, out);
}

/// What bytes come to, behind others that came to `before`. Nothing depends on it but how much is found.
#[inline]
fn sum(before: u64, bytes: &[u8]) -> u64 {
    /// A number without a pattern: that of the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let add = |sum: u64, word: u64| (sum.rotate_left(29) ^ word).wrapping_mul(FACTOR);
    let (words, end) = bytes.as_chunks::<8>();
    let sum =
        words.iter().fold(add(before, bytes.len() as u64), |sum, word| add(sum, u64::from_le_bytes(*word)));
    add(sum, end.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)))
}

#[inline]
fn slot(sum: u64) -> usize {
    // The highest bits depend on all others.
    (sum >> (u64::BITS - SLOTS.ilog2())) as usize
}
