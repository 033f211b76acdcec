use std::time::{Duration, UNIX_EPOCH};

use gateway_proto::v1::BreakerState::{self, Closed, ForcedClosed, ForcedOpen, HalfOpen, Open};
use proptest::prelude::*;

use super::*;
use crate::observe::report::Report;

fn key(id: &str) -> ReplicaKey {
    ReplicaKey::parse("orders", id).unwrap()
}

fn node(id: &str) -> NodeId {
    NodeId::parse(id).unwrap()
}

fn wire(id: &str, state: BreakerState) -> v1::Breaker {
    v1::Breaker {
        service: "orders".into(),
        replica_id: id.into(),
        state: state.into(),
        reason: format!("of {id}"),
        trip_count: 2,
        attempt_count: 5,
        failure_count: 3,
        inflight_count: 1,
        ..Default::default()
    }
}

fn report_of(full: bool, breakers: Vec<v1::Breaker>) -> BreakerReport {
    let wire = v1::ReportNodeStatusRequest { full, breakers, ..Default::default() };
    Report::parse(&node("n"), wire, UNIX_EPOCH).unwrap().breakers
}

fn report(full: bool, rows: &[(&str, BreakerState)]) -> BreakerReport {
    report_of(full, rows.iter().map(|(id, state)| wire(id, *state)).collect())
}

/// Takes in reports of data planes by their ids.
fn matrix(reports: &[(&str, &[(&str, BreakerState)])]) -> Matrix {
    let mut matrix = Matrix::default();
    for (id, rows) in reports {
        matrix.report(&node(id), report(true, rows), UNIX_EPOCH);
    }
    matrix
}

fn rows(matrix: &Matrix) -> Vec<String> {
    let scope = Scope::default();
    let replicas = matrix.from(&scope, None);
    let rows = replicas
        .flat_map(|(key, replica)| replica.nodes().map(move |node| format!("{}@{node}", key.replica)));
    rows.collect()
}

#[test]
fn failures_that_a_row_leaves_out_are_as_they_were() {
    let row = |failure_count, ids: &[&str]| v1::Breaker {
        failure_count,
        attempt_count: 100 + failure_count,
        last_errors: vec!["connect refused".into()],
        last_failures: ids
            .iter()
            .map(|id| v1::FailedAttempt {
                error: "connect refused".into(),
                request_id: (*id).into(),
                ..Default::default()
            })
            .collect(),
        ..wire("a", Open)
    };
    let mut matrix = Matrix::default();
    let mut told = |row: v1::Breaker| {
        matrix.report(&node("n"), report_of(false, vec![row]), UNIX_EPOCH);
        let name = (ReplicaKey::parse("orders", "a").unwrap(), Some(node("n")));
        let kept = matrix.row(&name).unwrap();
        let ids = kept.last_failures.iter().map(|failure| failure.request_id.clone());
        (ids.collect::<Vec<_>>().join(" "), kept.last_errors.len())
    };
    assert_eq!(told(row(1, &["x"])), ("x".into(), 1));
    assert_eq!(told(row(1, &[])), ("x".into(), 1), "nothing failed since");
    assert_eq!(told(row(3, &["z", "y"])), ("z y".into(), 2));
    assert_eq!(told(row(4, &[])), (String::new(), 1), "one that names none knows errors only");
}

#[test]
fn a_full_report_replaces_and_another_one_adds() {
    let mut matrix = matrix(&[("n1", &[("a", Closed), ("b", Closed)]), ("n2", &[("b", Open)])]);
    matrix.report(&node("n1"), report(false, &[("c", Open)]), UNIX_EPOCH);
    assert_eq!(rows(&matrix), ["a@n1", "b@n1", "b@n2", "c@n1"]);
    matrix.report(&node("n1"), report(true, &[("c", Closed)]), UNIX_EPOCH);
    assert_eq!(rows(&matrix), ["b@n2", "c@n1"]);
    assert_eq!(matrix.row_count, 2);
}

