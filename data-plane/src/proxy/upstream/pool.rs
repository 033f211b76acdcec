//! A worker's connections to replicas by endpoint: those of their own that are idle, and those that are shared.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use gateway_proto::{Endpoint, endpoint::Kind};
use tokio::sync::Notify;

use super::{
    Link,
    connect::{ConnectFailure, Connected, Offer, Way, connect, tcp, tls_fault},
    http1::Http1Link,
    http2::Http2Link,
    shared::Shared,
};
use crate::{
    clock::Clock,
    proxy::{downstream::stream::Stream, h1::Buffers, worker::limits::Limits},
    routing::{Fault, Tick},
};

/// Most connections to one endpoint that the requests of one worker share.
const MAX_SHARED: usize = 16;

/// A worker's connections, and its way to new ones.
#[derive(Debug)]
pub(in crate::proxy) struct Pool(Rc<Connections>);

#[derive(Debug)]
struct Connections {
    buffers: Rc<Buffers>,
    limits: Limits,
    way: Way,
    clock: Clock,
    idle: RefCell<ByEndpoint<VecDeque<Idle>>>,
    places: RefCell<ByEndpoint<Place>>,
}

/// Asked twice for each request. Endpoints are the registry's, not the client's, to choose.
type ByEndpoint<T> = HashMap<Endpoint, T, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Idle {
    link: Box<Http1Link>,
    since: Tick,
}

/// An endpoint where connections are shared, or may turn out to be.
#[derive(Debug, Default)]
struct Place {
    open: Vec<Rc<Shared>>,
    /// One connection is begun at a time: whoever comes meanwhile waits for it.
    is_connecting: bool,
    /// Counts the connections that could not be had, and why the last one could not.
    failed: (u64, Option<ConnectFailure>),
    /// By its last handshake. Before the first, nobody knows whether a connection can be shared.
    speaks_http1: bool,
    changed: Rc<Notify>,
}

impl Place {
    /// Whether it is not known yet how many requests the last connection carries.
    fn is_beginning(&self) -> bool {
        self.is_connecting || self.open.iter().any(|shared| !shared.is_settled())
    }
}

impl Pool {
    /// One whose connections borrow these buffers, keep within these limits, and go this way.
    pub(in crate::proxy) fn new(buffers: Rc<Buffers>, limits: &Limits, way: Way, clock: Clock) -> Self {
        let limits = limits.clone();
        let (idle, places) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Connections { buffers, limits, way, clock, idle, places }))
    }

    /// An idle connection if there is a live one, or a place on one that is shared, else a new one.
    ///
    /// # Errors
    /// The cause. Whatever it is, the replica has seen nothing of the request.
    pub(in crate::proxy) async fn link(
        &self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
    ) -> Result<Link, ConnectFailure> {
        match endpoint.protocol.kind() {
            Kind::Http1 => match self.0.take_live(endpoint).await {
                Some(link) => Ok(Link::Http1(link)),
                // In boxes of their own, so that they take no room in the future of those that do without.
                None => Box::pin(self.new_link(endpoint, connect_timeout)).await,
            },
            Kind::H2c | Kind::Tls(_) => match self.0.ready(endpoint).await {
                Some(link) => Ok(link),
                None => Box::pin(self.0.negotiated(endpoint, connect_timeout)).await,
            },
        }
    }

    /// A link for a switch of protocols: in HTTP/1.1, where that is spoken, on a connection that nothing was asked on before;
    /// else on one in HTTP/2 whose replica takes extended CONNECTs.
    ///
    /// # Errors
    /// As with [`Pool::link`], and where neither can be had.
    pub(in crate::proxy) async fn switching_link(
        &self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
    ) -> Result<Link, ConnectFailure> {
        let over_http2 = || async {
            let link = self.0.negotiated(endpoint, connect_timeout).await?;
            match &link {
                Link::Http2(link) if !link.may_switch().await => Err(ConnectFailure::NoSwitch),
                _ => Ok(link),
            }
        };
        match endpoint.protocol.kind() {
            Kind::Http1 => self.new_link(endpoint, connect_timeout).await,
            Kind::H2c => in_time(connect_timeout, Box::pin(over_http2())).await,
            Kind::Tls(_) => match Box::pin(self.0.encrypted(endpoint, connect_timeout)).await {
                Err(ConnectFailure::NoSwitch) => in_time(connect_timeout, Box::pin(over_http2())).await,
                Err(failure) => Err(failure),
                Ok((link, is_sure)) if is_sure || self.0.with_place(endpoint, |place| place.speaks_http1) => {
                    Ok(Link::Http1(link))
                }
                // It has agreed to nothing. One that knows no ALPN speaks HTTP/1.1; one that does, and agrees to HTTP/2 where
                // that is offered, does not.
                Ok((link, _)) => match in_time(connect_timeout, Box::pin(over_http2())).await {
                    Ok(Link::Http1(_)) => Ok(Link::Http1(link)),
                    linked => linked,
                },
            },
        }
    }

    /// One in HTTP/1.1 without TLS, on a connection that nothing was asked on before: where a second try may be harmful, a replica
    /// that is about to close an idle connection must not cause the need for one.
    ///
    /// # Errors
    /// As with [`Pool::link`].
    async fn new_link(&self, endpoint: &Endpoint, connect_timeout: Duration) -> Result<Link, ConnectFailure> {
        match tokio::time::timeout(connect_timeout, tcp(endpoint, self.0.way.admin)).await {
            Ok(stream) => Ok(Link::Http1(self.0.http1(Stream::Tcp(stream?)))),
            Err(_) => Err(ConnectFailure::Replica(Fault::ConnectTimeout)),
        }
    }

    /// Takes back a connection that has finished its exchange.
    pub(in crate::proxy) fn keep(&self, endpoint: &Endpoint, link: Box<Http1Link>, now: Tick) {
        self.0.keep(endpoint, link, now);
    }

    /// Closes the idle connections to this endpoint; those that are shared take no more requests.
    pub(in crate::proxy) fn close(&self, endpoint: &Endpoint) {
        self.0.idle.borrow_mut().remove(endpoint);
        if let Some(place) = self.0.places.borrow_mut().get_mut(endpoint) {
            place.open.drain(..).for_each(|shared| shared.retire());
        }
    }

    /// Closes the connections to this endpoint that have been idle since before `then`, when a request began that was given no
    /// answer: what has cut its connection off without a word has cut them off, too, perhaps, and each would cost another
    /// request as much. What was used since has shown that it lives.
    pub(in crate::proxy) fn distrust(&self, endpoint: &Endpoint, then: Tick) {
        if let Some(of_endpoint) = self.0.idle.borrow_mut().get_mut(endpoint) {
            while of_endpoint.front().is_some_and(|idle| idle.since < then) {
                of_endpoint.pop_front();
            }
        }
    }

    /// Whether who has no link to this endpoint waits for others that use its connections to end, and not for the replica.
    pub(in crate::proxy) fn is_full(&self, endpoint: &Endpoint) -> bool {
        let places = self.0.places.borrow();
        places.get(endpoint).is_some_and(|place| !place.open.is_empty() && !place.is_beginning())
    }

    /// Closes what has been idle for too long: to be called every few seconds.
    pub(in crate::proxy) fn sweep(&self, now: Tick) {
        let limit = self.0.limits.idle_upstream_timeout;
        self.0.idle.borrow_mut().retain(|_, of_replica| {
            while of_replica.front().is_some_and(|idle| now.since(idle.since) >= limit) {
                of_replica.pop_front();
            }
            !of_replica.is_empty()
        });
        let idle = self.0.idle.borrow();
        self.0.places.borrow_mut().retain(|endpoint, place| {
            place.open.retain(|shared| {
                let is_over = shared.idle_since().is_some_and(|since| now.since(since) >= limit);
                if is_over {
                    shared.retire();
                }
                !shared.is_retired()
            });
            !place.open.is_empty() || place.is_connecting || idle.contains_key(endpoint)
        });
    }
}

