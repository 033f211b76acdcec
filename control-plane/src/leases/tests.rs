use std::sync::Barrier;

use super::*;

const TTL: Duration = Duration::from_secs(15);
const MS: Duration = Duration::from_millis(1);
const ID: LeaseId = LeaseId::from_random(1);

fn key() -> ReplicaKey {
    ReplicaKey::parse("orders", "r-1").unwrap()
}

/// A table with one lease, and the moment it was granted.
fn granted() -> (Leases, Instant) {
    let start = Instant::now();
    let leases = Leases::new(start);
    leases.grant(ID, key(), TTL, start);
    (leases, start)
}

/// Sweeps at the usual pace up to `end`.
fn sweep_until(leases: &Leases, start: Instant, end: Instant) -> usize {
    let mut now = start;
    let mut lapsed = 0;
    while now < end {
        now = (now + SWEEP_INTERVAL).min(end);
        lapsed += leases.sweep(now).lapsed;
    }
    lapsed
}

#[test]
fn a_lease_lives_until_its_deadline_and_not_at_it() {
    let (leases, start) = granted();
    assert_eq!(sweep_until(&leases, start, start + TTL - MS), 0);
    assert_eq!(leases.sweep(start + TTL).lapsed, 1);
    let expected = Suspect { key: key(), lease: ID, ttl: TTL, silent_for: TTL, is_excused: false };
    assert_eq!(leases.suspects(start + TTL), [expected]);
}

#[test]
fn a_renewal_gives_one_full_time_to_live_from_then() {
    let (leases, start) = granted();
    let later = start + TTL - MS;
    sweep_until(&leases, start, later);
    let term = leases.renew(ID, &key(), later).unwrap();
    assert_eq!(term, Term { ttl: TTL, renewed: later, deadline: later + TTL });
    assert_eq!(sweep_until(&leases, later, later + TTL - MS), 0);
    assert_eq!(leases.sweep(later + TTL).lapsed, 1);
}

#[test]
fn a_renewal_at_the_deadline_comes_too_late_even_before_the_sweep() {
    let (leases, start) = granted();
    sweep_until(&leases, start, start + TTL - MS);
    assert_eq!(leases.renew(ID, &key(), start + TTL), None);
    assert_eq!(leases.suspects(start + TTL).len(), 1);
}

#[test]
fn a_lapsed_lease_never_comes_back() {
    let (leases, start) = granted();
    sweep_until(&leases, start, start + TTL);
    assert_eq!(leases.renew(ID, &key(), start + TTL), None);
    assert_eq!(leases.get(ID), None);
    // A stall later does not revive it either.
    leases.sweep(start + 10 * TTL);
    assert_eq!(leases.renew(ID, &key(), start + 10 * TTL), None);
    leases.forget(ID);
    assert_eq!(leases.suspects(start + 10 * TTL), []);
}

#[test]
fn a_lease_renews_only_the_replica_it_was_granted_for() {
    let (leases, start) = granted();
    let other = ReplicaKey::parse("orders", "r-2").unwrap();
    assert_eq!(leases.renew(ID, &other, start), None);
    assert_eq!(leases.renew(LeaseId::from_random(2), &key(), start), None);
    assert!(leases.renew(ID, &key(), start).is_some());
}

#[test]
fn after_a_stall_every_lease_gets_one_full_time_to_live() {
    let (leases, start) = granted();
    let woken = start + 3 * TTL;
    let sweep = leases.sweep(woken);
    assert_eq!(sweep, Sweep { lapsed: 0, suspects: 0, stalled_for: Some(3 * TTL) });
    assert_eq!(sweep_until(&leases, woken, woken + TTL - MS), 0);
    assert_eq!(leases.sweep(woken + TTL).lapsed, 1);
}

#[test]
fn a_stall_of_half_a_short_time_to_live_is_long_enough_to_be_excused() {
    let start = Instant::now();
    let leases = Leases::new(start);
    let second = Duration::from_secs(1);
    leases.grant(ID, key(), second, start);
    sweep_until(&leases, start, start + second / 2);
    let woken = start + second + MS;
    assert_eq!(leases.sweep(woken).lapsed, 0);
    assert_eq!(sweep_until(&leases, woken, woken + second), 1);
}