#[test]
fn what_is_gone_takes_its_rows_with_it() {
    let mut matrix = matrix(&[("n1", &[("a", Open), ("b", Open)]), ("n2", &[("a", Open), ("b", Open)])]);
    assert_eq!(matrix.open_replica_count(&key("a").service), 2);
    assert_eq!(matrix.open_breaker_count(&node("n1")), 2);
    matrix.forget_replica(&key("a"));
    matrix.forget_node(&node("n2"));
    assert_eq!(rows(&matrix), ["b@n1"]);
    matrix.forget_replica(&key("b"));
    assert_eq!((rows(&matrix).len(), matrix.row_count), (0, 0));
    assert!(matrix.open.is_empty() && matrix.nodes.is_empty() && matrix.replicas.is_empty());
}

#[test]
fn rows_go_on_from_the_replica_named_and_stay_in_scope() {
    let matrix = matrix(&[("n1", &[("a", Open), ("b", Open), ("c", Open)])]);
    let from = |scope: Scope, start: Option<&str>| {
        let start = start.map(key);
        let replicas: Vec<_> =
            matrix.from(&scope, start.as_ref()).map(|(key, _)| key.replica.to_string()).collect();
        replicas.concat()
    };
    assert_eq!(from(Scope::default(), Some("b")), "bc");
    assert_eq!(from(Scope::parse("orders", "").unwrap(), None), "abc");
    assert_eq!(from(Scope::parse("orders", "b").unwrap(), None), "b");
    assert_eq!(from(Scope::parse("orders", "b").unwrap(), Some("c")), "");
    assert_eq!(from(Scope::parse("billing", "").unwrap(), None), "");
}

#[test]
fn the_data_plane_that_sees_a_replica_worst_speaks_for_all() {
    for (states, worst, open) in [
        (vec![Closed, Open, HalfOpen], Open, 2),
        (vec![Open, ForcedOpen, Closed], ForcedOpen, 2),
        (vec![ForcedClosed, HalfOpen], HalfOpen, 1),
        (vec![Closed, ForcedClosed, Closed], ForcedClosed, 0),
        (vec![Closed], Closed, 0),
    ] {
        let mut matrix = Matrix::default();
        for (index, state) in states.iter().enumerate() {
            let row = v1::Breaker { reason: format!("{state:?}"), ..wire("a", *state) };
            let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(index).unwrap());
            matrix.report(&node(&format!("n{index}")), report_of(true, vec![row]), at);
        }
        let merged = matrix.row(&(key("a"), None)).unwrap();
        assert_eq!((merged.state(), &merged.reason), (worst, &format!("{worst:?}")), "{states:?}");
        let count = i32::try_from(states.len()).unwrap();
        assert_eq!((merged.open_node_count, merged.node_count), (open, count), "{states:?}");
        assert_eq!((merged.trip_count, merged.attempt_count), (i64::from(count) * 2, i64::from(count) * 5));
        let index = states.iter().position(|state| *state == worst).unwrap();
        assert_eq!(merged.report_time.unwrap().seconds, i64::try_from(index).unwrap(), "{states:?}");
        assert_eq!(matrix.open_replica_count(&key("a").service), usize::from(open > 0));
    }
    assert_eq!(Matrix::default().row(&(key("a"), None)), None);
}

#[test]
fn what_data_planes_see_of_a_replica_is_summed_up_beside_the_worst_of_reasons() {
    let mut matrix = Matrix::default();
    for (id, state) in [("n1", Closed), ("n2", Open), ("n3", ForcedClosed)] {
        let row = v1::Breaker {
            reason: id.into(),
            last_errors: vec![format!("error on {id}")],
            ..wire("a", state)
        };
        matrix.report(&node(id), report_of(true, vec![row]), UNIX_EPOCH);
    }
    let expected = v1::ObservedHealth {
        node_count: 3,
        open_node_count: 1,
        attempt_count: 15,
        failure_count: 9,
        inflight_count: 3,
        reason: "n2".into(),
        last_errors: vec!["error on n2".into()],
        // What was before the first reports was not lately.
        attempt_rate: Some(0.0),
        ..Default::default()
    };
    assert_eq!(matrix.get(&key("a")).unwrap().observed(UNIX_EPOCH), expected);
    assert!(matrix.get(&key("b")).is_none());
}

