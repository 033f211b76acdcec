//! The data planes that lost this control plane as the process before it ended, and are yet to come back.
//!
//! They route by what they hold whether or not anybody knows of them here, so what is said of all data planes waits for
//! them, though not for ever. One that is known again speaks for itself.

use std::{collections::BTreeSet, time::Instant};

use gateway_proto::NodeId;

/// Who is yet to come back.
#[derive(Debug, Default)]
pub(super) enum Returns {
    /// All that may route are known.
    #[default]
    Complete,
    /// These may route, too, until then.
    Named { absent: BTreeSet<NodeId>, until: Instant },
    /// So may any others, until then: nobody has said which there were.
    Unnamed { until: Instant },
}

impl Returns {
    /// All of those that the process before named are expected until then; of one that named none, anybody is.
    pub(super) fn expect(named: Option<BTreeSet<NodeId>>, until: Instant) -> Self {
        match named {
            Some(absent) => Self::Named { absent, until },
            None => Self::Unnamed { until },
        }
    }

    /// Notes that a data plane is known.
    pub(super) fn came(&mut self, id: &NodeId) {
        if let Self::Named { absent, .. } = self {
            absent.remove(id);
        }
    }

    /// Those that are missing; `None`: nobody knows which.
    pub(super) fn absent(&self, now: Instant) -> Option<BTreeSet<NodeId>> {
        match self {
            Self::Named { absent, until } if now < *until => Some(absent.clone()),
            Self::Unnamed { until } if now < *until => None,
            _ => Some(BTreeSet::new()),
        }
    }

    /// Whether nobody is missing.
    pub(super) fn are_complete(&self, now: Instant) -> bool {
        match self {
            Self::Complete => true,
            Self::Named { absent, until } => absent.is_empty() || now >= *until,
            Self::Unnamed { until } => now >= *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ids(ids: &[&str]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId::parse(id).unwrap()).collect()
    }

    #[test]
    fn all_are_known_once_those_that_were_named_are_or_have_stayed_away_for_too_long() {
        let (now, time) = (Instant::now(), Duration::from_secs(20));
        let mut returns = Returns::expect(Some(ids(&["n1", "n2"])), now + time);
        for (id, is_complete) in [("n1", false), ("n3", false), ("n2", true)] {
            returns.came(&NodeId::parse(id).unwrap());
            assert_eq!(returns.are_complete(now), is_complete, "{id}");
        }
        let returns = Returns::expect(Some(ids(&["n1"])), now + time);
        assert_eq!(returns.absent(now), Some(ids(&["n1"])));
        assert!(returns.are_complete(now + time));
        assert_eq!(returns.absent(now + time), Some(ids(&[])));
        assert!(Returns::expect(Some(ids(&[])), now + time).are_complete(now));
    }

    #[test]
    fn where_nobody_was_named_those_that_come_do_not_speak_for_all() {
        let (now, time) = (Instant::now(), Duration::from_secs(20));
        let mut returns = Returns::expect(None, now + time);
        returns.came(&NodeId::parse("n1").unwrap());
        assert_eq!((returns.are_complete(now), returns.absent(now)), (false, None));
        assert!(returns.are_complete(now + time));
    }
}
