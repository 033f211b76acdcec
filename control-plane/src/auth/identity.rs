//! Who somebody is, and what was granted to him.

use core::net::IpAddr;
use std::{fmt, sync::Arc, time::SystemTime};

use gateway_proto::{Address, Networks, NodeId, ServiceName};

use super::{permission::Permission, roles::Role};
use crate::registry::Quota;

/// Somebody who has shown who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// A token's or a user's name; `spiffe://…`, `dns:…` or `cn:…` of a certificate; `jwt:…` of a signed token.
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// What he may do; nothing when there is none.
    pub(crate) grants: Vec<Arc<Grant>>,
    /// When this ends by itself.
    pub(crate) expires: Option<SystemTime>,
}

/// How somebody has shown who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Token,
    Certificate,
    Jwt,
    User,
}

/// Roles, and where they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) roles: Vec<Role>,
    /// The services of the role `replica`.
    pub(crate) services: Vec<Pattern>,
    /// Where those replicas may be; `None`: anywhere.
    pub(crate) addresses: Option<Addresses>,
    /// How much whoever has it may have registered.
    pub(crate) quota: Quota,
    /// The node ids of the role `data-plane`; `None`: any.
    pub(crate) nodes: Option<Vec<Pattern>>,
    /// From where it is taken; `None`: from anywhere.
    pub(crate) from: Option<Networks>,
}

/// A name, or the beginning of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: Box<str>,
    is_prefix: bool,
}

/// Where replicas may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) networks: Networks,
    /// Host names: exact, or all below `*.suffix`.
    pub(crate) names: Vec<Box<str>>,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::User => "user",
        }
    }
}

impl Identity {
    /// Whether one of his grants has a permission, for somebody at this address.
    pub(crate) fn has(&self, permission: Permission, from: Option<IpAddr>) -> bool {
        self.grants(from).any(|grant| grant.roles.iter().any(|role| role.has(permission)))
    }

    /// Whether he may register, renew and remove replicas of a service.
    pub(crate) fn owns(&self, service: &ServiceName, from: Option<IpAddr>) -> bool {
        self.grants(from).any(|grant| grant.owns(service))
    }

    /// Whether he may register one of a service at an address, too.
    pub(crate) fn may_place(&self, service: &ServiceName, address: &Address, from: Option<IpAddr>) -> bool {
        let places = |grant: &Grant| grant.addresses.as_ref().is_none_or(|allowed| allowed.admit(address));
        self.grants(from).any(|grant| grant.owns(service) && (grant.is_operator() || places(grant)))
    }

    /// How much he may have to register one more of a service: the widest quota of his grants for it; `None` for an operator,
    /// who may have all that there is room for.
    pub(crate) fn quota(&self, service: &ServiceName, from: Option<IpAddr>) -> Option<Quota> {
        let grants = self.grants(from).filter(|grant| grant.owns(service));
        let mut quotas = grants.map(|grant| (!grant.is_operator()).then_some(grant.quota));
        let first = quotas.next()??;
        quotas.try_fold(first, |widest, quota| Some(widest.or_wider(quota?)))
    }

    /// Whether he may follow and report under a node id.
    pub(crate) fn may_act_as(&self, node: &NodeId, from: Option<IpAddr>) -> bool {
        let names = |grant: &Grant| {
            grant
                .nodes
                .as_ref()
                .is_none_or(|nodes| nodes.iter().any(|pattern| pattern.matches(node.as_str())))
        };
        self.grants(from).any(|grant| grant.roles.contains(&Role::DataPlane) && names(grant))
    }

    fn grants(&self, from: Option<IpAddr>) -> impl Iterator<Item = &Grant> {
        self.grants.iter().map(AsRef::as_ref).filter(move |grant| grant.is_taken_from(from))
    }
}

impl Grant {
    fn is_operator(&self) -> bool {
        self.roles.contains(&Role::Operator)
    }

    fn owns(&self, service: &ServiceName) -> bool {
        let is_replica = self.roles.contains(&Role::Replica);
        self.is_operator()
            || is_replica && self.services.iter().any(|pattern| pattern.matches(service.as_str()))
    }

    fn is_taken_from(&self, from: Option<IpAddr>) -> bool {
        self.from.as_ref().is_none_or(|allowed| from.is_some_and(|from| allowed.contains(from)))
    }
}

impl Pattern {
    /// Reads a name, with one `*` at its end at most.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (text, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        if text.contains('*') {
            return Err("has a '*' that is not its end".into());
        }
        if text.is_empty() && !is_prefix {
            return Err("is empty".into());
        }
        Ok(Self { text: text.into(), is_prefix })
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&*self.text) } else { name == &*self.text }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }
}

impl Addresses {
    fn admit(&self, address: &Address) -> bool {
        match address.socket() {
            Some(socket) => self.networks.contains(socket.ip()),
            None => self.names.iter().any(|allowed| is_below(address.host(), allowed)),
        }
    }
}

