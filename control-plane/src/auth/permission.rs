//! The one table from what can be asked to the permission that it takes. What is not in it is refused.

/// A kind of request, by what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Permission {
    /// Anybody: health checks.
    Open,
    /// Look at everything: lists, watches, explanations.
    Read,
    /// Look at one replica; owners at those of their own services, as a further rule says.
    ReadOne,
    /// Register, renew, report, drain, undrain and deregister; further rules say of which services, and where.
    Register,
    /// Follow the registry as a data plane, and report as one.
    Follow,
    /// Change policies, routes, overrides, and anything of any service.
    Operate,
}

use Permission::{Follow, Open, Operate, Read, ReadOne, Register};

const REGISTRY: &str = "gateway.v1.RegistryService";
const DISCOVERY: &str = "gateway.v1.DiscoveryService";
const POLICY: &str = "gateway.v1.PolicyService";
const ROUTE: &str = "gateway.v1.RouteService";
const OBSERVABILITY: &str = "gateway.v1.ObservabilityService";
const PEER: &str = "gateway.v1.PeerService";
const STORE: &str = "gateway.v1.StoreService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Every RPC that is served: service, method, permission.
pub(crate) const RPCS: &[(&str, &str, Permission)] = &[
    (REGISTRY, "Register", Register),
    (REGISTRY, "Deregister", Register),
    (REGISTRY, "Heartbeat", Register),
    (REGISTRY, "KeepAlive", Register),
    (REGISTRY, "ReportHealth", Register),
    (REGISTRY, "DrainReplica", Register),
    (REGISTRY, "WatchDrain", Read),
    (REGISTRY, "UndrainReplica", Register),
    (REGISTRY, "ReleaseGuard", Operate),
    (REGISTRY, "ListServices", Read),
    (REGISTRY, "GetService", Read),
    (REGISTRY, "ListReplicas", Read),
    (REGISTRY, "GetReplica", ReadOne),
    (REGISTRY, "WatchReplicas", Read),
    (DISCOVERY, "StreamSnapshots", Follow),
    (POLICY, "GetPolicy", Read),
    (POLICY, "ListPolicies", Read),
    (POLICY, "ResolvePolicy", Read),
    (POLICY, "UpdatePolicy", Operate),
    (POLICY, "DeletePolicy", Operate),
    (POLICY, "ApplyPolicies", Operate),
    (ROUTE, "GetRoute", Read),
    (ROUTE, "ListRoutes", Read),
    (ROUTE, "UpdateRoute", Operate),
    (ROUTE, "DeleteRoute", Operate),
    (OBSERVABILITY, "ReportNodeStatus", Follow),
    (OBSERVABILITY, "ListBreakers", Read),
    (OBSERVABILITY, "WatchBreakers", Read),
    (OBSERVABILITY, "OverrideBreaker", Operate),
    (OBSERVABILITY, "ResetBreaker", Operate),
    (OBSERVABILITY, "ListOverrides", Read),
    (OBSERVABILITY, "EndOverride", Operate),
    (OBSERVABILITY, "ListNodes", Read),
    (OBSERVABILITY, "ListEvents", Read),
    (OBSERVABILITY, "WatchEvents", Read),
    (OBSERVABILITY, "WatchStats", Read),
    (OBSERVABILITY, "ExplainReplica", Read),
    (OBSERVABILITY, "ExplainService", Read),
    (OBSERVABILITY, "WhatIf", Read),
    // It tells what anybody may see who may look.
    (PEER, "FollowObservations", Read),
    // It tells the ids of leases, with which anybody may do what their owners may.
    (STORE, "MoveStore", Operate),
    (STORE, "ReopenStore", Operate),
    (HEALTH, "Check", Open),
    (HEALTH, "Watch", Open),
    (HEALTH, "List", Open),
    (REFLECTION, "ServerReflectionInfo", Read),
    (REFLECTION_ALPHA, "ServerReflectionInfo", Read),
];

/// What an RPC takes, by its path `/package.Service/Method`; `None`: nobody serves it.
pub(crate) fn of_rpc(path: &str) -> Option<Permission> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    RPCS.iter()
        .find(|(known, rpc, _)| *known == service && *rpc == method)
        .map(|(.., permission)| *permission)
}

/// Whether a path is that of reflection, which may be opened to all.
pub(crate) fn is_reflection(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// Whether the answer to what is open to all lasts as long as whoever asks likes.
pub(crate) fn lasts(path: &str) -> bool {
    path == "/grpc.health.v1.Health/Watch" || is_reflection(path)
}

impl Permission {
    /// For sentences: "may not …". `gwctl` knows by the last of them that it speaks for an operator.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "ask for health",
            Self::Read => "look at the registry",
            Self::ReadOne => "look at replicas",
            Self::Register => "register replicas",
            Self::Follow => "act as a data plane",
            Self::Operate => "change how the gateway works",
        }
    }

    /// The role that has it.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::Open => "none",
            Self::Read | Self::ReadOne => "reader",
            Self::Register => "replica",
            Self::Follow => "data-plane",
            Self::Operate => "operator",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gateway_proto::json::pool;

    use super::*;

    #[test]
    fn gwctl_knows_operators_by_these_words() {
        assert_eq!(Permission::Operate.name(), "change how the gateway works");
    }

    #[test]
    fn every_rpc_of_the_contract_takes_a_permission_and_none_is_named_that_is_not_there() {
        let ours = pool().services().filter(|service| service.package_name() == "gateway.v1");
        let rpcs: BTreeSet<(String, String)> = ours
            .flat_map(|service| {
                let name = service.full_name().to_owned();
                service.methods().map(|rpc| (name.clone(), rpc.name().to_owned())).collect::<Vec<_>>()
            })
            .collect();
        let named = RPCS.iter().filter(|(service, ..)| service.starts_with("gateway.v1."));
        let named: BTreeSet<_> = named.map(|(service, rpc, _)| ((*service).into(), (*rpc).into())).collect();
        assert_eq!(named, rpcs);
    }

    #[test]
    fn nothing_of_the_contract_is_open_and_what_is_not_served_takes_no_permission() {
        for (service, rpc, permission) in RPCS {
            assert_eq!(*permission == Open, *service == HEALTH, "{service}/{rpc}");
            assert_eq!(of_rpc(&format!("/{service}/{rpc}")), Some(*permission));
        }
        for path in
            ["", "/", "/gateway.v1.RegistryService", "/gateway.v1.RegistryService/", "/a/b", "//Register"]
        {
            assert_eq!(of_rpc(path), None, "{path}");
        }
    }
}
