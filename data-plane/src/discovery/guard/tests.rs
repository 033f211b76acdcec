//! What the guard holds, what it believes, and how each thing that it holds is let go again.

use std::time::SystemTime;

use gateway_proto::{
    ReplicaId,
    time::duration,
    v1::{self, RemovalCause, stream_snapshots_response::Update as Kind},
};

use super::*;
use crate::discovery::{
    Assembly, Mirror, Received,
    tests::{bookmark, delta, full, message, override_of, removal, replica, service},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + 500_000 * HOUR
}

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

/// `orders` with the replicas `r-FROM` to `r-TO`, each at the port of its number.
fn orders(numbers: std::ops::RangeInclusive<u16>) -> Vec<v1::Replica> {
    numbers.map(|n| replica("orders", &format!("r-{n:02}"), n)).collect()
}

fn with_guard(guard: v1::GuardPolicy) -> Option<v1::Policy> {
    Some(v1::Policy { guard: Some(guard), ..Default::default() })
}

/// One data plane and its time.
struct Plane {
    mirror: Mirror,
    assembly: Assembly,
    now: Moment,
}

impl Plane {
    /// Holds revision 1 of epoch "e": `orders` with so many replicas.
    fn new(count: u16) -> Self {
        let mirror = Mirror::new("dp-1".parse().unwrap(), Snapshot::default(), Guard::default(), noon());
        let now = Moment { tick: Tick::ORIGIN, wall: noon() };
        let mut plane = Self { mirror, assembly: Assembly::default(), now };
        plane.receive(full(1, vec![service("orders", orders(1..=count))]));
        plane
    }

    fn receive(&mut self, message: v1::StreamSnapshotsResponse) -> Judgement {
        let outcome = self.mirror.receive(&mut self.assembly, message, self.now);
        assert!(!matches!(outcome.received, Received::Refused(_)), "{:?}", outcome.received);
        outcome.judgement
    }

    /// A delta from what is held.
    fn change(&mut self, changes: v1::Delta) -> Judgement {
        let revision = self.mirror.snapshot().revision();
        self.receive(delta(revision, revision + 1, changes))
    }

    /// A full snapshot that has only these.
    fn replace(&mut self, services: Vec<v1::ServiceSnapshot>) -> Judgement {
        let revision = self.mirror.snapshot().revision();
        self.receive(full(revision + 1, services))
    }

    /// Removes `orders/r-FROM` to `orders/r-TO` for this reason.
    fn remove(&mut self, numbers: std::ops::RangeInclusive<u16>, cause: RemovalCause) -> Judgement {
        let removals = numbers.map(|n| removal("orders", &format!("r-{n:02}"), cause));
        self.change(v1::Delta { remove_replicas: removals.collect(), ..Default::default() })
    }

    /// Lets time pass in which the control plane says every five seconds that nothing has changed.
    fn confirmed(&mut self, time: Duration) -> Judgement {
        let mut judgement = Judgement::default();
        for _ in 0..time.as_secs() / 5 {
            self.cut_off(5 * SECOND);
            let (epoch, revision) =
                (self.mirror.snapshot().epoch().to_owned(), self.mirror.snapshot().revision());
            let more = self.receive(message(&epoch, revision, Kind::Bookmark(v1::Bookmark::default())));
            judgement.let_go.extend(more.let_go);
        }
        judgement
    }

    /// Lets time pass in which nobody says anything.
    fn cut_off(&mut self, time: Duration) {
        self.now = Moment { tick: self.now.tick.plus(time), wall: self.now.wall + time };
    }

    /// Ends the process and starts another from what was on disk.
    fn restart(&mut self) {
        let directory = tempfile::tempdir().unwrap();
        let cache = crate::discovery::Cache::new(directory.path(), 24 * HOUR);
        cache.save(self.mirror.snapshot(), self.mirror.guard(), self.now.wall).unwrap();
        let cached = cache.load(self.now.wall).unwrap().unwrap();
        // Its monotonic clock begins anew.
        self.now.tick = Tick::ORIGIN;
        self.mirror = Mirror::new("dp-1".parse().unwrap(), cached.snapshot, cached.guard, self.now.wall);
        self.assembly = Assembly::default();
    }

