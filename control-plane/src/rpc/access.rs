//! The gate before every RPC: who asks, and whether the RPC is for him.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tonic::Status;

use crate::{
    auth::{
        Caller, Denied, Gate, Permission, Wire,
        permission::{is_reflection, of_rpc},
    },
    refusal::Refusal,
};

/// Lets a request pass whose caller may have it, with him in its extensions. One that comes from the HTTP side of this
/// process has him already: he was charged there, and his answer is watched there.
pub(super) async fn check(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
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
    if let Err(denied) = admitted {
        return Refusal::from(denied).status().into_http();
    }
    request.extensions_mut().insert(caller.clone());
    match is_outer {
        true => caller.watch(next.run(caller.watch_request(request)).await, Wire::Grpc),
        false => next.run(request).await,
    }
}
