//! An etcd of one member in memory, as far as the store speaks to it, whose watch can be made to fall silent and whose past can be
//! brought back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
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
use gateway_proto::LeaseId;

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
    /// How often a lease was asked for.
    grants: AtomicUsize,
    /// Leases that were granted and not revoked.
    leases: watch::Sender<BTreeSet<i64>>,
    cluster: AtomicU64,
    /// Watches that would begin before it are told that they cannot.
    compacted: AtomicI64,
    /// The next so many changes are made, and their answers lost.
    losing: AtomicUsize,
    /// What somebody else does once so many more calls are answered.
    meanwhile: Mutex<Option<(usize, TxnRequest)>>,
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
            grants: AtomicUsize::new(0),
            leases: watch::Sender::default(),
            cluster: AtomicU64::new(1),
            compacted: AtomicI64::new(0),
            losing: AtomicUsize::new(0),
            meanwhile: Mutex::default(),
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
    pub(super) fn stall(&self, streams: usize) {
        self.state.stalling.store(streams, Relaxed);
    }

    /// Waits until renewals of this lease have been read so many times.
    pub(super) async fn is_asked(&self, lease: LeaseId, times: usize) {
        let (mut renewed, id) = (self.state.renewed.subscribe(), LeaseTag::of(lease).get());
        let asked = renewed.wait_for(|renewed| renewed.iter().filter(|asked| **asked == id).count() >= times);
        tokio::time::timeout(Duration::from_secs(20), asked).await.expect("in time").unwrap();
    }

    /// Somebody else does this between the answer to the call after so many and the one that follows it.
    pub(super) fn do_after(&self, calls: usize, request: TxnRequest) {
        *self.state.meanwhile.lock().unwrap() = Some((calls, request));
    }

    /// The answers to the next so many changes that it makes are lost.
    pub(super) fn lose(&self, answers: usize) {
        self.state.losing.store(answers, Relaxed);
    }

    /// All is as it was at this revision, and nobody is told.
    pub(super) fn restore(&self, revision: i64) {
        self.state.history.lock().unwrap().retain(|known, _| *known <= revision);
        self.state.revision.send_replace(revision);
    }

    /// What happened up to now is forgotten.
    pub(super) fn compact(&self) {
        self.state.compacted.store(*self.state.revision.borrow() + 1, Relaxed);
    }

    /// What it holds is from now on in another cluster.
    pub(super) fn move_to_cluster(&self, cluster: u64) {
        self.state.cluster.store(cluster, Relaxed);
    }

    /// Waits until so many watches have begun.
    pub(super) async fn is_watched(&self, times: usize) {
        let mut watches = self.state.watches.subscribe();
        let begun = watches.wait_for(|begun| *begun >= times);
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("in time").unwrap();
    }

    /// Waits until it keeps so many leases.
    pub(super) async fn keeps(&self, count: usize) {
        let mut leases = self.state.leases.subscribe();
        let kept = leases.wait_for(|leases| leases.len() == count);
        tokio::time::timeout(Duration::from_secs(20), kept).await.expect("in time").unwrap();
    }

    /// How often a lease was asked for so far.
    pub(super) fn grants(&self) -> usize {
        self.state.grants.load(Relaxed)
    }

    /// Forgets a lease under which there is nothing yet.
    pub(super) fn drop_lease(&self, lease: i64) {
        self.state.leases.send_modify(|leases| {
            leases.remove(&lease);
        });
    }

    /// Whether a key is under this lease.
    pub(super) fn has_under(&self, lease: i64) -> bool {
        self.state.at(0).values().any(|kv| kv.lease == lease)
    }

    /// Watches that begin from now on tell.
    pub(super) fn speak(&self) {
        self.state.is_silent.store(false, Relaxed);
    }
}

impl State {
    fn header(&self) -> Option<ResponseHeader> {
        let revision = *self.revision.borrow();
        Some(ResponseHeader { cluster_id: self.cluster.load(Relaxed), member_id: 1, revision, raft_term: 1 })
    }

    /// Notes that a call is answered, after which somebody else may do something.
    fn answered(&self) {
        let mut meanwhile = self.meanwhile.lock().unwrap();
        let due = match &mut *meanwhile {
            Some((left @ 1.., _)) => {
                *left -= 1;
                None
            }
            _ => meanwhile.take(),
        };
        drop(meanwhile);
        if let Some((_, request)) = due {
            self.carry_out(request);
        }
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

    /// Whether every lease under which it would put something is kept.
    fn knows_leases_of(&self, request: &TxnRequest) -> bool {
        let leases = self.leases.borrow();
        request.success.iter().all(|operation| match &operation.request {
            Some(Asked::RequestPut(put)) => put.lease == 0 || leases.contains(&put.lease),
            _ => true,
        })
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
        let response = RangeResponse { header: self.0.header(), kvs, ..Default::default() };
        self.0.answered();
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = request.into_inner();
        if !self.0.knows_leases_of(&request) {
            return Err(Status::not_found("etcdserver: requested lease not found"));
        }
        let is_change =
            request.success.iter().any(|operation| matches!(operation.request, Some(Asked::RequestPut(_))));
        let response = self.0.carry_out(request);
        self.0.answered();
        let one_less = |left: usize| left.checked_sub(1);
        match is_change
            && response.succeeded
            && self.0.losing.fetch_update(Relaxed, Relaxed, one_less).is_ok()
        {
            true => Err(Status::unavailable("etcdserver: request timed out")),
            false => Ok(Response::new(response)),
        }
    }
}

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // Without it, a member that has lost its leader leaves the watch open and says nothing.
        assert!(
            request.metadata().get("hasleader").is_some_and(|value| value == "true"),
            "a watch needs a leader"
        );
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("a watch was to be created"));
        };
        // Without it, a watch of which nothing is told for long begins anew at what may be forgotten.
        assert!(create.progress_notify, "a watch is told how far it is");
        let (sender, responses) = mpsc::channel(9);
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            let created = WatchResponse { header: state.header(), created: true, ..Default::default() };
            let _ = sender.send(Ok(created)).await;
            let compact_revision = state.compacted.load(Relaxed);
            if create.start_revision < compact_revision {
                let forgotten =
                    WatchResponse { header: state.header(), compact_revision, ..Default::default() };
                let _ = sender.send(Ok(forgotten)).await;
                return;
            }
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
        self.0.grants.fetch_add(1, Relaxed);
        self.0.leases.send_modify(|leases| {
            leases.insert(id);
        });
        Ok(Response::new(LeaseGrantResponse { header: self.0.header(), id, ttl, ..Default::default() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        self.0.leases.send_modify(|leases| {
            leases.remove(&id);
        });
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
