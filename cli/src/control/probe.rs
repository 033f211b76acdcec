//! What the control plane says of itself over plain HTTP, on the connection that also carries gRPC.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use tonic::{body::Body, codegen::Service as _};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_prost::ProstCodec;

use super::{Control, unreachable_error};
use crate::{
    error::{Error, Exit},
    status::Subject,
};

/// Far more than any answer to a probe, and than the metrics of a large registry.
const MAX_BODY_BYTES: usize = 16 << 20;

/// An answer to a probe.
#[derive(Debug, Clone)]
pub(crate) struct Probed {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// From the request to the end of the answer.
    pub(crate) took: Duration,
    /// The server's clock, to the second; `None` when it does not say.
    pub(crate) date: Option<SystemTime>,
}

impl Control {
    /// Gets a path, whatever the status of the answer.
    ///
    /// # Errors
    /// When there is no answer in time, or none that is text.
    pub(crate) async fn probe(&self, path: &'static str) -> Result<Probed, Error> {
        let begun = Instant::now();
        let exchange = async {
            let mut channel = self.channel.clone();
            std::future::poll_fn(|context| channel.poll_ready(context))
                .await
                .map_err(|error| unreachable_error(&self.endpoint, &self.tls, &error))?;
            let request = Request::get(path);
            let request = match self.credentials.header() {
                Some(token) => request.header(header::AUTHORIZATION, token),
                None => request,
            };
            let request =
                request.body(Body::empty()).expect("the path is a constant, and a token fits a header");
            let response = channel
                .call(request)
                .await
                .map_err(|error| unreachable_error(&self.endpoint, &self.tls, &error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
            let bytes: Bytes = body.map_err(|error| unreadable(path, &error.to_string()))?.to_bytes();
            let text = String::from_utf8(bytes.into()).map_err(|_| unreadable(path, "it is not text"))?;
            let date = head.headers.get(header::DATE).and_then(|value| value.to_str().ok());
            let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
            Ok(Probed { status: head.status, text, took: begun.elapsed(), date })
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| Err(self.overdue()))
    }
}

impl Control {
    /// Whether the gRPC health service says that the control plane serves.
    ///
    /// # Errors
    /// When it does not answer, or is not there.
    pub(crate) async fn serving(&self) -> Result<bool, Error> {
        let subject = Subject { request: "question of health", service: "" };
        let mut client = HealthClient::new(self.channel.clone());
        let answer = self.call("Check", subject, client.check(HealthCheckRequest::default())).await?;
        Ok(answer.status() == ServingStatus::Serving)
    }
}

impl Control {
    /// Whether gRPC reflection is served to one who does not say who he is.
    pub(crate) async fn reflects_to_strangers(&self) -> bool {
        const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let asking = async {
            // No credentials, and no question either: whoever serves it begins to answer all the same.
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.ok()?;
            let questions = tonic::Request::new(tokio_stream::empty::<()>());
            let path = http::uri::PathAndQuery::from_static(REFLECTION);
            client.streaming(questions, path, ProstCodec::<(), ()>::default()).await.ok()
        };
        matches!(tokio::time::timeout(self.timeout, asking).await, Ok(Some(_)))
    }
}

fn unreadable(path: &str, why: &str) -> Error {
    Error::new(Exit::Failed, format!("cannot read the answer to GET {path}: {why}"))
}
