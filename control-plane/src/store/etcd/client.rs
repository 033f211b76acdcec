//! Calls to an etcd that has several members: one connection at a time, to whichever member answers.
//!
//! Reads are repeated at the next member when one does not answer. Writes are not: whether one was carried out is
//! unknown then, and whoever asked has to look.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use gateway_proto::etcd::{
    AuthenticateRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, RangeRequest,
    RangeResponse, TxnRequest, TxnResponse, auth_client::AuthClient, kv_client::KvClient,
    lease_client::LeaseClient,
};
use gateway_runtime::tls::{self, ClientTls};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{
    location::{EtcdFiles, EtcdLocation},
    pace::Pace,
};
use crate::{clock, leases::Contact, store::StoreError};

/// For TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// For one answer of one member. A cluster that chooses a leader answers within a second or two.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// For all of it.
const PATIENCE: Duration = Duration::from_secs(4);
/// For a connection on which nothing is asked. etcd ends one that pings more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A page of what we wrote is far smaller.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// A way to the cluster. Clones share one connection.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    user: Option<(String, Option<PathBuf>)>,
    tls: Option<Arc<ClientTls>>,
    contact: Contact,
    live: Mutex<Option<Live>>,
    /// Whose turn it is to connect.
    turn: Semaphore,
    /// The member that is tried first.
    first: AtomicUsize,
    pace: Mutex<Pace>,
}

/// A connection, and what shows who we are on it.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    /// Which of the members.
    member: usize,
    /// Cancelled as soon as it is used no more.
    end: CancellationToken,
}

/// A change that is not known to be made.
#[derive(Debug)]
pub(super) struct Unseen {
    pub(super) status: Status,
    /// Whether it may be all the same.
    pub(super) may_be_made: bool,
}

impl Live {
    /// A call that is known to come from us.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    /// Completes when this connection is given up. Cancel safe.
    pub(super) async fn given_up(&self) {
        self.end.cancelled().await;
    }
}

