//! What operators decide against the rules, for a time.

use super::*;
use crate::registry::{Aspect, Override, OverrideId, OverrideKind};

fn target(replica: Option<&str>) -> OverrideTarget {
    OverrideTarget {
        aspect: Aspect::Breaker,
        service: orders(),
        replica: replica.map(|id| ReplicaId::parse(id).unwrap()),
        node: None,
    }
}

fn set(target: OverrideTarget, kind: OverrideKind) -> Command {
    let (ttl, said) = (60 * SECOND, said("ana", "bad deploy"));
    Command::Override(Box::new(OverrideWish { target, kind, ttl, said }))
}

fn end(id: &OverrideId, by: Result<Said, i64>) -> Command {
    Command::EndOverride { id: id.clone(), by }
}

fn overridden(answer: Result<Answer, RegistryError>) -> Arc<Override> {
    match answer {
        Ok(Answer::Overridden(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

/// A registry with the replica `one`.
fn with_one() -> Registry {
    let mut registry = Registry::default();
    registry.register(&named("one", 1));
    registry
}

#[test]
fn an_override_says_who_why_and_until_when() {
    let mut registry = with_one();
    let at = registry.next_at();
    let entry = overridden(registry.run(&set(target(Some("one")), OverrideKind::BreakerOpen)));
    assert_eq!((entry.created_at, entry.expires_at, entry.revision), (at, at + 60 * SECOND, 2));
    assert_eq!((&*entry.author, &*entry.reason), ("ana", "bad deploy"));
    let message = "breaker forced open of orders/one for 1m: bad deploy";
    assert_eq!(registry.told(), [("OVERRIDE_SET", "ana", message)]);
    assert_eq!(registry.view.override_of(&entry.id()), Some(&entry));
}

#[test]
fn a_second_one_about_the_same_takes_the_first_ones_place() {
    let mut registry = with_one();
    let first = overridden(registry.run(&set(target(Some("one")), OverrideKind::BreakerOpen)));
    let second = overridden(registry.run(&set(target(Some("one")), OverrideKind::BreakerClosed)));
    assert_eq!(second.id(), first.id());
    assert!(second.revision > first.revision && second.expires_at > first.expires_at);
    let all = overridden(registry.run(&set(target(None), OverrideKind::BreakerOpen)));
    assert_eq!(registry.view.overrides().collect::<Vec<_>>(), [&all, &second]);
}

#[test]
fn time_ends_the_override_it_was_meant_for_and_no_later_one() {
    let mut registry = with_one();
    let first = overridden(registry.run(&set(target(None), OverrideKind::BreakerOpen)));
    let second = overridden(registry.run(&set(target(None), OverrideKind::BreakerOpen)));
    let late = registry.run(&end(&first.id(), Err(first.revision)));
    assert_eq!(late, Ok(Answer::OverrideEnded { ended: false, revision: 3 }));
    assert_eq!(registry.view.override_of(&second.id()), Some(&second));
    let due = registry.run(&end(&second.id(), Err(second.revision)));
    assert_eq!(due, Ok(Answer::OverrideEnded { ended: true, revision: 4 }));
    let message = "its time is over: breaker forced open of every replica of orders";
    assert_eq!(registry.told(), [("OVERRIDE_ENDED", "registry", message)]);
}

#[test]
fn an_operator_ends_whatever_is_in_force_and_an_absent_one_is_success() {
    let mut registry = with_one();
    let entry = overridden(registry.run(&set(target(None), OverrideKind::BreakerOpen)));
    let by = || Ok(said("ben", "fixed"));
    assert_eq!(registry.run(&end(&entry.id(), by())), Ok(Answer::OverrideEnded { ended: true, revision: 3 }));
    let message = "ended: breaker forced open of every replica of orders: fixed";
    assert_eq!(registry.told(), [("OVERRIDE_ENDED", "ben", message)]);
    assert_eq!(
        registry.run(&end(&entry.id(), by())),
        Ok(Answer::OverrideEnded { ended: false, revision: 3 })
    );
}

#[test]
fn an_override_of_what_is_not_registered_is_refused() {
    let mut registry = with_one();
    let nobody = registry.run(&set(target(Some("nobody")), OverrideKind::BreakerOpen));
    let key = ReplicaKey::parse("orders", "nobody").unwrap();
    assert_eq!(nobody, Err(RegistryError::ReplicaNotFound(key)));
    let carts = ServiceName::parse("carts").unwrap();
    let nowhere = OverrideTarget { service: carts.clone(), ..target(None) };
    assert_eq!(
        registry.run(&set(nowhere, OverrideKind::BreakerOpen)),
        Err(RegistryError::ServiceNotFound(carts))
    );
}

#[test]
fn the_guard_of_a_service_that_is_forgotten_can_be_released() {
    let mut registry = with_one();
    let carts = ServiceName::parse("carts").unwrap();
    let forgotten = OverrideTarget { aspect: Aspect::Guard, service: carts, ..target(None) };
    let entry = overridden(registry.run(&set(forgotten.clone(), OverrideKind::GuardReleased)));
    assert_eq!(entry.target, forgotten);
}

#[test]
fn an_override_outlasts_its_replica() {
    let mut registry = with_one();
    let entry = overridden(registry.run(&set(target(Some("one")), OverrideKind::BreakerOpen)));
    registry.run(&deregister(&ReplicaKey::parse("orders", "one").unwrap(), Proof::Force)).unwrap();
    assert_eq!(registry.view.override_of(&entry.id()), Some(&entry));
}

#[test]
fn no_more_overrides_are_taken_than_one_message_holds_blocks_included() {
    let mut registry = with_one();
    let on = |node: usize| OverrideTarget {
        node: Some(gateway_proto::NodeId::parse(&format!("dp-{node}")).unwrap()),
        ..target(None)
    };
    for node in 0..Override::MAX {
        registry.run(&set(on(node), OverrideKind::BreakerOpen)).unwrap();
    }
    let full = RegistryError::QuotaExceeded { service: None, of: "overrides", limit: Override::MAX };
    assert_eq!(registry.run(&set(on(Override::MAX), OverrideKind::BreakerOpen)), Err(full.clone()));
    let one = ReplicaKey::parse("orders", "one").unwrap();
    assert_eq!(registry.run(&block(&one, 60 * SECOND)), Err(full));
    assert!(registry.view.get(&one).is_some(), "all of it or nothing");
    // In the place of one that is there, there is room.
    assert!(registry.run(&set(on(0), OverrideKind::BreakerClosed)).is_ok());
}
