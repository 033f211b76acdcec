//! Data planes that have gone over from one control plane to another.

use std::time::{Duration, SystemTime};

use gateway_proto::{v1::LeftControlPlane, why_left};

use crate::age;

/// For so long it may explain what is seen: counts begin anew with a move, and breakers are told again.
const LATELY: Duration = Duration::from_secs(600);

/// `http://a:7400, 3m ago: it had lost touch with its store`.
pub(crate) fn words(left: &LeftControlPlane, now: SystemTime) -> String {
    format!("{}, {} ago: {}", left.url, age::since(now, left.leave_time), why_left(left))
}

/// The same as long as it is of interest to who asks about something else.
pub(crate) fn lately(left: Option<&LeftControlPlane>, now: SystemTime) -> Option<String> {
    let left = left.filter(|left| left.leave_time.is_some_and(|at| age::elapsed(now, at) < LATELY))?;
    Some(words(left, now))
}

#[cfg(test)]
mod tests {
    use gateway_proto::time::timestamp;

    use super::*;

    #[test]
    fn a_move_is_told_with_its_reason_and_of_interest_for_ten_minutes() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let left = |reason: &str| LeftControlPlane {
            url: "http://a:7400".into(),
            reason: reason.into(),
            leave_time: Some(timestamp(at)),
        };
        let now = at + Duration::from_secs(180);
        let told = "http://a:7400, 3m ago: it had lost touch with its store";
        assert_eq!(words(&left("outdated"), now), told);
        assert_eq!(lately(Some(&left("outdated")), now).as_deref(), Some(told));
        assert_eq!(words(&left("eclipsed"), now), "http://a:7400, 3m ago: eclipsed");
        assert_eq!(lately(Some(&left("outdated")), at + LATELY), None);
        assert_eq!(lately(None, now), None);
    }
}
