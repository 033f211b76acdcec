//! Replicas nearby go first where the policy says so.

use gateway_proto::Locality;

use super::*;

fn at(region: &str, zone: &str) -> Locality {
    Locality::parse(v1::Locality { region: region.into(), zone: zone.into() }).unwrap()
}

fn located(id: &str, region: &str, zone: &str) -> ReplicaSpec {
    ReplicaSpec { locality: at(region, zone), ..replica(id) }
}

/// Two in each of two zones of a region, and two abroad.
fn replicas() -> Vec<ReplicaSpec> {
    [("a", "eu", "eu-1a"), ("b", "eu", "eu-1b"), ("c", "us", "us-1a")]
        .into_iter()
        .flat_map(|(id, region, zone)| [1, 2].map(|number| located(&format!("{id}{number}"), region, zone)))
        .collect()
}

fn from(here: Locality, spec: &ServiceSpec) -> (Arc<Table>, Arc<Service>) {
    let (table, _) = Table::located(1, here);
    table.apply(std::slice::from_ref(spec), &[], START);
    let service = table.service("orders").unwrap();
    (table, service)
}

fn near(overprovisioning_factor: f64) -> Balancing {
    Balancing { prefer_local: true, overprovisioning_factor, ..Balancing::default() }
}

fn who(service: &Service, now: Tick) -> Vec<String> {
    shares_of(service, now, 0..600).into_iter().filter(|(_, share)| *share > 0).map(|(id, _)| id).collect()
}

#[test]
fn replicas_of_the_own_zone_take_all_requests_and_their_neighbours_are_next() {
    let (_table, service) = from(at("eu", "eu-1a"), &balanced(near(0.0), replicas()));
    assert_eq!(asked(&service, START, 4), ["a1", "a2", "a1", "a2"]);
    trip(&service, START, "a1");
    assert_eq!(who(&service, START), ["a2"]);
    trip(&service, START, "a2");
    assert_eq!(who(&service, START), ["b1", "b2"]);
    trip(&service, START, "b1");
    trip(&service, START, "b2");
    assert_eq!(who(&service, START), ["c1", "c2"]);
}

#[test]
fn with_a_factor_the_neighbours_take_what_the_own_zone_cannot_bear() {
    let (_table, service) = from(at("eu", "eu-1a"), &balanced(near(1.4), replicas()));
    trip(&service, START, "a1");
    let shares = shares_of(&service, START, 0..1000);
    assert_eq!((shares["a2"], shares["b1"], shares["b2"], shares["c1"]), (700, 150, 150, 0));
}

#[test]
fn a_region_alone_is_as_good_as_a_zone_to_whoever_knows_no_zone() {
    let (_table, service) = from(at("eu", ""), &balanced(near(0.0), replicas()));
    assert_eq!(who(&service, START), ["a1", "a2", "b1", "b2"]);
}

#[test]
fn a_tier_goes_before_what_is_near() {
    let mut all = replicas();
    for far in &mut all[..4] {
        far.priority = Priority::parse(1).unwrap();
    }
    let (_table, service) = from(at("eu", "eu-1a"), &balanced(near(0.0), all));
    assert_eq!(who(&service, START), ["c1", "c2"]);
}

#[test]
fn nobody_is_preferred_without_a_place_or_without_the_policy() {
    let (_table, service) = from(Locality::default(), &balanced(near(1.4), replicas()));
    assert_eq!(who(&service, START).len(), 6);
    let (_table, service) = from(at("eu", "eu-1a"), &balanced(Balancing::default(), replicas()));
    assert_eq!(who(&service, START).len(), 6);
    assert_eq!(asked(&service, START, 6).len(), 6);
}

#[test]
fn a_replica_that_moves_is_near_or_far_from_then_on() {
    let (table, service) = from(at("eu", "eu-1a"), &balanced(near(0.0), replicas()));
    let mut moved = replicas();
    moved[0].locality = at("us", "us-1a");
    moved[4].locality = at("eu", "eu-1a");
    table.apply(&[balanced(near(0.0), moved)], &[], START);
    assert_eq!(who(&service, START), ["a2", "c1"]);
}

#[test]
fn distance_is_no_reason_while_too_few_let_traffic_through() {
    let mut spec = balanced(near(0.0), replicas());
    spec.policy.breaker.fail_open_threshold = 0.7;
    let (_table, service) = from(at("eu", "eu-1a"), &spec);
    for id in ["a1", "a2"] {
        trip(&service, START, id);
    }
    assert_eq!(who(&service, START), ["a1", "a2", "b1", "b2", "c1", "c2"]);
}

#[test]
fn a_service_that_fails_open_asks_resting_replicas_that_are_far_too() {
    let policy = Policy {
        balancing: near(0.0),
        breaker: gateway_proto::policy::Breaker { fail_open_threshold: 0.5, ..Default::default() },
        ..Policy::default()
    };
    let anywhere = Policy { balancing: Balancing::default(), ..policy };
    let spec = |policy| ServiceSpec { policy, ..orders(replicas()) };
    let (table, service) = from(at("eu", "eu-1a"), &spec(anywhere));
    for id in ["b1", "b2", "c1", "c2"] {
        trip(&service, START, id);
    }
    table.apply(&[spec(policy)], &[], START);
    assert_eq!(service.fail_open().map(|open| (open.letting_through, open.total)), Some((2, 6)));
    assert_eq!(who(&service, START), ["a1", "a2", "b1", "b2", "c1", "c2"]);
}
