//! The demo's part of the dashboard: faults of its replicas, and requests whose answers are shown as a client sees them.
//!
//! It is served by the control plane below `/ui/lab`, where its checks on who asks hold, too; what it can reach is the demo
//! and nothing else.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{Method, StatusCode, header};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{client::Client, fleet::Member};

/// A forgotten fault mends itself.
const MAX_SECONDS: u64 = 600;
const MAX_DELAY_MS: u64 = 10_000;
/// Requests under way for all pages.
const MAX_REQUESTS: usize = 16;

/// A replica that says nothing of its faults for so long has not been heard.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the lab knows of its demo, once that runs. Faults are the replicas' own: whoever sets one, they tell.
#[derive(Debug)]
pub(crate) struct Lab {
    service: &'static str,
    place: OnceLock<(SocketAddr, Vec<Member>)>,
    requests: Semaphore,
}

/// A fault as a page asks for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fault {
    replica: String,
    /// `down`, `slow`, `reset`, `hang` or `off`.
    kind: String,
    /// Share of requests, 0.0..=1.0.
    ratio: f64,
    delay_ms: u64,
    seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Below the service, such as `/hello`.
    path: String,
}

impl Lab {
    /// One that knows nothing yet.
    pub(crate) fn new(service: &'static str) -> Arc<Self> {
        Arc::new(Self { service, place: OnceLock::new(), requests: Semaphore::new(MAX_REQUESTS) })
    }

    /// Tells it where the demo is.
    pub(crate) fn opens(&self, proxy: SocketAddr, members: &[Member]) {
        // Once for each process: a second word would be the same one.
        let _ = self.place.set((proxy, members.to_vec()));
    }

    /// What is served below `/ui/lab`.
    pub(crate) fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/state", get(state))
            .route("/fault", post(set_fault))
            .route("/request", post(request))
            .with_state(Arc::clone(self))
    }

    fn place(&self) -> Result<&(SocketAddr, Vec<Member>), Refused> {
        self.place.get().ok_or_else(|| refuse(StatusCode::SERVICE_UNAVAILABLE, "the demo is still starting"))
    }
}

async fn state(State(lab): State<Arc<Lab>>) -> Result<Response, Refused> {
    let (_, members) = lab.place()?;
    let asked = members.iter().map(|member| tokio::spawn(fault_of(member.address)));
    let mut replicas = Vec::new();
    for (member, asked) in members.iter().zip(asked.collect::<Vec<_>>()) {
        let (fault, problem) = match asked.await {
            Ok(Ok(fault)) => (fault, None),
            Ok(Err(why)) => (serde_json::Value::Null, Some(why)),
            Err(_) => (serde_json::Value::Null, Some("the lab broke".to_owned())),
        };
        replicas.push(serde_json::json!({"id": member.id, "fault": fault, "problem": problem}));
    }
    Ok(json(StatusCode::OK, &serde_json::json!({"service": lab.service, "replicas": replicas})))
}

/// What a replica says of its fault.
async fn fault_of(replica: SocketAddr) -> Result<serde_json::Value, String> {
    let mut client = Client::new(replica);
    match tokio::time::timeout(PATIENCE, client.get("/fault")).await {
        Ok(answer) => serde_json::from_slice(&answer?.body).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

async fn set_fault(State(lab): State<Arc<Lab>>, body: Bytes) -> Result<Response, Refused> {
    let fault: Fault = read(&body)?;
    let (_, members) = lab.place()?;
    let member = members.iter().find(|member| member.id == fault.replica);
    let member =
        member.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "there is no such replica in the demo"))?;
    if !["down", "slow", "reset", "hang", "off"].contains(&fault.kind.as_str())
        || !(0.0..=1.0).contains(&fault.ratio)
        || !(1..=MAX_SECONDS).contains(&fault.seconds)
        || fault.delay_ms > MAX_DELAY_MS
    {
        let why =
            "kind is down, slow, reset, hang or off; ratio is 0.0..=1.0, seconds 1..=600, delayMs 0..=10000";
        return Err(refuse(StatusCode::BAD_REQUEST, why));
    }
    let Fault { kind, ratio, delay_ms, seconds, .. } = &fault;
    let target = format!("/fault/{kind}?for={seconds}s&ratio={ratio}&delay={delay_ms}ms");
    let asked = Client::new(member.address).ask(Method::POST, &target).await;
    asked.map_err(|why| refuse(StatusCode::BAD_GATEWAY, &format!("{} does not answer: {why}", member.id)))?;
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}

