//! An etcd of one member in memory, as far as the store speaks to it, whose watch can be made to fall silent.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use gateway_proto::etcd::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, Event, KeyValue, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchRequest, WatchResponse,
    compare::TargetUnion,
    event::EventType,
    kv_server::{Kv, KvServer},
    lease_server::{Lease, LeaseServer},
    request_op::Request as Asked,
    response_op::Response as Answer,
    watch_request::RequestUnion,
    watch_server::{Watch, WatchServer},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::leases::{Leases, Renewal};
use crate::registry::{Candidates, Command, Decision, Limits, Registration, View, decide};
use gateway_proto::{Address, LeaseId, ReplicaKey, ServiceName};

type Keys = BTreeMap<Vec<u8>, KeyValue>;

/// It serves until this is dropped.
pub(super) struct Fake {
    state: Arc<State>,
    address: SocketAddr,
    _server: AbortOnDropHandle<Result<(), tonic::transport::Error>>,
}

struct State {
    /// By revision: all keys as they were then.
    history: Mutex<BTreeMap<i64, Keys>>,
    revision: watch::Sender<i64>,
    /// How many watches have begun.
    watches: watch::Sender<usize>,
    is_silent: AtomicBool,
    /// Streams of renewals that are read and not answered.
    stalling: AtomicUsize,
    /// Leases whose renewals were read.
    renewed: watch::Sender<Vec<i64>>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            history: Mutex::new([(1, Keys::new())].into()),
            revision: watch::Sender::new(1),
            watches: watch::Sender::new(0),
            is_silent: AtomicBool::new(false),
            stalling: AtomicUsize::new(0),
            renewed: watch::Sender::default(),
        });
        let service = || Service(Arc::clone(&state));
        let server = Server::builder()
            .add_service(KvServer::new(service()))
            .add_service(LeaseServer::new(service()))
            .add_service(WatchServer::new(service()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self { state, address, _server: AbortOnDropHandle::new(tokio::spawn(server)) }
    }

    /// What follows `etcd:`.
    pub(super) fn location(&self) -> String {
        format!("//{}/gw", self.address)
    }

    /// From now on these watches tell nothing of what happens, for ever.
    pub(super) async fn fall_silent(&self, watches: usize) {
        self.state.watches.subscribe().wait_for(|begun| *begun >= watches).await.unwrap();
        self.state.is_silent.store(true, Relaxed);
    }

    /// The next so many streams of renewals are left without an answer.
    fn stall(&self, streams: usize) {
        self.state.stalling.store(streams, Relaxed);
    }

    /// Waits until renewals of this lease have been read so many times.
    async fn is_asked(&self, lease: LeaseId, times: usize) {
        let (mut renewed, id) = (self.state.renewed.subscribe(), LeaseTag::of(lease).get());
        let asked = renewed.wait_for(|renewed| renewed.iter().filter(|asked| **asked == id).count() >= times);
        tokio::time::timeout(Duration::from_secs(20), asked).await.expect("in time").unwrap();
    }

    /// Watches that begin from now on tell.
    pub(super) fn speak(&self) {
        self.state.is_silent.store(false, Relaxed);
    }
}

impl State {
    fn header(&self) -> Option<ResponseHeader> {
        let revision = *self.revision.borrow();
        Some(ResponseHeader { cluster_id: 1, member_id: 1, revision, raft_term: 1 })
    }

    fn at(&self, revision: i64) -> Keys {
        let history = self.history.lock().unwrap();
        let known =
            if revision == 0 { history.last_key_value() } else { history.range(..=revision).next_back() };
        known.map(|(_, keys)| keys.clone()).unwrap_or_default()
    }

    fn is_asked(key: &[u8], asked: &RangeRequest) -> bool {
        match asked.range_end.is_empty() {
            true => *key == *asked.key,
            false => *key >= *asked.key && *key < *asked.range_end,
        }
    }

    fn look(keys: &Keys, asked: &RangeRequest) -> Vec<KeyValue> {
        keys.iter().filter(|(key, _)| Self::is_asked(key, asked)).map(|(_, kv)| kv.clone()).collect()
    }

