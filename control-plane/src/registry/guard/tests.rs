//! The guard as people may rely on it. Services are `orders`, leases last 15 s, and a sweep comes four times a second.

use std::time::UNIX_EPOCH;

use gateway_proto::{Address, Health, time::duration, v1};

use super::*;
use crate::registry::{Drain, Lost, Override, OverrideKind, Revision, Scope, StoredPolicy};

const TTL: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A registry of records alone, and a guard that watches it.
struct Bench {
    guard: Guard,
    records: Vec<Record>,
    policy: Option<v1::GuardPolicy>,
    release_until: Option<SystemTime>,
    revision: Revision,
    now: Instant,
    wall: SystemTime,
}

impl Bench {
    /// A service with so many leased replicas: numbers from 0.
    fn with(count: u16) -> Self {
        let mut bench = Self {
            guard: Guard::default(),
            records: Vec::new(),
            policy: None,
            release_until: None,
            revision: 0,
            now: Instant::now() + 10 * HOUR,
            wall: UNIX_EPOCH + 1000 * HOUR,
        };
        (0..count).for_each(|number| bench.come(number));
        bench
    }

    /// A replica comes.
    fn come(&mut self, number: u16) {
        self.revision += 1;
        let key = ReplicaKey::parse("orders", &format!("r{number:05}")).unwrap();
        let address = Address::parse(&format!("10.0.0.1:{}", number + 1)).unwrap();
        let lease = Some(crate::registry::LeaseTerms::new(lease(number, self.revision), TTL));
        let (incarnation, first_incarnation) = (self.revision, self.revision);
        let plain = Record::plain(key, address, self.wall);
        self.records.push(Record { lease, incarnation, first_incarnation, ..plain });
    }

    /// A replica registers anew.
    fn register_anew(&mut self, number: u16) {
        self.revision += 1;
        let revision = self.revision;
        let record = self.record(number);
        record.lease = Some(crate::registry::LeaseTerms::new(lease(number, revision), TTL));
        (record.incarnation, record.lost) = (revision, None);
    }

    fn record(&mut self, number: u16) -> &mut Record {
        let id = format!("r{number:05}");
        self.records.iter_mut().find(|record| record.key.replica.as_str() == id).unwrap()
    }

    fn view(&self) -> View {
        let policy = self.policy.map(|guard| {
            let wire = v1::Policy { guard: Some(guard), ..Default::default() };
            crate::registry::Item::from(StoredPolicy {
                scope: Scope::All,
                partial: gateway_proto::policy::Partial::parse(&wire).unwrap(),
                updated_at: self.wall,
                updated_by: "".into(),
                update_reason: "".into(),
                fault_origin: None,
                revision: 1,
            })
        });
        let release = self.release_until.map(|expires_at| {
            let service = ServiceName::parse("orders").unwrap();
            crate::registry::Item::from(Override {
                target: OverrideTarget { aspect: Aspect::Guard, service, replica: None, node: None },
                kind: OverrideKind::GuardReleased,
                created_at: self.wall,
                expires_at,
                reason: "".into(),
                author: "ana".into(),
                revision: 1,
            })
        });
        let records = self.records.iter().cloned().map(Into::into);
        View::new(self.revision, records.chain(policy).chain(release))
    }

    /// Judges these replicas, whose leases have lapsed, and does what the guard says. Yields how many go and are held.
    fn sweep(&mut self, lapsed: impl IntoIterator<Item = u16>) -> (usize, usize) {
        let judged = self.judge(lapsed);
        let (mut gone, mut held) = (0, 0);
        for judgement in judged {
            for suspect in &judgement.expire {
                self.records.retain(|record| record.key != suspect.key);
            }
            for suspect in &judgement.hold {
                let lost = Box::new(Lost { since: self.wall, incarnation: self.revision });
                let record = self.records.iter_mut().find(|record| record.key == suspect.key).unwrap();
                record.lost.get_or_insert(lost);
            }
            self.revision += 1;
            (gone, held) = (gone + judgement.expire.len(), held + judgement.hold.len());
        }
        (gone, held)
    }

