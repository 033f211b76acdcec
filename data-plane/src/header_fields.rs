//! Header fields as rules look at them, whoever holds them and in whatever form.

use std::fmt::Debug;

/// What the fields of one name say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// There is none.
    Nothing,
    /// There is one, with this value.
    Once(&'a [u8]),
    /// There are more, which together say no one thing.
    Several,
}

/// The fields of one head.
pub trait HeaderFields: Debug {
    /// What the fields of this name say; in which case it is written makes no difference.
    fn said(&self, name: &str) -> Said<'_>;
}

impl<'a> Said<'a> {
    /// Of all values in their order.
    pub fn of(mut values: impl Iterator<Item = &'a [u8]>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) => Self::Once(value),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

#[cfg(test)]
impl HeaderFields for http::HeaderMap {
    fn said(&self, name: &str) -> Said<'_> {
        Said::of(self.get_all(name).iter().map(http::HeaderValue::as_bytes))
    }
}
