//! One user of the demo service: requests over one connection that is kept alive.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longer than the proxy takes to give up, so that it is the proxy's answer that is seen.
const PATIENCE: Duration = Duration::from_secs(40);
const MAX_BODY_BYTES: usize = 1 << 20;

/// A client of the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    proxy: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// A complete answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The id of the replica that answered; empty when the gateway did.
    pub(crate) replica: String,
    /// How many replicas were asked; 0 when the gateway does not say.
    pub(crate) attempts: usize,
    /// Who answered in place of a failure, if somebody did.
    pub(crate) fallback: String,
    /// What the gateway says of an answer of its own, or of its attempts.
    pub(crate) proxy_status: String,
    pub(crate) body: Bytes,
}

impl Client {
    /// A client that connects with its first request.
    pub(crate) fn new(proxy: SocketAddr) -> Self {
        Self { proxy, connection: None }
    }

    /// Sends a GET and reads the whole answer.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(crate) async fn get(&mut self, target: &str) -> Result<Answer, String> {
        self.ask(Method::GET, target).await
    }

    /// Sends a request without a body and reads the whole answer.
    ///
    /// # Errors
    /// A sentence about what broke; the next call connects anew. So does one after a call that was cancelled.
    pub(crate) async fn ask(&mut self, method: Method, target: &str) -> Result<Answer, String> {
        // A connection returns to its place only after a complete answer.
        let connection = self.connection.take().filter(|connection| !connection.is_closed());
        match tokio::time::timeout(PATIENCE, exchange(self.proxy, connection, method, target)).await {
            Ok(Ok((answer, connection))) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(broken)) => Err(broken),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }
}

async fn exchange(
    proxy: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
    method: Method,
    target: &str,
) -> Result<(Answer, SendRequest<Empty<Bytes>>), String> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => connect(proxy).await?,
    };
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, proxy.to_string())
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    connection.ready().await.map_err(|error| error.to_string())?;
    let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| format!("the body broke off: {error}"))?.to_bytes();
    let answer = Answer {
        status: head.status,
        replica: field(&head.headers, "x-demo-replica").to_owned(),
        attempts: field(&head.headers, "x-gw-attempts").parse().unwrap_or_default(),
        fallback: field(&head.headers, "x-gw-fallback").to_owned(),
        proxy_status: field(&head.headers, "proxy-status").to_owned(),
        body,
    };
    Ok((answer, connection))
}

fn field<'a>(fields: &'a HeaderMap, name: &str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn connect(proxy: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream = TcpStream::connect(proxy).await.map_err(|error| format!("cannot connect: {error}"))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when the sender is dropped; its errors reach the request that they break.
    tokio::spawn(connection);
    Ok(sender)
}
