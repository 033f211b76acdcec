//! Blocks that are meant to do harm.

use super::*;

fn refused(blocks: &[&[u8]]) -> Error {
    let mut decoder = Decoder::new(0, usize::MAX);
    let (last, before) = blocks.split_last().unwrap();
    for block in before {
        decoded(&mut decoder, block, NO_LIMITS).unwrap();
    }
    decoded(&mut decoder, last, NO_LIMITS).unwrap_err()
}

#[test]
fn what_breaks_a_rule_is_refused_with_the_rule() {
    for (block, error) in [
        (&[0x80][..], Error::Index),
        (&[0xbe], Error::Index),
        (&[0x7e, 0], Error::Index),
        (&[0xff, 0xff, 0xff, 0xff, 0x7f], Error::Index),
        (&[0x00], Error::Truncated),
        (&[0x40, 5, b'a'], Error::Truncated),
        (&[0x40, 1, b'a', 2, b'b'], Error::Truncated),
        (&[0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f], Error::Truncated),
        (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0], Error::Integer),
        (&[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Error::Integer),
        (&[0x82, 0x20], Error::LateResize),
        (&[0x3f, 0xe2, 0x1f], Error::LargeTable),
        (&[0x41, 0x81, 0xff], Error::Huffman),
        (&[0x41, 0x84, 0xff, 0xff, 0xff, 0xff], Error::Huffman),
        (&[0x41, 0x82, 0x1f, 0xff], Error::Huffman),
    ] {
        assert_eq!(refused(&[block]), error, "{block:x?}");
    }
    // 4096 is what it is anyway, and what comes in front of the first field may come more than once.
    assert!(decoded(&mut Decoder::new(0, usize::MAX), &[0x20, 0x3f, 0xe1, 0x1f, 0x82], NO_LIMITS).is_ok());
    assert!(decoded(&mut Decoder::new(8192, usize::MAX), &[0x3f, 0xe1, 0x3f], NO_LIMITS).is_ok());
}

#[test]
fn what_a_large_head_took_to_be_read_is_not_held_behind_it() {
    let mut decoder = Decoder::new(0, usize::MAX);
    // Forty bits of nothing are eight zeros.
    let (mut value, mut length) = (vec![0; 40_000], Vec::new());
    integer::write(0x80, 7, value.len(), &mut length);
    let mut block = [&[0, 1, b'x'][..], &length].concat();
    block.append(&mut value);
    assert_eq!(read(&mut decoder, &block), [("x".to_owned(), "0".repeat(64_000))]);
    assert!(decoder.scratch() <= 4096, "{}", decoder.scratch());
}

#[test]
fn an_entry_that_has_gone_cannot_be_named() {
    let entered = [0x40, 1, b'a', 1, b'b'];
    assert_eq!(read(&mut Decoder::new(0, usize::MAX), &[&entered[..], &[0xbe]].concat()).len(), 2);
    assert_eq!(refused(&[&entered, &[0x20, 0xbe]]), Error::Index);
    // What is larger than the table empties it.
    let large = [&[0x40, 1, b'a', 0x7f, 0x81, 0x20][..], &[b'v'; 4224]].concat();
    assert_eq!(refused(&[&entered, &large, &[0xbe]]), Error::Index);
}

#[test]
fn a_small_block_that_means_a_large_list_costs_no_more_than_its_limits() {
    let mut decoder = Decoder::new(0, usize::MAX);
    // An entry as large as the table, named again and again.
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xe0, 0x1e];
    block.extend_from_slice(&[b'v'; 4063]);
    block.extend_from_slice(&[0xbe; 10_000]);
    let limits = ListLimits { bytes: 16 * 1024, fields: 100 };
    let (fields, size) = decoded(&mut decoder, &block, limits).unwrap();
    assert_eq!(fields.len(), 4);
    assert_eq!(size, ListSize { bytes: 4096 * 10_001, fields: 10_001, is_over: true });
    // It goes on as if nothing had been.
    assert_eq!(read(&mut decoder, &[0xbe])[0].1.len(), 4063);
}

proptest! {
    #[test]
    fn fuzz_any_bytes_are_read_or_refused_and_the_table_stays_within_its_size(
        blocks in prop::collection::vec(
            prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&[0x40_u8, 0x41, 0xbe, 0xbf, 1, 2, 0x7f, 0x82, b'a'][..])], 0..80),
            1..8,
        ),
        limits in (0..500_usize, 0..10_usize),
    ) {
        let mut decoder = Decoder::new(0, usize::MAX);
        for block in blocks {
            let limits = ListLimits { bytes: limits.0, fields: limits.1 };
            let Ok((fields, size)) = decoded(&mut decoder, &block, limits) else { break };
            prop_assert!(fields.len() <= limits.fields && size.fields <= block.len());
            prop_assert_eq!(size.is_over, fields.len() < size.fields);
            prop_assert!(decoder.table_size() <= DEFAULT_TABLE);
        }
    }
}

#[test]
fn a_list_that_is_far_too_large_is_read_no_further() {
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xe0, 0x1e];
    block.extend_from_slice(&[b'v'; 4063]);
    block.extend_from_slice(&[0xbe; 9]);
    // What is no field would be found behind them.
    block.push(0x80);
    let mut decoder = Decoder::new(0, 10 * 4096);
    assert_eq!(decoded(&mut decoder, &block, NO_LIMITS).unwrap_err(), Error::Index);
    let mut decoder = Decoder::new(0, 10 * 4096 - 1);
    assert_eq!(decoded(&mut decoder, &block, NO_LIMITS).unwrap_err(), Error::LargeList);
}

#[test]
fn a_name_that_is_taken_from_an_entry_is_judged_by_it() {
    let of = |name: u8, value: u8| {
        let block = [0x40, 1, name, 1, value, 0x7e, 1, b'1', 0xbf];
        let fields = decoded(&mut Decoder::new(0, usize::MAX), &block, NO_LIMITS).unwrap().0;
        fields.iter().map(|field| field.is_valid).collect::<Vec<_>>()
    };
    assert_eq!(of(b'a', b'b'), [true, true, true]);
    assert_eq!(of(b'a', b'\n'), [false, true, false]);
    assert_eq!(of(b'A', b'b'), [false, false, false]);
    assert_eq!(of(b'A', b'\n'), [false, false, false]);
}
