//! The examples of RFC 7541 appendix C.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn list(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn single_fields_are_read_as_the_appendix_has_them() {
    for (block, name, value, kept) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key",
            "custom-header",
            1,
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path", "/sample/path", 0),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password", "secret", 0),
        ("82", ":method", "GET", 0),
    ] {
        let mut decoder = Decoder::new(0, usize::MAX);
        assert_eq!(read(&mut decoder, &bytes(block)), list(&[(name, value)]));
        assert_eq!(decoder.table_len(), kept, "{name}");
    }
}

#[test]
fn requests_are_read_as_the_appendix_has_them_with_and_without_compression() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let packed = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, packed] {
        let mut decoder = Decoder::new(0, usize::MAX);
        let authority = (":authority", "www.example.com");
        let read = blocks.map(|block| read(&mut decoder, &bytes(block)));
        assert_eq!(read[0], list(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority]));
        assert_eq!(
            read[1],
            list(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                authority,
                ("cache-control", "no-cache")
            ])
        );
        assert_eq!(
            read[2],
            list(&[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                authority,
                ("custom-key", "custom-value")
            ])
        );
        assert_eq!((decoder.table_len(), decoder.table_size()), (3, 164));
    }
}

#[test]
fn responses_are_read_as_the_appendix_has_them_from_a_table_that_is_full() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
         2076 6572 7369 6f6e 3d31",
    ];
    let packed = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, packed] {
        let mut decoder = Decoder::new(0, usize::MAX);
        // The appendix has a table of 256 bytes, which is to be told first.
        decoded(&mut decoder, &bytes("3fe1 01"), NO_LIMITS).unwrap();
        let read = blocks.map(|block| read(&mut decoder, &bytes(block)));
        let (cache, location) = (("cache-control", "private"), ("location", "https://www.example.com"));
        let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(read[0], list(&[(":status", "302"), cache, date, location]));
        assert_eq!(read[1], list(&[(":status", "307"), cache, date, location]));
        let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
        assert_eq!(
            read[2],
            list(&[
                (":status", "200"),
                cache,
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                location,
                ("content-encoding", "gzip"),
                ("set-cookie", cookie)
            ])
        );
        assert_eq!((decoder.table_len(), decoder.table_size()), (3, 215));
    }
}

#[test]
fn what_enters_the_table_is_written_as_the_appendix_has_it() {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    encoder.field_known(known::AUTHORITY, b"www.example.com", Keep::Index, &mut out);
    out.clear();
    encoder.field_known(known::AUTHORITY, b"www.example.com", Keep::Index, &mut out);
    encoder.field_known(known::AUTHORITY, b"www.example.com", Keep::Index, &mut out);
    assert_eq!(out, bytes("41 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff be"));
    out.clear();
    for (known, value) in [
        (known::METHOD, "GET"),
        (known::SCHEME, "https"),
        (known::PATH, "/index.html"),
        (known::STATUS, "404"),
    ] {
        encoder.field_known(known, value.as_bytes(), Keep::Once, &mut out);
    }
    assert_eq!(out, bytes("82 87 85 8d"));
}