    /// Judges, and leaves everything as it is, as a store does that is away.
    fn judge(&mut self, lapsed: impl IntoIterator<Item = u16>) -> Vec<Judgement> {
        let suspects = lapsed.into_iter().filter_map(|number| {
            let id = format!("r{number:05}");
            let record = self.records.iter().find(|record| record.key.replica.as_str() == id)?;
            let lease = record.lease?.id;
            Some(Suspect { key: record.key.clone(), lease, ttl: TTL, silent_for: TTL, is_excused: false })
        });
        let suspects = suspects.collect();
        let view = self.view();
        self.guard.judge(&view, suspects, self.now, self.wall)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
    }
}

fn lease(number: u16, revision: Revision) -> LeaseId {
    LeaseId::from_random(u128::from(number) << 64 | u128::from(revision.unsigned_abs()))
}

#[test]
fn two_lapses_are_believed_however_small_the_service() {
    assert_eq!(Bench::with(1).sweep([0]), (1, 0));
    assert_eq!(Bench::with(2).sweep([0, 1]), (2, 0));
    assert_eq!(Bench::with(3).sweep([0, 1]), (2, 0));
}

#[test]
fn more_than_two_and_more_than_the_share_are_held_all_of_them() {
    assert_eq!(Bench::with(3).sweep(0..3), (0, 3));
    assert_eq!(Bench::with(10).sweep(0..3), (3, 0), "three of ten are the share");
    assert_eq!(Bench::with(10).sweep(0..4), (0, 4));
    assert_eq!(Bench::with(10).judge(0..4)[0].expected, 10);
}

#[test]
fn who_lapses_one_by_one_is_held_once_the_share_is_used_up() {
    let mut bench = Bench::with(10);
    for number in 0..3 {
        assert_eq!(bench.sweep([number]), (1, 0), "{number}");
        bench.wait(SECOND);
    }
    assert_eq!(bench.sweep([3]), (0, 1));
    assert_eq!(bench.sweep([3, 4]), (0, 2));
    // The lapses that count leave the memory one by one, each after its time to live.
    bench.wait(TTL - SECOND);
    assert_eq!(bench.sweep([3, 4]), (2, 0));
}

#[test]
fn who_was_let_go_and_is_heard_of_before_the_store_took_its_removal_counts_as_there() {
    let mut bench = Bench::with(4);
    let judged = bench.judge([0, 1]);
    assert_eq!((judged[0].expire.len(), judged[0].expected), (2, 4));
    // The store is away, and the first of the two renews.
    let judged = bench.judge([1, 2]);
    assert_eq!((judged[0].expire.len(), judged[0].hold.len(), judged[0].expected), (2, 0, 4));
}

#[test]
fn a_large_service_does_not_go_in_small_helpings() {
    let mut bench = Bench::with(1000);
    let (mut gone, mut lapsed) = (0, 0..0);
    for sweep in 1..=10 {
        lapsed.end = sweep * 100;
        bench.wait(SECOND / 4);
        gone += bench.sweep(lapsed.clone()).0;
    }
    assert_eq!(gone, 300);
}

#[test]
fn one_service_is_not_judged_by_another() {
    let mut bench = Bench::with(10);
    for number in 0..4 {
        let record = bench.record(number);
        record.key = ReplicaKey::parse("carts", &format!("r{number:05}")).unwrap();
    }
    let judged = bench.judge([0, 1, 4, 5, 6]);
    let of: Vec<_> = judged.iter().map(|j| (j.service.as_str(), j.expire.len(), j.hold.len())).collect();
    assert_eq!(of, [("carts", 2, 0), ("orders", 0, 3)]);
}