impl Client {
    /// A way to the cluster that is there. Nothing is asked yet.
    pub(super) fn new(
        location: &EtcdLocation,
        files: &EtcdFiles,
        contact: Contact,
    ) -> Result<Self, StoreError> {
        let is_encrypted = files.are_for_tls();
        let tls = is_encrypted.then(|| files.tls()).transpose();
        let tls = tls.map_err(|failure| StoreError::Unusable(failure.to_string()))?;
        let scheme = if is_encrypted { "https" } else { "http" };
        let endpoints = location.endpoints.iter().map(|address| {
            let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
            let endpoint = endpoint.map_err(|_| StoreError::Unusable(format!("{address} is no address")))?;
            Ok(endpoint
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true))
        });
        let endpoints = endpoints.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Self(Arc::new(Inner {
            pace: Mutex::new(Pace::new(endpoints.len())),
            endpoints,
            user: location.user.clone().map(|user| (user, files.password.clone())),
            tls: tls.map(Arc::new),
            contact,
            live: Mutex::new(None),
            turn: Semaphore::new(1),
            first: AtomicUsize::new(0),
        })))
    }

    /// What etcd is shown and by whom it is believed, if the connection is encrypted.
    pub(super) fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.0.tls.as_ref()
    }

    pub(super) fn contact(&self) -> &Contact {
        &self.0.contact
    }

    /// Who we say we are.
    pub(super) fn user(&self) -> Option<&str> {
        self.0.user.as_ref().map(|(user, _)| user.as_str())
    }

    /// Reads keys, as of the newest revision unless the request names one.
    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let ask = |live: Live| {
            let request = live.request(request.clone());
            async move { KvClient::new(live.channel).max_decoding_message_size(MAX_ANSWER).range(request).await }
        };
        self.repeated(ask).await
    }

    /// Makes a change, once.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.change(request).await.map_err(|unseen| unseen.status)
    }

    /// The same, for whoever has to know whether it may have been made although it is not known to be.
    pub(super) async fn change(&self, request: TxnRequest) -> Result<TxnResponse, Unseen> {
        let is_sent = AtomicBool::new(false);
        let outcome = self.once(|live| {
            is_sent.store(true, Ordering::Relaxed);
            carry_out(live, request.clone())
        });
        outcome.await.map_err(|status| {
            let may_be_made = is_sent.load(Ordering::Relaxed) && !is_refusal(&status);
            Unseen { status, may_be_made }
        })
    }

    /// Looks whether what a transaction expects is so, of one that changes nothing.
    pub(super) async fn compare(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.repeated(|live| carry_out(live, request.clone())).await
    }

    /// Has etcd keep a lease of this name for so many seconds; of an earlier attempt, it may do so already.
    pub(super) async fn grant(&self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        let ask = |live: Live| {
            let request = live.request(LeaseGrantRequest { ttl, id });
            async move { LeaseClient::new(live.channel).lease_grant(request).await }
        };
        match self.once(ask).await {
            Err(status) if id != 0 && status.message().contains("lease already exists") => {
                Ok(LeaseGrantResponse { id, ttl, ..LeaseGrantResponse::default() })
            }
            outcome => outcome,
        }
    }

    /// Has etcd forget a lease, with all that is under it.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Status> {
        let ask = |live: Live| {
            let request = live.request(LeaseRevokeRequest { id });
            async move { LeaseClient::new(live.channel).lease_revoke(request).await }
        };
        self.once(ask).await.map(drop)
    }

    /// Asks one member after the other, each at most once and a second time where we have to say anew who we are.
    async fn repeated<A, F>(&self, ask: impl Fn(Live) -> F) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut left = self.0.endpoints.len();
        loop {
            match self.in_time(self.ask(&ask, false)).await {
                Err(status) if is_of_member(&status) && left > 1 => left -= 1,
                outcome => return outcome,
            }
        }
    }

    /// Asks one member, or several until one can be reached.
    async fn once<A, F>(&self, ask: impl Fn(Live) -> F) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.in_time(self.ask(ask, true)).await
    }

    async fn in_time<A>(&self, asked: impl Future<Output = Result<A, Status>>) -> Result<A, Status> {
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            let why = format!("no member could be reached within {}s", PATIENCE.as_secs());
            Err(Status::deadline_exceeded(why))
        })
    }

    /// With `is_change`, what it takes says how fast its member is; of a read, how much it has to tell.
    async fn ask<A, F>(&self, ask: impl Fn(Live) -> F, is_change: bool) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut is_renewed = false;
        loop {
            let live = self.live().await?;
            let began = clock::now();
            let asked = timeout(CALL_TIMEOUT, ask(live.clone())).await;
            let outcome = asked.unwrap_or_else(|_| Err(self.silent(&live)));
            match outcome {
                Ok(response) => {
                    self.0.contact.touch(clock::now());
                    if is_change {
                        self.note_pace(&live, began);
                    }
                    return Ok(response.into_inner());
                }
                Err(status) if !is_renewed && (is_of_token(&status) || self.is_asked_for(&status)) => {
                    is_renewed = true;
                    self.give_up(&live, false);
                }
                Err(status) if is_of_member(&status) => {
                    self.pace().failed(live.member, clock::now());
                    self.give_up(&live, true);
                    return Err(self.broken(&live, status));
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Uses another member next, if the one that has just answered is slow and another one may not be.
    fn note_pace(&self, live: &Live, asked: Instant) {
        let now = clock::now();
        let next = if live.end.is_cancelled() { None } else { self.pace().answered(live.member, asked, now) };
        if let Some(next) = next {
            let [slow, next_to_ask] = [live.member, next].map(|member| self.0.endpoints[member].uri());
            let took = now.saturating_duration_since(asked);
            tracing::info!(%slow, ?took, next = %next_to_ask, "a member of etcd answers slowly: trying another one");
            self.leave(live, next);
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether etcd asks who we are since after this connection began, and we can say so.
    fn is_asked_for(&self, status: &Status) -> bool {
        let has_password = self.0.user.as_ref().is_some_and(|(_, password)| password.is_some());
        has_password && is_unnamed(status)
    }

    /// Why a member did not answer: who uses a connection that has ended may learn no more than that.
    fn broken(&self, live: &Live, status: Status) -> Status {
        // What is said against our certificate comes after the handshake.
        if let Some(refusal) = self.0.tls.as_ref().and_then(|tls| tls.refusal()) {
            return Status::unavailable((*refusal).clone());
        }
        match status.code() {
            Code::Unknown | Code::Cancelled => {
                let member = self.0.endpoints[live.member].uri();
                Status::unavailable(format!("{member}: the connection broke off: {}", status.message()))
            }
            _ => status,
        }
    }

    fn silent(&self, live: &Live) -> Status {
        let member = self.0.endpoints[live.member].uri();
        Status::deadline_exceeded(format!("{member} did not answer within {}s", CALL_TIMEOUT.as_secs()))
    }

    /// The connection in use, or a new one. Cancel safe.
    pub(super) async fn live(&self) -> Result<Live, Status> {
        if let Some(live) = self.known() {
            return Ok(live);
        }
        let _turn = self.0.turn.acquire().await.expect("the semaphore is never closed");
        if let Some(live) = self.known() {
            return Ok(live);
        }
        let first = self.0.first.load(Ordering::Relaxed);
        let mut refusal = Status::unavailable("it has no member");
        for offset in 0..self.0.endpoints.len() {
            let member = (first + offset) % self.0.endpoints.len();
            match self.connect(member).await {
                Ok(live) => {
                    self.0.first.store(member, Ordering::Relaxed);
                    *self.0.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
                    return Ok(live);
                }
                // Another member would say the same.
                Err(status) if status.code() != Code::Unavailable => return Err(status),
                Err(status) => {
                    self.pace().failed(member, clock::now());
                    // Whoever gives up waiting before all have been tried goes on from there.
                    self.0.first.store((member + 1) % self.0.endpoints.len(), Ordering::Relaxed);
                    refusal = status;
                }
            }
        }
        Err(refusal)
    }

    fn known(&self) -> Option<Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses this connection no more, and with `goes_on` another member next.
    pub(super) fn give_up(&self, live: &Live, goes_on: bool) {
        self.leave(live, (live.member + usize::from(goes_on)) % self.0.endpoints.len());
    }

    /// Uses this connection no more, and one to this member next.
    fn leave(&self, live: &Live, next: usize) {
        let mut known = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        if !live.end.is_cancelled() {
            live.end.cancel();
            *known = None;
            self.0.first.store(next, Ordering::Relaxed);
        }
    }

    async fn connect(&self, member: usize) -> Result<Live, Status> {
        let endpoint = &self.0.endpoints[member];
        let tls = self.0.tls.clone();
        let connector = service_fn(move |url: Uri| {
            let tls = tls.clone();
            async move {
                let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
                let port = url.port_u16().unwrap_or_default();
                tls::connect(host, port, tls.as_ref()).await.map(TokioIo::new)
            }
        });
        let connected = timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await;
        let channel = match connected {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                let why = self.0.tls.as_ref().and_then(|tls| tls.refusal());
                let why = why.map_or_else(|| root_of(&error), |refusal| (*refusal).clone());
                return Err(Status::unavailable(format!("{}: {why}", endpoint.uri())));
            }
            Err(_) => {
                let why = format!("no connection within {}ms", CONNECT_TIMEOUT.as_millis());
                return Err(Status::unavailable(format!("{}: {why}", endpoint.uri())));
            }
        };
        let token = self.authenticate(&channel, endpoint).await?;
        Ok(Live { channel, token, member, end: CancellationToken::new() })
    }

    /// Says who we are, where that is asked for.
    async fn authenticate(
        &self,
        channel: &Channel,
        endpoint: &Endpoint,
    ) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some((user, file)) = &self.0.user else { return Ok(None) };
        let Some(file) = file else {
            // Who has a certificate with this name needs no password.
            return Ok(None);
        };
        let password = fs::read_to_string(file)
            .map_err(|error| Status::unauthenticated(format!("{}: {error}", file.display())))?;
        let request = AuthenticateRequest { name: user.clone(), password: password.trim_end().to_owned() };
        let answered = timeout(CALL_TIMEOUT, AuthClient::new(channel.clone()).authenticate(request)).await;
        let answered = answered
            .unwrap_or_else(|_| Err(Status::unavailable(format!("{}: it does not answer", endpoint.uri()))));
        match answered {
            Ok(response) => {
                let token = MetadataValue::try_from(response.into_inner().token);
                let mut token = token.map_err(|_| Status::internal("etcd gave a token that is no text"))?;
                token.set_sensitive(true);
                Ok(Some(token))
            }
            // Nobody asks who we are.
            Err(status) if status.message().contains("authentication is not enabled") => Ok(None),
            Err(status) if status.code() == Code::InvalidArgument => Err(Status::unauthenticated(format!(
                "etcd does not take user {user} with the password of {}: {}",
                file.display(),
                status.message()
            ))),
            Err(status) if is_of_member(&status) => {
                let refusal = self.0.tls.as_ref().and_then(|tls| tls.refusal());
                let why = refusal.map_or_else(|| status.message().to_owned(), |refusal| (*refusal).clone());
                Err(Status::unavailable(format!("{}: {why}", endpoint.uri())))
            }
            Err(status) => Err(status),
        }
    }
}

async fn carry_out(live: Live, request: TxnRequest) -> Result<Response<TxnResponse>, Status> {
    let request = live.request(request);
    KvClient::new(live.channel).txn(request).await
}

/// Whether etcd has said no, and so made no change.
fn is_refusal(status: &Status) -> bool {
    // What a connection's end is told as has a source. A change that takes it past its quota it makes, and says that there is no room.
    std::error::Error::source(status).is_none()
        && !is_of_room(status)
        && matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::ResourceExhausted
                | Code::PermissionDenied
                | Code::Unauthenticated
        )
}

/// Whether there is no room.
fn is_of_room(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("database space exceeded")
}

/// Whether another member may do better.
fn is_of_member(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled)
}

