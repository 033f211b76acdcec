//! What a request meets that meets a defect.

use gateway_proto::NodeId;

use super::*;
use crate::proxy::worker::tests::worker;

#[tokio::test]
async fn a_request_that_meets_a_defect_is_answered_as_such_under_its_own_id() {
    let (worker, panics) = worker();
    let id = RequestId::new(1);
    let reply_to = ReplyTo { caller: Caller::Http, request_id: &id };
    let response = or_internal(&worker, reply_to, async { panic!("out of luck") }).await;
    assert_eq!(response.head.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.head.fields.get(Name::XRequestId), Some(id.as_bytes()));
    let via = NodeId::parse("dp-1").unwrap();
    let expected = format!("gw-{via}; error=proxy_internal_error; details=\"internal_error\"");
    assert_eq!(response.head.fields.get(Name::ProxyStatus), Some(expected.as_bytes()));
    assert_eq!(panics.read()["request"], 1);
}

#[test]
fn what_ran_out_of_time_may_have_been_seen_however_its_company_ends() {
    assert_eq!(Tried::OutOfTime.proof(), Proof::Unknown);
    assert_eq!(Tried::ClientStalled.proof(), Proof::Unknown);
    assert_eq!(Tried::Exhausted.proof(), Proof::Unsent, "nobody was asked");
}