async fn in_time(
    limit: Duration,
    linked: impl Future<Output = Result<Link, ConnectFailure>>,
) -> Result<Link, ConnectFailure> {
    let linked = tokio::time::timeout(limit, linked).await;
    linked.unwrap_or(Err(ConnectFailure::Replica(Fault::ConnectTimeout)))
}

impl Connections {
    fn http1(&self, stream: Stream) -> Box<Http1Link> {
        Http1Link::new(stream, &self.buffers, &self.limits)
    }

    /// A connection over TLS on which nothing but HTTP/1.1 was offered, and whether the replica has agreed to that.
    async fn encrypted(
        &self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
    ) -> Result<(Box<Http1Link>, bool), ConnectFailure> {
        let connected = connect(endpoint, &self.way, Offer::Http1, connect_timeout).await?;
        Ok((self.http1(connected.stream), connected.is_agreed))
    }

    fn keep(&self, endpoint: &Endpoint, mut link: Box<Http1Link>, now: Tick) {
        link.has_been_used();
        self.put(endpoint, link, now);
    }

    fn put(&self, endpoint: &Endpoint, link: Box<Http1Link>, now: Tick) {
        let mut idle = self.idle.borrow_mut();
        let of_replica = match idle.get_mut(endpoint) {
            Some(of_replica) => of_replica,
            None => idle.entry(endpoint.clone()).or_default(),
        };
        if of_replica.len() < self.limits.idle_upstream {
            of_replica.push_back(Idle { link, since: now });
        }
    }

    /// The idle connection used last, if it is alive: the one least likely to be closed under the request.
    async fn take_live(&self, endpoint: &Endpoint) -> Option<Box<Http1Link>> {
        loop {
            let mut link = self.idle.borrow_mut().get_mut(endpoint)?.pop_back()?.link;
            // One look is enough: what the replica did to an idle connection is known to the reactor by now.
            let is_alive = std::future::poll_fn(|cx| Poll::Ready(link.is_idle(cx))).await;
            if is_alive {
                return Some(link);
            }
        }
    }