#[test]
fn permanent_replicas_neither_lapse_nor_count() {
    let mut bench = Bench::with(13);
    for number in 3..13 {
        bench.record(number).lease = None;
    }
    let judged = bench.judge(0..3);
    assert_eq!((judged[0].expected, judged[0].hold.len()), (3, 3));
}

#[test]
fn what_is_held_is_let_go_when_enough_newcomers_are_ready() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..10), (0, 10));
    (20..27).for_each(|number| bench.come(number));
    bench.record(26).health = Health::Starting;
    assert_eq!(bench.sweep(0..10), (0, 10), "one of the seven is not ready");
    bench.record(26).health = Health::Healthy;
    assert_eq!(bench.judge(0..10)[0].expected, 10, "a newcomer takes a place, it makes none");
    assert_eq!(bench.sweep(0..10), (10, 0));
}

#[test]
fn who_registers_anew_is_no_newcomer() {
    // Of ten that were cut off, half come back under their own names: the others are not given up for that.
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..10), (0, 10));
    for back in 0..6 {
        bench.register_anew(back);
        assert_eq!(bench.sweep(back + 1..10), (0, usize::from(9 - back)), "{back} are back");
    }
    bench.register_anew(6);
    assert_eq!(bench.sweep(7..10), (3, 0), "three of ten are the share");
    // Neither are those that are redeployed while others are lost.
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..4), (0, 4));
    (4..10).for_each(|number| bench.register_anew(number));
    assert_eq!(bench.sweep(0..4), (0, 4));
}

#[test]
fn a_lapse_that_follows_those_held_is_held_with_them() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..4), (0, 4));
    bench.wait(600 * SECOND);
    assert_eq!(bench.sweep(0..5), (0, 5));
}

#[test]
fn an_operators_word_lets_go_of_what_is_held_while_it_is_in_force() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..4), (0, 4));
    bench.release_until = Some(bench.wall);
    assert_eq!(bench.sweep(0..4), (0, 4), "its time is over");
    bench.release_until = Some(bench.wall + SECOND);
    assert_eq!(bench.sweep(0..10), (10, 0));
}

#[test]
fn a_policy_switches_the_guard_off_and_moves_its_share() {
    let mut bench = Bench::with(10);
    bench.policy = Some(v1::GuardPolicy { enabled: Some(false), ..Default::default() });
    assert_eq!(bench.sweep(0..10), (10, 0));
    let mut bench = Bench::with(10);
    bench.policy = Some(v1::GuardPolicy { max_removal_ratio: Some(0.5), ..Default::default() });
    assert_eq!(bench.judge(0..6)[0].hold.len(), 6);
    assert_eq!(bench.sweep(0..5), (5, 0));
}

#[test]
fn nothing_is_held_for_longer_than_the_hold_time() {
    let mut bench = Bench::with(10);
    let minute = Some(duration(60 * SECOND));
    bench.policy = Some(v1::GuardPolicy { hold_time: minute, ..Default::default() });
    assert_eq!(bench.sweep(0..4), (0, 4));
    assert_eq!(bench.sweep(0..4), (0, 4));
    bench.wait(30 * SECOND);
    assert_eq!(bench.sweep(0..5), (0, 5), "one came later");
    bench.wait(30 * SECOND);
    assert_eq!(bench.sweep(0..5), (4, 1));
}

#[test]
fn a_wall_clock_that_is_set_lets_nothing_go() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..4), (0, 4));
    assert_eq!(bench.sweep(0..4), (0, 4));
    bench.wall += 100 * HOUR;
    assert_eq!(bench.sweep(0..4), (0, 4));
    bench.wall -= 200 * HOUR;
    bench.now += HOUR;
    assert_eq!(bench.sweep(0..4), (4, 0), "an hour has passed");
}