/// Whether a host has the name, or is below the suffix of `*.suffix`.
fn is_below(host: &str, allowed: &str) -> bool {
    match allowed.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(grant: Grant) -> Identity {
        Identity { name: "ci".into(), kind: Kind::Token, grants: vec![Arc::new(grant)], expires: None }
    }

    fn replica(services: &[&str]) -> Grant {
        let services = services.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        Grant { roles: vec![Role::Replica], services, ..Grant::default() }
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    #[test]
    fn a_replica_s_grant_is_for_its_services_and_an_operator_s_for_all() {
        let ci = identity(replica(&["orders", "team-a-*"]));
        for (name, owns) in [("orders", true), ("orders2", false), ("team-a-x", true), ("team-b", false)] {
            assert_eq!(ci.owns(&service(name), None), owns, "{name}");
        }
        let operator = identity(Grant { roles: vec![Role::Operator], ..Grant::default() });
        assert!(operator.owns(&service("anything"), None));
        let reader = identity(Grant { roles: vec![Role::Reader], ..replica(&["*"]) });
        assert!(!reader.owns(&service("orders"), None), "services without the role grant nothing");
    }

    #[test]
    fn of_all_grants_for_a_service_the_widest_quota_holds_and_an_operator_has_none() {
        let quota = |replicas| Quota { replicas, services: Some(2) };
        let of = |replicas, services: &[&str]| Grant { quota: quota(replicas), ..replica(services) };
        let mut ci = identity(of(Some(5), &["orders"]));
        ci.grants.push(Arc::new(of(Some(9), &["orders", "payments"])));
        assert_eq!(ci.quota(&service("orders"), None), Some(quota(Some(9))));
        ci.grants.push(Arc::new(of(None, &["orders"])));
        assert_eq!(ci.quota(&service("orders"), None), Some(quota(None)), "what is not said is the widest");
        assert_eq!(ci.quota(&service("payments"), None), Some(quota(Some(9))), "of another service");
        ci.grants.push(Arc::new(Grant { roles: vec![Role::Operator], ..Grant::default() }));
        assert_eq!(ci.quota(&service("orders"), None), None);
    }

    #[test]
    fn where_replicas_may_be_is_a_network_or_a_name() {
        let addresses = Addresses {
            networks: Networks::parse(["10.0.0.0/8"]).unwrap(),
            names: vec!["*.orders.svc".into(), "one.example".into()],
        };
        let ci = identity(Grant { addresses: Some(addresses), ..replica(&["orders"]) });
        for (address, may) in [
            ("10.1.2.3:80", true),
            ("[::ffff:10.1.2.3]:80", true),
            ("11.0.0.1:80", false),
            ("a.orders.svc:80", true),
            ("orders.svc:80", false),
            ("one.example:80", true),
            ("two.example:80", false),
        ] {
            let address = Address::parse(address).unwrap();
            assert_eq!(ci.may_place(&service("orders"), &address, None), may, "{address}");
            assert!(!ci.may_place(&service("payments"), &address, None));
        }
    }

    #[test]
    fn a_data_plane_may_act_under_its_own_node_ids_and_under_any_where_none_are_named() {
        let of = |nodes: Option<&[&str]>, role| {
            let patterns = |nodes: &[&str]| nodes.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            identity(Grant { roles: vec![role], nodes: nodes.map(patterns), ..Grant::default() })
        };
        let may = |identity: &Identity, node: &str| identity.may_act_as(&NodeId::parse(node).unwrap(), None);
        let edge = of(Some(&["edge-*", "spare"]), Role::DataPlane);
        for (node, is_its_own) in [("edge-1", true), ("spare", true), ("spare-1", false), ("dp-1", false)] {
            assert_eq!(may(&edge, node), is_its_own, "{node}");
        }
        assert!(may(&of(None, Role::DataPlane), "dp-1"));
        assert!(!may(&of(Some(&[]), Role::DataPlane), "dp-1"), "an empty list is a list");
        assert!(!may(&of(None, Role::Operator), "dp-1"));
    }

    #[test]
    fn a_grant_for_some_networks_is_none_from_elsewhere() {
        let from = Networks::parse(["10.0.0.0/8"]).unwrap();
        let operator = identity(Grant { roles: vec![Role::Operator], from: Some(from), ..Grant::default() });
        let may = |from: &str| operator.has(Permission::Operate, Some(from.parse().unwrap()));
        assert!(may("10.0.0.1") && !may("192.0.2.1"));
        assert!(!operator.has(Permission::Operate, None), "who comes from nowhere comes from elsewhere");
    }

    #[test]
    fn a_pattern_has_one_star_at_its_end_or_none() {
        for bad in ["", "a*b", "**", "*a"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert!(Pattern::parse("*").unwrap().matches("anything"));
        assert_eq!(Pattern::parse("team-*").unwrap().to_string(), "team-*");
    }
}
