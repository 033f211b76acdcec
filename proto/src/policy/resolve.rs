//! What holds for a service: its own policy, then that of all services, then the defaults.

use std::{collections::BTreeMap, fmt};

use super::{
    Partial, Policy,
    field::{FIELDS, Field, ORDERED, Value},
};
use crate::{Invalid, ServiceName, Violation};

/// Conflicts that one refusal names; a policy of all services can be in conflict with that of each.
const MAX_CONFLICTS: usize = 20;

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The policy of all services, `*`.
    Star,
    /// The service's own policy.
    Service,
}

impl Origin {
    /// As `ResolvePolicyResponse.origins` has it: `default`, `*`, or the name of the service.
    pub fn name<'a>(&self, service: &'a str) -> &'a str {
        match self {
            Self::Default => "default",
            Self::Star => "*",
            Self::Service => service,
        }
    }
}

/// The policy of a service, from that of all services and its own. For `*` itself: without the latter.
pub fn resolve(star: Option<&Partial>, own: Option<&Partial>) -> Policy {
    let mut policy = Policy::default();
    let has_own_fault = own.is_some_and(has_fault);
    for (field, value) in star.into_iter().flat_map(Partial::settings) {
        if !(has_own_fault && field.is_of_fault()) {
            field.set(&mut policy, value);
        }
    }
    own.into_iter().flat_map(Partial::settings).for_each(|(field, value)| field.set(&mut policy, value));
    policy
}

fn has_fault(partial: &Partial) -> bool {
    partial.settings().any(|(field, _)| field.is_of_fault())
}

/// The same with where each setting is from, by its path.
pub fn resolve_with_origins(
    star: Option<&Partial>,
    own: Option<&Partial>,
) -> (Policy, BTreeMap<&'static str, Origin>) {
    let origins = (0..FIELDS.len()).map(|index| {
        let Sourced { field, origin, .. } = Sourced::of(index, star, own);
        (field.path(), origin)
    });
    (resolve(star, own), origins.collect())
}

/// The policy of a service, once its settings are known to go together.
///
/// # Errors
/// [`Invalid`] with one violation for every pair of settings that do not. It names the one of the two that the more specific
/// policy set, and says of the other where it is from.
pub fn check_resolved(star: Option<&Partial>, own: Option<&Partial>) -> Result<Policy, Invalid> {
    Invalid::unless_empty(conflicts(star, own).map(Conflict::for_its_owner).collect())?;
    Ok(resolve(star, own))
}

/// Checks a new policy of all services, or that there is none any more, against the policy of each service.
///
/// # Errors
/// [`Invalid`] as [`check_resolved`] gives for the policy alone; else with one violation for every setting, of the policy of
/// all services or of the defaults, that does not go with the policy of a service, which it names; at most 20.
pub fn check_star<'a>(
    star: Option<&Partial>,
    services: impl IntoIterator<Item = (&'a ServiceName, &'a Partial)>,
) -> Result<(), Invalid> {
    check_resolved(star, None)?;
    let mut violations = Vec::new();
    let mut further = 0;
    for (service, own) in services {
        for conflict in conflicts(star, Some(own)) {
            if violations.len() < MAX_CONFLICTS {
                violations.push(conflict.for_the_other(service));
            } else {
                further += 1;
            }
        }
    }
    if further > 0 {
        let last = violations.last_mut().expect("there are as many as are named");
        last.description.push_str(&format!(", and {further} more like this"));
    }
    Invalid::unless_empty(violations)
}

/// A setting as it was resolved.
#[derive(Debug, Clone, Copy)]
struct Sourced {
    field: &'static Field,
    value: Value,
    origin: Origin,
}

impl Sourced {
    /// The setting that stands at this place in the table.
    fn of(index: usize, star: Option<&Partial>, own: Option<&Partial>) -> Self {
        let field = &FIELDS[index];
        let of = |partial: Option<&Partial>| partial.and_then(|partial| partial.at(index));
        let is_replaced = field.is_of_fault() && own.is_some_and(has_fault);
        let (value, origin) = match (of(own), of(star.filter(|_| !is_replaced))) {
            (Some(value), _) => (value, Origin::Service),
            (None, Some(value)) => (value, Origin::Star),
            (None, None) => (field.default_value(), Origin::Default),
        };
        Self { field, value, origin }
    }
}

/// Two settings of a resolved policy of which the first is above the second.
#[derive(Debug, Clone, Copy)]
struct Conflict {
    lower: Sourced,
    upper: Sourced,
}

