//! A text that is nearly always empty, or the same in many places.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

/// One word in its owner, and an allocation only when there is something in it, which clones share: a registry holds very many of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SparseText(Option<Arc<Box<str>>>);

impl Deref for SparseText {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().map_or("", |text| text)
    }
}

impl Hash for SparseText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl Borrow<str> for SparseText {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<&str> for SparseText {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| Arc::new(text.into())))
    }
}

impl From<String> for SparseText {
    fn from(text: String) -> Self {
        Self((!text.is_empty()).then(|| Arc::new(text.into())))
    }
}

impl fmt::Display for SparseText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
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