    /// The numbers of the replicas of `orders` that requests are routed to.
    fn routed(&self) -> Vec<u16> {
        let spec = self.mirror.service(&name("orders"));
        spec.map_or(Vec::new(), |spec| spec.replicas.iter().map(number).collect())
    }

    fn held(&self) -> Vec<u16> {
        self.mirror.guard().replicas().map(|(_, held)| number(&held.spec)).collect()
    }
}

fn number(replica: &crate::table::ReplicaSpec) -> u16 {
    replica.id.as_str().trim_start_matches("r-").parse().unwrap()
}

fn numbers(numbers: std::ops::RangeInclusive<u16>) -> Vec<u16> {
    numbers.collect()
}

/// Of which numbers, and why.
fn let_go(judgement: &Judgement) -> Vec<(&ReplicaId, LetGo)> {
    judgement.let_go.iter().map(|(key, why)| (&key.replica, *why)).collect()
}

fn all_for(judgement: &Judgement, count: usize, why: LetGo) {
    let reasons: Vec<_> = let_go(judgement).into_iter().map(|(_, why)| why).collect();
    assert_eq!(reasons, vec![why; count]);
}

#[test]
fn an_empty_registry_takes_no_replica_away() {
    let mut plane = Plane::new(10);
    let empty = v1::FullSnapshot { last_part: true, ..Default::default() };
    let judgement = plane.receive(message("f", 1, Kind::Full(empty)));
    assert_eq!((judgement.held.len(), judgement.touched), (10, [name("orders")].into()));
    assert_eq!(plane.routed(), numbers(1..=10), "as before");
    assert_eq!(plane.mirror.snapshot().services().len(), 0);
    assert_eq!(
        (plane.mirror.snapshot().epoch(), plane.mirror.snapshot().revision()),
        ("f", 1),
        "resumed from there"
    );
    assert_eq!(
        plane.mirror.snapshot().content_hash(),
        gateway_proto::content::ContentHash::default(),
        "what is held is not the registry's"
    );
}

#[test]
fn the_only_replica_of_a_service_is_held_too() {
    let mut plane = Plane::new(1);
    assert_eq!(plane.replace(vec![]).held.len(), 1);
    assert_eq!(plane.routed(), [1]);
}

#[test]
fn a_share_that_may_go_is_believed_and_more_than_that_is_not() {
    let mut plane = Plane::new(10);
    assert_eq!(plane.replace(vec![service("orders", orders(1..=7))]).held, []);
    assert_eq!(plane.routed(), numbers(1..=7));

    let mut plane = Plane::new(10);
    assert_eq!(plane.replace(vec![service("orders", orders(1..=6))]).held.len(), 4);
    assert_eq!(plane.routed(), numbers(1..=10));
    assert_eq!(plane.held(), numbers(7..=10));
}

#[test]
fn what_is_held_counts_with_what_is_missed_later() {
    let mut plane = Plane::new(10);
    plane.remove(7..=10, RemovalCause::Unspecified);
    // One of six alone would be believed.
    plane.remove(6..=6, RemovalCause::Unspecified);
    assert_eq!(plane.held(), numbers(6..=10));
}

#[test]
fn newcomers_of_the_same_update_do_not_make_a_loss_smaller() {
    let mut plane = Plane::new(4);
    plane.replace(vec![service("orders", orders(5..=24))]);
    assert_eq!(plane.held(), numbers(1..=4));
}

