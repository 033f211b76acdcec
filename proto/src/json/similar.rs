//! Which known name somebody may have meant.

use crate::nearest::distance;

/// Longer names are nobody's slip of the pen, and comparing them would cost.
const MAX_CHARS: usize = 64;

/// The known name that is nearest to `name`, if one is near: the same but for case, underscores and dashes, or for at
/// most a third of its characters.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = plain(name);
    if name.is_empty() || name.len() > MAX_CHARS {
        return None;
    }
    let near = known.into_iter().filter_map(|known| {
        let plain = plain(known);
        let distance = if plain.len() > MAX_CHARS { MAX_CHARS } else { distance(&name, &plain) };
        (distance * 3 <= plain.len().max(name.len())).then_some((distance, known))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

fn plain(name: &str) -> Vec<char> {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-'));
    letters.flat_map(char::to_lowercase).take(MAX_CHARS + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_a_strange_word_is_not() {
        let known = ["service", "replicaId", "leaseTtl", "labels"];
        for (name, meant) in [
            ("lease_ttl", Some("leaseTtl")),
            ("leaseTll", Some("leaseTtl")),
            ("replica-ID", Some("replicaId")),
            ("lables", Some("labels")),
            ("servce", Some("service")),
            ("weight", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(name, known), meant, "{name}");
        }
        assert_eq!(did_you_mean(&"x".repeat(100_000), known), None);
    }
}
