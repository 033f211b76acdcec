//! The data plane's side for operators: health, metrics, and what it holds, all read-only.
//!
//! It runs on the main runtime and reads what others publish, so that no scrape can hold up a request. Nothing here is
//! meant for clients: it listens on a port of its own, on loopback by default.

mod access;
mod explain;
mod metrics;
mod readiness;
mod serve;

use std::{panic::resume_unwind, sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    extract::{Extension, RawQuery, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use gateway_proto::{NodeId, json::to_json, v1};
use gateway_runtime::{
    Shutdown,
    panics::{PanicCounts, caught},
    tls::{ClientTls, Tls, Uses},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::spawn_blocking, time::Instant};

use crate::{
    access_log::AccessLog,
    clock::Clock,
    discovery::View,
    health::CheckCounts,
    proxy::{Refusals, Watch},
    report::{
        journal::Journal,
        rows::{self, Measured},
    },
    table::Table,
    traces::Tracer,
};
pub(crate) use access::Access;
use access::Stranger;
use metrics::Metrics;
use readiness::Readiness;

/// The content type of OpenMetrics text, which Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to see.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) node_id: NodeId,
    pub(crate) version: &'static str,
    pub(crate) view: View,
    pub(crate) table: Arc<Table>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) checks: Arc<CheckCounts>,
    pub(crate) clock: Clock,
    pub(crate) panics: Arc<PanicCounts>,
    pub(crate) refusals: Arc<Refusals>,
    /// If there is one.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// Likewise.
    pub(crate) tracer: Option<Arc<Tracer>>,
    pub(crate) watch: Watch,
    /// When the process had read what it was started with.
    pub(crate) started: SystemTime,
    /// What else is read again when it changes.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) upstream_tls: Arc<ClientTls>,
    /// All certificates, by what they are for.
    pub(crate) certificates: Uses,
    /// Connections of clients that may be open at once.
    pub(crate) max_connections: usize,
    /// Services up to which each has histograms of its own.
    pub(crate) histogram_services: usize,
    /// The process's shutdown: readiness fails as soon as it begins.
    pub(crate) shutdown: Shutdown,
}

/// Serves to those who may look until `stop` begins, then finishes the requests under way.
pub(crate) async fn serve(listener: Arc<TcpListener>, access: Arc<Access>, admin: Admin, stop: Shutdown) {
    let tls = access.tls.clone();
    let router = router(admin).layer(from_fn_with_state(access, access::gate));
    serve::serve(&listener, router, tls, stop).await;
}

fn router(admin: Admin) -> Router {
    admin.panics.begin("admin_request");
    let panics = admin.panics.clone();
    Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/snapshot", get(snapshot))
        .route("/breakers", get(breakers))
        .route("/explain", get(explain_replica))
        .fallback(nothing)
        .layer(from_fn_with_state(panics, contain))
        .with_state(Arc::new(admin))
}