#[test]
fn a_restart_goes_by_records_alone_and_ratchets_nothing() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..4), (0, 4));
    for _ in 0..5 {
        bench.guard = Guard::default();
        let judged = bench.judge(0..4);
        assert_eq!((judged[0].expected, judged[0].hold.len()), (10, 4));
        bench.wait(600 * SECOND);
    }
    // What was lost before stays lost since then.
    bench.wait(601 * SECOND);
    bench.guard = Guard::default();
    assert_eq!(bench.sweep(0..4), (4, 0));
}

#[test]
fn a_store_that_fails_for_a_while_makes_no_lapse_count_twice() {
    let mut bench = Bench::with(10);
    for _ in 0..50 {
        let judged = bench.judge(0..2);
        assert_eq!((judged[0].expire.len(), judged[0].expected), (2, 10));
        bench.wait(SECOND / 4);
    }
    assert_eq!(bench.sweep(0..3), (3, 0));
    assert_eq!(bench.judge([3])[0].expected, 10);
}

#[test]
fn a_lease_that_guards_nothing_any_more_is_not_counted() {
    let mut bench = Bench::with(10);
    let stale: Vec<_> = (0..9)
        .map(|number| {
            let key = bench.record(number).key.clone();
            Suspect { key, lease: LeaseId::from_random(7), ttl: TTL, silent_for: TTL, is_excused: false }
        })
        .collect();
    let view = bench.view();
    let judged = bench.guard.judge(&view, stale, bench.now, bench.wall);
    assert_eq!((judged[0].expire.len(), judged[0].hold.len(), judged[0].expected), (9, 0, 10));
    assert_eq!(bench.sweep([0]), (1, 0), "and not remembered");
    let nowhere = Suspect {
        key: ReplicaKey::parse("gone", "r").unwrap(),
        lease: LeaseId::from_random(8),
        ttl: TTL,
        silent_for: TTL,
        is_excused: false,
    };
    let judged = bench.guard.judge(&view, vec![nowhere], bench.now, bench.wall);
    assert_eq!((judged[0].expire.len(), judged[0].expected), (1, 0));
}

#[test]
fn replicas_that_drain_go_when_they_lapse_and_hold_nobody() {
    let mut bench = Bench::with(12);
    for number in 0..6 {
        let drain = Drain {
            begun: bench.wall,
            deadline: bench.wall,
            reason: "".into(),
            author: "ana".into(),
            by_owner: false,
            is_over: number > 2,
            revision: 1,
        };
        bench.record(number).drain = Some(Box::new(drain));
    }
    assert_eq!(bench.sweep(0..7), (7, 0), "six that drain, and one of six others");
    assert_eq!(bench.judge([7])[0].expected, 6);
}

#[test]
fn what_was_held_before_a_start_is_not_let_go_before_its_owner_could_be_heard_of() {
    let mut bench = Bench::with(10);
    assert_eq!(bench.sweep(0..4), (0, 4));
    bench.release_until = Some(bench.wall + HOUR);
    let held: Vec<_> = bench.judge(0..4).remove(0).expire;
    let excused = held.iter().map(|suspect| Suspect { is_excused: true, ..suspect.clone() }).collect();
    let view = bench.view();
    let judged = Guard::default().judge(&view, excused, bench.now, bench.wall);
    assert_eq!((judged[0].expire.len(), judged[0].hold.len()), (0, 4));
    // Nor when somebody drains it meanwhile.
    let drain = Drain {
        begun: bench.wall,
        deadline: bench.wall,
        reason: "".into(),
        author: "ana".into(),
        by_owner: false,
        is_over: false,
        revision: 1,
    };
    bench.record(0).drain = Some(Box::new(drain));
    let excused = held.iter().map(|suspect| Suspect { is_excused: true, ..suspect.clone() }).collect();
    let view = bench.view();
    let judged = Guard::default().judge(&view, excused, bench.now, bench.wall);
    assert_eq!((judged[0].expire.len(), judged[0].hold.len()), (0, 4));
}