fn conflicts<'a>(
    star: Option<&'a Partial>,
    own: Option<&'a Partial>,
) -> impl Iterator<Item = Conflict> + use<'a> {
    ORDERED.iter().filter_map(move |(lower, upper)| {
        let at = |path: &str| {
            let index = FIELDS.iter().position(|field| field.path() == path);
            Sourced::of(index.expect("pairs are of the table"), star, own)
        };
        let (lower, upper) = (at(lower), at(upper));
        match (lower.value, upper.value) {
            (Value::Duration(low), Value::Duration(high)) => {
                (low > high).then_some(Conflict { lower, upper })
            }
            (Value::Count(low), Value::Count(high)) => (low > high).then_some(Conflict { lower, upper }),
            _ => unreachable!("only durations and counts are ordered"),
        }
    })
}

impl Conflict {
    /// For who set the more specific of the two policies.
    fn for_its_owner(self) -> Violation {
        let Self { lower, upper } = self;
        let place = |other: Sourced| match other.origin {
            Origin::Default => " by default",
            Origin::Star if lower.origin != upper.origin => " in the policy of \"*\"",
            Origin::Star | Origin::Service => "",
        };
        if upper.origin >= lower.origin {
            violation(upper, "", "below", lower, place(lower))
        } else {
            violation(lower, "", "above", upper, place(upper))
        }
    }

    /// For who sets the less specific one, of which the policy of a service is in the way.
    fn for_the_other(self, service: &ServiceName) -> Violation {
        let Self { lower, upper } = self;
        let default = |at: Sourced| if at.origin == Origin::Default { ", the default," } else { "" };
        let place = format!(" in the policy of \"{service}\"");
        if lower.origin < upper.origin {
            violation(lower, default(lower), "above", upper, place)
        } else {
            violation(upper, default(upper), "below", lower, place)
        }
    }
}