    /// A link that need not be waited for, to where connections are shared, or turned out not to be.
    async fn ready(&self, endpoint: &Endpoint) -> Option<Link> {
        if let Some(link) = self.take_live(endpoint).await {
            return Some(Link::Http1(link));
        }
        self.room(endpoint).map(|shared| Link::Http2(Http2Link::on(shared, self.clock)))
    }

    /// A link to where connections are shared, or turn out not to be.
    async fn negotiated(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        connect_timeout: Duration,
    ) -> Result<Link, ConnectFailure> {
        let due = tokio::time::Instant::now() + connect_timeout;
        let failed_before = self.with_place(endpoint, |place| place.failed.0);
        loop {
            if let Some(link) = self.ready(endpoint).await {
                return Ok(link);
            }
            let (failed, changed) = self.with_place(endpoint, |place| {
                let failed = place.failed.1.filter(|_| place.failed.0 != failed_before);
                (failed, Rc::clone(&place.changed))
            });
            if let Some(failure) = failed {
                return Err(failure);
            }
            let changes = changed.notified();
            if self.with_place(endpoint, |place| place.speaks_http1) {
                let connected = connect(endpoint, &self.way, Offer::Both, connect_timeout).await?;
                return self.linked(endpoint, connected).await;
            }
            self.begin(endpoint, connect_timeout);
            if tokio::time::timeout_at(due, changes).await.is_err() {
                return Err(match self.with_place(endpoint, |place| place.is_beginning()) {
                    true => ConnectFailure::Replica(Fault::ConnectTimeout),
                    false => ConnectFailure::Full,
                });
            }
        }
    }

    fn with_place<T>(&self, endpoint: &Endpoint, with: impl FnOnce(&mut Place) -> T) -> T {
        let mut places = self.places.borrow_mut();
        match places.get_mut(endpoint) {
            Some(place) => with(place),
            None => with(places.entry(endpoint.clone()).or_default()),
        }
    }

    /// The connection with a place for another request, if there is one.
    fn room(&self, endpoint: &Endpoint) -> Option<Rc<Shared>> {
        self.with_place(endpoint, |place| {
            let found = place.open.iter().find(|shared| shared.has_room()).cloned();
            place.open.retain(|shared| !shared.is_retired());
            found
        })
    }

    /// Begins another connection, unless one is begun already or there are as many as there may be.
    fn begin(self: &Rc<Self>, endpoint: &Endpoint, connect_timeout: Duration) {
        let may_begin = self.with_place(endpoint, |place| {
            let may = !place.is_beginning() && place.open.len() < MAX_SHARED;
            place.is_connecting |= may;
            may
        });
        if may_begin {
            let begun = Begun { connections: Rc::clone(self), endpoint: endpoint.clone(), failed: None };
            tokio::task::spawn_local(begun.connect(connect_timeout));
        }
    }

    /// A link on a new connection. One that can be shared is.
    async fn linked(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        connected: Connected,
    ) -> Result<Link, ConnectFailure> {
        let Connected { stream, is_http2, .. } = connected;
        if !is_http2 {
            return Ok(Link::Http1(self.http1(stream)));
        }
        let shared = self.share(endpoint, stream).await?;
        Ok(Link::Http2(Http2Link::on(shared, self.clock)))
    }

    /// Makes a connection one that requests share.
    async fn share(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        stream: Stream,
    ) -> Result<Rc<Shared>, ConnectFailure> {
        let changed = self.with_place(endpoint, |place| Rc::clone(&place.changed));
        let ended = {
            let changed = Rc::clone(&changed);
            move || changed.notify_waiters()
        };
        let begun = Shared::begin(stream, &self.buffers, changed, &self.limits, self.clock, ended).await;
        let shared = begun.map_err(|error| {
            tracing::debug!(%error, "a shared connection did not begin");
            ConnectFailure::Replica(tls_fault(&error).unwrap_or(Fault::Closed))
        })?;
        self.with_place(endpoint, |place| {
            place.speaks_http1 = false;
            place.open.push(Rc::clone(&shared));
        });
        Ok(shared)
    }
}

/// A connection that is begun for all who wait for one. However it ends, they are told.
struct Begun {
    connections: Rc<Connections>,
    endpoint: Endpoint,
    failed: Option<ConnectFailure>,
}

impl Begun {
    async fn connect(mut self, connect_timeout: Duration) {
        let Self { connections, endpoint, .. } = &self;
        let result = match connect(endpoint, &connections.way, Offer::Both, connect_timeout).await {
            Ok(Connected { stream, is_http2: true, .. }) => {
                connections.share(endpoint, stream).await.map(drop)
            }
            Ok(Connected { stream, is_http2: false, .. }) => {
                connections.with_place(endpoint, |place| place.speaks_http1 = true);
                // Whoever of those that wait comes first has it.
                connections.put(endpoint, connections.http1(stream), connections.clock.now());
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        self.failed = result.err();
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let failed = self.failed;
        let changed = self.connections.with_place(&self.endpoint, |place| {
            place.is_connecting = false;
            if failed.is_some() {
                place.failed = (place.failed.0 + 1, failed);
            }
            Rc::clone(&place.changed)
        });
        changed.notify_waiters();
    }
}
