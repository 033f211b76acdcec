//! What a data plane's admin side says over plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use gateway_proto::control_plane_url;
use gateway_runtime::root_cause;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tonic::{body::Body, codegen::Service as _, transport::Channel};

use crate::error::{Error, Exit};

/// Far more than any answer.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Gets a path of the data plane whose admin side is at `url`, whatever the status of the answer.
///
/// # Errors
/// A usage error for a bad URL or path; [`Exit::Unreachable`] when there is no answer in time.
pub(crate) async fn get(url: &str, path: &str, timeout: Duration) -> Result<(StatusCode, String), Error> {
    let uri = control_plane_url(url).map_err(|why| {
        Error::new(Exit::Usage, format!("the data plane's URL \"{url}\" {why}"))
            .hint("for example http://127.0.0.1:7401, its admin side")
    })?;
    if uri.scheme_str() == Some("https") {
        return Err(Error::new(
            Exit::Usage,
            format!("the data plane's URL \"{url}\" asks for TLS, which its admin side does not speak"),
        )
        .hint("write http://HOST:PORT, on the machine that it runs on"));
    }
    let request = Request::get(path).body(Body::empty());
    let request =
        request.map_err(|error| Error::new(Exit::Usage, format!("cannot ask for {path}: {error}")))?;
    let unreachable = |why: String| {
        Error::new(Exit::Unreachable, format!("cannot reach the data plane at {url} ({why})"))
            .because("the URL comes from --data-plane")
            .hint("its admin side listens on port 7401 unless --admin-listen says otherwise")
    };
    let exchange = async {
        let channel = Channel::builder(uri).connect_timeout(timeout).connect().await;
        let mut channel = channel.map_err(|error| unreachable(root_cause(&error)))?;
        let ready = std::future::poll_fn(|context| channel.poll_ready(context)).await;
        ready.map_err(|error| unreachable(root_cause(&error)))?;
        let response = channel.call(request).await.map_err(|error| unreachable(root_cause(&error)))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let bytes: Bytes = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        let text = String::from_utf8(bytes.into()).map_err(|_| unreachable("it sent no text".into()))?;
        Ok((head.status, text))
    };
    let answer = tokio::time::timeout(timeout, exchange).await;
    answer.unwrap_or_else(|_| {
        Err(unreachable("it did not answer in time".into()).hint("give it more time with --timeout"))
    })
}
