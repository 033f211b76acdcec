//! What a data plane's admin side says, over HTTP/1.1, in TLS where its URL says https.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gateway_proto::{ControlPlaneUrl, web_url, without_user};
use gateway_runtime::{
    credentials::TokenFile,
    root_cause,
    tls::{self, ClientTls},
};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use crate::{
    error::{Error, Exit},
    link,
};

/// Far more than any answer.
const MAX_BODY_BYTES: usize = 16 << 20;

/// What is shown to it, and whom it must be signed by. Not what control planes are shown: that is for nobody else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) tls: Arc<ClientTls>,
    pub(crate) token: Option<TokenFile>,
    /// Whether the token may go where others read it on its way.
    pub(crate) is_insecure: bool,
}

/// Gets a path of the data plane whose admin side is at `url`, whatever the status of the answer.
///
/// # Errors
/// A usage error for a bad URL or path, and where others would read the token on its way; [`Exit::Denied`] when it wants to know who asks; [`Exit::Unreachable`] when there is no
/// answer in time.
pub(crate) async fn get(
    url: &str,
    path: &str,
    shown: &Shown,
    timeout: Duration,
) -> Result<(StatusCode, String), Error> {
    let uri = web_url(url).map_err(|why| {
        Error::new(Exit::Usage, format!("the data plane's URL \"{}\" {why}", without_user(url)))
            .hint("for example http://127.0.0.1:7401, its admin side")
    })?;
    if shown.token.is_some() && !shown.is_insecure && ControlPlaneUrl::Web(uri.clone()).is_overheard() {
        return Err(link::overheard_error(&format!("the data plane at {url}")));
    }
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    let mut request = Request::get(path).header(header::HOST, host);
    if let Some(mut token) = shown.token.as_ref().and_then(|token| HeaderValue::try_from(token.bearer()).ok())
    {
        token.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, token);
    }
    let request = request.body(Empty::<Bytes>::new());
    let request =
        request.map_err(|error| Error::new(Exit::Usage, format!("cannot ask for {path}: {error}")))?;
    let unreachable = |why: String| {
        Error::new(Exit::Unreachable, format!("cannot reach the data plane at {url} ({why})"))
            .because("the URL comes from --data-plane")
            .hint("its admin side listens on port 7401 unless --admin-listen says otherwise")
    };
    let exchange = async {
        let tls = (uri.scheme_str() == Some("https")).then_some(&shown.tls);
        let name = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = tls::connect(name, uri.port_u16().unwrap_or_default(), tls).await;
        let stream = stream.map_err(|error| unreachable(root_cause(&error)))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(root_cause(&error)))?;
        // Ends with this exchange, whatever comes of it.
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let response = sender.send_request(request).await;
        let (head, body) = response.map_err(|error| unreachable(root_cause(&error)))?.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let bytes: Bytes = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        let text = String::from_utf8(bytes.into()).map_err(|_| unreachable("it sent no text".into()))?;
        Ok((head.status, text))
    };
    let answer = tokio::time::timeout(timeout, exchange).await;
    let (status, text) = answer.unwrap_or_else(|_| {
        Err(unreachable("it did not answer in time".into()).hint("give it more time with --timeout"))
    })?;
    match status {
        StatusCode::UNAUTHORIZED => {
            Err(Error::new(Exit::Denied, format!("the data plane at {url} refuses to answer"))
                .because(text.trim())
                .hint("name the file of its token with  --data-plane-token-file FILE"))
        }
        status => Ok((status, text)),
    }
}
