//! Header fields as lines of one block of bytes, in the order in which they came.
//!
//! What passes through is neither parsed into strings nor written anew: a removed line is only left out of the list, an
//! appended one is written behind the block, and what stands together in the block is copied together. Trusts nobody to
//! have checked an appended value: no line break gets in here.

mod ready;
mod recycled;

use std::ops::Range;

use gateway_proto::token::is_token_byte;
use http::{HeaderName, HeaderValue};

use super::field_name::{Name, Names};
use crate::header_fields::{HeaderFields, Said};
pub(in crate::proxy) use ready::ReadyLine;
pub(in crate::proxy) use recycled::Fields;

/// Room for what the gateway appends to a head.
const ROOM: usize = 512;
/// As many fields as most heads have.
const LINES: usize = 24;

/// A part of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Of less than 4 GiB, as every head is.
    pub(in crate::proxy) fn new(range: Range<usize>) -> Self {
        Self { start: offset(range.start), end: offset(range.end) }
    }

    pub(in crate::proxy) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

fn offset(offset: usize) -> u32 {
    u32::try_from(offset).expect("heads are limited to far less than 4 GiB")
}

/// One field's place in the block.
#[derive(Debug, Clone, Copy)]
struct Line {
    known: Option<Name>,
    /// Whether its writer wants it to be kept by nobody who passes it on (RFC 7541 section 6.2.3).
    is_sensitive: bool,
    name: Span,
    value: Span,
    /// Behind the line break.
    end: u32,
}

impl Line {
    /// One that ends at `end`, as its name and value do at the latest.
    #[inline]
    fn new(known: Option<Name>, name: Range<usize>, value: Range<usize>, end: usize) -> Self {
        debug_assert!(name.start <= name.end && name.end <= value.start, "the name is in front");
        debug_assert!(value.start <= value.end && value.end <= end, "the end is behind");
        let end = offset(end);
        // What lies before it is less.
        let span = |range: Range<usize>| Span { start: range.start as u32, end: range.end as u32 };
        Self { known, is_sensitive: false, name: span(name), value: span(value), end }
    }
}

/// Fields, and the bytes that they and the start of their head are parts of. What owns one is [`Fields`].
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct Section {
    block: Vec<u8>,
    lines: Vec<Line>,
    present: Names,
    /// Whether a name that came from outside begins with an x, as all do that only the gateway may say.
    has_x: bool,
}

impl Section {
    /// Makes it one of no fields yet, in a block that begins with `head`.
    fn begin(&mut self, head: &[u8]) {
        self.lay_over(head);
        self.expect_lines();
    }

    /// Makes room for as many fields as most heads have.
    pub(in crate::proxy) fn expect_lines(&mut self) {
        self.lines.reserve(LINES);
    }

    /// Has an empty block begin with `head`, of which fields may have been [taken](Section::take_line) before.
    pub(in crate::proxy) fn lay_over(&mut self, head: &[u8]) {
        debug_assert!(self.block.is_empty(), "what is there has its place");
        self.block.reserve(head.len() + ROOM);
        self.block.extend_from_slice(head);
    }

    /// Takes all away but the room for more.
    fn clear(&mut self) {
        self.block.clear();
        self.lines.clear();
        self.present = Names::default();
        self.has_x = false;
    }

    /// Takes a line of `head`, which the block begins with or [will](Section::lay_over), for a field. It ends with its line break at
    /// `end`.
    pub(in crate::proxy) fn take_line(
        &mut self,
        head: &[u8],
        name: Range<usize>,
        value: Range<usize>,
        end: usize,
    ) {
        let text = &head[name.clone()];
        self.note_x(text);
        self.push(Line::new(Name::of(text), name, value, end));
    }

    fn note_x(&mut self, name: &[u8]) {
        self.has_x |= matches!(name, [b'x' | b'X', ..]);
    }

    /// Whether a name that came from outside begins with an x.
    pub(in crate::proxy) fn has_x(&self) -> bool {
        self.has_x
    }

