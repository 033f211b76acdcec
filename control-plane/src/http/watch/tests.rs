use axum::Router;
use gateway_proto::{json::pool, v1};
use prost::Message;
use prost_reflect::MethodDescriptor;
use tokio_stream::pending;
use tonic::Code;

use super::{super::call::Grpc, *};

fn rpc() -> MethodDescriptor {
    let service = pool().get_service_by_name("gateway.v1.ObservabilityService").unwrap();
    service.methods().find(|method| method.name() == "WatchEvents").unwrap()
}

fn frame(event_ids: &[&str]) -> Bytes {
    let events = event_ids.iter().map(|id| v1::Event { event_id: (*id).into(), ..Default::default() });
    let message = v1::WatchEventsResponse { events: events.collect(), gap: false, ..Default::default() }
        .encode_to_vec();
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message.as_slice()].concat().into()
}

/// What an RPC of these frames gives, that then ends so, or never.
async fn responses(frames: Vec<Bytes>, end: Option<Status>) -> Responses {
    let grpc = Grpc(Router::new().fallback(async move || {
        let frames = frames.into_iter().map(Frame::data);
        let last = end.map(|status| {
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            Frame::trailers(trailers)
        });
        let ends = last.is_some();
        let frames = tokio_stream::iter(frames.chain(last));
        let body = match ends {
            true => Body::new(StreamBody::new(frames.map(Ok::<_, std::convert::Infallible>))),
            false => {
                Body::new(StreamBody::new(frames.chain(pending()).map(Ok::<_, std::convert::Infallible>)))
            }
        };
        Response::new(body)
    }));
    grpc.begin(&rpc(), &DynamicMessage::new(rpc().input()), &crate::auth::Caller::anybody(None))
        .await
        .unwrap()
}

/// The text of the events up to the end, or for an hour.
async fn read(responses: Responses) -> Vec<String> {
    let (outbound, mut events) = mpsc::channel(1);
    let forwarding = tokio::spawn(async move { forward(responses, &outbound).await });
    let mut texts = Vec::new();
    let reading = async {
        while let Some(event) = events.recv().await {
            texts.push(String::from_utf8(event.to_vec()).unwrap());
        }
    };
    let _ = timeout(Duration::from_secs(3600), reading).await;
    forwarding.abort();
    texts
}

#[tokio::test(start_paused = true)]
async fn each_response_is_an_event_that_says_where_to_go_on() {
    let texts = read(responses(vec![frame(&["1", "2"]), frame(&[])], Some(Status::ok(""))).await).await;
    assert_eq!(texts[0], "retry: 1000\n\n");
    assert!(texts[1].starts_with("id: 2\ndata: {\"events\":[{"), "{}", texts[1]);
    assert!(texts[1].ends_with("}\n\n"), "{}", texts[1]);
    assert_eq!(
        texts[2], "data: {\"events\":[],\"gap\":false,\"silentControlPlanes\":[]}\n\n",
        "what has no position keeps the last one"
    );
    assert_eq!(texts[3..], ["event: end\ndata: {}\n\n"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_an_event_with_the_problem() {
    let texts = read(responses(vec![], Some(Status::new(Code::Unavailable, "gone"))).await).await;
    assert!(texts[1].starts_with("event: problem\ndata: {"), "{}", texts[1]);
    assert!(texts[1].contains("\"status\":503") && texts[1].contains("\"detail\":\"gone\""), "{}", texts[1]);
    assert_eq!(texts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn quiet_is_filled_with_comments() {
    let texts = read(responses(vec![frame(&["1"])], None).await).await;
    let quiet = texts.iter().filter(|text| *text == ": nothing new\n\n").count();
    assert!((239..=240).contains(&quiet), "{quiet} in an hour, every quarter of a minute");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_loses_its_place() {
    let (outbound, events) = mpsc::channel(1);
    let began = Instant::now();
    forward(responses(vec![frame(&["1"]), frame(&["2"])], None).await, &outbound).await;
    assert_eq!(began.elapsed(), STALL);
    drop(events);
}
