//! What a change of a policy means: settings before and after, where each value is from, and what they do together.

use std::fmt::Write as _;

use gateway_proto::{
    Policy,
    policy::{Origin, Partial, field::FIELDS, resolve_with_origins},
    v1,
};

use super::Scope;

/// The stored policies that decide what holds in a scope.
#[derive(Debug, Clone, Default)]
pub(super) struct Levels {
    star: Partial,
    own: Partial,
}

impl Levels {
    /// Of a scope, from what is stored for it and for `*`. Values that this gwctl does not know count as not set.
    pub(super) fn new(scope: &Scope, star: Option<&v1::Policy>, own: Option<&v1::Policy>) -> Self {
        let read = |policy: Option<&v1::Policy>| {
            policy.and_then(|policy| Partial::parse(policy).ok()).unwrap_or_default()
        };
        match scope {
            Scope::All => Self { star: read(own), own: Partial::default() },
            Scope::Service(_) => Self { star: read(star), own: read(own) },
        }
    }

    /// What holds, and where each value is from, by the name of that level.
    fn resolve(&self) -> (Policy, impl Fn(&str) -> Origin + use<>) {
        let (policy, origins) = resolve_with_origins(Some(&self.star), Some(&self.own));
        (policy, move |path: &str| origins.get(path).copied().unwrap_or(Origin::Default))
    }
}

/// One setting of which the stored value changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    path: &'static str,
    before: String,
    after: String,
}

/// The settings that change, each with the value that holds before and after.
pub(super) fn changes(scope: &Scope, before: &Levels, after: &Levels) -> Vec<Change> {
    let ((old, old_origin), (new, new_origin)) = (before.resolve(), after.resolve());
    let here = match scope {
        Scope::All => Origin::Star,
        Scope::Service(_) => Origin::Service,
    };
    let told = |value: String, origin: Origin| match origin {
        // The policy at hand needs no name.
        origin if origin == here => value,
        Origin::Default => format!("{value}   (default)"),
        Origin::Star => format!("{value}   (*)"),
        Origin::Service => value,
    };
    let changed = FIELDS.iter().filter_map(|field| {
        let path = field.path();
        let (old, new) = (field.of(&old), field.of(&new));
        let (from, to) = (old_origin(path), new_origin(path));
        (old != new || from != to).then(|| Change {
            path,
            before: told(old.to_string(), from),
            after: told(new.to_string(), to),
        })
    });
    changed.collect()
}

/// The changes as a diff has them.
pub(super) fn unified(changes: &[Change]) -> String {
    let mut text = String::new();
    for Change { path, before, after } in changes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {path}: {before}\n+ {path}: {after}");
    }
    text
}

/// The changes as a receipt has them.
pub(super) fn receipt(changes: &[Change]) -> String {
    let width = changes.iter().map(|change| change.path.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Change { path, before, after } in changes {
        let _ = writeln!(
            text,
            "  {path:<width$}   {} -> {}",
            before.replace("   ", " "),
            after.replace("   ", " ")
        );
    }
    text
}

/// What is allowed, and probably not what is meant.
pub(super) fn doubts(after: &Levels) -> Vec<String> {
    let (policy, _) = after.resolve();
    doubt_about(&policy).into_iter().collect()
}

/// Says so when not every attempt that the policy allows has its own time within the request's.
pub(crate) fn doubt_about(policy: &Policy) -> Option<String> {
    let attempts = u32::from(policy.retry.max_retry_count) + 1;
    let (per_try, request) = (policy.timeout.per_try, policy.timeout.request);
    (per_try.saturating_mul(attempts) > request).then(|| {
        let (per_try, request) = (gateway_proto::time::exact(per_try), gateway_proto::time::exact(request));
        let attempts = if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
        format!("{attempts} of timeout.per_try {per_try} do not fit into timeout.request {request}")
    })
}

#[cfg(test)]
mod tests {
    use super::{super::assignment::Assignment, *};

    fn stored(assignments: &[&str]) -> v1::Policy {
        let mut policy = v1::Policy::default();
        for text in assignments {
            text.parse::<Assignment>().unwrap().write(&mut policy);
        }
        policy
    }

    fn orders() -> Scope {
        "orders".parse().unwrap()
    }

    fn levels(scope: &Scope, star: &[&str], own: &[&str]) -> Levels {
        Levels::new(scope, Some(&stored(star)), Some(&stored(own)))
    }

    #[test]
    fn a_diff_has_what_holds_before_and_after_and_where_it_is_from() {
        let before = levels(&orders(), &["breaker.window=20s"], &["drain_timeout=5s"]);
        let after =
            levels(&orders(), &["breaker.window=20s"], &["timeout.per_try=800ms", "breaker.window=30s"]);
        let changes = changes(&orders(), &before, &after);
        assert_eq!(
            unified(&changes),
            "\
- timeout.per_try: 10s   (default)
+ timeout.per_try: 800ms
- breaker.window: 20s   (*)
+ breaker.window: 30s
- drain_timeout: 5s
+ drain_timeout: 30s   (default)
"
        );
        assert_eq!(
            receipt(&changes),
            "  timeout.per_try   10s (default) -> 800ms\n  breaker.window    20s (*) -> 30s\n  \
             drain_timeout     5s -> 30s (default)\n"
        );
    }

    #[test]
    fn setting_what_holds_already_is_a_change_and_setting_what_is_set_already_is_none() {
        let before = levels(&orders(), &[], &[]);
        let after = levels(&orders(), &[], &["breaker.window=10s"]);
        let diff = unified(&changes(&orders(), &before, &after));
        assert_eq!(diff, "- breaker.window: 10s   (default)\n+ breaker.window: 10s\n");
        assert!(changes(&orders(), &after, &after.clone()).is_empty());
    }

    #[test]
    fn the_policy_of_all_services_has_no_level_above_it_but_the_defaults() {
        let before = levels(&Scope::All, &["ignored.here"; 0], &["breaker.window=20s"]);
        let after = levels(&Scope::All, &[], &[]);
        assert_eq!(
            unified(&changes(&Scope::All, &before, &after)),
            "- breaker.window: 20s\n+ breaker.window: 10s   (default)\n"
        );
    }

    #[test]
    fn attempts_that_do_not_fit_into_the_request_are_doubted() {
        let fits = levels(&orders(), &["timeout.request=5s"], &["timeout.per_try=800ms"]);
        assert!(doubts(&fits).is_empty());
        assert!(doubts(&levels(&orders(), &[], &[])).is_empty());
        let does_not = levels(&orders(), &["timeout.request=5s"], &["timeout.per_try=2s"]);
        assert_eq!(
            doubts(&does_not),
            ["3 attempts of timeout.per_try 2s do not fit into timeout.request 5s"]
        );
    }
}
