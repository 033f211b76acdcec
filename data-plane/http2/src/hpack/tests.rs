mod appendix;
mod differential;
mod hostile;

use proptest::prelude::*;

use super::*;

/// A field that a test has read or is to write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    name: Vec<u8>,
    value: Vec<u8>,
    known: Option<u8>,
    is_valid: bool,
    is_sensitive: bool,
}

const NO_LIMITS: ListLimits = ListLimits { bytes: usize::MAX, fields: usize::MAX };

fn decoded(decoder: &mut Decoder, block: &[u8], limits: ListLimits) -> Result<(Vec<Owned>, ListSize), Error> {
    let mut fields = Vec::new();
    let size = decoder.decode(block, limits, &mut |field| {
        let Field { name, value, known, is_valid, is_sensitive } = field;
        fields.push(Owned { name: name.to_vec(), value: value.to_vec(), known, is_valid, is_sensitive });
    })?;
    Ok((fields, size))
}

/// Names and values, which are all that most tests ask for.
fn texts(fields: &[Owned]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    fields.iter().map(|field| (text(&field.name), text(&field.value))).collect()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
    texts(&decoded(decoder, block, NO_LIMITS).unwrap().0)
}

/// Whether a field with this value is kept by nobody, if it is in no table from the start.
fn is_guessable(name: &str, value: &[u8]) -> bool {
    let is_short_cookie = matches!(name, "cookie" | "set-cookie") && value.len() < 20;
    !value.is_empty() && (matches!(name, "authorization" | "proxy-authorization") || is_short_cookie)
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(known::FIELDS.map(|(name, _)| name.to_owned()).to_vec()),
        "x-[a-c]",
        "[a-z0-9-]{1,40}",
    ]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(known::FIELDS.map(|(_, value)| value.as_bytes().to_vec()).to_vec()),
        6 => "[a-b]{0,2}".prop_map(String::into_bytes),
        6 => "[ -~]{0,60}".prop_map(String::into_bytes),
        3 => prop::collection::vec(any::<u8>(), 0..60),
        // More than a half of the table.
        1 => (1500..3000_usize).prop_map(|length| vec![b'v'; length]),
    ]
}

fn any_keep() -> impl Strategy<Value = Keep> {
    prop_oneof![4 => Just(Keep::Index), 1 => Just(Keep::Once), 1 => Just(Keep::Never)]
}

proptest! {
    #[test]
    fn what_one_side_writes_the_other_reads_whatever_the_table_becomes(
        lists in prop::collection::vec(
            (prop::option::weighted(0.2, 0..6000_u32), prop::option::weighted(0.1, 0..6000_u32),
             prop::collection::vec((any_name(), any_value(), any_keep(), 1..3_usize), 0..12)),
            1..12,
        ),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(0, usize::MAX));
        for (resized, again, list) in lists {
            for size in resized.into_iter().chain(again) {
                encoder.set_max_table(size);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            let mut written = Vec::new();
            for (name, value, keep, times) in list {
                for _ in 0..times {
                    let known = known::of(name.as_bytes());
                    match known {
                        Some(known) if times == 1 => encoder.field_known(known, &value, keep, &mut block),
                        _ => encoder.field(name.as_bytes(), &value, keep, &mut block),
                    }
                    written.push(Owned {
                        name: name.clone().into_bytes(),
                        value: value.clone(),
                        known,
                        is_valid: !value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'),
                        is_sensitive: keep == Keep::Never || keep == Keep::Index && is_guessable(&name, &value),
                    });
                }
            }
            let (read, size) = decoded(&mut decoder, &block, NO_LIMITS).unwrap();
            prop_assert_eq!(&read, &written);
            let bytes = written.iter().map(|field| field.name.len() + field.value.len() + FIELD_OVERHEAD).sum();
            prop_assert_eq!(size, ListSize { bytes, fields: written.len(), is_over: false });
        }
    }

    #[test]
    fn limits_end_what_is_handed_out_and_keep_the_table_in_step(
        lists in prop::collection::vec(prop::collection::vec((any_name(), any_value()), 0..12), 1..8),
        bytes in 0..400_usize,
        fields in 0..12_usize,
    ) {
        let mut encoder = Encoder::new();
        let (mut free, mut limited) = (Decoder::new(0, usize::MAX), Decoder::new(0, usize::MAX));
        for list in lists {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            // Twice, so that they enter the table.
            for (name, value) in list.iter().chain(&list) {
                encoder.field(name.as_bytes(), value, Keep::Index, &mut block);
            }
            let (all, size) = decoded(&mut free, &block, NO_LIMITS).unwrap();
            let (some, counted) = decoded(&mut limited, &block, ListLimits { bytes, fields }).unwrap();
            let mut sum = 0;
            let fit = all.iter().take(fields).take_while(|field| {
                sum += field.name.len() + field.value.len() + FIELD_OVERHEAD;
                sum <= bytes
            });
            prop_assert_eq!(&some, &all[..fit.count()]);
            prop_assert_eq!(counted, ListSize { is_over: some.len() < all.len(), ..size });
        }
    }
}