fn violation(
    at: Sourced,
    remark: &str,
    relation: &str,
    other: Sourced,
    place: impl fmt::Display,
) -> Violation {
    let (value, path) = (at.value, other.field.path());
    Violation {
        field: at.field.path().to_owned(),
        description: format!("{value}{remark} is {relation} {path}, which is {}{place}", other.value),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{policy::field::named, v1};

    fn partial(settings: &[(&str, u64)]) -> Partial {
        let mut wire = v1::Policy::default();
        for (path, millis) in settings {
            let value = Value::Duration(Duration::from_millis(*millis));
            named(path).next().unwrap().write(&mut wire, value);
        }
        Partial::parse(&wire).unwrap()
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    #[test]
    fn a_setting_is_looked_up_in_the_service_then_in_star_then_among_the_defaults() {
        let star = partial(&[("timeout.request", 5000), ("timeout.per_try", 4000)]);
        let own = partial(&[("timeout.per_try", 800)]);
        let (policy, origins) = resolve_with_origins(Some(&star), Some(&own));
        assert_eq!(policy, resolve(Some(&star), Some(&own)));
        assert_eq!(policy.timeout.per_try, Duration::from_millis(800));
        assert_eq!(policy.timeout.request, Duration::from_secs(5));
        assert_eq!(policy.timeout.connect, Duration::from_secs(1));
        assert_eq!(origins.len(), FIELDS.len());
        for (path, origin) in origins {
            let expected = match path {
                "timeout.per_try" => Origin::Service,
                "timeout.request" => Origin::Star,
                _ => Origin::Default,
            };
            assert_eq!(origin, expected, "{path}");
        }
    }

    #[test]
    fn faults_are_inherited_as_a_whole() {
        let fault = |settings: &[(&str, f64)]| {
            let mut wire = v1::Policy::default();
            for (path, ratio) in settings {
                named(path).next().unwrap().write(&mut wire, Value::Ratio(*ratio));
            }
            Partial::parse(&wire).unwrap()
        };
        let star = fault(&[("fault.abort_ratio", 0.5), ("fault.reset_ratio", 0.25)]);
        let own = fault(&[("fault.abort_ratio", 0.125)]);
        let (policy, origins) = resolve_with_origins(Some(&star), Some(&own));
        assert_eq!((policy.fault.abort_ratio, policy.fault.reset_ratio), (0.125, 0.0));
        assert_eq!(origins["fault.abort_ratio"], Origin::Service);
        assert_eq!(origins["fault.reset_ratio"], Origin::Default);
        // Who says nothing of faults has all of that of all services.
        let policy = resolve(Some(&star), Some(&fault(&[("retry.budget_ratio", 0.1)])));
        assert_eq!((policy.fault.abort_ratio, policy.fault.reset_ratio), (0.5, 0.25));
    }

    #[test]
    fn origins_have_the_names_of_the_contract() {
        let names = [Origin::Default, Origin::Star, Origin::Service].map(|origin| origin.name("orders"));
        assert_eq!(names, ["default", "*", "orders"]);
    }

    #[test]
    fn nothing_resolves_to_the_defaults() {
        assert_eq!(check_resolved(None, None), Ok(Policy::default()));
        assert_eq!(
            check_resolved(Some(&Partial::default()), Some(&Partial::default())),
            Ok(Policy::default())
        );
    }

    #[test]
    fn equal_ends_go_together() {
        let own = partial(&[("breaker.base_open", 2000), ("breaker.max_open", 2000)]);
        assert!(check_resolved(None, Some(&own)).is_ok());
    }

    #[test]
    fn what_does_not_go_together_is_named_with_where_the_other_value_is_from() {
        let base = |millis| partial(&[("breaker.base_open", millis)]);
        let max = |millis| partial(&[("breaker.max_open", millis)]);
        let both = partial(&[("breaker.base_open", 2000), ("breaker.max_open", 1000)]);
        let why = |star: Option<&Partial>, own: Option<&Partial>| {
            check_resolved(star, own).unwrap_err().to_string()
        };
        assert_eq!(why(None, Some(&both)), "breaker.max_open: 1s is below breaker.base_open, which is 2s");
        assert_eq!(why(Some(&both), None), why(None, Some(&both)));
        assert_eq!(
            why(None, Some(&max(500))),
            "breaker.max_open: 500ms is below breaker.base_open, which is 1s by default"
        );
        assert_eq!(
            why(None, Some(&base(120_000))),
            "breaker.base_open: 2m is above breaker.max_open, which is 1m by default"
        );
        assert_eq!(
            why(Some(&base(3000)), Some(&max(2000))),
            "breaker.max_open: 2s is below breaker.base_open, which is 3s in the policy of \"*\""
        );
        assert_eq!(
            why(Some(&max(3000)), Some(&base(4000))),
            "breaker.base_open: 4s is above breaker.max_open, which is 3s in the policy of \"*\""
        );
    }

    #[test]
    fn every_pair_that_does_not_go_together_is_named() {
        let own = partial(&[("retry.max_backoff", 1), ("breaker.max_open", 10)]);
        let invalid = check_resolved(None, Some(&own)).unwrap_err();
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["retry.max_backoff", "breaker.max_open"]);
    }

    #[test]
    fn a_policy_of_all_services_goes_with_that_of_each() {
        let (orders, payments) = (service("orders"), service("payments"));
        let (low, high) = (partial(&[("breaker.max_open", 1000)]), partial(&[("breaker.base_open", 30_000)]));
        let stored = [(&orders, &low), (&payments, &high)];
        let star = |settings: &[(&str, u64)]| check_star(Some(&partial(settings)), stored);
        assert_eq!(star(&[("timeout.request", 5000)]), Ok(()));
        assert_eq!(check_star(None, stored), Ok(()));
        assert_eq!(
            star(&[("breaker.base_open", 2000)]).unwrap_err().to_string(),
            "breaker.base_open: 2s is above breaker.max_open, which is 1s in the policy of \"orders\""
        );
        assert_eq!(
            star(&[("breaker.max_open", 20_000)]).unwrap_err().to_string(),
            "breaker.max_open: 20s is below breaker.base_open, which is 30s in the policy of \"payments\""
        );
        // Wrong by itself, it is not compared with anything.
        assert_eq!(
            star(&[("breaker.base_open", 5000), ("breaker.max_open", 2000)]).unwrap_err().to_string(),
            "breaker.max_open: 2s is below breaker.base_open, which is 5s"
        );
    }

    #[test]
    fn a_policy_of_all_services_that_another_relies_on_cannot_go() {
        let orders = service("orders");
        let own = partial(&[("breaker.max_open", 500)]);
        let star = partial(&[("breaker.base_open", 10)]);
        assert_eq!(check_star(Some(&star), [(&orders, &own)]), Ok(()));
        assert_eq!(
            check_star(None, [(&orders, &own)]).unwrap_err().to_string(),
            "breaker.base_open: 1s, the default, is above breaker.max_open, which is 500ms in the policy of \"orders\""
        );
    }

    #[test]
    fn a_refusal_names_twenty_services_and_counts_the_others() {
        let names: Vec<_> = (0..50).map(|index| service(&format!("s-{index}"))).collect();
        let own = partial(&[("breaker.max_open", 1000)]);
        let star = partial(&[("breaker.base_open", 2000)]);
        let invalid = check_star(Some(&star), names.iter().map(|name| (name, &own))).unwrap_err();
        assert_eq!(invalid.violations().len(), MAX_CONFLICTS);
        let last = &invalid.violations()[MAX_CONFLICTS - 1].description;
        assert!(last.ends_with("in the policy of \"s-19\", and 30 more like this"), "{last}");
    }
}