/// Whether the token has become void.
fn is_of_token(status: &Status) -> bool {
    // The last is what older releases say in place of the second.
    ["invalid auth token", "revision of auth store is old", "revision in header is old"]
        .iter()
        .any(|said| status.message().contains(said))
}

/// Whether it was not said who we are.
fn is_unnamed(status: &Status) -> bool {
    status.code() == Code::InvalidArgument && status.message().contains("user name is empty")
}

/// What went wrong at the bottom of it.
fn root_of(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// What an operator is told when etcd did not do it.
pub(super) fn told(status: &Status, user: Option<&str>, prefix: &str) -> StoreError {
    let message = status.message();
    match status.code() {
        Code::PermissionDenied => {
            let user = user.unwrap_or("whoever names nobody");
            StoreError::Unusable(format!(
                "etcd does not let {user} read and write keys below /{prefix}/: grant a role with that range"
            ))
        }
        _ if is_unnamed(status) => StoreError::Unusable(
            "etcd asks who we are: name a user as in etcd://USER@HOST:PORT/PREFIX, and --store-password-file"
                .into(),
        ),
        Code::Unauthenticated if !is_of_token(status) => StoreError::Unusable(message.to_owned()),
        Code::ResourceExhausted if is_of_room(status) => {
            StoreError::Full(format!("etcd: {message}: compact, defragment, and disarm the alarm"))
        }
        Code::Unavailable | Code::DeadlineExceeded => {
            StoreError::Unavailable(format!("etcd cannot be reached, or has no quorum: {message}"))
        }
        _ => StoreError::Unavailable(format!("etcd: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_void_is_known_by_whatever_etcd_says_of_it() {
        for said in [
            Status::unauthenticated("etcdserver: invalid auth token"),
            Status::invalid_argument("etcdserver: revision of auth store is old"),
            Status::unknown("auth: revision in header is old"),
        ] {
            assert!(is_of_token(&said), "{said}");
        }
        assert!(!is_of_token(&Status::permission_denied("etcdserver: permission denied")));
    }

    #[test]
    fn what_etcd_has_said_no_to_is_not_made_and_what_made_it_full_may_be() {
        for (status, is_no) in [
            (Status::resource_exhausted("etcdserver: mvcc: database space exceeded"), false),
            (Status::resource_exhausted("etcdserver: too many requests"), true),
            (Status::invalid_argument("etcdserver: request is too large"), true),
            (Status::unavailable("etcdserver: no leader"), false),
        ] {
            assert_eq!(is_refusal(&status), is_no, "{status}");
        }
        // As of a connection that is ended with ENHANCE_YOUR_CALM.
        let mut ended = Status::resource_exhausted("h2 protocol error");
        ended.set_source(std::sync::Arc::new(std::io::Error::other("GOAWAY")));
        assert!(!is_refusal(&ended));
    }
}