#[test]
fn what_somebody_removed_is_gone_however_many_that_are() {
    let mut plane = Plane::new(10);
    let removals = (1..=10).map(|n| removal("orders", &format!("r-{n:02}"), RemovalCause::Deregistered));
    let judgement = plane.change(v1::Delta {
        remove_services: vec!["orders".into()],
        remove_replicas: removals.collect(),
        ..Default::default()
    });
    assert_eq!(judgement, Judgement::default());
    assert_eq!(plane.mirror.service(&name("orders")), None);
}

#[test]
fn a_removal_of_the_service_does_not_explain_that_of_its_replicas() {
    let mut plane = Plane::new(2);
    let explained = removal("orders", "r-01", RemovalCause::Deregistered);
    plane.change(v1::Delta {
        remove_services: vec!["orders".into()],
        remove_replicas: vec![explained],
        ..Default::default()
    });
    assert_eq!(plane.routed(), [2]);
}

#[test]
fn lapsed_leases_are_believed_unless_more_than_two_and_more_than_the_share_go_at_once() {
    for (count, gone, held) in [(2, 2, 0), (10, 3, 0), (10, 4, 4), (3, 3, 3)] {
        let mut plane = Plane::new(count);
        plane.remove(1..=gone, RemovalCause::Expired);
        assert_eq!(plane.held().len(), held, "{gone} of {count}");
    }
}

#[test]
fn what_the_registry_has_held_itself_is_not_held_again() {
    let mut plane = Plane::new(10);
    let lost = |wire: v1::Replica| v1::Replica { health: v1::HealthStatus::Lost.into(), ..wire };
    let upsert_replicas = orders(1..=8).into_iter().map(lost).collect();
    plane.change(v1::Delta { upsert_replicas, ..Default::default() });
    assert_eq!(plane.remove(1..=8, RemovalCause::Expired).held, []);
    assert_eq!(plane.routed(), [9, 10]);
}

#[test]
fn what_drains_may_go_and_counts_neither_way() {
    let mut plane = Plane::new(10);
    let draining = |wire: v1::Replica| v1::Replica { mode: v1::ReplicaMode::Draining.into(), ..wire };
    let upsert_replicas = orders(1..=5).into_iter().map(draining).collect();
    plane.change(v1::Delta { upsert_replicas, ..Default::default() });
    assert_eq!(plane.replace(vec![service("orders", orders(6..=9))]).held, []);
    assert_eq!(plane.routed(), numbers(6..=9));
}

#[test]
fn a_held_replica_that_the_registry_has_again_is_as_the_registry_says() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    let returned = v1::Replica { incarnation: 9, weight: 7, ..replica("orders", "r-02", 22) };
    let judgement = plane.replace(vec![service("orders", vec![returned])]);
    assert_eq!(let_go(&judgement), [(&"r-02".parse().unwrap(), LetGo::Returned)]);
    let spec = plane.mirror.service(&name("orders")).unwrap();
    assert_eq!((spec.replicas[1].incarnation, spec.replicas[1].weight.get()), (9, 7));
    assert_eq!((plane.held(), plane.routed()), (vec![1, 3], vec![1, 2, 3]));
}

#[test]
fn a_replica_that_registers_anew_at_its_address_takes_its_own_place() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    let judgement = plane.replace(vec![service("orders", vec![replica("orders", "r-77", 2)])]);
    assert_eq!(let_go(&judgement), [(&"r-02".parse().unwrap(), LetGo::AddressTaken)]);
    assert_eq!(plane.routed(), [1, 3, 77]);

    // All of it in one update: nobody was missing.
    let mut plane = Plane::new(3);
    let anew = (1..=3).map(|n| replica("orders", &format!("r-{}", 70 + n), n)).collect();
    assert_eq!(plane.replace(vec![service("orders", anew)]).held, []);
    assert_eq!(plane.routed(), [71, 72, 73]);
}

