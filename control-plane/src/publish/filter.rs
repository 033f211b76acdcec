//! Which services a data plane follows.

use std::collections::BTreeSet;

use gateway_proto::{Invalid, ServiceName, content::ContentHash, v1};

use crate::registry::{OverrideTarget, View};

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
            _ if names.len() > Self::MAX_NAMES => {
                refuse(format!("are {}, at most {} are allowed: use \"*\"", names.len(), Self::MAX_NAMES))
            }
            _ => {
                let parse = |(index, name): (usize, &String)| {
                    ServiceName::parse(name).map_err(|invalid| {
                        let why = &invalid.violations()[0].description;
                        Invalid::new(format!("services[{index}]"), why.as_str())
                    })
                };
                names.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self::Some)
            }
        }
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
        let policies = view.policies();
        hash.add_policy(None, policies.default_revision());
        for name in
            policies.services().filter(|name| self.admits(name.as_str()) && view.service(name).is_some())
        {
            if let Some(revision) = policies.own_revision(name) {
                hash.add_policy(Some(name), revision);
            }
        }
        for entry in view.overrides() {
            if entry.is_published() && self.admits(entry.target.service.as_str()) {
                hash.add_override(entry.id().as_str(), entry.revision);
            }
        }
        hash
    }

    /// The part of a delta that concerns the data plane; `None` when that is nothing.
    pub fn narrow(&self, delta: &v1::Delta) -> Option<v1::Delta> {
        let mut delta = delta.clone();
        if *self != Self::All {
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
            && delta.default_policy.is_none();
        (!is_empty).then_some(delta)
    }
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
}