    fn holds(keys: &Keys, compare: &Compare) -> bool {
        let found = keys.get(&compare.key).cloned().unwrap_or_default();
        match compare.target_union {
            Some(TargetUnion::ModRevision(revision)) => found.mod_revision == revision,
            Some(TargetUnion::CreateRevision(revision)) => found.create_revision == revision,
            Some(TargetUnion::Version(version)) => found.version == version,
            _ => false,
        }
    }

    fn carry_out(&self, request: TxnRequest) -> TxnResponse {
        let mut history = self.history.lock().unwrap();
        let (last, keys) = history.last_key_value().unwrap();
        let (revision, mut next) = (last + 1, keys.clone());
        let succeeded = request.compare.iter().all(|compare| Self::holds(keys, compare));
        let operations = if succeeded { request.success } else { request.failure };
        let mut has_changed = false;
        let responses: Vec<_> = operations
            .into_iter()
            .filter_map(|RequestOp { request }| request)
            .map(|request| match request {
                Asked::RequestRange(asked) => Answer::ResponseRange(RangeResponse {
                    kvs: Self::look(&next, &asked),
                    ..Default::default()
                }),
                Asked::RequestPut(put) => {
                    has_changed = true;
                    let before = next.get(&put.key).cloned().unwrap_or_default();
                    let create_revision = if before.version == 0 { revision } else { before.create_revision };
                    let kv = KeyValue {
                        key: put.key.clone(),
                        create_revision,
                        mod_revision: revision,
                        version: before.version + 1,
                        value: put.value,
                        lease: put.lease,
                    };
                    next.insert(put.key, kv);
                    Answer::ResponsePut(PutResponse::default())
                }
                Asked::RequestDeleteRange(delete) => {
                    has_changed |= next.remove(&delete.key).is_some();
                    Answer::ResponseDeleteRange(DeleteRangeResponse::default())
                }
            })
            .map(|response| ResponseOp { response: Some(response) })
            .collect();
        if has_changed {
            history.insert(revision, next);
            self.revision.send_replace(revision);
        }
        drop(history);
        TxnResponse { header: self.header(), succeeded, responses }
    }

    /// What happened after one revision and up to another, in order.
    fn events(&self, after: i64, up_to: i64) -> Vec<Event> {
        let mut events = Vec::new();
        for revision in after + 1..=up_to {
            let (before, now) = (self.at(revision - 1), self.at(revision));
            let puts = now.values().filter(|kv| kv.mod_revision == revision).cloned();
            events.extend(puts.map(|kv| event(EventType::Put, kv)));
            let gone = before.into_iter().filter(|(key, _)| !now.contains_key(key));
            events.extend(
                gone.map(|(_, kv)| event(EventType::Delete, KeyValue { mod_revision: revision, ..kv })),
            );
        }
        events
    }
}

fn event(kind: EventType, kv: KeyValue) -> Event {
    Event { r#type: kind.into(), kv: Some(kv), prev_kv: None }
}

/// What is served of it.
struct Service(Arc<State>);

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let asked = request.into_inner();
        let kvs = State::look(&self.0.at(asked.revision), &asked);
        Ok(Response::new(RangeResponse { header: self.0.header(), kvs, ..Default::default() }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(self.0.carry_out(request.into_inner())))
    }
}

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("a watch was to be created"));
        };
        let (sender, responses) = mpsc::channel(9);
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            let created = WatchResponse { header: state.header(), created: true, ..Default::default() };
            let _ = sender.send(Ok(created)).await;
            state.watches.send_modify(|begun| *begun += 1);
            let mut revision = state.revision.subscribe();
            let mut told = create.start_revision - 1;
            let asked = RangeRequest { key: create.key, range_end: create.range_end, ..Default::default() };
            while !state.is_silent.load(Relaxed) && !sender.is_closed() {
                let now = *revision.borrow_and_update();
                let mut events = state.events(told, now);
                events.retain(|event| event.kv.as_ref().is_some_and(|kv| State::is_asked(&kv.key, &asked)));
                told = told.max(now);
                if !events.is_empty() {
                    let response = WatchResponse { header: state.header(), events, ..Default::default() };
                    let _ = sender.send(Ok(response)).await;
                }
                tokio::select! {
                    _ = revision.changed() => {}
                    () = sender.closed() => {}
                }
            }
            // Silent for ever, and open.
            sender.closed().await;
            drop(requests);
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

