//! A text that is nearly always empty.

use std::{fmt, ops::Deref};

/// One word in its owner, and an allocation only when there is something in it: a registry holds very many of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SparseText(Option<Box<Box<str>>>);

impl Deref for SparseText {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().map_or("", |text| text)
    }
}

impl From<&str> for SparseText {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| Box::new(text.into())))
    }
}

impl From<String> for SparseText {
    fn from(text: String) -> Self {
        Self((!text.is_empty()).then(|| Box::new(text.into())))
    }
}

impl fmt::Debug for SparseText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_and_an_empty_one_costs_one_word() {
        for text in ["", "disk is full"] {
            assert_eq!(&*SparseText::from(text), text);
            assert_eq!(SparseText::from(text.to_owned()), SparseText::from(text));
        }
        assert_eq!(SparseText::from(""), SparseText::default());
        assert_eq!(size_of::<SparseText>(), size_of::<usize>());
    }
}