#[test]
fn limits_and_waiting_requests_are_summed_up_and_a_data_plane_without_a_limit_leaves_none() {
    let mut matrix = Matrix::default();
    let row = |id: &str, inflight_limit, pending_count| v1::Breaker {
        inflight_limit,
        pending_count,
        ..wire(id, Closed)
    };
    matrix.report(&node("n1"), report_of(true, vec![row("a", 10, 4), row("b", 20, 4)]), UNIX_EPOCH);
    matrix.report(&node("n2"), report_of(true, vec![row("a", 5, 3), row("b", 0, 3)]), UNIX_EPOCH);
    let shown = |id: &str| {
        let (row, seen) = (matrix.row(&(key(id), None)).unwrap(), matrix.get(&key(id)).unwrap());
        let seen = seen.observed(UNIX_EPOCH);
        assert_eq!((row.inflight_limit, row.pending_count), (seen.inflight_limit, seen.pending_count));
        (row.inflight_limit, row.pending_count)
    };
    assert_eq!([shown("a"), shown("b")], [(15, 7), (0, 7)]);
    let service = key("a").service;
    let load = matrix.load(&service);
    assert_eq!((load.inflight, load.pending), (4, 7), "each data plane's waiting requests count once");
    let other = gateway_proto::ServiceName::parse("other").unwrap();
    assert_eq!(matrix.load(&other), Load::default());
}

#[test]
fn a_service_fails_open_on_the_data_planes_that_ask_one_of_its_replicas_regardless() {
    let mut matrix = Matrix::default();
    let row = |id: &str, asked_regardless| v1::Breaker { asked_regardless, ..wire(id, Open) };
    matrix.report(&node("n1"), report_of(true, vec![row("a", true), row("b", true)]), UNIX_EPOCH);
    matrix.report(&node("n2"), report_of(true, vec![row("a", false), row("b", false)]), UNIX_EPOCH);
    let fail_open_nodes = |matrix: &Matrix| matrix.load(&key("a").service).fail_open_nodes;
    assert_eq!(fail_open_nodes(&matrix), 1);
    matrix.report(&node("n1"), report_of(true, vec![row("a", false)]), UNIX_EPOCH);
    assert_eq!(fail_open_nodes(&matrix), 0);
}

#[test]
fn a_row_that_is_reported_again_as_it_was_is_newer_but_has_not_changed() {
    let mut matrix = matrix(&[("n1", &[("a", Open)])]);
    let change = matrix.last_change();
    let later = UNIX_EPOCH + Duration::from_secs(9);
    matrix.report(&node("n1"), report(true, &[("a", Open)]), later);
    assert_eq!(matrix.last_change(), change);
    assert_eq!(matrix.row(&(key("a"), Some(node("n1")))).unwrap().report_time.unwrap().seconds, 9);
}

fn dirty(matrix: &Matrix, since: Change, per_node: bool) -> (Vec<String>, Change) {
    match matrix.dirty_since(since, &Scope::default(), per_node) {
        Dirty::Rows(rows, reached) => {
            let name = |((key, node), was_known): ((ReplicaKey, Option<NodeId>), bool)| {
                let node = node.map(|node| format!("@{node}")).unwrap_or_default();
                format!("{}{node}{}", key.replica, if was_known { "" } else { " new" })
            };
            (rows.into_iter().map(name).collect(), reached)
        }
        Dirty::TooMuch => panic!("too much"),
    }
}

#[test]
fn a_row_that_changed_often_is_dirty_once_and_one_that_came_and_went_is_not_known() {
    let mut matrix = matrix(&[("n1", &[("a", Closed), ("b", Closed)])]);
    let since = matrix.last_change();
    for state in [Open, HalfOpen, Closed] {
        matrix.report(&node("n1"), report(false, &[("a", state)]), UNIX_EPOCH);
    }
    matrix.report(&node("n2"), report(false, &[("a", Open), ("c", Open), ("d", Open)]), UNIX_EPOCH);
    matrix.report(&node("n2"), report(true, &[("a", Open), ("d", Open)]), UNIX_EPOCH);
    matrix.forget_replica(&key("b"));
    let (merged, reached) = dirty(&matrix, since, false);
    assert_eq!(merged, ["a", "b", "c new", "d new"]);
    assert_eq!(dirty(&matrix, since, true).0, ["a@n1", "a@n2 new", "b@n1", "c@n2 new", "d@n2 new"]);
    // What is gone and was not known then need not be told.
    let is_there = |id: &str| matrix.row(&(key(id), None)).is_some();
    assert_eq!(["a", "b", "c", "d"].map(is_there), [true, false, false, true]);
    assert_eq!(dirty(&matrix, reached, false), (Vec::new(), reached));
    let scope = Scope::parse("billing", "").unwrap();
    assert_eq!(matrix.dirty_since(since, &scope, true), Dirty::Rows(Vec::new(), reached));
}