/// Lets a panic end the one request that it happens in.
async fn contain(State(panics): State<Arc<PanicCounts>>, request: Request, next: Next) -> Response {
    let answered = caught(next.run(request)).await;
    answered.unwrap_or_else(|_| {
        panics.count("admin_request");
        let text = "this request met a defect of the gateway, whose log tells it\n";
        (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
    })
}

/// What there is, for who comes without a path or with a wrong one.
async fn nothing() -> (StatusCode, &'static str) {
    let text = "there are /livez, /readyz, /readyz?verbose, /metrics, /version, /snapshot, /breakers and \
                /explain?replica=SERVICE/REPLICA\n";
    (StatusCode::NOT_FOUND, text)
}

/// This event loop turns, for it answers, and those of the workers do. It depends on nothing else: restarting heals nothing that
/// lies elsewhere.
async fn livez(State(admin): State<Arc<Admin>>) -> Response {
    match admin.watch.fault(admin.clock.now()) {
        None => "ok\n".into_response(),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

/// Whether clients should be sent here. A failure always says why, and `?verbose` in any case, but not to strangers: addresses and
/// services are in it.
async fn readyz(
    State(admin): State<Arc<Admin>>,
    stranger: Option<Extension<Stranger>>,
    RawQuery(query): RawQuery,
) -> Response {
    let readiness = {
        let (mirror, status) = (admin.view.mirror.borrow(), admin.view.status.borrow());
        let (now, wall) = (Instant::now(), admin.clock.moment().wall);
        let checks_late = admin.checks.lateness();
        Readiness::new(&mirror, &status, admin.shutdown.has_begun(), checks_late, now, wall)
    };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("verbose")));
    let text = match (readiness.is_ready, stranger.is_some()) {
        (true, is_stranger) if is_stranger || !verbose => "ok\n".to_owned(),
        (false, true) => "not ready\n".to_owned(),
        _ => readiness.to_string(),
    };
    let code = if readiness.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let text = render(move || Metrics::new(admin).encode()).await;
    text.map(|text| ([(header::CONTENT_TYPE, OPEN_METRICS)], text)).into_response()
}

async fn version(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(json!({ "version": admin.version, "nodeId": admin.node_id.as_str() }))
}

/// What is routed by, in the contract's own words: what the registry has, and what the guard holds beyond that.
async fn snapshot(State(admin): State<Arc<Admin>>) -> Response {
    let body = move || {
        let (source, control_plane) = {
            let status = admin.view.status.borrow();
            (status.source, status.connected.then(|| status.url.clone()).flatten())
        };
        // A copy that shares the services: rendering many must not keep the owner from changing them.
        let mirror = admin.view.mirror.borrow().clone();
        let snapshot = mirror.snapshot();
        let mut content = to_json(&snapshot.to_wire());
        Json(json!({
            "source": source.to_string(),
            "controlPlane": control_plane.as_deref(),
            "epoch": snapshot.epoch(),
            "revision": snapshot.revision().to_string(),
            "contentHash": snapshot.content_hash().to_string(),
            "defaultPolicy": content["defaultPolicy"].take(),
            "services": content["services"].take(),
            "overrides": content["overrides"].take(),
            "heldReplicas": to_json(&mirror.held_to_wire(usize::MAX))["replicas"].take(),
        }))
    };
    render(body).await.into_response()
}

/// Every breaker of this data plane, as the control plane would list them.
async fn breakers(State(admin): State<Arc<Admin>>) -> Response {
    let body = move || {
        let now = admin.clock.now();
        let mut breakers = Vec::new();
        for service in admin.table.services().values() {
            let beside = service.side_by_side(now);
            for replica in service.replicas().iter() {
                let date = |tick| admin.clock.date(tick);
                let measured = Measured::of(service, replica, &beside, now);
                breakers.push(rows::breaker(&admin.node_id, replica, &measured, date));
            }
        }
        Json(to_json(&v1::ListBreakersResponse { breakers, ..Default::default() }))
    };
    render(body).await.into_response()
}

/// Why this data plane sends a replica requests or does not.
async fn explain_replica(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let key = match explain::parse(query.as_deref()) {
        Ok(key) => key,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    match explain::explain(&admin, &key) {
        Ok(told) => Json(to_json(&told)).into_response(),
        Err(why) => (StatusCode::NOT_FOUND, why).into_response(),
    }
}

/// Runs what may take long with many services away from the threads that follow the control plane.
async fn render<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Result<T, StatusCode> {
    spawn_blocking(body).await.map_err(|error| match error.try_into_panic() {
        // It has only been on another thread.
        Ok(panic) => resume_unwind(panic),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn an_operators_request_that_meets_a_defect_is_told_so_and_counted() {
        let panics = Arc::new(PanicCounts::default());
        let blocking = async || render(|| -> &'static str { panic!("a defect in what is rendered") }).await;
        let router = Router::new()
            .route("/defect", get(async || -> Response { panic!("a defect") }))
            .route("/blocking", get(blocking))
            .route("/fine", get(async || "ok\n"))
            .layer(from_fn_with_state(panics.clone(), contain));
        let service = TowerToHyperService::new(router);
        let ask = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = service.call(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        for path in ["/defect", "/blocking"] {
            let (status, text) = ask(path).await;
            assert_eq!(status, 500);
            assert!(text.contains("defect of the gateway"), "{text}");
        }
        assert_eq!(ask("/fine").await, (200, "ok\n".into()));
        assert_eq!(panics.read()["admin_request"], 2);
    }
}
