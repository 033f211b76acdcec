//! Pages of a list.
//!
//! A token is opaque to callers: the place of the last item, which is its name and what it is sorted by, bound to the
//! list and its arguments, so that a token of one question is refused for another. It holds no secret and outlives
//! restarts.

use std::hash::{DefaultHasher, Hash, Hasher};

use gateway_proto::Invalid;
use tokio::task::yield_now;

use crate::refusal::Refusal;

const DEFAULT_SIZE: usize = 100;
const MAX_SIZE: usize = 1000;
/// No item's place is longer: a name, and before it what the item is sorted by, which is eight texts at most, of 63
/// characters of four bytes each, in JSON and two digits a byte.
const MAX_TOKEN_CHARS: usize = 32 * 1024;

/// Which part of a list to answer.
#[derive(Debug)]
pub(super) struct Page {
    size: usize,
    /// The place of the last item of the page before; `None`: from the start.
    after: Option<String>,
    binding: u64,
}

impl Page {
    /// Reads the wire's fields. `arguments` are all others of the request, and the list's name.
    pub(super) fn parse(page_size: i32, token: &str, arguments: &[&str]) -> Result<Self, Refusal> {
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => return Err(Invalid::new("page_size", "must not be negative; 0 stands for 100").into()),
        };
        let mut hasher = DefaultHasher::new();
        arguments.hash(&mut hasher);
        let binding = hasher.finish();
        let after = match token {
            "" => None,
            token => Some(read_token(token, binding).ok_or(Refusal::PageToken)?),
        };
        Ok(Self { size, after, binding })
    }

    /// The place of the last item of the page before.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// How many items to answer at most.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Items that are admitted, at least one more than this page takes unless there are no more. `look` yields those of one part
    /// behind a place, and the place it came to, or `None` at the end. Others get their turn between two parts: a filter that
    /// admits nothing looks at all there is.
    pub(super) async fn admitted<T, P>(
        &self,
        mut after: Option<P>,
        mut look: impl FnMut(Option<&P>) -> (Vec<T>, Option<P>),
        admits: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let mut found = Vec::new();
        loop {
            let (part, reached) = look(after.as_ref());
            found.extend(part.into_iter().filter(&admits));
            if reached.is_none() || found.len() > self.size {
                return found;
            }
            after = reached;
            yield_now().await;
        }
    }

    /// Takes this page off items that come after [`Page::after`], and the token for the next one.
    pub(super) fn cut<T>(
        &self,
        items: impl Iterator<Item = T>,
        name: impl Fn(&T) -> String,
    ) -> (Vec<T>, String) {
        let mut items: Vec<T> = items.take(self.size + 1).collect();
        if items.len() <= self.size {
            return (items, String::new());
        }
        items.truncate(self.size);
        let last = items.last().map(name).unwrap_or_default();
        (items, write_token(&last, self.binding))
    }
}

fn write_token(last: &str, binding: u64) -> String {
    let name: String = last.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{binding:016x}{name}")
}

fn read_token(token: &str, binding: u64) -> Option<String> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if token.len() > MAX_TOKEN_CHARS || !token.bytes().all(is_hex) {
        return None;
    }
    let name = token.strip_prefix(&format!("{binding:016x}"))?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let pairs = name.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs.map(|pair| byte(pair).filter(|_| pair.len() == 2)).collect();
    String::from_utf8(bytes?).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn pages(items: &[u32], size: i32) -> Vec<Vec<u32>> {
        let mut token = String::new();
        let mut pages = Vec::new();
        loop {
            let page = Page::parse(size, &token, &["list", "a"]).unwrap();
            let after: Option<u32> = page.after().map(|name| name.parse().unwrap());
            let rest = items.iter().copied().filter(|item| after.is_none_or(|after| *item > after));
            let (items, next) = page.cut(rest, u32::to_string);
            pages.push(items);
            if next.is_empty() {
                return pages;
            }
            token = next;
        }
    }

    #[test]
    fn pages_hold_everything_once_and_the_last_one_has_no_token() {
        assert_eq!(pages(&[1, 2, 3, 4, 5], 2), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(pages(&[1, 2], 2), [vec![1, 2]]);
        assert_eq!(pages(&[], 2), [Vec::<u32>::new()]);
    }

    #[tokio::test]
    async fn others_get_their_turn_between_the_parts_of_a_list_of_which_a_filter_admits_little() {
        let page = Page::parse(2, "", &[]).unwrap();
        let part = |after: Option<&u32>| {
            let begin = after.map_or(0, |after| after + 1);
            let part: Vec<u32> = (begin..begin + 10).take_while(|item| *item < 95).collect();
            let reached = part.last().copied().filter(|_| part.len() == 10);
            (part, reached)
        };
        for (admits, found, looks) in [
            ((|_| false) as fn(&u32) -> bool, vec![], 10),
            (|item| *item > 90, vec![91, 92, 93, 94], 10),
            (|item| *item % 10 == 9, vec![9, 19, 29], 3),
        ] {
            let (looked, turns) = (Cell::new(0), Cell::new(0));
            let look = |after: Option<&u32>| {
                looked.set(looked.get() + 1);
                part(after)
            };
            let others = async {
                loop {
                    turns.set(turns.get() + 1);
                    yield_now().await;
                }
            };
            let listed = tokio::select! {
                biased;
                listed = page.admitted(None, look, admits) => listed,
                () = others => unreachable!("they go on for ever"),
            };
            assert_eq!((listed, looked.get(), turns.get()), (found, looks, looks - 1));
        }
    }

    #[test]
    fn a_size_of_zero_is_the_default_and_a_large_one_is_cut() {
        assert_eq!(Page::parse(0, "", &[]).unwrap().size(), 100);
        assert_eq!(Page::parse(5000, "", &[]).unwrap().size(), 1000);
        assert!(matches!(Page::parse(-1, "", &[]), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn a_token_of_another_list_or_other_arguments_is_refused() {
        let page = Page::parse(1, "", &["list", "a"]).unwrap();
        let (_, token) = page.cut(1..3, i32::to_string);
        assert!(Page::parse(1, &token, &["list", "a"]).is_ok());
        for arguments in [["list", "b"], ["other", "a"]] {
            assert_eq!(Page::parse(1, &token, &arguments).unwrap_err(), Refusal::PageToken);
        }
    }

    mod fuzz {
        use super::*;

        proptest! {
            #[test]
            fn a_place_is_found_again(place in "[a-z0-9/\u{e4}\u{0}]{1,40}", binding in any::<u64>()) {
                prop_assert_eq!(read_token(&write_token(&place, binding), binding), Some(place));
            }

            #[test]
            fn what_was_not_written_is_no_token(text in "[0-9a-fA-F+ \u{e4}]{0,12}|.{0,12}", is_bound in any::<bool>()) {
                let token = if is_bound { format!("{:016x}{text}", 7) } else { text };
                if let Some(place) = read_token(&token, 7) {
                    prop_assert_eq!(&write_token(&place, 7), &token);
                }
                let _ = Page::parse(1, &token, &["list"]);
            }
        }
    }
}