#[test]
fn one_data_planes_row_that_goes_changes_the_merged_row() {
    let mut matrix = matrix(&[("n1", &[("a", Open)]), ("n2", &[("a", Closed)])]);
    let since = matrix.last_change();
    matrix.forget_node(&node("n1"));
    assert_eq!(dirty(&matrix, since, false).0, ["a"]);
    assert_eq!(dirty(&matrix, since, true).0, ["a@n1"]);
    assert_eq!(matrix.row(&(key("a"), None)).unwrap().state(), Closed);
}

#[test]
fn whoever_missed_more_than_is_remembered_begins_anew() {
    let mut matrix = Matrix::default();
    let since = matrix.last_change();
    for _ in 0..10_001 {
        matrix.report(&node("n1"), report(true, &[("a", Open)]), UNIX_EPOCH);
        matrix.report(&node("n1"), report(true, &[("b", Open)]), UNIX_EPOCH);
    }
    assert_eq!(matrix.dirty_since(since, &Scope::default(), false), Dirty::TooMuch);
    assert!(matrix.changes.removals_since(0).count() <= 20_000);
    assert_eq!(dirty(&matrix, matrix.last_change(), false).0, Vec::<String>::new());
}

#[derive(Debug, Clone)]
enum Step {
    Report { node: u8, full: bool, rows: Vec<(u8, bool)> },
    ForgetNode(u8),
    ForgetReplica(u8),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, any::<bool>(), prop::collection::vec((0..4_u8, any::<bool>()), 0..4))
            .prop_map(|(node, full, rows)| Step::Report { node, full, rows }),
        (0..3_u8).prop_map(Step::ForgetNode),
        (0..4_u8).prop_map(Step::ForgetReplica),
        Just(Step::Read),
    ]
}

/// A reader that knows only what it was told.
#[derive(Default)]
struct Reader {
    since: Change,
    told: BTreeMap<RowName, v1::Breaker>,
}

impl Reader {
    fn read(&mut self, matrix: &Matrix, per_node: bool) {
        let Dirty::Rows(names, reached) = matrix.dirty_since(self.since, &Scope::default(), per_node) else {
            panic!("too much")
        };
        self.since = reached;
        for (name, was_known) in names {
            assert_eq!(was_known, self.told.contains_key(&name), "{name:?}");
            match matrix.row(&name) {
                Some(row) => drop(self.told.insert(name, row)),
                None => drop(self.told.remove(&name)),
            }
        }
    }
}

proptest! {
    #[test]
    fn whoever_follows_the_changes_knows_what_the_matrix_holds(steps in prop::collection::vec(step(), 0..60)) {
        let mut matrix = Matrix::default();
        let mut readers = [(false, Reader::default()), (true, Reader::default())];
        for step in steps.into_iter().chain([Step::Read]) {
            match step {
                Step::Report { node: id, full, rows } => {
                    let state = |open| if open { Open } else { Closed };
                    let rows = rows.iter().map(|(id, open)| wire(&format!("r{id}"), state(*open))).collect();
                    matrix.report(&node(&format!("n{id}")), report_of(full, rows), UNIX_EPOCH);
                }
                Step::ForgetNode(id) => matrix.forget_node(&node(&format!("n{id}"))),
                Step::ForgetReplica(id) => matrix.forget_replica(&key(&format!("r{id}"))),
                Step::Read => {
                    for (per_node, reader) in &mut readers {
                        reader.read(&matrix, *per_node);
                    }
                }
            }
            let scope = Scope::default();
            let all = || matrix.from(&scope, None);
            prop_assert_eq!(matrix.row_count, all().map(|(_, replica)| replica.nodes().len()).sum::<usize>());
            let open = all().filter(|(_, replica)| replica.counts().open_nodes > 0).count();
            prop_assert_eq!(matrix.open_replica_count(&key("a").service), open);
            for id in 0..3 {
                let node = node(&format!("n{id}"));
                let rows = all().flat_map(|(key, replica)| replica.rows(key));
                let open = rows.filter(|(of, row)| **of == node && row.state() == Open).count();
                prop_assert_eq!(matrix.open_breaker_count(&node), open);
            }
        }
        let scope = Scope::default();
        let merged = matrix.from(&scope, None).filter_map(|(key, replica)| {
            Some(((key.clone(), None), replica.merged(key, |_| true)?))
        });
        prop_assert_eq!(&readers[0].1.told, &merged.collect::<BTreeMap<_, _>>());
        let rows = matrix.from(&scope, None).flat_map(|(key, replica)| {
            replica.rows(key).map(|(node, row)| ((key.clone(), Some(node.clone())), row))
        });
        prop_assert_eq!(&readers[1].1.told, &rows.collect::<BTreeMap<_, _>>());
    }
}

