//! Changes of policies.

use gateway_proto::{
    time::{duration, timestamp},
    v1,
};
use prost_types::FieldMask;

use super::*;
use crate::registry::StoredPolicy;

fn wish(scope: Scope, change: v1::Policy) -> PolicyWish {
    let (mask, etag, said) = (None, String::new(), said("ana", "slow disks"));
    PolicyWish {
        scope,
        change,
        mask,
        etag,
        allow_missing: true,
        must_be_missing: false,
        allow_fault: true,
        said,
    }
}

/// Sets what is set in `change`, whether a policy is there or not.
pub(super) fn update(scope: Scope, change: v1::Policy) -> Command {
    Command::UpdatePolicy(Box::new(wish(scope, change)))
}

fn delete(scope: Scope, etag: &str) -> Command {
    Command::DeletePolicy { scope, etag: etag.into(), said: said("ana", "not needed") }
}

fn of_orders() -> Scope {
    Scope::Service(orders())
}

fn open_times(base: Option<Duration>, max: Option<Duration>) -> v1::Policy {
    let breaker = v1::BreakerPolicy {
        base_open: base.map(duration),
        max_open: max.map(duration),
        ..Default::default()
    };
    v1::Policy { breaker: Some(breaker), ..Default::default() }
}

fn retries(count: i32) -> v1::Policy {
    let retry = v1::RetryPolicy { max_retry_count: Some(count), ..Default::default() };
    v1::Policy { retry: Some(retry), ..Default::default() }
}

