//! Reads JSON bodies, within bounds of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use gateway_proto::json;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::time::timeout;

use crate::refusal::Refusal;

const MAX_BODY_BYTES: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a JSON object; `None` when the body is empty.
///
/// What is not declared as JSON is refused, for a form of any web page could send it; an empty body has nothing to
/// declare.
pub(super) async fn read_object(
    headers: &HeaderMap,
    body: Body,
    media_types: &[&str],
) -> Result<Option<Value>, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let media_type = content_type.map(|value| value.to_str().unwrap_or_default().split(';').next());
    let is_json = media_type.map(|media_type| {
        let media_type = media_type.unwrap_or_default().trim();
        media_types.iter().any(|json| json.eq_ignore_ascii_case(media_type))
    });
    if is_json == Some(false) {
        return Err(Refusal::MediaType);
    }
    let bytes = read(body).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if is_json.is_none() {
        return Err(Refusal::MediaType);
    }
    match json::parse(&bytes) {
        Ok(object @ Value::Object(_)) => Ok(Some(object)),
        Ok(_) => Err(Refusal::NotJson("an object is needed".into())),
        Err(error) => Err(Refusal::NotJson(error.to_string())),
    }
}

/// Reads a body that may be as long as a request needs it.
pub(super) async fn read(body: Body) -> Result<Bytes, Refusal> {
    let limited = Limited::new(body, MAX_BODY_BYTES).collect();
    match timeout(BODY_TIMEOUT, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge { limit: MAX_BODY_BYTES }),
        Ok(Err(error)) => Err(Refusal::NotJson(error.to_string())),
        Err(_) => Err(Refusal::TooSlow(BODY_TIMEOUT)),
    }
}
