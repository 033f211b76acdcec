//! Which services a data plane follows.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use gateway_proto::{Invalid, ServiceName, content::ContentHash, v1};

use crate::registry::{Override, OverrideTarget, View};

/// All services, or some by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Every service, those to come included.
    All,
    /// These, whether they exist or not.
    Some(BTreeSet<ServiceName>),
}

impl Filter {
    /// More names than this are as well served by `*`.
    const MAX_NAMES: usize = 1000;

    /// Reads names, or one `*`.
    ///
    /// # Errors
    /// [`Invalid`] for the field `services` when it is empty, too long, mixes `*` with names, or holds what is no name.
    pub fn parse(names: &[String]) -> Result<Self, Invalid> {
        let refuse = |why: String| Err(Invalid::new("services", why));
        match names {
            [] => refuse("is required: service names, or one \"*\" for all".into()),
            [star] if star == "*" => Ok(Self::All),
            _ if names.len() > Self::MAX_NAMES => Err(Self::too_many("services", names.len())),
            _ => parse_names("services", names).map(Self::Some),
        }
    }

    /// What is followed after a change: names that are added, and others that are removed, whether they were followed or
    /// not.
    ///
    /// # Errors
    /// [`Invalid`] for `add_services` and `remove_services`: bad names, a name in both, more than are allowed; and for
    /// whoever follows all.
    pub fn change(&self, change: &v1::SubscriptionChange) -> Result<Self, Invalid> {
        let Self::Some(names) = self else {
            return Err(Invalid::new("add_services", "is not for who follows \"*\": that is all there are"));
        };
        let added = parse_names("add_services", &change.add_services)?;
        let removed = parse_names("remove_services", &change.remove_services)?;
        if let Some(both) = added.intersection(&removed).next() {
            return Err(Invalid::new("remove_services", format!("{both} is to be added, too")));
        }
        let names: BTreeSet<_> = names.difference(&removed).chain(&added).cloned().collect();
        match names.len() {
            count if count > Self::MAX_NAMES => Err(Self::too_many("add_services", count)),
            _ => Ok(Self::Some(names)),
        }
    }

    fn too_many(field: &str, count: usize) -> Invalid {
        Invalid::new(field, format!("are {count} in all, at most {} are allowed: use \"*\"", Self::MAX_NAMES))
    }

    /// Whether the data plane follows the service of this name.
    pub fn admits(&self, service: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(service),
        }
    }

    /// The hash of all that a data plane with this filter holds, see `Bookmark.content_hash` in the contract.
    pub fn hash(&self, view: &View) -> ContentHash {
        let mut hash = match self {
            Self::All => view.replicas_hash(),
            Self::Some(names) => {
                let mut hash = ContentHash::default();
                names.iter().filter_map(|name| view.service(name)).for_each(|entry| hash.merge(entry.hash()));
                hash
            }
        };
        hash.merge(view.routes_hash());
        let policies = view.policies();
        hash.add_policy(None, policies.default_revision());
        for name in
            policies.services().filter(|name| self.admits(name.as_str()) && view.service(name).is_some())
        {
            if let Some(revision) = policies.own_revision(name) {
                hash.add_policy(Some(name), revision);
            }
        }
        for entry in self.overrides(view) {
            hash.add_override(entry.id().as_str(), entry.revision);
        }
        hash
    }

    /// The overrides that the data plane is to know.
    pub(super) fn overrides<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a Arc<Override>> {
        let admits = |entry: &&Arc<Override>| self.admits(entry.target.service.as_str());
        view.overrides().filter(|entry| entry.is_published()).filter(admits)
    }

    /// The part of a delta that concerns the data plane; `None` when that is nothing. Explicit routes concern every one,
    /// for a request whose route is missing would go to another service.
    pub fn narrow<'a>(&self, delta: &'a v1::Delta) -> Option<Cow<'a, v1::Delta>> {
        let mut delta = Cow::Borrowed(delta);
        if *self != Self::All {
            let delta = delta.to_mut();
            delta.upsert_services.retain(|entry| self.admits(&entry.service));
            delta.remove_services.retain(|name| self.admits(name));
            delta.upsert_replicas.retain(|replica| self.admits(&replica.service));
            delta.remove_replicas.retain(|key| self.admits(&key.service));
            delta.upsert_overrides.retain(|entry| self.admits(&entry.service));
            delta.remove_overrides.retain(|id| self.admits(OverrideTarget::service_in(id)));
        }
        let is_empty = delta.upsert_services.is_empty()
            && delta.remove_services.is_empty()
            && delta.upsert_replicas.is_empty()
            && delta.remove_replicas.is_empty()
            && delta.upsert_overrides.is_empty()
            && delta.remove_overrides.is_empty()
            && delta.upsert_routes.is_empty()
            && delta.remove_routes.is_empty()
            && delta.default_policy.is_none();
        (!is_empty).then_some(delta)
    }
}

fn parse_names(field: &str, names: &[String]) -> Result<BTreeSet<ServiceName>, Invalid> {
    let parse = |(index, name): (usize, &String)| {
        ServiceName::parse(name).map_err(|invalid| {
            let why = &invalid.violations()[0].description;
            Invalid::new(format!("{field}[{index}]"), why.as_str())
        })
    };
    names.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<Filter, Invalid> {
        Filter::parse(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_star_stands_for_all_and_names_for_themselves() {
        assert_eq!(parse(&["*"]), Ok(Filter::All));
        let some = parse(&["a", "b"]).unwrap();
        assert!(some.admits("a") && !some.admits("c"));
    }

    #[test]
    fn nothing_a_mixture_and_bad_names_are_refused() {
        for (names, field) in [
            (vec![], "services"),
            (vec!["a", "*"], "services[1]"),
            (vec!["A"], "services[0]"),
            (vec!["a"; 1001], "services"),
        ] {
            assert_eq!(parse(&names).unwrap_err().violations()[0].field, field, "{names:?}");
        }
    }

    #[test]
    fn names_are_added_and_removed_and_nobody_who_follows_all_changes_that() {
        let some = parse(&["a", "b"]).unwrap();
        let change = |filter: &Filter, add: &[&str], remove: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            filter
                .change(&v1::SubscriptionChange { add_services: texts(add), remove_services: texts(remove) })
        };
        let field = |changed: Result<Filter, Invalid>| changed.unwrap_err().violations()[0].field.clone();
        assert_eq!(change(&some, &["c", "a"], &["b", "unknown"]), parse(&["a", "c"]));
        assert_eq!(change(&some, &[], &["a", "b"]), Ok(Filter::Some(BTreeSet::new())));
        assert_eq!(change(&some, &[], &[]), Ok(some.clone()));
        assert_eq!(field(change(&some, &["c", "C"], &[])), "add_services[1]");
        assert_eq!(field(change(&some, &[], &["*"])), "remove_services[0]");
        assert_eq!(field(change(&some, &["c"], &["c"])), "remove_services");
        assert_eq!(field(change(&Filter::All, &["c"], &[])), "add_services");
        let many: Vec<String> = (0..999).map(|number| format!("s{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(field(change(&some, &many, &[])), "add_services");
        assert!(change(&some, &many, &["a"]).is_ok());
    }
}