#[test]
fn a_stranger_at_the_address_of_a_held_replica_gets_none_of_its_requests() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    let judgement = plane.replace(vec![service("users", vec![replica("users", "u-1", 2)])]);
    assert_eq!(let_go(&judgement), [(&"r-02".parse().unwrap(), LetGo::AddressTaken)]);

    // The same in one update.
    let mut plane = Plane::new(3);
    plane.replace(vec![service("users", vec![replica("users", "u-1", 2)])]);
    assert_eq!(plane.routed(), [1, 3]);
}

#[test]
fn a_service_that_was_always_at_the_same_address_is_no_stranger() {
    let users = || service("users", vec![replica("users", "u-1", 2)]);
    let mut plane = Plane::new(3);
    plane.replace(vec![service("orders", orders(1..=3)), users()]);
    plane.replace(vec![users()]);
    assert_eq!(plane.routed(), [1, 2, 3]);

    // Nor is it when it was held itself meanwhile.
    plane.replace(vec![]);
    plane.replace(vec![users()]);
    assert_eq!(plane.routed(), [1, 2, 3]);
}

#[test]
fn a_deregistration_ends_the_holding_of_whom_it_names() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    let judgement = plane.remove(2..=2, RemovalCause::Deregistered);
    assert_eq!(let_go(&judgement), [(&"r-02".parse().unwrap(), LetGo::Deregistered)]);
    let judgement = plane.remove(1..=1, RemovalCause::Expired);
    assert_eq!(let_go(&judgement), [(&"r-01".parse().unwrap(), LetGo::Expired)]);
    assert_eq!(plane.routed(), [3]);
}

#[test]
fn a_policy_without_a_guard_holds_nothing_and_ends_what_is_held() {
    let off = || with_guard(v1::GuardPolicy { enabled: Some(false), ..Default::default() });
    let mut plane = Plane::new(3);
    plane.replace(vec![v1::ServiceSnapshot { policy: off(), ..service("orders", orders(1..=3)) }]);
    assert_eq!(plane.replace(vec![]).held, [], "by the last known policy");

    // One replica left, so that the registry has a service to have a policy of.
    let mut plane = Plane::new(3);
    plane.replace(vec![service("orders", orders(1..=1))]);
    assert_eq!(plane.held(), [2, 3]);
    let upsert_services = vec![v1::ServiceSnapshot { policy: off(), ..service("orders", vec![]) }];
    let judgement = plane.change(v1::Delta { upsert_services, ..Default::default() });
    all_for(&judgement, 2, LetGo::Disabled);
    assert_eq!(plane.routed(), [1]);
}

#[test]
fn a_service_that_is_gone_whole_keeps_its_policy_until_the_default_one_it_followed_changes() {
    let patient = |per_try: u32| {
        let timeout = v1::TimeoutPolicy { per_try: Some(duration(per_try * SECOND)), ..Default::default() };
        Some(v1::Policy { timeout: Some(timeout), ..Default::default() })
    };
    let per_try =
        |plane: &Plane| plane.mirror.service(&name("orders")).unwrap().policy.timeout.per_try.as_secs();
    let full = |services, default_policy| {
        Kind::Full(v1::FullSnapshot { services, default_policy, last_part: true, ..Default::default() })
    };
    let mut plane = Plane::new(3);
    plane.receive(message("e", 2, full(vec![service("orders", orders(1..=3))], patient(7))));
    assert_eq!(per_try(&plane), 7);
    plane.receive(message("f", 1, full(vec![], None)));
    assert_eq!(per_try(&plane), 7, "the registry that forgot the replicas forgot the policy with them");
    let judgement = plane.receive(message("f", 2, full(vec![], patient(9))));
    assert_eq!((per_try(&plane), judgement.touched), (9, [name("orders")].into()));

    // A policy of its own is kept.
    let mut plane = Plane::new(3);
    plane.replace(vec![v1::ServiceSnapshot { policy: patient(3), ..service("orders", orders(1..=3)) }]);
    plane.receive(message("f", 1, full(vec![], patient(9))));
    plane.receive(message("f", 2, full(vec![], patient(8))));
    assert_eq!(per_try(&plane), 3);
}

