//! Texts that are held in place, so that policies are plain values which requests copy and never share.

use std::fmt;

use crate::Invalid;

/// A text of at most `N` bytes, of which there may be 65,535.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ShortText<const N: usize> {
    length: u16,
    /// Zeros behind `length`, so that equal texts are equal.
    bytes: [u8; N],
}

impl<const N: usize> ShortText<N> {
    /// `None` when it is too long.
    pub(super) fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { length: u16::try_from(text.len()).ok()?, bytes })
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Debug for ShortText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A type of texts that have a form.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident($length:literal), $forms:literal, $default:literal, $is_one:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name($crate::policy::text::ShortText<$length>);

        impl $name {
            /// What it may be.
            pub const FORMS: &'static str = $forms;

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($crate::policy::text::ShortText::new($default).expect("the default is short"))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Invalid;

            fn from_str(text: &str) -> Result<Self, $crate::Invalid> {
                let is_one: fn(&str) -> bool = $is_one;
                let short = $crate::policy::text::ShortText::new(text).filter(|_| is_one(text)).map(Self);
                short.ok_or_else(|| $crate::policy::text::refusal(text, Self::FORMS))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(super) use text;

/// Says that a text is none of the `forms` it may have, and shows as much of it as helps.
pub(super) fn refusal(text: &str, forms: &str) -> Invalid {
    Invalid::new("value", format!("\"{}\" is not {forms}", shown(text)))
}

/// As much of a text as helps whoever wrote it.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_held_whole_or_not_at_all() {
        assert_eq!(ShortText::<3>::new("abc").unwrap().as_str(), "abc");
        assert_eq!(ShortText::<3>::new("").unwrap().as_str(), "");
        assert!(ShortText::<3>::new("abcd").is_none());
        assert_eq!(ShortText::<3>::new("ä"), ShortText::<3>::new("ä"));
        assert_ne!(ShortText::<3>::new("a"), ShortText::<3>::new("a\0"));
    }
}
