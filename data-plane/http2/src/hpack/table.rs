//! The fields that a connection has seen, as both sides remember them (RFC 7541 section 2.3.2).

use std::collections::VecDeque;

use super::FIELD_OVERHEAD;

/// A field's name, as a block tells it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    Text(&'a [u8]),
    /// That of the entry with this number, the newest of which is 0.
    Entry(usize),
}

/// What of a field is such as it may be. A name is looked at once, however many values it is given by its entry's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Valid {
    Nothing,
    Name,
    Field,
}

/// One field's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Counted from the first byte that was ever in the table; wraps around.
    start: u32,
    name: u32,
    value: u32,
    /// The number of its name among those that everybody knows, if it is there.
    pub(super) known: Option<u8>,
    pub(super) valid: Valid,
}

impl Entry {
    fn size(&self) -> usize {
        self.name as usize + self.value as usize + FIELD_OVERHEAD
    }
}

/// A bounded number of fields, the newest of which push the oldest out.
///
/// Their bytes stand one behind the other in one piece, which only grows at its end; once the bytes of those that are gone outweigh what there may be,
/// the others move to the front. So a field is one slice for each of its parts, and costs no allocation.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    /// The oldest first.
    entries: VecDeque<Entry>,
    /// Bytes that have gone from the front of `bytes`; wraps around.
    gone: u32,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), entries: VecDeque::new(), gone: 0, size: 0, max }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Allows so many bytes from now on.
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink_to(max);
    }

    /// The entry with this number, the newest of which is 0.
    #[inline]
    pub(super) fn entry(&self, number: usize) -> Option<Entry> {
        let place = self.entries.len().checked_sub(number + 1)?;
        self.entries.get(place).copied()
    }

    #[inline]
    pub(super) fn name(&self, entry: Entry) -> &[u8] {
        let start = entry.start.wrapping_sub(self.gone) as usize;
        &self.bytes[start..start + entry.name as usize]
    }

    #[inline]
    pub(super) fn value(&self, entry: Entry) -> &[u8] {
        let start = entry.start.wrapping_sub(self.gone) as usize + entry.name as usize;
        &self.bytes[start..start + entry.value as usize]
    }

    /// Adds a field, or, if it is larger than the table may be, takes all others out (RFC 7541 section 4.4).
    ///
    /// # Panics
    /// When it names an entry that there is none of.
    pub(super) fn insert(&mut self, name: Name<'_>, value: &[u8], known: Option<u8>, valid: Valid) {
        let named = match name {
            Name::Text(_) => None,
            Name::Entry(number) => Some(self.entry(number).expect("whoever names an entry has looked it up")),
        };
        let name_len = match (name, named) {
            (Name::Text(text), _) => text.len(),
            (_, Some(entry)) => entry.name as usize,
            (_, None) => 0,
        };
        let size = name_len + value.len() + FIELD_OVERHEAD;
        if size > self.max {
            return self.shrink_to(0);
        }
        let start = self.bytes.len();
        // Before anything goes: perhaps it is the entry with the name that does.
        match (name, named) {
            (Name::Text(text), _) => self.bytes.extend_from_slice(text),
            (_, Some(entry)) => {
                let named = entry.start.wrapping_sub(self.gone) as usize;
                self.bytes.extend_from_within(named..named + name_len);
            }
            (_, None) => {}
        }
        self.bytes.extend_from_slice(value);
        self.shrink_to(self.max - size);
        let (start, name, value) =
            (self.gone.wrapping_add(start as u32), name_len as u32, value.len() as u32);
        self.entries.push_back(Entry { start, name, value, known, valid });
        self.size += size;
        self.move_to_front();
    }

    /// Takes the oldest out until no more than this is left.
    fn shrink_to(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    fn move_to_front(&mut self) {
        let Some(oldest) = self.entries.front() else { return };
        let before = oldest.start.wrapping_sub(self.gone);
        if before as usize > self.max {
            self.bytes.drain(..before as usize);
            self.gone = oldest.start;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_that_has_to_go_lends_its_name_to_the_one_that_pushes_it_out() {
        let mut table = Table::new(2 * FIELD_OVERHEAD);
        table.insert(Name::Text(b"name"), &[b'1'; 20], None, Valid::Field);
        table.insert(Name::Entry(0), &[b'2'; 25], None, Valid::Field);
        let only = table.entry(0).unwrap();
        assert_eq!((table.len(), table.name(only), table.value(only)), (1, &b"name"[..], &[b'2'; 25][..]));
    }

    proptest! {
        #[test]
        fn the_table_has_what_a_list_of_strings_would_have(
            steps in prop::collection::vec((0..6_usize, 0..120_usize, 0..9_usize), 1..200),
            max in 0..300_usize,
        ) {
            let (mut table, mut max) = (Table::new(max), max);
            // The newest first.
            let mut model: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for (number, (kind, length, of)) in steps.into_iter().enumerate() {
                if kind == 0 {
                    max = length * 3;
                    table.resize(max);
                } else {
                    let text = format!("name{number}");
                    let (name, plain) = match model.get(of) {
                        Some((name, _)) if kind < 3 => (Name::Entry(of), name.clone()),
                        _ => (Name::Text(text.as_bytes()), text.clone().into_bytes()),
                    };
                    let value = vec![number as u8; length];
                    table.insert(name, &value, None, Valid::Field);
                    model.insert(0, (plain, value));
                }
                let size = |model: &[(Vec<u8>, Vec<u8>)]| -> usize {
                    model.iter().map(|(name, value)| name.len() + value.len() + FIELD_OVERHEAD).sum()
                };
                while size(&model) > max {
                    model.pop();
                }
                let has: Vec<_> = (0..table.len())
                    .map(|number| table.entry(number).unwrap())
                    .map(|entry| (table.name(entry).to_vec(), table.value(entry).to_vec()))
                    .collect();
                prop_assert_eq!(&has, &model);
                prop_assert_eq!(table.size, size(&model));
                prop_assert!(table.bytes.len() <= 3 * 300, "{} bytes are held", table.bytes.len());
            }
        }
    }
}