    /// Appends a field that the gateway knows.
    ///
    /// # Panics
    /// When the value has bytes that no field value may have.
    pub(in crate::proxy) fn append(&mut self, name: Name, value: &[u8]) {
        self.append_line(Some(name), name.as_str().as_bytes(), value);
    }

    /// As [`Fields::append`], with a part of the block for the value.
    pub(in crate::proxy) fn append_copy(&mut self, name: Name, value: Span) {
        let start = self.block.len();
        self.block.extend_from_slice(name.as_str().as_bytes());
        self.block.extend_from_slice(b": ");
        let value_start = self.block.len();
        self.block.extend_from_within(value.range());
        self.finish_line(Some(name), start, name.as_str().len(), value_start);
    }

    /// Appends a field of any name.
    ///
    /// # Panics
    /// When name or value have bytes that they may not have.
    pub(in crate::proxy) fn append_other(&mut self, name: &[u8], value: &[u8]) {
        assert!(!name.is_empty() && name.iter().all(|&byte| is_token_byte(byte)), "a field name is a token");
        self.append_line(Name::of(name), name, value);
    }

    /// As [`Fields::append_other`], of a name that is known to be one.
    pub(in crate::proxy) fn append_named(&mut self, name: &HeaderName, value: &HeaderValue) {
        let text = name.as_str().as_bytes();
        self.append_decoded(Name::of(text), text, value.as_bytes(), value.is_sensitive());
    }

    /// As [`Fields::append_other`], of a name that is known to be one, and of what that means to the gateway. Its writer may want it to
    /// be kept by nobody.
    pub(in crate::proxy) fn append_decoded(
        &mut self,
        known: Option<Name>,
        name: &[u8],
        value: &[u8],
        is_sensitive: bool,
    ) {
        self.append_line(known, name, value);
        if let Some(line) = self.lines.last_mut() {
            line.is_sensitive = is_sensitive;
        }
    }

    fn append_line(&mut self, known: Option<Name>, name: &[u8], value: &[u8]) {
        self.note_x(name);
        let start = self.block.len();
        self.block.reserve(name.len() + value.len() + 4);
        self.block.extend_from_slice(name);
        self.block.extend_from_slice(b": ");
        let value_start = self.block.len();
        self.block.extend_from_slice(value);
        self.finish_line(known, start, name.len(), value_start);
    }

    #[inline]
    fn finish_line(&mut self, known: Option<Name>, start: usize, name_len: usize, value_start: usize) {
        let value = value_start..self.block.len();
        // The last gate before the wire: nothing that came in another way may forge a line.
        assert!(is_value(&self.block[value.clone()]), "a field value has no control bytes");
        self.block.extend_from_slice(b"\r\n");
        self.push(Line::new(known, start..start + name_len, value, self.block.len()));
    }

    #[inline]
    fn push(&mut self, line: Line) {
        if let Some(name) = line.known {
            self.present.insert(name);
        }
        self.lines.push(line);
    }

    /// Takes fields of this name away and puts one in their place.
    pub(in crate::proxy) fn set(&mut self, name: Name, value: &[u8]) {
        self.remove(Names::of(&[name]));
        self.append(name, value);
    }

    /// Takes away all fields of these names.
    pub(in crate::proxy) fn remove(&mut self, names: Names) {
        if self.present.intersects(names) {
            self.lines.retain(|line| !line.known.is_some_and(|name| names.contains(name)));
            self.present.remove_all(names);
        }
    }

