//! The `Date` of responses that came without one (RFC 9110 section 6.6.1), made once in a second.

use std::{
    cell::{Cell, RefCell},
    time::SystemTime,
};

use crate::routing::Tick;

/// The present date.
#[derive(Debug, Default)]
pub(in crate::proxy) struct DateText {
    /// Of which second since the clock's origin it is, counted from one.
    second: Cell<u64>,
    text: RefCell<String>,
}

impl DateText {
    /// Lets `with` have the date as fields have it. `wall` is asked once in a second.
    pub(in crate::proxy) fn read<T>(
        &self,
        now: Tick,
        wall: impl FnOnce() -> SystemTime,
        with: impl FnOnce(&[u8]) -> T,
    ) -> T {
        let second = now.as_nanos() / 1_000_000_000 + 1;
        if self.second.replace(second) != second {
            *self.text.borrow_mut() = httpdate::fmt_http_date(wall());
        }
        with(self.text.borrow().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_is_made_once_in_a_second() {
        let date = DateText::default();
        let at = |millis, wall: u64| {
            let tick = Tick::ORIGIN.plus(Duration::from_millis(millis));
            let wall = || SystemTime::UNIX_EPOCH + Duration::from_secs(wall);
            date.read(tick, wall, |text| String::from_utf8(text.to_vec()).unwrap())
        };
        assert_eq!(at(0, 0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(999, 77), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1000, 1), "Thu, 01 Jan 1970 00:00:01 GMT");
    }
}
