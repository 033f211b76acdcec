//! The gate before every RPC: who asks, and whether the RPC is for him.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::HeaderMap,
    middleware::Next,
    response::Response,
};
use gateway_proto::time::parse_grpc;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{HELLO_TIMEOUT, question::read_whole};
use crate::{
    auth::{
        Caller, Denied, Permission, Wire,
        permission::{is_reflection, lasts, of_rpc},
    },
    clock,
    edge::Edge,
    refusal::Refusal,
    strangers::Peer,
};

/// The largest head of a stranger's request that is held while he is answered: health checks say little.
const MAX_OPEN_HEAD: usize = 4 * 1024;
const MANY: &str = "too many requests on a connection on which nobody has shown who he is";
const LONG: &str = "too many bytes in the head of a request that does not show who asks";

/// Lets a request pass whose caller may have it, with him in its extensions. One that comes from the HTTP side of this
/// process has him already: he was charged there, and his answer is watched there.
pub(super) async fn check(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let gate = &edge.gate;
    let began = clock::now();
    let patience = patience(request.headers());
    let known = request.extensions().get::<Caller>().cloned();
    let is_outer = known.is_none();
    let caller = known.unwrap_or_else(|| gate.caller(request.headers(), request.extensions()));
    let path = request.uri().path();
    let permission = match of_rpc(path) {
        Some(_) if gate.opens_reflection && is_reflection(path) => Permission::Open,
        Some(permission) => permission,
        // Not in the table, so it is for nobody; and the path is the caller's, so it must not become a label.
        None if gate.is_locked() => return Status::unimplemented("there is no such method").into_http(),
        None => Permission::Open,
    };
    let charged = if is_outer && permission != Permission::Open { caller.charge() } else { Ok(()) };
    let admitted: Result<(), Denied> = charged.and_then(|()| caller.admit(permission, path));
    let response = match admitted {
        Err(denied) => {
            // So that the rest of its message is read while the answer waits for its turn.
            drop(request);
            Refusal::from(denied).status().into_http()
        }
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            if !is_outer {
                return next.run(request).await;
            }
            match caller.is_stranger() {
                true => answer_stranger(&edge, &caller, request, next).await,
                false => caller.watch(next.run(caller.watch_request(request)).await, Wire::Grpc),
            }
        }
    };
    if is_outer && asked_too_much(&response) {
        caller.pace(patience.saturating_sub(clock::now().saturating_duration_since(began))).await;
    }
    response
}

/// Answers what is open to those who have not shown who they are, within bounds: of such there may be any number, and none of
/// them pays for what he has this process hold.
async fn answer_stranger(edge: &Edge, caller: &Caller, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Arc<Peer>>().map(Peer::asks).transpose();
    let held = peer.map_err(|limit| Refusal::Quota { what: MANY, limit }).and_then(|asking| {
        let size = head_size(&request);
        if size > MAX_OPEN_HEAD {
            return Err(Refusal::Quota { what: LONG, limit: MAX_OPEN_HEAD });
        }
        let place = lasts(request.uri().path()).then(|| edge.open_streams.take_for_stranger(caller));
        Ok((asking, place.transpose()?))
    });
    let held = match held {
        Ok(held) => held,
        Err(refusal) => {
            drop(request);
            return refusal.status().into_http();
        }
    };
    let answered = async {
        // Of reflection, the questions have no end.
        let is_one = !is_reflection(request.uri().path());
        next.run(if is_one { read_whole(request).await } else { request }).await
    };
    match timeout(HELLO_TIMEOUT, answered).await {
        // For as long as there is something of the answer to come.
        Ok(response) => response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _held = &held;
                frame
            }))
        }),
        Err(_) => Refusal::TooSlow(HELLO_TIMEOUT).status().into_http(),
    }
}

/// What a request's head takes, as HTTP/2 counts it, but for what each field takes beside its name and value.
fn head_size(request: &Request) -> usize {
    let query = request.uri().query().map_or(0, str::len);
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    query + fields.sum::<usize>()
}

/// How long a refusal may be held back: half of the caller's time, so that it reaches him before that is over and says when to
/// come back. Who has none waits for any turn.
fn patience(headers: &HeaderMap) -> Duration {
    let timeout = headers.get("grpc-timeout").and_then(|value| parse_grpc(value.as_bytes()));
    timeout.map_or(Duration::MAX, |timeout| timeout / 2)
}

/// Whether an answer is a refusal for asking too often, or for too much.
fn asked_too_much(response: &Response) -> bool {
    let status = response.headers().get(Status::GRPC_STATUS);
    status.is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::ResourceExhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_held_back_for_half_of_its_callers_time() {
        let of = |timeout: Option<&'static str>| {
            let timeout = timeout.map(|value| ("grpc-timeout".parse().unwrap(), value.parse().unwrap()));
            patience(&timeout.into_iter().collect())
        };
        assert_eq!(of(Some("400m")), Duration::from_millis(200));
        assert_eq!(of(Some("2S")), Duration::from_secs(1));
        assert_eq!(of(Some("soon")), Duration::MAX);
        assert_eq!(of(None), Duration::MAX);
    }
}
