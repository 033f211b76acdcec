//! "Did you mean": the known name that a mistyped one is closest to.

/// The candidate with the fewest edits from `name`, if they are few enough for a typing mistake: at most a third of
/// the name's length, and at least one.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<_> = name.chars().collect();
    let tolerance = (name.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|(edits, _)| (1..=tolerance).contains(edits))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits between two texts, two swapped neighbours being one edit (Damerau and Levenshtein, optimal string alignment).
///
/// It takes time in proportion to the product of their lengths: callers bound them.
pub fn distance(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = above[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut edits = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            let swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
            if swapped {
                edits = edits.min(before[j - 2] + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_a_lost_and_a_wrong_letter_find_the_name() {
        let known = ["orders", "payments", "client-service"];
        for (typed, meant) in [
            ("odrers", "orders"),
            ("order", "orders"),
            ("paiments", "payments"),
            ("clientservice", "client-service"),
        ] {
            assert_eq!(nearest(typed, known), Some(meant), "{typed}");
        }
    }

    #[test]
    fn a_name_that_resembles_nothing_and_an_exact_one_find_nothing() {
        for typed in ["mailer", "", "orders"] {
            assert_eq!(nearest(typed, ["orders", "payments"]), None, "{typed}");
        }
    }
}
