//! Numbers that begin in the rest of an octet and go on in others (RFC 7541 section 5.1).

use super::Error;

/// Most octets behind the first: 28 bits are more than any length or index needs.
const MAX_OCTETS: u32 = 4;

/// Reads the number that begins in the lowest `bits` of `first`, and takes of `rest` what belongs to it.
pub(super) fn read(first: u8, bits: u32, rest: &mut &[u8]) -> Result<usize, Error> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value < most {
        return Ok(value);
    }
    for octet in 0..MAX_OCTETS {
        let (&next, behind) = rest.split_first().ok_or(Error::Truncated)?;
        *rest = behind;
        value += usize::from(next & 0x7f) << (7 * octet);
        if next < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::Integer)
}

/// Writes a number behind `flags`, which leave the lowest `bits` of the first octet to it.
#[inline]
pub(super) fn write(flags: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return out.push(flags | value as u8);
    }
    out.push(flags | most as u8);
    let mut left = value - most;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(flags: u8, bits: u32, value: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write(flags, bits, value, &mut out);
        out
    }

    #[test]
    fn numbers_are_those_of_the_appendix() {
        assert_eq!(written(0, 5, 10), [10]);
        assert_eq!(written(0, 5, 1337), [31, 154, 10]);
        assert_eq!(written(0, 8, 42), [42]);
    }

    #[test]
    fn a_number_without_an_end_is_refused_and_one_that_breaks_off_too() {
        for filling in [0x80, 0xff] {
            assert_eq!(read(0xff, 7, &mut &[filling; 100][..]), Err(Error::Integer));
            assert_eq!(read(0xff, 7, &mut &[filling; 3][..]), Err(Error::Truncated));
        }
        assert_eq!(read(0x1f, 5, &mut &[][..]), Err(Error::Truncated));
        assert_eq!(
            read(0x1f, 5, &mut &[0x80, 0x80, 0x80, 0][..]),
            Ok(31),
            "zeros in front are a waste, and no more"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bits in 4_u32..8, value in 0_usize..1 << 28, behind in any::<Vec<u8>>()) {
            let mut bytes = written(0, bits, value);
            bytes.extend_from_slice(&behind);
            let mut rest = &bytes[1..];
            prop_assert_eq!(read(bytes[0], bits, &mut rest), Ok(value));
            prop_assert_eq!(rest, &behind[..]);
        }
    }
}