#[test]
fn what_is_sent_again_enters_the_table_and_costs_an_octet_from_then_on() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(0, usize::MAX));
    let fields = [
        ("content-type", "application/grpc"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("te", "trailers"),
    ];
    let mut sizes = Vec::new();
    for round in 0..4 {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.field_known(known::PATH, format!("/a/{round}").as_bytes(), Keep::Once, &mut block);
        let start = block.len();
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes(), Keep::Index, &mut block);
        }
        sizes.push(block.len() - start);
        let read = read(&mut decoder, &block);
        assert_eq!(read[1..], fields.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    assert!(sizes[0] > sizes[1], "what enters the table is compressed: {sizes:?}");
    assert_eq!(sizes[2..], [3, 3]);
}

#[test]
fn credentials_are_kept_by_nobody_whoever_asks_for_it() {
    let mut encoder = Encoder::new();
    for (name, value, is_kept) in [
        ("authorization", "Bearer of something that is long", false),
        ("proxy-authorization", "Basic of something that is long", false),
        ("cookie", "pin=1234", false),
        ("set-cookie", "pin=1234", false),
        ("cookie", "session=0123456789abcdef0123456789abcdef", true),
        ("x-other", "pin=1234", true),
    ] {
        let before = encoder.table_len();
        for _ in 0..3 {
            encoder.field(name.as_bytes(), value.as_bytes(), Keep::Index, &mut Vec::new());
        }
        assert_eq!(encoder.table_len() > before, is_kept, "{name}: {value}");
    }
}

#[test]
fn what_is_not_to_be_kept_is_in_no_table() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(0, usize::MAX));
    for keep in [Keep::Once, Keep::Never] {
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.field_known(known::AUTHORIZATION, b"secret", keep, &mut block);
            encoder.field(b"x-token", b"secret", keep, &mut block);
            let (fields, _) = decoded(&mut decoder, &block, NO_LIMITS).unwrap();
            assert_eq!(
                texts(&fields),
                [("authorization".into(), "secret".into()), ("x-token".into(), "secret".into())]
            );
            assert!(fields.iter().all(|field| field.is_sensitive == (keep == Keep::Never)));
        }
    }
    assert_eq!(encoder.table_len(), 0);
}

#[test]
fn a_name_or_a_value_that_no_field_may_have_is_said_to_be_such_wherever_it_stands() {
    for (name, value, is_valid) in [
        ("x-a", "b", true),
        (":protocol", "websocket", true),
        ("x", "a\tb", true),
        ("x", "\u{e9}", true),
        ("X-a", "b", false),
        ("", "b", false),
        (":", "b", false),
        ("x a", "b", false),
        ("a:b", "b", false),
        ("\u{e9}", "b", false),
        ("x", "a\nb", false),
        ("x", "a\rb", false),
        ("x", "a\0b", false),
        ("x", "\x7f", false),
    ] {
        let mut decoder = Decoder::new(0, usize::MAX);
        let mut block = vec![0x40, name.len() as u8];
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
        // From the table; then the same name with another value.
        block.extend_from_slice(&[0xbe, 0x0f, 47, 1, b'v']);
        let (fields, _) = decoded(&mut decoder, &block, NO_LIMITS).unwrap();
        let has_valid_name = is_valid || name == "x";
        let are_valid: Vec<bool> = fields.iter().map(|field| field.is_valid).collect();
        assert_eq!(are_valid, [is_valid, is_valid, has_valid_name], "{name:?}: {value:?}");
    }
}
