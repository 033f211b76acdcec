//! The one table of what REST can do: method and path, the RPC behind it, and where its request's fields come from.
//!
//! Requests are served by it and the OpenAPI document is written from it, so that neither can differ from the other.
//! It is what `google.api.http` annotations would say: of a request, the fields named in the path are taken from there;
//! with [`Payload::Whole`] all others come from the body; else one of them may be the body and the others are query
//! parameters.

use http::Method;

/// One thing that REST can do.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Segments are literal, or `{field.path}` of the request, or `{field=**}` for all that is left; the last one may
    /// have a `:verb`.
    pub(super) path: &'static str,
    /// Without the package, e.g. `RegistryService`.
    pub(super) service: &'static str,
    pub(super) rpc: &'static str,
    pub(super) payload: Payload,
    pub(super) answer: Answer,
    /// The RPC's name, or one of its own where two routes have one RPC.
    pub(super) operation: &'static str,
}

/// What a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// There is none.
    Nothing,
    /// All fields that are not in the path; may be left out when none is needed.
    Whole,
    /// One field of the request. The field mask beside it, `update_mask`, is made from the body.
    Field(&'static str, Mask),
}

/// Which fields a body changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mask {
    /// Those that it names; `null` clears: a merge patch (RFC 7396).
    Named,
    /// All: those that it does not name are cleared.
    All,
}

/// What is answered, of the RPC's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Whole,
    Field(&'static str),
    /// The whole; 201 with a `Location` when it says that something was created.
    Registered,
    /// Server-Sent Events, one for each response.
    Stream,
}

const REGISTRY: &str = "RegistryService";
const POLICY: &str = "PolicyService";
const ROUTE: &str = "RouteService";
const STORE: &str = "StoreService";
const OBSERVABILITY: &str = "ObservabilityService";

/// A path that ends like this is what `?watch=1` and `Accept: text/event-stream` make of the path without it.
pub(super) const WATCH: &str = ":watch";

/// All of them, in the order of the document.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/services", REGISTRY, "ListServices"),
        get("/v1/services/{service}", REGISTRY, "GetService").answers("service"),
        get("/v1/services/{service}/replicas", REGISTRY, "ListReplicas"),
        stream("/v1/services/{service}/replicas:watch", REGISTRY, "WatchReplicas"),
        post("/v1/services/{service}/replicas", REGISTRY, "Register").registers(),
        get("/v1/services/{service}/replicas/{replica_id}", REGISTRY, "GetReplica").answers("replica"),
        delete("/v1/services/{service}/replicas/{replica_id}", REGISTRY, "Deregister"),
        put("/v1/services/{service}/replicas/{replica_id}/lease", REGISTRY, "Heartbeat"),
        post("/v1/services/{service}/replicas/{replica_id}:reportHealth", REGISTRY, "ReportHealth"),
        post("/v1/services/{service}/replicas/{replica_id}:drain", REGISTRY, "DrainReplica"),
        stream("/v1/services/{service}/replicas/{replica_id}:watchDrain", REGISTRY, "WatchDrain"),
        post("/v1/services/{service}/replicas/{replica_id}:undrain", REGISTRY, "UndrainReplica"),
        get("/v1/services/{service}:explain", OBSERVABILITY, "ExplainService"),
        get("/v1/services/{service}/replicas/{replica_id}:explain", OBSERVABILITY, "ExplainReplica"),
        post("/v1/services/{service}:releaseGuard", REGISTRY, "ReleaseGuard"),
        get("/v1/policies", POLICY, "ListPolicies"),
        get("/v1/policies/{service}", POLICY, "GetPolicy").answers("policy"),
        get("/v1/policies/{service}:resolve", POLICY, "ResolvePolicy"),
        patch("/v1/policies/{policy.service}", POLICY, "UpdatePolicy").changes("policy", Mask::Named),
        put("/v1/policies/{policy.service}", POLICY, "UpdatePolicy")
            .changes("policy", Mask::All)
            .named("ReplacePolicy"),
        delete("/v1/policies/{service}", POLICY, "DeletePolicy"),
        post("/v1/policies:apply", POLICY, "ApplyPolicies"),
        post("/v1/policies/{service}:whatIf", OBSERVABILITY, "WhatIf"),
        get("/v1/routes", ROUTE, "ListRoutes"),
        get("/v1/routes/{name}", ROUTE, "GetRoute").answers("route"),
        patch("/v1/routes/{route.name}", ROUTE, "UpdateRoute").changes("route", Mask::Named),
        put("/v1/routes/{route.name}", ROUTE, "UpdateRoute")
            .changes("route", Mask::All)
            .named("ReplaceRoute"),
        delete("/v1/routes/{name}", ROUTE, "DeleteRoute"),
        get("/v1/breakers", OBSERVABILITY, "ListBreakers"),
        stream("/v1/breakers:watch", OBSERVABILITY, "WatchBreakers"),
        post("/v1/breakers/{service}/{replica_id}:override", OBSERVABILITY, "OverrideBreaker"),
        post("/v1/breakers/{service}/{replica_id}:reset", OBSERVABILITY, "ResetBreaker"),
        get("/v1/overrides", OBSERVABILITY, "ListOverrides"),
        delete("/v1/overrides/{override_id=**}", OBSERVABILITY, "EndOverride"),
        get("/v1/nodes", OBSERVABILITY, "ListNodes"),
        get("/v1/events", OBSERVABILITY, "ListEvents"),
        stream("/v1/events:watch", OBSERVABILITY, "WatchEvents"),
        stream("/v1/stats:watch", OBSERVABILITY, "WatchStats"),
        post("/v1/store:reopen", STORE, "ReopenStore"),
    ]
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        service: &'static str,
        rpc: &'static str,
        payload: Payload,
    ) -> Self {
        Self { method, path, service, rpc, payload, answer: Answer::Whole, operation: rpc }
    }

    fn answers(mut self, field: &'static str) -> Self {
        self.answer = Answer::Field(field);
        self
    }

    fn registers(mut self) -> Self {
        self.answer = Answer::Registered;
        self
    }

    fn changes(mut self, field: &'static str, mask: Mask) -> Self {
        self.payload = Payload::Field(field, mask);
        self
    }

    fn named(mut self, operation: &'static str) -> Self {
        self.operation = operation;
        self
    }
}

fn get(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route::new(Method::GET, path, service, rpc, Payload::Nothing)
}

fn stream(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route { answer: Answer::Stream, ..get(path, service, rpc) }
}

fn delete(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route::new(Method::DELETE, path, service, rpc, Payload::Nothing)
}

fn post(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route::new(Method::POST, path, service, rpc, Payload::Whole)
}

fn put(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route::new(Method::PUT, path, service, rpc, Payload::Whole)
}

fn patch(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route::new(Method::PATCH, path, service, rpc, Payload::Whole)
}
