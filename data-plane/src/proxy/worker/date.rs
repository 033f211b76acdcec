//! The `Date` of responses that came without one (RFC 9110 section 6.6.1), made once in a second.

use std::{cell::RefCell, time::SystemTime};

use crate::{
    proxy::head::{
        field_name::Name,
        fields::{Fields, ReadyLine},
    },
    routing::Tick,
};

/// The present date.
#[derive(Debug, Default)]
pub(in crate::proxy) struct DateLine {
    /// And of which second since the clock's origin it is.
    made: RefCell<Option<(u64, ReadyLine)>>,
}

impl DateLine {
    /// Appends it. `wall` is asked once in a second.
    pub(in crate::proxy) fn append_to(
        &self,
        fields: &mut Fields,
        now: Tick,
        wall: impl FnOnce() -> SystemTime,
    ) {
        let second = now.as_nanos() / 1_000_000_000;
        let mut made = self.made.borrow_mut();
        let (_, line) = match &mut *made {
            Some(made) if made.0 == second => made,
            made => made.insert((second, ReadyLine::new(Name::Date, &httpdate::fmt_http_date(wall())))),
        };
        fields.append_ready(line);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_is_made_once_in_a_second() {
        let date = DateLine::default();
        let at = |millis, wall: u64| {
            let tick = Tick::ORIGIN.plus(Duration::from_millis(millis));
            let mut fields = Fields::default();
            date.append_to(&mut fields, tick, || SystemTime::UNIX_EPOCH + Duration::from_secs(wall));
            String::from_utf8(fields.get(Name::Date).unwrap().to_vec()).unwrap()
        };
        assert_eq!(at(0, 0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(999, 77), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1000, 1), "Thu, 01 Jan 1970 00:00:01 GMT");
    }
}