#[tonic::async_trait]
impl Lease for Service {
    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        Ok(Response::new(LeaseGrantResponse { header: self.0.header(), id, ttl, ..Default::default() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        let under_it: Vec<_> = self.0.at(0).into_values().filter(|kv| kv.lease == id).collect();
        let delete = |kv: KeyValue| {
            Asked::RequestDeleteRange(DeleteRangeRequest { key: kv.key, range_end: Vec::new() })
        };
        let success = under_it.into_iter().map(|kv| RequestOp { request: Some(delete(kv)) }).collect();
        self.0.carry_out(TxnRequest { success, ..Default::default() });
        Ok(Response::new(LeaseRevokeResponse { header: self.0.header() }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (state, mut requests) = (Arc::clone(&self.0), request.into_inner());
        let one_less = |left: usize| left.checked_sub(1);
        let is_stalling = state.stalling.fetch_update(Relaxed, Relaxed, one_less).is_ok();
        let (sender, responses) = mpsc::channel(9);
        let answer = move |id| {
            state.renewed.send_modify(|renewed| renewed.push(id));
            (!is_stalling).then(|| Ok(LeaseKeepAliveResponse { header: state.header(), id, ttl: 60 }))
        };
        // Before its first answer etcd says nothing at all, not even that there is a stream.
        while let Some(LeaseKeepAliveRequest { id }) = requests.message().await? {
            if let Some(answer) = answer(id) {
                let _ = sender.try_send(answer);
                break;
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(LeaseKeepAliveRequest { id })) = requests.message().await {
                if let Some(answer) = answer(id) {
                    let _ = sender.send(answer).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A store on it.
async fn store(fake: &Fake) -> Etcd {
    Etcd::open(&fake.location().parse().unwrap(), &EtcdFiles::default()).await.unwrap()
}

/// Registers a replica for good, as the one with this number.
fn registration(number: u16) -> Mutation {
    leased(number, None)
}

/// The same with a lease of this time to live.
fn leased(number: u16, ttl: Option<Duration>) -> Mutation {
    let address = Address::parse(&format!("10.0.0.1:{number}")).unwrap();
    let wish =
        Registration { ttl, ..Registration::permanent(ServiceName::parse("orders").unwrap(), address) };
    let fresh = Candidates::from_random(number.into(), number.into());
    let limits = Limits { replicas: 99, replicas_per_service: 99 };
    match decide(&View::default(), &limits, &Command::Register(wish), &fresh, clock::wall()) {
        Ok(Decision::Commit(mutation)) => mutation,
        other => panic!("{other:?}"),
    }
}

/// Waits for news that ask for everything to be read again.
async fn asked_to_read_again(store: &mut Etcd) {
    let news = async { while !matches!(store.news().await, News::ReadAgain(_)) {} };
    tokio::time::timeout(Duration::from_secs(20), news).await.expect("the store has noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_find_nothing_at_once_all_open_what_one_of_them_makes() {
    for _ in 0..20 {
        let fake = Fake::start().await;
        let location: EtcdLocation = fake.location().parse().unwrap();
        let open = |location: EtcdLocation| async move { Etcd::open(&location, &EtcdFiles::default()).await };
        let openings: Vec<_> = (0..8).map(|_| tokio::spawn(open(location.clone()))).collect();
        for opening in openings {
            opening.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn changes_of_another_control_plane_are_told_by_the_watch() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    assert_eq!(other.load().await.unwrap().revision, base);
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    let News::Changed { groups, .. } = other.news().await else { panic!() };
    assert_eq!((groups[0].0, groups[0].1[0].revision), (base, revisions[0]));
}

#[tokio::test]
async fn a_watch_that_has_fallen_silent_does_not_keep_a_control_plane_from_changing_anything() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    fake.fall_silent(2).await;
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    // The last change that it could tell of: nothing follows by which the gap would show.
    assert_eq!(other.commit(base, &[registration(2)]).await, Ok(Commit::Overtaken(Vec::new())));
    fake.speak();
    asked_to_read_again(&mut other).await;
    let loaded = other.load().await.unwrap();
    assert_eq!((loaded.revision, loaded.items.len()), (revisions[0], 1));
    assert!(matches!(other.commit(loaded.revision, &[registration(2)]).await, Ok(Commit::Durable(_))));
}

#[tokio::test]
async fn a_watch_that_has_fallen_silent_is_found_out_by_the_next_comparison() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    fake.fall_silent(2).await;
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    // As every few minutes.
    assert_eq!(other.load().await.unwrap().revision, base, "what was told is compared");
    fake.speak();
    asked_to_read_again(&mut other).await;
    assert_eq!(other.load().await.unwrap().revision, revisions[0]);
}

#[tokio::test]
async fn a_control_plane_that_ends_in_good_order_is_not_among_those_that_are_there_from_then_on() {
    let fake = Fake::start().await;
    let (one, mut other) = (store(&fake).await, store(&fake).await);
    other.load().await.unwrap();
    let (own, mut known) = (one.peers().unwrap(), other.peers().unwrap().follow());
    own.publish("p-a", "a:1");
    let are_known = async |known: &mut tokio::sync::watch::Receiver<Known>, count: usize| {
        let known = known.wait_for(|known| known.len() == count);
        tokio::time::timeout(Duration::from_secs(20), known).await.expect("in time").unwrap().clone()
    };
    assert_eq!(are_known(&mut known, 1).await["p-a"], "a:1");
    own.withdraw().await;
    assert!(are_known(&mut known, 0).await.is_empty());
}

/// Long enough that nothing of it is over while a test lasts.
const TTL: Duration = Duration::from_secs(60);

/// A store with one replica that has a lease, whose renewals go there from the table that is yielded, too.
async fn with_a_lease(fake: &Fake) -> (Etcd, Leases, LeaseId, ReplicaKey) {
    let mut store = store(fake).await;
    let base = store.load().await.unwrap().revision;
    assert!(matches!(store.commit(base, &[leased(1, Some(TTL))]).await, Ok(Commit::Durable(_))));
    let loaded = store.load().await.unwrap();
    let record = loaded.items[0].as_replica().unwrap();
    let (lease, key) = (record.lease.unwrap().id, record.key.clone());
    let leases = Leases::with_outlet(clock::now(), store.outlet());
    leases.grant(lease, key.clone(), TTL, clock::now());
    (store, leases, lease, key)
}

#[tokio::test]
async fn renewals_that_a_member_leaves_without_an_answer_are_asked_again_on_the_next_stream() {
    let fake = Fake::start().await;
    let (_store, leases, lease, key) = with_a_lease(&fake).await;
    fake.stall(1);
    leases.renew(lease, &key, clock::now()).unwrap();
    fake.is_asked(lease, 2).await;
}

#[tokio::test]
async fn a_renewal_that_is_too_old_to_be_told_opens_no_stream_on_which_there_is_nothing_to_say() {
    let fake = Fake::start().await;
    let (store, _, lease, key) = with_a_lease(&fake).await;
    let (renewals, receiver) = mpsc::channel(9);
    let keeping = super::keeper::run(store.client.clone(), store.keys.clone(), receiver);
    let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
    let heard =
        |ago| Renewal { lease, key: key.clone(), ttl: TTL, heard: clock::now() - ago, is_dropped: false };
    for _ in 0..9 {
        renewals.try_send(heard(TTL)).unwrap();
    }
    let begun = clock::now();
    renewals.send(heard(Duration::ZERO)).await.unwrap();
    fake.is_asked(lease, 1).await;
    // Each stream in vain would take a second and a half, and the connection with it.
    assert!(clock::now() - begun < Duration::from_secs(1));
}

#[tokio::test]
async fn a_lease_that_etcd_has_dropped_is_begun_anew_although_no_renewal_is_answered() {
    let fake = Fake::start().await;
    let (store, leases, lease, key) = with_a_lease(&fake).await;
    fake.stall(usize::MAX);
    leases.kept(lease);
    let tag = LeaseTag::of(lease).get();
    let is_there = || fake.state.at(0).values().any(|kv| kv.lease == tag);
    store.client.revoke(tag).await.unwrap();
    assert!(!is_there());
    leases.dropped(lease, clock::now());
    let again = async {
        while !is_there() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("in time");
    assert!(leases.renew(lease, &key, clock::now()).is_some());
}

#[tokio::test]
async fn past_a_fence_nobody_changes_anything_but_who_has_put_it_there_until_it_is_taken_away() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    let fence = Fence::Moving { to: "redb:a".into() };
    one.fence(Some(fence.clone()), None).await.unwrap();
    // Whether the watch has told of it or not.
    assert_eq!(other.commit(base, &[registration(1)]).await, Ok(Commit::Overtaken(Vec::new())));
    assert_eq!(other.is_at(base).await, Ok(false));
    asked_to_read_again(&mut other).await;
    assert_eq!(other.load().await, Err(StoreError::Fenced(fence.clone())));
    assert_eq!(other.fence(Some(fence.clone()), None).await, Err(StoreError::Fenced(fence)));
    assert_eq!(one.load().await.unwrap().revision, base);
    assert!(matches!(one.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
    one.fence(None, None).await.unwrap();
    let loaded = other.load().await.unwrap();
    assert_eq!(loaded.items.len(), 1);
    assert!(matches!(other.commit(loaded.revision, &[registration(2)]).await, Ok(Commit::Durable(_))));
}

#[tokio::test]
async fn a_control_plane_that_watches_is_told_of_a_fence_and_of_what_has_become_of_it() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    other.load().await.unwrap();
    let to = || "redb:a".to_owned();
    for fence in [Fence::Moving { to: to() }, Fence::Moved { to: to() }] {
        one.fence(Some(fence.clone()), None).await.unwrap();
        asked_to_read_again(&mut other).await;
        assert_eq!(other.load().await, Err(StoreError::Fenced(fence)));
    }
}

#[tokio::test]
async fn a_fence_that_somebody_else_took_away_is_put_back_by_nobody_who_copied_what_was_there_before() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    let to = || "redb:a".to_owned();
    assert_eq!(one.fence(Some(Fence::Moving { to: to() }), None).await, Ok(true));
    assert_eq!(other.load().await, Err(StoreError::Fenced(Fence::Moving { to: to() })));
    assert_eq!(other.fence(None, None).await, Ok(true));
    assert!(one.load().await.is_err(), "it is not closed any more");
    assert_eq!(one.fence(Some(Fence::Moved { to: to() }), None).await, Ok(false));
    assert_eq!(one.commit(base, &[registration(1)]).await, Ok(Commit::Overtaken(Vec::new())));
    let base = other.load().await.unwrap().revision;
    assert!(matches!(other.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
    // Nor is the one taken away that somebody else has put there since.
    assert_eq!(other.fence(Some(Fence::Moving { to: "redb:b".into() }), None).await, Ok(true));
    let theirs = StoreError::Fenced(Fence::Moving { to: "redb:b".into() });
    assert_eq!(one.fence(None, None).await, Err(theirs.clone()));
    assert_eq!(one.fence(Some(Fence::Moved { to: to() }), None).await, Err(theirs));
    assert_eq!(other.fence(None, None).await, Ok(true));
    assert_eq!(one.fence(None, None).await, Ok(true), "there is none");
}

#[tokio::test]
async fn a_store_that_somebody_changed_past_the_fence_is_not_said_to_have_moved() {
    let fake = Fake::start().await;
    let (mut one, mut heedless) = (store(&fake).await, store(&fake).await);
    let (base, fence) = (one.load().await.unwrap().revision, Fence::Moving { to: "redb:a".into() });
    one.fence(Some(fence.clone()), None).await.unwrap();
    // As a version is that knows of no fences.
    heedless.own_fence = one.own_fence;
    assert!(matches!(heedless.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
    let moved = Fence::Moved { to: "redb:a".into() };
    assert_eq!(one.fence(Some(moved.clone()), Some(base)).await, Ok(false));
    let now = one.load().await.unwrap().revision;
    assert_eq!(one.fence(Some(moved), Some(now)).await, Ok(true));
}

#[tokio::test]
async fn a_reopened_store_keeps_a_fence_that_was_not_there_when_somebody_looked() {
    let fake = Fake::start().await;
    let (mut mover, mut other) = (store(&fake).await, store(&fake).await);
    let to = || "redb:a".to_owned();
    mover.fence(Some(Fence::Moving { to: to() }), None).await.unwrap();
    assert_eq!(other.load().await, Err(StoreError::Fenced(Fence::Moving { to: to() })));
    mover.fence(Some(Fence::Moved { to: to() }), None).await.unwrap();
    let moved = StoreError::Fenced(Fence::Moved { to: to() });
    assert_eq!(other.fence(None, None).await, Err(moved.clone()), "it was being moved, and has moved by now");
    assert_eq!(other.load().await, Err(moved));
    assert_eq!(other.fence(None, None).await, Ok(true));
}
