use std::collections::VecDeque;

use gateway_proto::v1::{
    KeepAliveResponse, KeepAliveResult, LeaseLost, Rollout, keep_alive_result::Result as Outcome,
};
use tokio::{sync::mpsc, time::timeout};
use tonic_types::ErrorDetails;

use super::*;
use crate::{
    control::fake::{Fake, Script, refusal},
    link::Credentials,
};

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A replica that is to be registered at a scripted control plane, and is ready.
async fn begin(script: Script) -> (Registration, Fake) {
    begin_with(script, Duration::from_secs(15)).await
}

/// The same, with a lease of that time.
async fn begin_with(script: Script, ttl: Duration) -> (Registration, Fake) {
    let (fake, address) = Fake::start(script).await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let link = Credentials::default().over(channel);
    let described = Described {
        ttl,
        protocol: Protocol::default(),
        weight: 100,
        priority: 0,
        locality: Locality::default(),
        version: String::new(),
        labels: HashMap::new(),
    };
    let (lines, _writers) = Lines::start(true);
    let key = ReplicaKey::parse("orders", "r-1").unwrap();
    let voice = (lines, Prefix::new("gw", 2));
    let registration = Registration::start(key, described, link.clone(), Renewals::start(link), voice);
    registration.up(Address::parse("127.0.0.1:80").unwrap());
    (registration, fake)
}

