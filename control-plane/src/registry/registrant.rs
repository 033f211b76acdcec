//! Who registers, how much he has registered, and how much he may have.

use std::collections::HashMap;

use gateway_proto::ServiceName;

use super::{Limits, Population, RegistryError, SparseText};

/// Who registers. By default nobody, because nobody is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registrant {
    /// What he goes by; empty where nobody is asked.
    pub name: SparseText,
    /// How much he may have; `None`: as much as the registry takes.
    pub quota: Option<Quota>,
}

/// How much one identity may have registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Replicas; `None`: half of what the registry takes, so that nobody fills it alone.
    pub replicas: Option<usize>,
    /// Services in which he has some; `None`: any number.
    pub services: Option<usize>,
}

/// What one identity has registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    population: Population,
    by_service: HashMap<ServiceName, usize>,
}

impl Registrant {
    /// Whether he may have one more replica in a service, where he `has` so much, and so much more is `pending`.
    ///
    /// # Errors
    /// [`RegistryError::IdentityQuota`].
    pub(super) fn check(
        &self,
        limits: &Limits,
        service: &ServiceName,
        has: Option<&Holding>,
        pending: Option<&Holding>,
    ) -> Result<(), RegistryError> {
        let Some(quota) = self.quota else { return Ok(()) };
        let refused = |of, count, limit| {
            Err(RegistryError::IdentityQuota { name: self.name.clone(), of, count, limit })
        };
        let is_there = |holding: Option<&Holding>, service: &ServiceName| {
            holding.is_some_and(|holding| holding.by_service.contains_key(service))
        };
        let sum = |of: fn(&Holding) -> usize| has.into_iter().chain(pending).map(of).sum();
        let population = Population { living: sum(Holding::replicas), lost: sum(Holding::lost) };
        let most = quota.replicas.unwrap_or(limits.replicas.div_ceil(2));
        if let Some(count) = population.excess(most) {
            return refused("replicas", count, most);
        }
        let Some(most) = quota.services else { return Ok(()) };
        let begun = pending.into_iter().flat_map(|pending| pending.by_service.keys());
        let services =
            has.map_or(0, Holding::services) + begun.filter(|service| !is_there(has, service)).count();
        if services >= most && !is_there(has, service) && !is_there(pending, service) {
            return refused("services", services, most);
        }
        Ok(())
    }
}

impl Quota {
    /// The wider one of both, for each of what they bound.
    #[must_use]
    pub(crate) fn or_wider(self, other: Self) -> Self {
        let wider = |one: Option<usize>, other: Option<usize>| Some(one?.max(other?));
        Self {
            replicas: wider(self.replicas, other.replicas),
            services: wider(self.services, other.services),
        }
    }
}

impl Holding {
    /// How many replicas that are not lost.
    pub fn replicas(&self) -> usize {
        self.population.living
    }

    /// How many that are.
    pub(super) fn lost(&self) -> usize {
        self.population.lost
    }

    /// In how many services, those included where all are lost.
    pub fn services(&self) -> usize {
        self.by_service.len()
    }

    /// Counts one more.
    pub(super) fn add(&mut self, service: &ServiceName, is_lost: bool) {
        self.population.add(is_lost);
        *self.by_service.entry(service.clone()).or_default() += 1;
    }

    /// Counts one less.
    pub(super) fn remove(&mut self, service: &ServiceName, is_lost: bool) {
        let Some(count) = self.by_service.get_mut(service) else { return };
        *count -= 1;
        if *count == 0 {
            self.by_service.remove(service);
        }
        self.population.remove(is_lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { replicas: 7, replicas_per_service: 7 };

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    fn holding(services: &[&str]) -> Holding {
        let mut holding = Holding::default();
        services.iter().for_each(|name| holding.add(&service(name), false));
        holding
    }

    fn refused(quota: Quota, name: &str, has: &[&str], pending: &[&str]) -> Option<String> {
        let registrant = Registrant { name: "ci".into(), quota: Some(quota) };
        let checked = registrant.check(&LIMITS, &service(name), Some(&holding(has)), Some(&holding(pending)));
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn what_somebody_has_and_what_is_about_to_be_his_are_held_to_his_quota_together() {
        let quota = Quota { replicas: Some(3), services: Some(2) };
        assert_eq!(refused(quota, "a", &["a"], &["a"]), None);
        assert_eq!(refused(quota, "b", &["a", "a"], &[]), None);
        assert_eq!(
            refused(quota, "a", &["a", "a"], &["a"]).unwrap(),
            "ci has 3 replicas and may have 3: deregister some, or have max-replicas of its entry in the auth file raised"
        );
        assert_eq!(
            refused(quota, "c", &["a"], &["b"]).unwrap(),
            "ci has 2 services and may have 2: deregister some, or have max-services of its entry in the auth file raised"
        );
        assert_eq!(refused(quota, "b", &["a"], &["b"]), None, "it is one of them");
        assert_eq!(refused(quota, "c", &["a"], &["a"]), None, "both are one");
    }

    #[test]
    fn who_has_no_number_may_have_half_of_the_registry_and_who_has_no_quota_all() {
        let half = ["a", "b", "c", "d"];
        assert_eq!(refused(Quota::default(), "e", &half[..3], &[]), None);
        assert!(refused(Quota::default(), "e", &half, &[]).unwrap().contains("may have 4"));
        assert!(Registrant::default().check(&LIMITS, &service("e"), Some(&holding(&half)), None).is_ok());
    }

    #[test]
    fn lost_ones_do_not_count_up_to_as_many_again() {
        let ci =
            Registrant { name: "ci".into(), quota: Some(Quota { replicas: Some(2), services: Some(1) }) };
        let mut has = Holding::default();
        let refused = |has: &Holding, name| {
            ci.check(&LIMITS, &service(name), Some(has), None).err().map(|error| error.to_string())
        };
        (0..2).for_each(|_| has.add(&service("a"), true));
        assert_eq!((has.replicas(), refused(&has, "a")), (0, None));
        assert!(refused(&has, "b").unwrap().contains("1 services and may have 1"), "it may be found again");
        has.add(&service("a"), false);
        assert_eq!(refused(&has, "a"), None);
        has.add(&service("a"), true);
        assert!(refused(&has, "a").unwrap().contains("has 4 replicas and may have 2"));
        (0..3).for_each(|_| has.remove(&service("a"), true));
        has.remove(&service("a"), false);
        assert_eq!(has, Holding::default());
    }

    #[test]
    fn of_two_quotas_the_wider_one_holds_and_none_is_the_widest() {
        let (two, nine) =
            (Quota { replicas: Some(2), services: Some(9) }, Quota { replicas: Some(9), services: None });
        assert_eq!(two.or_wider(nine), nine);
        assert_eq!(nine.or_wider(Quota::default()), Quota::default());
    }

    #[test]
    fn what_is_removed_is_given_back() {
        let mut holding = holding(&["a", "a", "b"]);
        assert_eq!((holding.replicas(), holding.services()), (3, 2));
        for name in ["a", "b", "never"] {
            holding.remove(&service(name), false);
        }
        assert_eq!((holding.replicas(), holding.services()), (1, 1));
        holding.remove(&service("a"), false);
        assert_eq!(holding, Holding::default());
    }
}
