//! Numbers of bytes as people write them.

const UNITS: [(u64, &str); 5] =
    [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];

/// A number of bytes for people, exactly: a whole number of the largest unit that allows it, e.g. `1500B`, `10MiB`.
pub fn exact(bytes: u64) -> String {
    let unit = UNITS.into_iter().find(|(size, _)| bytes != 0 && bytes.is_multiple_of(*size));
    let (size, name) = unit.unwrap_or((1, "B"));
    format!("{}{name}", bytes / size)
}

/// Reads `1500`, `1500B`, `64KiB`, `10 MiB`, `1GiB`, `1TiB`: whole numbers, with a unit or without.
///
/// # Errors
/// What is wrong with it, and what would do.
pub fn parse(text: &str) -> Result<u64, String> {
    let refusal = || {
        let short: String = text.chars().take(32).collect();
        format!("\"{}\" is no size such as 1500B, 64KiB or 10MiB", short.escape_debug())
    };
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| refusal())?;
    let unit = unit.trim_start();
    let size = match UNITS.iter().find(|(_, name)| *name == unit) {
        Some((size, _)) => *size,
        None if unit.is_empty() => 1,
        None => return Err(refusal()),
    };
    number.checked_mul(size).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_written_in_the_largest_unit_that_holds_them_exactly() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1500, "1500B"),
            (65_536, "64KiB"),
            (10 << 20, "10MiB"),
            (1 << 40, "1TiB"),
            ((1 << 40) + 1, "1099511627777B"),
        ] {
            assert_eq!(exact(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read_with_a_unit_or_as_bytes() {
        for (text, bytes) in
            [("0", 0), ("1500", 1500), ("1500B", 1500), (" 10 MiB ", 10 << 20), ("1TiB", 1 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "MiB", "10M", "10MB", "10mib", "-1", "1.5MiB", "99999999999999999999", "99999999999TiB"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in any::<u64>()) {
            prop_assert_eq!(parse(&exact(bytes)), Ok(bytes));
        }
    }
}