#[test]
fn a_renewal_that_comes_between_a_stall_and_its_first_sweep_is_taken() {
    let (leases, start) = granted();
    assert!(leases.renew(ID, &key(), start + 3 * TTL).is_some());
}

#[test]
fn no_renewal_that_crosses_the_first_sweep_after_a_stall_is_refused() {
    let start = Instant::now();
    let leases = Leases::new(start);
    let ids = || (0..5000).map(LeaseId::from_random);
    ids().for_each(|id| leases.grant(id, key(), TTL, start));
    let both = Barrier::new(2);
    let wakings = || (1..=40).map(|round| start + round * 3 * TTL);
    let refused: usize = std::thread::scope(|scope| {
        let renewals = scope.spawn(|| {
            let renew_all = |now| {
                both.wait();
                ids().filter(|id| leases.renew(*id, &key(), now).is_none()).count()
            };
            wakings().map(renew_all).sum()
        });
        for now in wakings() {
            both.wait();
            leases.sweep(now);
        }
        renewals.join().unwrap()
    });
    assert_eq!(refused, 0);
}

#[test]
fn a_renewal_never_brings_a_deadline_forward() {
    let (leases, start) = granted();
    let woken = start + 3 * TTL;
    leases.sweep(woken);
    // This one was on its way before the stall.
    let term = leases.renew(ID, &key(), start + MS).unwrap();
    assert_eq!(term, Term { ttl: TTL, renewed: start + MS, deadline: woken + TTL });
}

#[test]
fn a_held_lease_comes_back_with_a_renewal_and_one_that_is_given_up_does_not() {
    let (leases, start) = granted();
    assert!(!leases.hold(ID), "it is alive");
    sweep_until(&leases, start, start + TTL);
    assert!(leases.hold(ID) && leases.hold(ID));
    assert_eq!((leases.get(ID), leases.sweep(start + TTL).suspects), (None, 1));
    let later = start + TTL + MS;
    assert_eq!(leases.renew(ID, &key(), later).map(|term| term.deadline), Some(later + TTL));
    assert_eq!((leases.suspects(later), leases.give_up(ID)), (vec![], false));
    sweep_until(&leases, later, later + TTL);
    assert!(leases.hold(ID) && leases.give_up(ID));
    assert_eq!(leases.renew(ID, &key(), later + TTL), None);
}

#[test]
fn a_lease_that_was_given_up_is_neither_held_nor_renewed_until_it_is_known_what_became_of_it() {
    let (leases, start) = granted();
    assert!(!leases.give_up(ID), "it is alive");
    sweep_until(&leases, start, start + TTL);
    assert!(leases.give_up(ID) && leases.give_up(ID));
    assert!(!leases.hold(ID), "its replica may be gone already");
    leases.sweep(start + 10 * TTL);
    assert_eq!((leases.renew(ID, &key(), start + TTL), leases.get(ID)), (None, None));
    leases.take_back();
    assert_eq!((leases.renew(ID, &key(), start + TTL), leases.hold(ID)), (None, true));
    assert!(leases.give_up(ID), "one that is held, too");
    leases.forget(ID);
    leases.take_back();
    assert!(!leases.give_up(ID) && !leases.hold(ID));
}

#[test]
fn a_held_lease_that_was_to_expire_before_a_stall_is_given_one_more_time_to_live() {
    let (leases, start) = granted();
    sweep_until(&leases, start, start + TTL);
    assert!(leases.hold(ID));
    let woken = start + 3 * TTL;
    assert!(!leases.expire(ID, woken), "nobody was heard of, whether or not a sweep has noticed");
    leases.sweep(woken);
    assert!(!leases.expire(ID, woken));
    sweep_until(&leases, woken, woken + TTL);
    assert!(leases.expire(ID, woken + TTL) && leases.expire(ID, woken + TTL));
    assert_eq!(leases.renew(ID, &key(), woken + TTL), None);
}

