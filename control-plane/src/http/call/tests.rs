use gateway_proto::{json::pool, v1};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost_reflect::ReflectMessage;
use tokio_stream::iter;

use super::*;

type Frames = Vec<Frame<Bytes>>;

fn rpc(name: &str) -> MethodDescriptor {
    let service = pool().get_service_by_name("gateway.v1.RegistryService").unwrap();
    service.methods().find(|method| method.name() == name).unwrap()
}

fn message(name: &str) -> DynamicMessage {
    DynamicMessage::new(rpc(name).input())
}

fn encoded(service: &str) -> Bytes {
    let response = v1::GetServiceResponse {
        service: Some(v1::Service { service: service.into(), ..Default::default() }),
    };
    let mut dynamic = DynamicMessage::new(rpc("GetService").output());
    dynamic.transcode_from(&response).unwrap();
    framed(&dynamic)
}

fn trailers(code: Code, message: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    Status::new(code, message).add_header(&mut trailers).unwrap();
    Frame::trailers(trailers)
}

/// A gRPC server that answers everything with these frames.
fn answering(frames: impl Fn() -> Frames + Clone + Send + Sync + 'static) -> Grpc {
    Grpc(Router::new().fallback(async move || {
        let frames = frames().into_iter().map(Ok::<_, std::convert::Infallible>);
        Response::new(Body::new(StreamBody::new(iter(frames))))
    }))
}

async fn call(frames: impl Fn() -> Frames + Clone + Send + Sync + 'static) -> Result<String, (Code, String)> {
    let response =
        answering(frames).call(&rpc("GetService"), &message("GetService"), &Caller::anybody(None)).await;
    let response = response.map_err(|status| (status.code(), status.message().to_owned()))?;
    assert_eq!(response.descriptor(), rpc("GetService").output());
    Ok(response.transcode_to::<v1::GetServiceResponse>().unwrap().service.unwrap().service)
}

#[tokio::test]
async fn a_response_is_whole_however_it_is_cut() {
    let whole = call(|| vec![Frame::data(encoded("orders")), trailers(Code::Ok, "")]).await;
    assert_eq!(whole, Ok("orders".into()));
    let bytewise = call(|| {
        let bytes = encoded("orders");
        let cut = bytes.iter().map(|byte| Frame::data(Bytes::copy_from_slice(&[*byte])));
        cut.chain([trailers(Code::Ok, "")]).collect()
    });
    assert_eq!(bytewise.await, Ok("orders".into()));
}

#[tokio::test]
async fn the_end_says_whether_it_went_well() {
    let late = call(|| vec![Frame::data(encoded("orders")), trailers(Code::Aborted, "too late")]).await;
    assert_eq!(late, Err((Code::Aborted, "too late".into())));
    let nothing = call(|| vec![trailers(Code::Ok, "")]).await;
    assert_eq!(nothing, Err((Code::Internal, "the RPC gave no response".into())));
    let two =
        call(|| vec![Frame::data(encoded("a")), Frame::data(encoded("b")), trailers(Code::Ok, "")]).await;
    assert_eq!(two.unwrap_err().0, Code::Internal);
}

#[tokio::test]
async fn a_refusal_may_come_with_the_head() {
    let refusing =
        Grpc(Router::new().fallback(async || Status::new(Code::NotFound, "not there").into_http::<Body>()));
    let status =
        refusing.call(&rpc("GetService"), &message("GetService"), &Caller::anybody(None)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "not there"));
}

#[tokio::test]
async fn the_request_is_what_a_grpc_client_would_send() {
    let echo = Grpc(Router::new().fallback(async |request: Request<Body>| {
        assert_eq!(request.uri().path(), "/gateway.v1.RegistryService/GetService");
        assert_eq!(request.headers()[header::CONTENT_TYPE], "application/grpc");
        assert!(request.extensions().get::<Caller>().is_some());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.as_ref(), b"\0\0\0\0\x08\x0a\x06orders");
        Status::new(Code::Cancelled, "seen").into_http::<Body>()
    }));
    let mut message = message("GetService");
    message.set_field_by_name("service", prost_reflect::Value::String("orders".into()));
    let status = echo.call(&rpc("GetService"), &message, &Caller::anybody(None)).await.unwrap_err();
    assert_eq!(status.message(), "seen");
}