#[test]
fn an_operator_releases_what_is_held_and_what_would_be() {
    let release = |node: &str| {
        let entry = v1::OverrideEntry { node_id: node.into(), ..override_of("g", "orders", "") };
        let kind = v1::OverrideKind::GuardReleased.into();
        let expire_time = Some((noon() + HOUR).into());
        let entry = v1::OverrideEntry { kind, expire_time, ..entry };
        v1::Delta { upsert_overrides: vec![entry], ..Default::default() }
    };
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    assert_eq!(plane.change(release("dp-2")).let_go, [], "of another data plane");
    all_for(&plane.change(release("dp-1")), 3, LetGo::Released);
    assert_eq!(plane.mirror.service(&name("orders")), None);

    let mut plane = Plane::new(3);
    plane.change(release(""));
    assert_eq!(plane.remove(1..=3, RemovalCause::Unspecified).held, []);

    // Its time is over.
    let mut plane = Plane::new(3);
    plane.change(release(""));
    plane.cut_off(HOUR);
    assert_eq!(plane.remove(1..=3, RemovalCause::Unspecified).held.len(), 3);
}

#[test]
fn others_that_have_taken_requests_for_a_minute_take_the_place_of_the_held_ones() {
    let mut plane = Plane::new(10);
    plane.replace(vec![service("orders", orders(11..=17))]);
    assert_eq!(plane.held(), numbers(1..=10));
    assert_eq!(plane.confirmed(55 * SECOND).let_go, []);
    all_for(&plane.confirmed(5 * SECOND), 10, LetGo::Outnumbered);
    assert_eq!(plane.routed(), numbers(11..=17));
}

#[test]
fn six_of_ten_do_not_take_the_place_of_ten_and_neither_do_lost_or_starting_ones() {
    let unfit = |wire: v1::Replica, health: v1::HealthStatus| v1::Replica { health: health.into(), ..wire };
    for health in [v1::HealthStatus::Lost, v1::HealthStatus::Starting, v1::HealthStatus::Unhealthy] {
        let mut plane = Plane::new(10);
        let mut others = orders(11..=16);
        others.extend(orders(17..=30).into_iter().map(|wire| unfit(wire, health)));
        plane.replace(vec![service("orders", others)]);
        assert_eq!(plane.confirmed(10 * MINUTE).let_go, [], "{health:?}");
        assert_eq!(plane.held(), numbers(1..=10));
    }
}

#[test]
fn a_minute_in_which_too_few_were_there_is_none() {
    let mut plane = Plane::new(10);
    plane.replace(vec![service("orders", orders(11..=17))]);
    plane.confirmed(50 * SECOND);
    let lost = v1::Replica { health: v1::HealthStatus::Lost.into(), ..replica("orders", "r-17", 17) };
    plane.change(v1::Delta { upsert_replicas: vec![lost], ..Default::default() });
    plane.change(v1::Delta { upsert_replicas: orders(17..=17), ..Default::default() });
    assert_eq!(plane.confirmed(55 * SECOND).let_go, []);
    all_for(&plane.confirmed(5 * SECOND), 10, LetGo::Outnumbered);
}

#[test]
fn nobody_waits_for_those_that_somebody_removed() {
    let mut plane = Plane::new(10);
    plane.remove(1..=4, RemovalCause::Unspecified);
    // Ten less three are seven, of which five are enough; three are there.
    plane.remove(5..=7, RemovalCause::Deregistered);
    assert_eq!(plane.confirmed(10 * MINUTE).let_go, []);
    plane.change(v1::Delta { upsert_replicas: orders(11..=12), ..Default::default() });
    all_for(&plane.confirmed(MINUTE), 4, LetGo::Outnumbered);
}