    /// Takes away all fields that `keep` does not hold for.
    pub(in crate::proxy) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        let block = &self.block;
        self.lines.retain(|line| keep(&block[line.name.range()]));
        self.present = Names::default();
        for name in self.lines.iter().filter_map(|line| line.known) {
            self.present.insert(name);
        }
    }

    pub(in crate::proxy) fn contains(&self, name: Name) -> bool {
        self.present.contains(name)
    }

    pub(in crate::proxy) fn contains_any(&self, names: Names) -> bool {
        self.present.intersects(names)
    }

    /// Whether a field of this name is to be kept by nobody who passes it on.
    pub(in crate::proxy) fn is_sensitive(&self, name: Name) -> bool {
        self.lines_of(name).any(|line| line.is_sensitive)
    }

    /// The value of the first field of this name.
    pub(in crate::proxy) fn get(&self, name: Name) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// As [`Fields::get`], where it lies.
    pub(in crate::proxy) fn span(&self, name: Name) -> Option<Span> {
        self.lines_of(name).map(|line| line.value).next()
    }

    /// The values of all fields of this name, in their order.
    pub(in crate::proxy) fn get_all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.lines_of(name).map(|line| self.text(line.value))
    }

    /// The values of all fields of a name that need not be one of [`Name`]'s, in any case.
    pub(in crate::proxy) fn get_all_named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(named, _)| named.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    fn lines_of(&self, name: Name) -> impl DoubleEndedIterator<Item = &Line> {
        let lines = if self.contains(name) { &self.lines[..] } else { &[] };
        lines.iter().filter(move |line| line.known == Some(name))
    }

    /// The elements of the lists that fields of this name are, without the spaces around them; no empty ones.
    pub(in crate::proxy) fn list(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let elements = self.get_all(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// As [`Fields::list`], the last one first.
    pub(in crate::proxy) fn list_from_the_end(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let values = self.lines_of(name).rev().map(|line| self.text(line.value));
        let elements = values.flat_map(|value| value.rsplit(|&byte| byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// Names and values, in their order.
    pub(in crate::proxy) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.text(line.name), self.text(line.value)))
    }

    /// As [`Fields::iter`], where they lie, with what each name means to the gateway, if anything, and whether nobody is to keep it.
    pub(in crate::proxy) fn spans(&self) -> impl Iterator<Item = (Option<Name>, Span, Span, bool)> {
        self.lines.iter().map(|line| (line.known, line.name, line.value, line.is_sensitive))
    }

    /// The bytes that all of it is parts of.
    pub(in crate::proxy) fn block(&self) -> &[u8] {
        &self.block
    }

    /// How many there are.
    pub(in crate::proxy) fn count(&self) -> usize {
        self.lines.len()
    }

    /// How many bytes they take.
    pub(in crate::proxy) fn size(&self) -> usize {
        self.block.capacity() + self.lines.capacity() * size_of::<Line>()
    }

    /// A part of the block.
    pub(in crate::proxy) fn text(&self, span: Span) -> &[u8] {
        &self.block[span.range()]
    }

    /// Keeps a text that is no field in the block.
    pub(in crate::proxy) fn store(&mut self, text: &[u8]) -> Span {
        let start = self.block.len();
        self.block.extend_from_slice(text);
        Span::new(start..self.block.len())
    }

    /// As [`Fields::store`], of `prefix` and a part of the block.
    pub(in crate::proxy) fn store_copy(&mut self, prefix: &[u8], rest: Span) -> Span {
        let start = self.block.len();
        self.block.extend_from_slice(prefix);
        self.block.extend_from_within(rest.range());
        Span::new(start..self.block.len())
    }

    /// Writes all lines, each with its line break, as they came.
    pub(in crate::proxy) fn write_to(&self, out: &mut Vec<u8>) {
        let mut run = 0..0;
        for line in &self.lines {
            let (start, end) = (line.name.range().start, line.end as usize);
            if start != run.end {
                out.extend_from_slice(&self.block[run]);
                run = start..end;
            }
            run.end = end;
        }
        out.extend_from_slice(&self.block[run]);
    }
}

impl HeaderFields for Fields {
    fn said(&self, name: &str) -> Said<'_> {
        Said::of(self.get_all_named(name))
    }
}

/// Whether a field may have this value: no control bytes but the tab (RFC 9110 section 5.5).
#[inline]
pub(in crate::proxy) fn is_value(value: &[u8]) -> bool {
    value_length(value) == value.len()
}

