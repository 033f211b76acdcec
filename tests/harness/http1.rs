//! A plain HTTP/1.1 client: no redirects, no retries, no pool, so that it hides nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A response with all of its body.
pub type Answer = Response<Bytes>;

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Why it could not, for the test's message.
    pub async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| format!("handshake: {error}"))?;
        // Ends with the sender; errors reach it through the request.
        tokio::spawn(connection);
        Ok(Self { sender, address })
    }

    /// Sends one request, with a `Host` field unless it has one, and reads the whole answer.
    ///
    /// # Errors
    /// Why there is no whole answer, for the test's message.
    pub async fn send(&mut self, mut request: Request<Bytes>) -> Result<Answer, String> {
        let host = self.address.to_string().parse().expect("an address is a header value");
        request.headers_mut().entry(HOST).or_insert(host);
        self.sender.ready().await.map_err(|error| format!("connection: {error}"))?;
        let response = self.sender.send_request(request.map(Full::new)).await;
        let (head, body) = response.map_err(|error| format!("no answer: {error}"))?.into_parts();
        let body = body.collect().await.map_err(|error| format!("answer cut off: {error}"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// A request without body.
///
/// # Panics
/// When `target` is no path and query.
pub fn request(method: Method, target: &str) -> Request<Bytes> {
    Request::builder().method(method).uri(target).body(Bytes::new()).expect("method and target are valid")
}

/// Sends one request on a connection of its own.
///
/// # Panics
/// When there is no whole answer.
pub async fn send(address: SocketAddr, request: Request<Bytes>) -> Answer {
    let target = format!("{} {}", request.method(), request.uri());
    let answer = async { Connection::open(address).await?.send(request).await };
    answer.await.unwrap_or_else(|why| panic!("{target}: {why}"))
}

/// GET on a connection of its own.
///
/// # Panics
/// When there is no whole answer.
pub async fn get(address: SocketAddr, target: &str) -> Answer {
    send(address, request(Method::GET, target)).await
}

/// Sends `bytes` as they are and reads until the other side closes.
///
/// # Panics
/// When it cannot connect.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("the address is listened on");
    let mut received = Vec::new();
    // A peer that refuses early may reset: what it said before that is what counts.
    let _ = stream.write_all(bytes).await;
    let _ = stream.read_to_end(&mut received).await;
    received
}
