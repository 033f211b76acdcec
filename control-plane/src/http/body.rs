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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use serde_json::json;
    use tokio_stream::{StreamExt, iter, pending};

    use super::*;

    async fn read_as(content_type: Option<&str>, body: &'static str) -> Result<Option<Value>, Refusal> {
        let header = content_type.map(|value| (header::CONTENT_TYPE, value.parse().unwrap()));
        read_object(&header.into_iter().collect(), Body::from(body), &["application/json"]).await
    }

    #[tokio::test]
    async fn an_object_is_read_when_it_is_declared_as_json() {
        for json in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(read_as(Some(json), r#"{"a":1}"#).await, Ok(Some(json!({"a": 1}))));
        }
        for other in [None, Some("text/plain"), Some("application/jsonp"), Some("")] {
            assert_eq!(read_as(other, r#"{"a":1}"#).await, Err(Refusal::MediaType), "{other:?}");
        }
        assert!(matches!(read_as(Some("application/json"), "7").await, Err(Refusal::NotJson(_))));
    }

    #[tokio::test]
    async fn nothing_needs_no_declaration_and_must_not_have_a_wrong_one() {
        assert_eq!(read_as(None, "").await, Ok(None));
        assert_eq!(read_as(Some("application/json"), "").await, Ok(None));
        assert_eq!(read_as(Some("text/plain"), "").await, Err(Refusal::MediaType));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_too_long_or_never_whole_is_refused() {
        let endless =
            std::iter::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b' '; 1024]))));
        let long = read(Body::new(StreamBody::new(iter(endless)))).await;
        assert_eq!(long, Err(Refusal::TooLarge { limit: MAX_BODY_BYTES }));
        let begun = iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{")))]);
        let slow = read(Body::new(StreamBody::new(begun.chain(pending())))).await;
        assert_eq!(slow, Err(Refusal::TooSlow(BODY_TIMEOUT)));
    }
}