/// Waits until it has been asked for so many registrations, and yields their requests.
async fn registered(fake: &Fake, count: usize) -> Vec<RegisterRequest> {
    let asked = async {
        while fake.with(|script| script.registered.len()) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("it registers");
    fake.with(|script| script.registered.clone())
}

/// Drains what is registered; yields how often that was asked for.
async fn drained(drains: impl Into<VecDeque<Result<DrainStatus, Status>>>, longest: Duration) -> usize {
    let (mut registration, fake) = begin(Script { drains: drains.into(), ..Script::default() }).await;
    registered(&fake, 1).await;
    timeout(PATIENCE, registration.drained(longest, "it ends".into())).await.expect("it is drained");
    assert!(fake.with(|script| script.drains.is_empty()), "all of the script was played");
    fake.with(|script| script.drained.len())
}

fn status(node_count: i32, is_idle: bool, is_settling: bool) -> Result<DrainStatus, Status> {
    let rollout = Some(Rollout { node_count, ..Rollout::default() });
    Ok(DrainStatus { rollout, is_idle, is_settling, ..DrainStatus::default() })
}

#[tokio::test]
async fn a_drain_that_fails_for_now_is_asked_for_again() {
    let busy = ErrorDetails::with_retry_info(Some(Duration::from_millis(20)));
    let busy = Status::with_error_details(Code::ResourceExhausted, "busy", busy);
    let script = [
        Err(Status::unavailable("ends")),
        Err(busy),
        status(1, false, false),
        Err(Status::deadline_exceeded("slow")),
        status(1, true, false),
    ];
    assert_eq!(drained(script, PATIENCE).await, 5);
}

#[tokio::test]
async fn a_drain_that_is_refused_or_whose_time_is_over_is_asked_for_no_more() {
    let lost = refusal(Code::FailedPrecondition, reason::LEASE_EXPIRED, "it has lapsed");
    assert_eq!(drained([Err(lost)], PATIENCE).await, 1);
    assert_eq!(drained([Err(Status::permission_denied("no"))], PATIENCE).await, 1);
    let busy = ErrorDetails::with_retry_info(Some(PATIENCE));
    let busy = Status::with_error_details(Code::ResourceExhausted, "busy", busy);
    assert_eq!(drained([Err(busy)], PATIENCE / 2).await, 1, "it is to rest for longer than it may take");
}

#[tokio::test]
async fn data_planes_that_have_not_come_back_yet_are_waited_for_and_none_is_not() {
    assert_eq!(drained([status(0, false, false)], PATIENCE).await, 1, "nobody can be told");
    let back = [status(0, false, true), status(1, false, true), status(1, true, false)];
    assert_eq!(drained(back, PATIENCE).await, 3);
    let nobody = [status(0, false, true), status(0, false, false)];
    assert_eq!(drained(nobody, PATIENCE).await, 2);
}

#[tokio::test]
async fn what_is_wanted_in_the_middle_of_a_drain_ends_it() {
    let drains = VecDeque::from(vec![Err(Status::unavailable("away")); 10_000]);
    let (mut registration, fake) = begin(Script { drains, ..Script::default() }).await;
    registered(&fake, 1).await;
    let draining = registration.drained(10 * PATIENCE, "it ends".into());
    let asked = async {
        while fake.with(|script| script.drained.is_empty()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = draining => panic!("nobody has drained it"),
        asked = timeout(PATIENCE, asked) => asked.expect("a drain is asked for"),
    }
    registration.gone(PATIENCE).await;
    assert_eq!(fake.with(|script| script.deregistered.len()), 1);
}

#[tokio::test]
async fn a_registration_that_comes_again_is_the_same_request_until_what_came_of_it_is_gone() {
    let gone = refusal(Code::FailedPrecondition, reason::REPLICA_REMOVED, "removed");
    let refuse_register = VecDeque::from([Status::unavailable("away"), gone]);
    let (_registration, fake) = begin(Script { refuse_register, ..Script::default() }).await;
    let ids: Vec<_> = registered(&fake, 3).await.into_iter().map(|request| request.request_id).collect();
    assert!(!ids[0].is_empty() && ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
}

fn at(request: &RegisterRequest) -> &str {
    &request.endpoint.as_ref().unwrap().address
}

#[tokio::test]
async fn of_registrations_without_an_answer_only_one_can_be_carried_out_whatever_their_addresses() {
    let refuse_register = VecDeque::from(vec![Status::unavailable("away"); 10_000]);
    let (registration, fake) = begin(Script { refuse_register, ..Script::default() }).await;
    registered(&fake, 1).await;
    registration.up(Address::parse("127.0.0.1:81").unwrap());
    let moved = async {
        while fake.with(|script| script.registered.last().is_none_or(|last| at(last) != "127.0.0.1:81")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, moved).await.expect("it registers where it is now");
    let reused = refusal(Code::InvalidArgument, reason::REQUEST_ID_REUSED, "the first one was");
    let before = fake.with(|script| {
        script.refuse_register = VecDeque::from([reused]);
        script.registered.len()
    });
    let all = registered(&fake, before + 2).await;
    let first = &all[0].request_id;
    assert!(all[..=before].iter().all(|request| request.request_id == *first), "{all:?}");
    let last = all.last().unwrap();
    assert!(last.request_id != *first && at(last) == "127.0.0.1:81", "{last:?}");
}

#[tokio::test]
async fn whoever_ends_before_its_registration_is_answered_takes_it_back() {
    let (registration, fake) = begin(Script { ignore_register: 1, ..Script::default() }).await;
    registered(&fake, 1).await;
    registration.gone(PATIENCE).await;
    let ids: Vec<_> = registered(&fake, 2).await.into_iter().map(|request| request.request_id).collect();
    assert_eq!(ids[0], ids[1], "it is the same one, which is carried out once");
    let leases: Vec<_> =
        fake.with(|script| script.deregistered.iter().map(|asked| asked.lease_id.clone()).collect());
    assert_eq!(leases, [format!("{:032x}", 7)]);
}

/// Whether one that ends before its registration is answered asks for it again, with so much time for that.
async fn takes_back(shown_at: Option<Option<&str>>, longest: Duration) -> bool {
    let shown_at = shown_at.map(|shown| shown.map(str::to_owned));
    let (registration, fake) = begin(Script { ignore_register: 1, shown_at, ..Script::default() }).await;
    registered(&fake, 1).await;
    registration.gone(longest).await;
    let (asked, removed) = fake.with(|script| (script.registered.len(), script.deregistered.len()));
    assert_eq!(asked - 1, removed, "what is registered is removed");
    asked == 2
}

#[tokio::test]
async fn what_is_taken_back_is_not_anothers_and_is_not_registered_for_that_when_time_is_short() {
    let short = Duration::from_millis(300);
    assert!(takes_back(Some(Some("127.0.0.1:80")), PATIENCE).await);
    assert!(!takes_back(Some(Some("127.0.0.1:81")), PATIENCE).await, "another one has come");
    assert!(takes_back(Some(None), PATIENCE).await, "it may be carried out yet");
    assert!(!takes_back(Some(None), short).await, "it may not be removed in time");
}

#[tokio::test]
async fn whoever_is_thrown_out_by_another_process_is_back_once_that_has_gone_and_not_before() {
    let (streams, mut opened) = mpsc::unbounded_channel();
    let script = Script {
        keep_alive: Some(streams),
        refuse_heartbeat: Some((Code::FailedPrecondition, reason::LEASE_MISMATCH)),
        ..Script::default()
    };
    let (registration, fake) = begin_with(script, Duration::from_millis(300)).await;
    let (_beats, answers) = timeout(PATIENCE, opened.recv()).await.unwrap().unwrap();
    let lost = LeaseLost { reason: reason::LEASE_MISMATCH.to_owned(), ..LeaseLost::default() };
    let (service, replica_id) = ("orders".to_owned(), "r-1".to_owned());
    let result = KeepAliveResult { service, replica_id, result: Some(Outcome::Lost(lost)) };
    answers.send(Ok(KeepAliveResponse { results: vec![result] })).await.unwrap();
    // The first time it asks, the other one is there.
    registered(&fake, 2).await;
    assert_eq!(fake.with(|script| script.heartbeats), 2);
    drop(registration);
}