#[test]
fn a_lapsed_lease_expires_whether_or_not_this_process_stood_still_and_one_that_lives_does_not() {
    let (leases, start) = granted();
    assert!(!leases.expire(ID, start), "it is alive");
    sweep_until(&leases, start, start + TTL);
    assert!(leases.expire(ID, start + 3 * TTL));
    leases.forget(ID);
    assert!(!leases.expire(ID, start + 3 * TTL));
}

#[test]
fn a_lease_that_was_held_before_the_start_waits_for_its_owner() {
    let start = Instant::now();
    let leases = Leases::new(start);
    leases.grant_held(ID, key(), TTL, start);
    let excused = |at| leases.suspects(at)[0].is_excused;
    sweep_until(&leases, start, start + TTL);
    assert_eq!((leases.sweep(start + TTL).suspects, leases.get(ID)), (1, None));
    assert!(excused(start + TTL - MS) && !excused(start + TTL));
    // A stall gives it as long again.
    leases.sweep(start + 3 * TTL);
    assert!(excused(start + 4 * TTL - MS) && !excused(start + 4 * TTL));
    assert!(leases.renew(ID, &key(), start + 5 * TTL).is_some());
}

/// A table whose renewals go to a store, which keeps its one lease; where they come out, and the moment it was granted.
fn kept() -> (Leases, Contact, tokio::sync::mpsc::Receiver<Renewal>, Instant) {
    let start = Instant::now();
    let contact = Contact::new(start);
    let (outlet, renewals) = Outlet::new(contact.clone(), 9);
    let leases = Leases::with_outlet(start, Some(outlet));
    leases.grant(ID, key(), TTL, start);
    leases.kept(ID);
    (leases, contact, renewals, start)
}

#[test]
fn one_that_the_store_drops_lapses_when_nobody_has_heard_of_its_owner_for_a_moment_more() {
    let (leases, contact, _renewals, start) = kept();
    let dropped = start + TTL + MS;
    contact.touch(dropped + TTL);
    sweep_until(&leases, start, dropped);
    leases.dropped(ID, dropped);
    assert_eq!(sweep_until(&leases, dropped, dropped + SECOND_OPINION - MS), 0);
    assert_eq!(leases.sweep(dropped + SECOND_OPINION).lapsed, 1);
}

#[test]
fn one_that_the_store_drops_after_a_stall_has_one_full_time_to_live_whether_or_not_a_sweep_came_first() {
    for sweeps_first in [false, true] {
        let (leases, contact, _renewals, start) = kept();
        let woken = start + 3 * TTL;
        contact.touch(woken + 2 * TTL);
        if sweeps_first {
            assert!(leases.sweep(woken).stalled_for.is_some());
        }
        leases.dropped(ID, woken + MS);
        assert_eq!(sweep_until(&leases, woken, woken + TTL - MS), 0, "sweeps first: {sweeps_first}");
        assert_eq!(sweep_until(&leases, woken + TTL - MS, woken + TTL + 2 * SWEEP_INTERVAL), 1);
    }
}

#[test]
fn one_that_the_store_drops_soon_after_this_process_was_cut_off_from_it_has_one_full_time_to_live() {
    let (leases, contact, _renewals, start) = kept();
    // Owners are turned away until then, and have to find their way back.
    let back = start + TTL - MS;
    sweep_until(&leases, start, back);
    assert!(!leases.are_in_touch(back));
    contact.touch(back + 2 * TTL);
    leases.compare(&HashSet::from([ID]), true, back);
    leases.dropped(ID, back + 2 * MS);
    assert_eq!(sweep_until(&leases, back, back + TTL - SWEEP_INTERVAL), 0);
    assert!(leases.renew(ID, &key(), back + TTL - SWEEP_INTERVAL).is_some());
}