#[test]
fn the_hold_time_ends_all_holding_and_passes_only_while_a_control_plane_confirms() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    assert_eq!(plane.confirmed(50 * MINUTE).let_go, []);
    plane.cut_off(10 * HOUR);
    assert_eq!(plane.confirmed(10 * MINUTE - 10 * SECOND).let_go, [], "the first word ends the silence");
    all_for(&plane.confirmed(15 * SECOND), 3, LetGo::Overdue);
    assert_eq!(plane.mirror.service(&name("orders")), None);
    assert_eq!(plane.mirror.guard(), &Guard { services: BTreeMap::new(), ..plane.mirror.guard().clone() });
}

#[test]
fn each_replica_has_its_own_hold_time() {
    let mut plane = Plane::new(10);
    plane.remove(1..=5, RemovalCause::Unspecified);
    plane.confirmed(30 * MINUTE);
    plane.remove(6..=10, RemovalCause::Unspecified);
    plane.confirmed(30 * MINUTE);
    assert_eq!(plane.held(), numbers(6..=10));
    plane.confirmed(30 * MINUTE);
    assert!(plane.held().is_empty());
}

#[test]
fn a_refused_message_confirms_nothing_and_holds_nothing() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    let before = plane.mirror.clone();
    plane.cut_off(10 * SECOND);
    let outcome = plane.mirror.receive(&mut plane.assembly, bookmark(0), plane.now);
    assert!(matches!(outcome.received, Received::Refused(_)));
    assert_eq!(plane.mirror.guard(), before.guard());
}

#[test]
fn a_restart_goes_on_holding_and_counts_on() {
    let mut plane = Plane::new(10);
    plane
        .replace(vec![service("orders", orders(1..=2)), service("users", vec![replica("users", "u-1", 99)])]);
    plane.confirmed(40 * MINUTE);
    plane.replace(vec![service("orders", orders(1..=2))]);
    plane.restart();
    assert_eq!(plane.routed(), numbers(1..=10));
    let users = plane.mirror.service(&name("users")).unwrap();
    assert_eq!(users.replicas[0].id.as_str(), "u-1");
    let since: Vec<_> = plane.mirror.guard().replicas().map(|(_, held)| held.missing_since).collect();
    assert_eq!((since[0], since[8]), (noon(), noon() + 40 * MINUTE));

    // The first word begins the count.
    all_for(&plane.confirmed(20 * MINUTE + 5 * SECOND), 8, LetGo::Overdue);
    all_for(&plane.confirmed(40 * MINUTE), 1, LetGo::Overdue);
}

#[test]
fn a_restart_at_every_moment_changes_no_expectation() {
    let mut plane = Plane::new(10);
    plane.replace(vec![service("orders", orders(11..=16))]);
    plane.restart();
    assert_eq!(plane.confirmed(10 * MINUTE).let_go, []);
    plane.change(v1::Delta { upsert_replicas: orders(17..=17), ..Default::default() });
    all_for(&plane.confirmed(MINUTE), 10, LetGo::Outnumbered);
}

#[test]
fn more_than_memory_allows_are_not_held_and_the_longest_held_go_first() {
    let mut plane = Plane::new(10);
    plane.remove(1..=5, RemovalCause::Unspecified);
    plane.confirmed(MINUTE);
    plane.remove(6..=10, RemovalCause::Unspecified);
    let mut guard = plane.mirror.guard().clone();
    let mut judgement = Judgement::default();
    guard.let_go_oldest(6, &mut judgement);
    let left: Vec<_> = guard.replicas().map(|(_, held)| number(&held.spec)).collect();
    assert_eq!((left, judgement.let_go.len()), (numbers(7..=10), 6));
}

#[test]
fn what_is_held_is_reported_with_the_time_since_when() {
    let mut plane = Plane::new(3);
    plane.replace(vec![]);
    let report = plane.mirror.held_to_wire(2);
    assert_eq!((report.replicas.len(), report.total_count), (2, 3));
    let first = v1::HeldReplica {
        service: "orders".into(),
        replica_id: "r-01".into(),
        missing_time: Some(noon().into()),
    };
    assert_eq!(report.replicas[0], first);
}
