//! What is noted of a traced request beside what its [trail](crate::proxy::trail) has in any case.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

use crate::{
    proxy::{
        head::{
            RequestHead,
            field_name::{Name, Names},
            trace_context,
        },
        worker::Worker,
    },
    report::rows::state_name,
    routing::{State, Tick},
    table::{Replica, Service},
    traces::{Context, Event, Parent, Traceparent},
};

/// Events of one request at most, and replicas that it was not given to among them.
const MAX_EVENTS: usize = 32;
const MAX_PASSED_OVER: usize = 8;

/// A traced request's own part.
#[derive(Debug)]
pub(in crate::proxy) struct Traced {
    pub(in crate::proxy) context: Context,
    pub(in crate::proxy) tracestate: String,
    pub(in crate::proxy) is_secure: bool,
    pub(in crate::proxy) route: RefCell<Option<String>>,
    pub(in crate::proxy) sent_path: RefCell<String>,
    pub(in crate::proxy) events: RefCell<Vec<(Tick, Event)>>,
    has_looked: Cell<bool>,
}

impl Traced {
    /// Begins one if the request is sampled.
    pub(in crate::proxy) fn begin(worker: &Worker, head: &RequestHead, is_secure: bool) -> Option<Box<Self>> {
        let tracer = worker.tracer()?;
        let fields = &head.fields;
        let parent = trace_context::traceparent(fields).and_then(Parent::parse);
        let context = tracer.sampling().decide(parent, || worker.random_id())?;
        // What belongs to no valid parent is dropped on the way, too.
        let tracestate = match parent.is_some() && trace_context::is_tracestate(fields) {
            true => fields.list(Name::Tracestate).map(String::from_utf8_lossy).collect::<Vec<_>>().join(","),
            false => String::new(),
        };
        Some(Box::new(Self {
            context,
            tracestate,
            is_secure,
            route: RefCell::default(),
            sent_path: RefCell::default(),
            events: RefCell::default(),
            has_looked: Cell::new(false),
        }))
    }

    /// The head is one to replicas by now: each attempt tells of its own span in place of the caller's.
    pub(in crate::proxy) fn sends(&self, head: &mut RequestHead) {
        head.fields.remove(Names::of(&[Name::Traceparent]));
        *self.sent_path.borrow_mut() = head.path().to_owned();
    }

    /// What the attempt of that number tells its replica.
    pub(in crate::proxy) fn traceparent(&self, number: usize) -> Traceparent {
        self.context.traceparent(number)
    }

    pub(in crate::proxy) fn note(&self, now: Tick, event: Event) {
        let mut events = self.events.borrow_mut();
        if events.len() < MAX_EVENTS {
            events.push((now, event));
        }
    }

    /// Notes which replicas of the service get no requests because of their breakers, once for a request.
    pub(in crate::proxy) fn look_at(&self, service: &Service, now: Tick) {
        if self.has_looked.replace(true) {
            return;
        }
        let policy = service.policy().breaker;
        let state = |replica: &Arc<Replica>| replica.breaker_view(now, &policy).state;
        let replicas = service.replicas();
        let out = replicas.iter().map(|replica| (replica, state(replica)));
        let out = out.filter(|(_, state)| !matches!(state, State::Closed | State::ForcedClosed));
        for (replica, state) in out.take(MAX_PASSED_OVER) {
            self.note(now, Event::PassedOver(Arc::clone(replica), state_name(state)));
        }
    }

    /// Its events, by the time since `began`.
    pub(in crate::proxy) fn take_events(&self, began: Tick) -> Vec<(Duration, Event)> {
        self.events.take().into_iter().map(|(at, event)| (at.since(began), event)).collect()
    }
}
