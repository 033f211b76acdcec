//! Sections are used again: each request has two, and each would be three allocations.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

use super::Section;

/// Kept by a thread to be used again: so many, none of them larger.
const MAX_FREE: usize = 64;
const MAX_BYTES: usize = 8 * 1024;

thread_local! {
    #[expect(clippy::vec_box, reason = "it is the boxes that are used again")]
    static FREE: RefCell<Vec<Box<Section>>> = const { RefCell::new(Vec::new()) };
}

/// A [`Section`], boxed because heads are moved often.
#[derive(Debug)]
pub(in crate::proxy) struct Fields(
    /// There until this is dropped.
    Option<Box<Section>>,
);

impl Fields {
    /// No fields yet, in a block that begins with `head`.
    pub(in crate::proxy) fn over(head: &[u8]) -> Self {
        let mut fields = Self::default();
        fields.begin(head);
        fields
    }
}

impl Default for Fields {
    fn default() -> Self {
        // What a thread keeps is gone with it.
        let free = FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten();
        Self(Some(free.unwrap_or_default()))
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut clone = Self::default();
        clone.clone_from(self);
        clone
    }

    fn clone_from(&mut self, other: &Self) {
        Section::clone_from(self, other);
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        if let Some(mut section) = self.0.take()
            && section.size() <= MAX_BYTES
        {
            section.clear();
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < MAX_FREE {
                    free.push(section);
                }
            });
        }
    }
}

impl Deref for Fields {
    type Target = Section;

    fn deref(&self) -> &Section {
        self.0.as_deref().expect("a section is there until it is dropped")
    }
}

impl DerefMut for Fields {
    fn deref_mut(&mut self) -> &mut Section {
        self.0.as_deref_mut().expect("a section is there until it is dropped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::head::field_name::Name;

    #[test]
    fn a_section_that_is_used_again_has_nothing_of_the_one_before() {
        for _ in 0..2 {
            let mut fields = Fields::over(b"GET / HTTP/1.1\r\n");
            assert_eq!((fields.count(), fields.contains(Name::Host)), (0, false));
            fields.append(Name::Host, b"a");
            let copy = fields.clone();
            drop(fields);
            let other = Fields::over(b"GET /other HTTP/1.1\r\n");
            assert_eq!((copy.get(Name::Host), other.get(Name::Host)), (Some(&b"a"[..]), None));
        }
    }

    #[test]
    fn neither_many_nor_large_ones_are_kept() {
        let kept =
            || FREE.with_borrow(|free| (free.len(), free.iter().all(|section| section.size() <= MAX_BYTES)));
        drop(Fields::over(&[b' '; MAX_BYTES]));
        let many: Vec<Fields> = (0..2 * MAX_FREE).map(|_| Fields::over(b"")).collect();
        drop(many);
        assert_eq!(kept(), (MAX_FREE, true));
    }
}