#[test]
fn who_is_silent_is_told_beside_who_fails_and_one_word_among_several_makes_no_failures_in_a_row() {
    let mut matrix = Matrix::default();
    let row = |failures: i64| v1::Breaker {
        attempt_count: failures,
        failure_count: failures,
        inflight_count: 0,
        health_check: Some(v1::HealthCheck {
            state: v1::HealthCheckState::Failing.into(),
            last_failure: "connect refused".into(),
            ..Default::default()
        }),
        ..wire("a", Open)
    };
    let say = |matrix: &mut Matrix, id: &str, failures| {
        matrix.report(&node(id), report_of(false, vec![row(failures)]), UNIX_EPOCH);
    };
    say(&mut matrix, "n1", 0);
    say(&mut matrix, "n1", 7);
    let seen = |matrix: &Matrix, heard: &[&str]| {
        matrix.suspects(|node| heard.contains(&node.as_str())).remove(&key("a")).unwrap()
    };
    assert_eq!(seen(&matrix, &["n1"]).failures_in_a_row, 7, "there is no other");
    say(&mut matrix, "n2", 0);
    let sight = seen(&matrix, &["n1", "n2"]);
    assert_eq!((sight.failing, sight.checking, sight.silent, sight.failures_in_a_row), (2, 2, 0, 0));
    assert_eq!(sight.failure, "connect refused");
    say(&mut matrix, "n2", 2);
    let sight = seen(&matrix, &["n2"]);
    assert_eq!((sight.failing, sight.checking, sight.silent, sight.failures_in_a_row), (1, 1, 1, 4));
    let passing = || {
        let check = v1::HealthCheck { state: v1::HealthCheckState::Passing.into(), ..Default::default() };
        v1::Breaker { health_check: Some(check), ..row(7) }
    };
    let mut doubts = sight.doubts;
    for _ in 1..=2 {
        matrix.report(&node("n1"), report_of(false, vec![passing()]), UNIX_EPOCH);
        let before = std::mem::replace(&mut doubts, seen(&matrix, &["n2"]).doubts);
        assert_ne!(doubts, before, "one that says the same again is another");
    }
    say(&mut matrix, "n1", 7);
    matrix.forget_node(&node("n1"));
    let sight = seen(&matrix, &["n2"]);
    assert_eq!((sight.silent, sight.failures_in_a_row, sight.doubts), (0, 2, doubts));
    matrix.forget_node(&node("n2"));
    say(&mut matrix, "n2", 2);
    assert_ne!(seen(&matrix, &["n2"]).doubts, doubts, "nobody knows how it was meanwhile");
}

#[test]
fn a_replica_is_to_be_looked_at_for_as_long_as_checks_of_it_fail_on_any_data_plane() {
    use gateway_proto::v1::HealthCheckState::{Failing, Passing};
    let mut matrix = Matrix::default();
    let mut say = |id: &str, state: v1::HealthCheckState, full: bool| {
        let check = v1::HealthCheck { state: state.into(), ..Default::default() };
        let row = v1::Breaker { health_check: Some(check), ..wire("a", Closed) };
        matrix.report(&node(id), report_of(full, vec![row]), UNIX_EPOCH);
        matrix.suspects(|_| true).len()
    };
    assert_eq!(say("n1", Passing, true), 0);
    assert_eq!((say("n1", Failing, false), say("n1", Failing, true), say("n2", Failing, false)), (1, 1, 1));
    assert_eq!((say("n1", Passing, false), say("n3", Failing, true), say("n2", Passing, true)), (1, 1, 1));
    matrix.forget_node(&node("n3"));
    assert!(matrix.suspects(|_| true).is_empty());
}