fn stored(answer: Result<Answer, RegistryError>) -> Arc<StoredPolicy> {
    match answer {
        Ok(Answer::Policy(stored)) => stored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_is_stored_with_who_set_it_and_holds_for_its_service() {
    let mut registry = Registry::default();
    let at = registry.next_at();
    let policy = stored(registry.run(&update(of_orders(), retries(1))));
    let wire = policy.to_wire();
    assert_eq!((wire.service.as_str(), wire.revision, wire.etag.as_str()), ("orders", 1, "1"));
    assert_eq!((&*wire.updated_by, &*wire.update_reason, policy.updated_at), ("ana", "slow disks", at));
    assert_eq!(registry.told(), [("POLICY_UPDATED", "ana", "policy updated: slow disks")]);
    let resolve = |service: &str| {
        registry.view.policies().resolve(Some(&ServiceName::parse(service).unwrap())).retry.max_retry_count
    };
    assert_eq!((resolve("orders"), resolve("carts")), (1, 2));
}

#[test]
fn what_changed_in_a_policy_is_told_with_what_it_was_and_what_it_is() {
    let mut registry = Registry::default();
    let changes = |registry: &Registry| -> String {
        let told = registry.events[0].metadata.iter().find(|(key, _)| *key == "changes");
        told.map(|(_, changes)| changes.clone()).unwrap_or_default()
    };
    registry.run(&update(of_orders(), retries(1))).unwrap();
    assert_eq!(changes(&registry), r#"{"retry.max_retry_count":[null,"1"]}"#);
    let timeout = v1::TimeoutPolicy {
        request: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
        ..Default::default()
    };
    registry.run(&update(of_orders(), v1::Policy { timeout: Some(timeout), ..retries(3) })).unwrap();
    assert_eq!(changes(&registry), r#"{"retry.max_retry_count":["1","3"],"timeout.request":[null,"90s"]}"#);
    registry.run(&delete(of_orders(), "")).unwrap();
    assert_eq!(changes(&registry), r#"{"retry.max_retry_count":["3",null],"timeout.request":["90s",null]}"#);
}

#[test]
fn a_policy_that_is_missing_is_made_only_where_that_is_allowed() {
    let mut registry = Registry::default();
    let strict = PolicyWish { allow_missing: false, ..wish(of_orders(), retries(1)) };
    let missing = Err(RegistryError::PolicyNotFound(of_orders()));
    assert_eq!(registry.run(&Command::UpdatePolicy(Box::new(strict.clone()))), missing);
    // Who has read one does not mean to make another.
    let read = PolicyWish { etag: "1".into(), ..wish(of_orders(), retries(1)) };
    let stale = Err(RegistryError::EtagMismatch("the policy of orders".into()));
    assert_eq!(registry.run(&Command::UpdatePolicy(Box::new(read))), stale);
    registry.run(&update(of_orders(), retries(1))).unwrap();
    assert!(registry.run(&Command::UpdatePolicy(Box::new(strict))).is_ok());
}

#[test]
fn a_policy_that_somebody_made_meanwhile_is_not_overwritten_by_who_knew_of_none() {
    let mut registry = Registry::default();
    let first = PolicyWish { allow_missing: false, must_be_missing: true, ..wish(of_orders(), retries(1)) };
    let first = Command::UpdatePolicy(Box::new(first));
    assert!(registry.run(&first).is_ok());
    let stale = Err(RegistryError::EtagMismatch("the policy of orders".into()));
    assert_eq!(registry.run(&first), stale, "also where it says the same");
    registry.run(&delete(of_orders(), "")).unwrap();
    assert!(registry.run(&first).is_ok());
}

#[test]
fn a_policy_that_changed_since_it_was_read_is_neither_changed_nor_removed() {
    let mut registry = Registry::default();
    let first = stored(registry.run(&update(of_orders(), retries(1)))).to_wire().etag;
    let second = stored(registry.run(&update(of_orders(), retries(3)))).to_wire().etag;
    let stale = Err(RegistryError::EtagMismatch("the policy of orders".into()));
    let with = |etag: &str| {
        Command::UpdatePolicy(Box::new(PolicyWish { etag: etag.into(), ..wish(of_orders(), retries(4)) }))
    };
    assert_eq!(registry.run(&with(&first)), stale);
    assert_eq!(registry.run(&delete(of_orders(), &first)), stale);
    let third = stored(registry.run(&with(&second))).to_wire().etag;
    assert_eq!(registry.run(&delete(of_orders(), &third)), Ok(Answer::PolicyDeleted(4)));
    assert_eq!(registry.told(), [("POLICY_DELETED", "ana", "policy deleted: not needed")]);
}

#[test]
fn an_update_that_changes_nothing_costs_no_revision() {
    let mut registry = Registry::default();
    let first = stored(registry.run(&update(of_orders(), retries(1))));
    assert_eq!(stored(registry.run(&update(of_orders(), retries(1)))), first);
    assert_eq!(registry.view.revision(), 1);
}

#[test]
fn a_mask_changes_and_clears_what_it_names_and_nothing_else() {
    let mut registry = Registry::default();
    registry.run(&update(of_orders(), retries(1))).unwrap();
    registry.run(&update(of_orders(), open_times(Some(5 * SECOND), None))).unwrap();
    let masked = |paths: &[&str], change| {
        let mask = Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        Command::UpdatePolicy(Box::new(PolicyWish { mask, ..wish(of_orders(), change) }))
    };
    let policy = stored(registry.run(&masked(&["retry.max_retry_count"], retries(3)))).to_wire();
    assert_eq!(policy.retry.unwrap().max_retry_count, Some(3));
    assert_eq!(policy.breaker.unwrap().base_open, Some(duration(5 * SECOND)));
    let policy = stored(registry.run(&masked(&["breaker"], retries(9)))).to_wire();
    assert_eq!((policy.retry.unwrap().max_retry_count, policy.breaker), (Some(3), None));
    let wrong = registry.run(&masked(&["breaker.colour"], retries(9)));
    assert!(matches!(wrong, Err(RegistryError::Invalid(_))), "{wrong:?}");
}

#[test]
fn a_policy_of_all_services_that_contradicts_a_services_own_is_refused_and_names_it() {
    let mut registry = Registry::default();
    registry.run(&update(of_orders(), open_times(Some(30 * SECOND), None))).unwrap();
    let refused = registry.run(&update(Scope::All, open_times(None, Some(10 * SECOND))));
    let Err(RegistryError::Invalid(invalid)) = refused else { panic!("{refused:?}") };
    assert_eq!(invalid.violations()[0].field, "breaker.max_open");
    assert!(invalid.to_string().contains("\"orders\""), "{invalid}");
    // And the other way round.
    registry.run(&update(Scope::All, open_times(None, Some(40 * SECOND)))).unwrap();
    let refused = registry.run(&update(of_orders(), open_times(Some(50 * SECOND), None)));
    let Err(RegistryError::Invalid(invalid)) = refused else { panic!("{refused:?}") };
    assert_eq!(invalid.violations()[0].field, "breaker.base_open");
    assert_eq!(registry.view.revision(), 2);
}

#[test]
fn a_policy_of_all_services_that_a_services_own_relies_on_is_not_removed() {
    let mut registry = Registry::default();
    registry.run(&update(Scope::All, open_times(None, Some(120 * SECOND)))).unwrap();
    registry.run(&update(of_orders(), open_times(Some(90 * SECOND), None))).unwrap();
    let refused = registry.run(&delete(Scope::All, ""));
    let Err(RegistryError::Invalid(invalid)) = refused else { panic!("{refused:?}") };
    assert!(invalid.to_string().contains("\"orders\""), "{invalid}");
    registry.run(&delete(of_orders(), "")).unwrap();
    assert_eq!(registry.run(&delete(Scope::All, "")), Ok(Answer::PolicyDeleted(4)));
}

#[test]
fn what_is_not_stored_is_not_removed() {
    let mut registry = Registry::default();
    for scope in [Scope::All, of_orders()] {
        let missing = Err(RegistryError::PolicyNotFound(scope.clone()));
        assert_eq!(registry.run(&delete(scope, "")), missing);
    }
}

fn faults(abort_ratio: f64, end: Option<SystemTime>) -> v1::Policy {
    let fault = v1::FaultPolicy {
        abort_ratio: Some(abort_ratio),
        end_time: end.map(timestamp),
        ..Default::default()
    };
    v1::Policy { fault: Some(fault), ..Default::default() }
}

fn field_at_fault(answer: Result<Answer, RegistryError>) -> String {
    match answer {
        Err(RegistryError::Invalid(invalid)) => invalid.violations()[0].field.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fault_is_refused_where_it_was_not_allowed_at_the_start_and_clearing_one_never_is() {
    let mut registry = Registry::default();
    let end = registry.next_at() + 600 * SECOND;
    let forbidden = |change| {
        Command::UpdatePolicy(Box::new(PolicyWish { allow_fault: false, ..wish(of_orders(), change) }))
    };
    assert_eq!(
        registry.run(&forbidden(faults(0.1, Some(end)))),
        Err(RegistryError::FaultInjectionNotAllowed(of_orders()))
    );
    assert!(registry.view.policies().get(&of_orders()).is_none(), "nothing is half-applied");
    // It was allowed before a restart.
    stored(registry.run(&update(of_orders(), faults(0.1, Some(end)))));
    stored(registry.run(&forbidden(retries(1))));
    let cleared = stored(registry.run(&forbidden(faults(0.0, None))));
    assert_eq!(cleared.fault_origin, None);
    assert_eq!(registry.told()[1].0, "FAULT_INJECTION_ENDED");
}

#[test]
fn a_fault_needs_an_end_that_is_ahead_and_within_a_day() {
    let mut registry = Registry::default();
    let now = registry.next_at();
    for end in [None, Some(now - SECOND), Some(now + 2 * 86_400 * SECOND)] {
        let refused = registry.run(&update(of_orders(), faults(0.1, end)));
        assert_eq!(field_at_fault(refused), "fault.end_time", "{end:?}");
    }
    stored(registry.run(&update(of_orders(), faults(0.1, Some(now + 86_400 * SECOND)))));
}

#[test]
fn who_set_a_fault_is_kept_beside_who_changed_the_policy_last() {
    let mut registry = Registry::default();
    let (at, end) = (registry.next_at(), UNIX_EPOCH + 600 * SECOND);
    stored(registry.run(&update(of_orders(), faults(0.1, Some(end)))));
    assert_eq!(
        registry.told(),
        [
            ("POLICY_UPDATED", "ana", "policy updated: slow disks"),
            (
                "FAULT_INJECTION_BEGAN",
                "ana",
                "injects faults on purpose until 1970-01-01T00:10:00Z: abort 503 of 0.1: slow disks"
            ),
        ]
    );
    let others = PolicyWish { said: said("ben", "tuning"), ..wish(of_orders(), retries(1)) };
    let policy = stored(registry.run(&Command::UpdatePolicy(Box::new(others))));
    assert_eq!(registry.told(), [("POLICY_UPDATED", "ben", "policy updated: tuning")]);
    let origin = policy.fault_origin.as_deref().unwrap();
    assert_eq!((&*policy.updated_by, &*origin.said.author, origin.at), ("ben", "ana", at));
    assert_eq!(StoredPolicy::from_wire(&policy.to_wire()), Ok(StoredPolicy::clone(&policy)));
    registry.run(&delete(of_orders(), "")).unwrap();
    assert_eq!(registry.told()[1].0, "FAULT_INJECTION_ENDED");
}

#[test]
fn a_fault_whose_time_is_over_is_cleared_once_and_is_in_nobodys_way() {
    let mut registry = Registry::default();
    let end = registry.next_at() + 10 * SECOND;
    let policy = stored(registry.run(&update(of_orders(), faults(0.1, Some(end)))));
    let over = |policy: &StoredPolicy| Command::EndFault { scope: of_orders(), revision: policy.revision };
    assert_eq!(registry.run(&over(&policy)), Ok(Answer::Moot), "too early");
    registry.wait(60 * SECOND);
    let policy = stored(registry.run(&update(of_orders(), retries(1))));
    assert_eq!(registry.run(&Command::EndFault { scope: of_orders(), revision: 1 }), Ok(Answer::Moot));
    let cleared = stored(registry.run(&over(&policy)));
    assert_eq!(
        registry.told(),
        [("FAULT_INJECTION_ENDED", "registry", "injects no faults any more: their time is over")]
    );
    assert_eq!((cleared.partial.fault(), &cleared.fault_origin), (None, &None));
    let kept = registry.view.policies().resolve(Some(&orders())).retry.max_retry_count;
    assert_eq!(kept, 1, "other settings stay");
    assert_eq!(registry.run(&over(&cleared)), Ok(Answer::Moot));
}

fn changes(wanted: impl IntoIterator<Item = (Scope, v1::Policy)>) -> Vec<PolicyChange> {
    wanted.into_iter().map(|(scope, change)| PolicyChange::Update(Box::new(wish(scope, change)))).collect()
}

fn gone(scope: Scope, etag: &str) -> PolicyChange {
    PolicyChange::Delete { scope, etag: etag.into(), said: said("ana", "not needed") }
}

fn of_carts() -> Scope {
    Scope::parse("carts").unwrap()
}

#[test]
fn several_policies_change_together_at_one_revision_and_are_told_one_by_one() {
    let mut registry = Registry::default();
    registry.run(&update(of_orders(), retries(1))).unwrap();
    let mut together = changes([(Scope::All, retries(4)), (of_carts(), retries(0))]);
    together.push(gone(of_orders(), "1"));
    let Ok(Answer::Policies { policies, revision: 2 }) = registry.run(&Command::ApplyPolicies(together))
    else {
        panic!("refused")
    };
    let stored: Vec<_> = policies.iter().map(|stored| (stored.scope.to_string(), stored.revision)).collect();
    assert_eq!(stored, [("*".to_owned(), 2), ("carts".to_owned(), 2)]);
    let told: Vec<_> = registry.told().into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(told, ["POLICY_UPDATED", "POLICY_UPDATED", "POLICY_DELETED"]);
    assert_eq!(registry.view.policies().stored().len(), 2);
    // What says so already is left alone.
    let again = changes([(Scope::All, retries(4)), (of_carts(), retries(3))]);
    let Ok(Answer::Policy(stored)) = registry.run(&Command::ApplyPolicies(again.clone())) else {
        panic!("refused")
    };
    assert_eq!((stored.scope.to_string(), stored.revision), ("carts".to_owned(), 3));
    let nothing = Ok(Answer::Policies { policies: Vec::new(), revision: 3 });
    assert_eq!(registry.run(&Command::ApplyPolicies(again)), nothing);
}

#[test]
fn one_of_several_policies_that_is_refused_leaves_all_as_they_were() {
    let mut registry = Registry::default();
    registry.run(&update(of_orders(), retries(1))).unwrap();
    let before = registry.view.clone();
    let wrong = || v1::Policy {
        retry: Some(v1::RetryPolicy { budget_ratio: Some(7.0), ..Default::default() }),
        ..Default::default()
    };
    let stale = PolicyWish { etag: "9".into(), ..wish(of_orders(), retries(2)) };
    let present = PolicyWish { must_be_missing: true, ..wish(of_orders(), retries(2)) };
    let first = || changes([(Scope::All, retries(4))]);
    for (last, refused) in [
        (
            PolicyChange::Update(Box::new(stale)),
            "the policy of orders has changed since it was read: read it again",
        ),
        (
            PolicyChange::Update(Box::new(present)),
            "the policy of orders has changed since it was read: read it again",
        ),
        (gone(of_carts(), ""), "no policy is stored for carts"),
        (changes([(of_carts(), wrong())]).remove(0), "changes[1].policy.retry.budget_ratio: "),
    ] {
        let mut together = first();
        together.push(last);
        let error = registry.run(&Command::ApplyPolicies(together)).unwrap_err().to_string();
        assert!(error.starts_with(refused), "{error}");
        assert!(before.changes_to(&registry.view).is_empty());
    }
}

#[test]
fn of_several_policies_what_follows_from_all_of_them_has_to_be_in_order_and_nothing_else() {
    let mut registry = Registry::default();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    // Each alone contradicts what is there: a maximum of 60 s, and then a base of 90 s.
    let longer = [(Scope::All, open_times(None, seconds(120))), (of_orders(), open_times(seconds(90), None))];
    assert!(registry.run(&update(longer[1].0.clone(), longer[1].1.clone())).is_err());
    let mut reversed = changes(longer.clone());
    reversed.reverse();
    registry.run(&Command::ApplyPolicies(reversed)).unwrap();
    assert!(registry.run(&delete(Scope::All, "")).is_err());
    registry.run(&Command::ApplyPolicies(vec![gone(Scope::All, ""), gone(of_orders(), "")])).unwrap();
    // Together they contradict each other, or a third.
    let shorter = [(of_carts(), retries(1)), (of_orders(), open_times(seconds(90), None))];
    let error = registry.run(&Command::ApplyPolicies(changes(shorter))).unwrap_err().to_string();
    assert!(error.starts_with("changes[1].policy.breaker.base_open"), "{error}");
    registry.run(&Command::ApplyPolicies(changes(longer))).unwrap();
    let star = changes([(of_carts(), retries(1)), (Scope::All, open_times(None, seconds(80)))]);
    let error = registry.run(&Command::ApplyPolicies(star)).unwrap_err().to_string();
    assert!(error.starts_with("changes[1].policy.breaker.max_open") && error.contains("orders"), "{error}");
}