#[test]
fn of_many_that_the_store_drops_at_once_none_lapses_while_it_is_told_of_others() {
    let (leases, contact, _renewals, start) = kept();
    let ids = || (2..1002).map(LeaseId::from_random);
    for id in ids() {
        leases.grant(id, ReplicaKey::parse("orders", &format!("r-{}", id.tag())).unwrap(), TTL, start);
        leases.kept(id);
    }
    let dropped = start + TTL + MS;
    contact.touch(dropped + 4 * TTL);
    sweep_until(&leases, start, dropped);
    ids().for_each(|id| leases.dropped(id, dropped));
    // One comes back in each second, which is far slower than any store.
    let mut now = dropped;
    for id in ids().take(10) {
        leases.kept(id);
        assert_eq!(sweep_until(&leases, now, now + SECOND_OPINION), 0);
        now += SECOND_OPINION;
    }
    assert_eq!(sweep_until(&leases, now, now + PROGRESS), 990, "nobody else was heard of");
    // Of one alone, nobody waits for others.
    leases.dropped(ID, now + PROGRESS);
    assert_eq!(sweep_until(&leases, now + PROGRESS, now + PROGRESS + SECOND_OPINION), 1);
}

#[test]
fn none_waits_longer_for_others_than_they_can_take() {
    let (leases, contact, _renewals, start) = kept();
    let other = LeaseId::from_random(2);
    leases.grant(other, ReplicaKey::parse("orders", "r-2").unwrap(), TTL, start);
    leases.kept(other);
    let dropped = start + TTL + MS;
    contact.touch(dropped + 4 * TTL);
    sweep_until(&leases, start, dropped);
    leases.dropped(ID, dropped);
    leases.dropped(other, dropped);
    leases.kept(other);
    assert_eq!(sweep_until(&leases, dropped, dropped + SECOND_OPINION - MS), 0);
    assert_eq!(leases.sweep(dropped + SECOND_OPINION).lapsed, 1);
}

#[test]
fn a_renewal_says_that_the_store_has_dropped_its_lease_until_the_store_keeps_it_again() {
    let (leases, contact, mut renewals, start) = kept();
    contact.touch(start + TTL);
    let mut said = |at: Instant| {
        leases.sweep(at);
        leases.renew(ID, &key(), at).unwrap();
        renewals.try_recv().map(|renewal| (renewal.is_dropped, renewal.heard)).unwrap()
    };
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(said(at(2)), (false, at(2)));
    leases.dropped(ID, at(3));
    assert_eq!(
        renewals.try_recv().map(|renewal| (renewal.is_dropped, renewal.heard)).unwrap(),
        (true, at(2))
    );
    let mut said = |at: Instant| {
        leases.sweep(at);
        leases.renew(ID, &key(), at).unwrap();
        renewals.try_recv().map(|renewal| renewal.is_dropped).unwrap()
    };
    assert!(said(at(4)));
    leases.kept(ID);
    assert!(!said(at(6)));
}

#[test]
fn a_renewal_is_told_for_half_a_time_to_live() {
    let (leases, contact, mut renewals, start) = kept();
    contact.touch(start + TTL);
    leases.renew(ID, &key(), start + TTL / 4).unwrap();
    let renewal = renewals.try_recv().unwrap();
    assert!(
        renewal.is_timely(start + TTL / 4 + TTL / 2 - MS) && !renewal.is_timely(start + TTL / 4 + TTL / 2)
    );
}

#[test]
fn a_short_lease_has_its_whole_time_anew_from_when_its_owner_was_last_turned_away() {
    let (leases, contact, _renewals, start) = kept();
    let ttl = Duration::from_secs(3);
    leases.grant(ID, key(), ttl, start);
    leases.kept(ID);
    // The store says nothing for 3.9 s: renewals of so short a lease are refused from the second second on.
    let back = start + Duration::from_millis(3_900);
    sweep_until(&leases, start, back);
    assert!(!leases.is_in_touch(ID, back) && leases.are_in_touch(back));
    contact.touch(back + 2 * ttl);
    leases.dropped(ID, back + MS);
    assert_eq!(sweep_until(&leases, back, back + ttl - SWEEP_INTERVAL), 0);
    assert!(leases.renew(ID, &key(), back + ttl - SWEEP_INTERVAL).is_some());
}