async fn request(State(lab): State<Arc<Lab>>, body: Bytes) -> Result<Response, Refused> {
    let wanted: Wanted = read(&body)?;
    let (proxy, _) = lab.place()?;
    let is_path = wanted.path.starts_with('/') && wanted.path.len() <= 200;
    if !is_path || wanted.path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "path begins with a slash and has at most 200 characters",
        ));
    }
    let busy = |_| refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests of the lab are under way");
    let _place = lab.requests.try_acquire().map_err(busy)?;
    let began = Instant::now();
    let answered = Client::new(*proxy).ask(Method::GET, &format!("/{}{}", lab.service, wanted.path)).await;
    let millis = began.elapsed().as_secs_f64() * 1000.0;
    Ok(match answered {
        Ok(answer) => json(
            StatusCode::OK,
            &serde_json::json!({
                "status": answer.status.as_u16(),
                "replica": answer.replica,
                "attempts": answer.attempts,
                "proxyStatus": answer.proxy_status,
                "millis": millis,
            }),
        ),
        Err(why) => json(StatusCode::OK, &serde_json::json!({"status": 0, "error": why, "millis": millis})),
    })
}

fn read<T: for<'de> Deserialize<'de>>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|why| refuse(StatusCode::BAD_REQUEST, &why.to_string()))
}

/// Why something is not done.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        json(status, &serde_json::json!({"status": status.as_u16(), "detail": why}))
    }
}

fn refuse(status: StatusCode, why: &str) -> Refused {
    Refused(status, why.to_owned())
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")],
        value.to_string(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> Arc<Lab> {
        let lab = Lab::new("client-service");
        let member = Member { id: "r-1".into(), address: SocketAddr::from(([127, 0, 0, 1], 9)), pid: 1 };
        lab.opens(SocketAddr::from(([127, 0, 0, 1], 9)), &[member]);
        lab
    }

    async fn status(answered: impl Future<Output = Result<Response, Refused>>) -> u16 {
        answered.await.unwrap_or_else(IntoResponse::into_response).status().as_u16()
    }

    fn fault(change: impl FnOnce(&mut serde_json::Value)) -> Bytes {
        let mut fault =
            serde_json::json!({"replica": "r-1", "kind": "down", "ratio": 1.0, "delayMs": 0, "seconds": 60});
        change(&mut fault);
        fault.to_string().into()
    }

    #[tokio::test]
    async fn before_the_demo_runs_there_is_nothing_to_break() {
        let lab = Lab::new("client-service");
        assert_eq!(status(state(State(Arc::clone(&lab)))).await, 503);
        assert_eq!(status(set_fault(State(lab), fault(|_| {}))).await, 503);
    }

    #[tokio::test]
    async fn faults_that_never_end_or_are_none_and_replicas_of_others_are_refused() {
        let ask =
            async |change: fn(&mut serde_json::Value)| status(set_fault(State(lab()), fault(change))).await;
        assert_eq!(ask(|fault| fault["replica"] = "r-9".into()).await, 404);
        assert_eq!(ask(|fault| fault["kind"] = "down?for=1d".into()).await, 400);
        assert_eq!(ask(|fault| fault["ratio"] = 1.5.into()).await, 400);
        assert_eq!(ask(|fault| fault["seconds"] = 601.into()).await, 400);
        assert_eq!(ask(|fault| fault["delayMs"] = 10_001.into()).await, 400);
        assert_eq!(ask(|fault| fault["more"] = 1.into()).await, 400);
        assert_eq!(ask(|_| {}).await, 502, "nobody listens there");
    }

    #[tokio::test]
    async fn whoever_sets_a_fault_the_replica_tells_of_it_and_one_that_is_not_heard_is_no_working_one() {
        let replica =
            crate::demo::replica::Replica::bind("127.0.0.1:0".parse().unwrap(), "r-1").await.unwrap();
        let address = replica.address();
        tokio::spawn(replica.serve(gateway_runtime::Shutdown::new()));
        let lab = Lab::new("client-service");
        let member = |id: &str, address| Member { id: id.into(), address, pid: 1 };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        lab.opens(nobody, &[member("r-1", address), member("r-2", nobody)]);
        let shown = async || {
            let response = state(State(Arc::clone(&lab))).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()["replicas"].clone()
        };
        assert_eq!(shown().await[0], serde_json::json!({"id": "r-1", "fault": null, "problem": null}));
        assert!(shown().await[1]["problem"].as_str().unwrap().contains("cannot connect"));
        // As curl does it, past the lab.
        Client::new(address).ask(Method::POST, "/fault/slow?for=60s&ratio=0.5&delay=300ms").await.unwrap();
        let fault = shown().await[0]["fault"].clone();
        assert_eq!(
            (&fault["kind"], &fault["ratio"], &fault["delayMs"]),
            (&"slow".into(), &0.5.into(), &300.into())
        );
        assert!(fault["leftSeconds"].as_u64().is_some_and(|left| left > 50), "{fault}");
    }

    #[tokio::test]
    async fn requests_are_for_paths_of_the_service_only() {
        for path in ["hello", "/a b", "/a\r\nhost: evil", &format!("/{}", "a".repeat(200))] {
            let body = serde_json::json!({"path": path}).to_string();
            assert_eq!(status(request(State(lab()), body.into())).await, 400, "{path}");
        }
        let body = Bytes::from(r#"{"path": "/hello"}"#);
        assert_eq!(status(request(State(lab()), body)).await, 200, "that nobody answers is an answer");
    }
}
