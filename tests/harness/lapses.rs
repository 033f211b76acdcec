//! How long a lease keeps its replica, and how old an answer may be, beside the faults of a drill: what [`history`](crate::history)
//! is to hold a control plane to.
//!
//! The clock of a lease starts somewhere between the call and the answer. A registration is durable with its lease, so its
//! replica stays for a time to live from the call at least, whatever happens. A renewal is answered at once and goes to etcd
//! beside that; once it is there, it holds for everybody. One that meets a fault may never get there: the control plane that took
//! it is killed, or has heard nothing of etcd for a moment and takes it in good faith. So a renewal holds its replica for a time
//! to live from its call if there was no fault while it was on its way, and otherwise for no time at all.
//!
//! A replica is gone once nobody can have renewed its lease for a time to live, and what etcd and judging add: counted from the
//! answer, also of renewals of which nobody knows whether they were taken. Each fault gives all a time to live from its end on.
//!
//! Pure: times are nanoseconds since a drill began.

use std::time::Duration;

use crate::history::{Fact, Lease, Leases, Operation};

/// Nanoseconds since a drill began.
pub type Moment = u64;

/// For so long after a fault, its parts may still be looking for each other.
pub const SETTLES: Duration = Duration::from_secs(2);
/// A renewal has reached etcd by then.
pub const REACHES: Duration = Duration::from_millis(500);
/// A replica that falls silent goes so much later than its time to live is over: up to three seconds that etcd adds and a sweep,
/// as docs/store.md and docs/semantics.md have it, and what a busy machine takes.
pub const GOES: Duration = Duration::from_secs(4);
/// How old an answer may be where there is no fault: milliseconds, on a machine that is not busy.
pub const FRESH: Duration = Duration::from_secs(2);

/// From when until when there was a fault, or its parts were looking for each other.
#[derive(Debug, Default, Clone)]
pub struct Faults(Vec<(Moment, Moment)>);

/// What may have begun the time of a lease, and when its caller had an answer or waited no longer for one.
#[derive(Debug, Clone, Copy)]
pub struct Sign {
    /// A registration or a renewal; others begin nothing.
    pub operation: Operation,
    /// The same as its return, where that is known.
    pub ended: Moment,
}

impl Faults {
    /// Adds one that began then, no sooner than those before, and was over at the other moment.
    pub fn add(&mut self, began: Moment, over: Moment) {
        self.0.push((began, later(over, SETTLES)));
    }

    /// The soonest that a look may have seen what it told, if it was asked for at this moment and can be so old: a fault keeps a
    /// control plane from hearing of others for no longer than it lasts.
    pub fn seen_from(&self, called: Moment, oldest: Duration) -> Moment {
        let fresh = sooner(called, FRESH);
        let during = self.0.iter().filter(|(began, over)| *began <= called && fresh <= *over);
        let seen = during.map(|(began, _)| sooner(*began, FRESH)).min().unwrap_or(fresh).min(fresh);
        seen.max(sooner(called, oldest))
    }

    /// When leases of this time to live of one replica may lapse, and when it is gone, by all that was done to it.
    pub fn leases(&self, ttl: Duration, signs: &[Sign]) -> Leases {
        let mut leases = Leases::new();
        for Sign { operation: Operation { called, returned, fact }, .. } in signs {
            if let Fact::Registers(write) = fact {
                // Where nobody knows when it was made, nobody knows when it is over.
                let gone_by = returned.unwrap_or(Moment::MAX);
                leases.insert(*write, Lease { lasts_until: later(*called, ttl), gone_by });
            }
        }
        for Sign { operation: Operation { called, returned, fact }, ended } in signs {
            if let Fact::Renews(write) = fact
                && let Some(lease) = leases.get_mut(write)
            {
                // One without an answer may have been taken, too.
                lease.gone_by = lease.gone_by.max(*ended);
                if returned.is_some_and(|returned| self.let_through(*called, returned)) {
                    lease.lasts_until = lease.lasts_until.max(later(*called, ttl));
                }
            }
        }
        for lease in leases.values_mut() {
            lease.gone_by = self.gone_by(lease.gone_by, ttl + GOES);
        }
        leases
    }

    /// Whether a renewal that was called for at this moment, and taken by the other, is sure to have reached etcd.
    pub fn let_through(&self, called: Moment, returned: Moment) -> bool {
        let reached = later(returned, REACHES);
        self.0.iter().all(|(began, over)| *over < called || reached < *began)
    }

    /// When a replica is gone that was heard of then, or at a fault's end, and never after that.
    fn gone_by(&self, heard: Moment, takes: Duration) -> Moment {
        self.0.iter().fold(later(heard, takes), |gone_by, (began, over)| {
            if *began <= gone_by && heard <= *over { gone_by.max(later(*over, takes)) } else { gone_by }
        })
    }
}

/// So many nanoseconds.
pub fn nanos(time: Duration) -> Moment {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn later(moment: Moment, by: Duration) -> Moment {
    moment.saturating_add(nanos(by))
}

fn sooner(moment: Moment, by: Duration) -> Moment {
    moment.saturating_sub(nanos(by))
}