/// How many bytes at the beginning may be of one value.
///
/// Eight are looked at together: values are short, so there is nothing to win with more, and much with less than one look at
/// each byte.
#[inline]
pub(in crate::proxy) fn value_length(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        if let Some(found) = first_control(*word) {
            return 8 * place + found;
        }
    }
    match bytes.last_chunk() {
        _ if rest.is_empty() => bytes.len(),
        // Some of it was looked at already, and found to be of a value.
        Some(last) => first_control(*last).map_or(bytes.len(), |found| bytes.len() - 8 + found),
        None => rest.iter().position(|&byte| is_control(byte)).unwrap_or(rest.len()),
    }
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Where the first of these is that is a control byte and no tab.
#[inline(always)]
fn first_control(bytes: [u8; 8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(bytes);
    let delete = word ^ (0x7f * ONES);
    // The high bit of a byte is set where it was less than what is taken from it, and perhaps where one below it borrowed:
    // the lowest one that is set is true (Bit Twiddling Hacks, "Determine if a word has a byte less than n").
    let below = word.wrapping_sub(0x20 * ONES) & !word;
    let deleted = delete.wrapping_sub(ONES) & !delete;
    let found = (below | deleted) & (0x80 * ONES);
    if found == 0 { None } else { first_marked(bytes, found) }
}

/// As [`first_control`], of which there is one, or a tab, where the lowest bit is set.
#[cold]
fn first_marked(bytes: [u8; 8], found: u64) -> Option<usize> {
    let first = found.trailing_zeros() as usize / 8;
    if bytes[first] != b'\t' {
        return Some(first);
    }
    // A tab is rare enough to be looked past one byte at a time.
    bytes.iter().position(|&byte| is_control(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::over(b"GET / HTTP/1.1\r\n");
        for (name, value) in lines {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_left_is_written_in_its_order() {
        let mut fields = fields(&[("Host", "a"), ("x-1", "1"), ("Via", "b"), ("x-2", ""), ("VIA", "c")]);
        fields.append(Name::XRequestId, b"id");
        assert_eq!(
            written(&fields),
            "Host: a\r\nx-1: 1\r\nVia: b\r\nx-2: \r\nVIA: c\r\nx-request-id: id\r\n"
        );
        fields.remove(Names::of(&[Name::Via]));
        assert_eq!(written(&fields), "Host: a\r\nx-1: 1\r\nx-2: \r\nx-request-id: id\r\n");
        fields.retain(|name| name != b"x-1" && name != b"Host");
        assert_eq!(written(&fields), "x-2: \r\nx-request-id: id\r\n");
        assert!(!fields.contains(Name::Host) && fields.contains(Name::XRequestId));
        fields.set(Name::XRequestId, b"other");
        assert_eq!(written(&fields), "x-2: \r\nx-request-id: other\r\n");
    }

    #[test]
    fn names_know_no_case_and_lists_no_lines() {
        let fields =
            fields(&[("ConnecTION", "a , b"), ("connection", ",,c"), ("X-One", "1"), ("x-one", "2")]);
        assert_eq!(fields.list(Name::Connection).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!(fields.list_from_the_end(Name::Connection).collect::<Vec<_>>(), [b"c", b"b", b"a"]);
        assert_eq!(fields.get_all_named("x-ONE").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(fields.said("x-one"), Said::Several);
        assert_eq!(fields.said("CONNECTIO"), Said::Nothing);
        assert_eq!(fields.get(Name::Host), None);
    }

    #[test]
    fn a_value_ends_at_its_first_control_byte_wherever_it_stands() {
        for control in (0..=u8::MAX).filter(|byte| byte.is_ascii_control() && *byte != b'\t') {
            for length in 0..20 {
                for filling in [b"a", b"\t", b" ", b"~", b"\x80", b"\xff"] {
                    let mut bytes = filling.repeat(20);
                    assert_eq!(value_length(&bytes[..length]), length);
                    bytes[length] = control;
                    bytes[19] = control;
                    assert_eq!(value_length(&bytes), length, "{control:#x} behind {filling:?}");
                }
            }
        }
    }

    #[test]
    fn no_value_makes_a_line_of_its_own() {
        for value in ["a\r\nb: c", "a\n", "\0", "\x7f"] {
            let forged = std::panic::catch_unwind(|| fields(&[("x", value)]));
            assert!(forged.is_err(), "{value:?}");
        }
    }
}
