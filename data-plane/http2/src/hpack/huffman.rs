//! Text in which frequent bytes take fewer bits (RFC 7541 appendix B).
//!
//! The code is canonical: codes of one length follow one another in the order of their symbols, and the first of each length follows the last of the
//! lengths before. So the lengths alone say everything, and all tables here are made of them.

use super::Error;

/// The symbol that stands behind all text, and in none.
const END: usize = 256;
const LONGEST: usize = 30;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes of one length.
#[derive(Clone, Copy)]
struct Group {
    /// The first of them and what follows the last one, as the highest bits of 32.
    first: u64,
    end: u64,
    /// Where their symbols begin among all, which are in the order of their codes.
    offset: usize,
}

struct Tables {
    codes: [u32; END + 1],
    symbols: [u16; END + 1],
    groups: [Group; LONGEST + 1],
    /// By eight bits: the symbol whose code they begin with, and its length; none where that is longer.
    short: [(u8, u8); 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [0; END + 1],
        symbols: [0; END + 1],
        groups: [Group { first: 0, end: 0, offset: 0 }; LONGEST + 1],
        short: [(0, 0); 256],
    };
    let (mut next, mut offset, mut length) = (0_u64, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        let aligned = 32 - length;
        tables.groups[length] = Group { first: next << aligned, end: 0, offset };
        let mut symbol = 0;
        while symbol <= END {
            if LENGTHS[symbol] as usize == length {
                tables.codes[symbol] = next as u32;
                tables.symbols[offset] = symbol as u16;
                if length <= 8 {
                    let (mut begun, end) =
                        ((next << (8 - length)) as usize, ((next + 1) << (8 - length)) as usize);
                    while begun < end {
                        tables.short[begun] = (symbol as u8, length as u8);
                        begun += 1;
                    }
                }
                next += 1;
                offset += 1;
            }
            symbol += 1;
        }
        tables.groups[length].end = next << aligned;
        length += 1;
    }
    tables
}

/// Reads all of `bytes` behind what `out` has.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    // The shortest code has five bits.
    out.reserve(bytes.len() * 8 / 5);
    // Bits that are not read yet, the next one highest, and how many of them count: what stands behind those is the same bits as in `rest`, or nothing.
    let (mut bits, mut have, mut rest) = (0_u64, 0_u32, bytes);
    loop {
        if let Some(next) = rest.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*next) >> have;
            let taken = (63 - have) / 8;
            have += 8 * taken;
            rest = &rest[taken as usize..];
        } else {
            while have <= 56
                && let Some((&next, behind)) = rest.split_first()
            {
                bits |= u64::from(next) << (56 - have);
                have += 8;
                rest = behind;
            }
        }
        while have >= 8 {
            let (symbol, length) = TABLES.short[(bits >> 56) as usize];
            let (symbol, length) = match length {
                0 if have < LONGEST as u32 && !rest.is_empty() => break,
                0 => long((bits >> 32) as u32, have)?,
                _ => (symbol, u32::from(length)),
            };
            out.push(symbol);
            bits <<= length;
            have -= length;
        }
        if rest.is_empty() {
            break;
        }
    }
    // One short code more, perhaps; what fills the last octet is the beginning of the longest code, which is all ones (section 5.2).
    bits |= u64::MAX >> have;
    let (symbol, length) = TABLES.short[(bits >> 56) as usize];
    if length != 0 && u32::from(length) <= have {
        out.push(symbol);
        bits = bits << length | ((1 << length) - 1);
    }
    if bits == u64::MAX { Ok(()) } else { Err(Error::Huffman) }
}

/// The symbol of a code of more than eight bits, of which there are so many.
#[cold]
fn long(bits: u32, have: u32) -> Result<(u8, u32), Error> {
    let bits = u64::from(bits);
    let length = (9..=LONGEST).find(|&length| bits < TABLES.groups[length].end).ok_or(Error::Huffman)?;
    let group = TABLES.groups[length];
    let symbol = TABLES.symbols[group.offset + ((bits - group.first) >> (32 - length)) as usize];
    let length = length as u32;
    // The end of all text is in none, and what is not all there is more than a filling.
    let symbol = u8::try_from(symbol).ok().filter(|_| length <= have);
    symbol.map(|symbol| (symbol, length)).ok_or(Error::Huffman)
}

/// Octets that `text` takes.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum::<usize>().div_ceil(8)
}

/// Writes `text`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    // What is not written yet, in the lowest bits.
    let (mut bits, mut have) = (0_u64, 0);
    for &byte in text {
        let length = LENGTHS[usize::from(byte)];
        bits = bits << length | u64::from(TABLES.codes[usize::from(byte)]);
        have += u32::from(length);
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        let missing = 8 - have;
        out.push((bits << missing) as u8 | (0xff >> have));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        out
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    /// One bit after the other, by the codes alone.
    fn decoded_bit_by_bit(bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let symbols: HashMap<(u8, u32), usize> =
            (0..=END).map(|symbol| ((LENGTHS[symbol], TABLES.codes[symbol]), symbol)).collect();
        let (mut out, mut code, mut length) = (Vec::new(), 0_u32, 0_u8);
        for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
            (code, length) = (code << 1 | u32::from(bit), length + 1);
            match symbols.get(&(length, code)) {
                Some(&END) => return Err(Error::Huffman),
                Some(&symbol) => {
                    out.push(symbol as u8);
                    (code, length) = (0, 0);
                }
                None => {}
            }
        }
        if length < 8 && code == (1 << length) - 1 { Ok(out) } else { Err(Error::Huffman) }
    }

    #[test]
    fn codes_are_those_of_the_appendix() {
        for (symbol, code) in [
            (b'0', 0x0),
            (b'a', 0x3),
            (b' ', 0x14),
            (b'Z', 0xfd),
            (b'!', 0x3f8),
            (b'\\', 0x7fff0),
            (0, 0x1ff8),
            (10, 0x3fff_fffc),
            (0x7f, 0xfff_fffc),
            (0xff, 0x3ff_ffee),
        ] {
            assert_eq!(TABLES.codes[usize::from(symbol)], code, "{symbol}");
        }
        assert_eq!(TABLES.codes[END], 0x3fff_ffff);
    }

    #[test]
    fn a_filling_is_less_than_an_octet_of_ones_and_the_end_stands_in_no_text() {
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[]), Ok(Vec::new()));
        for wrong in [
            &[0x18][..],
            &[0x1e],
            &[0x1f, 0xff],
            &[0xff],
            &[0xff; 4],
            &[0xff; 40],
            &[0x1f, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(decoded(wrong), Err(Error::Huffman), "{wrong:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in any::<Vec<u8>>(), usual in "[ -~]{0,200}") {
            for text in [&text[..], usual.as_bytes()] {
                prop_assert_eq!(encoded(text).len(), encoded_len(text));
                prop_assert_eq!(decoded(&encoded(text)), Ok(text.to_vec()));
            }
        }

        #[test]
        fn whatever_is_read_is_what_its_bits_say(bytes in any::<Vec<u8>>(), text in "[ -~]{0,40}", cut in any::<prop::sample::Index>(), flip in any::<u8>()) {
            let mut spoilt = encoded(text.as_bytes());
            if !spoilt.is_empty() {
                let at = cut.index(spoilt.len());
                spoilt[at] ^= flip;
            }
            for bytes in [bytes, spoilt] {
                prop_assert_eq!(decoded(&bytes), decoded_bit_by_bit(&bytes));
            }
        }
    }
}
