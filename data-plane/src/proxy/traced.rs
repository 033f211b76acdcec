//! What is noted of a traced request beside what its [trail](super::trail) has in any case.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

use super::{
    field_name::{Name, Names},
    head::RequestHead,
    trace_context,
    worker::Worker,
};
use crate::{
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
pub(super) struct Traced {
    pub(super) context: Context,
    pub(super) tracestate: String,
    pub(super) is_secure: bool,
    pub(super) route: RefCell<Option<String>>,
    pub(super) sent_path: RefCell<String>,
    pub(super) events: RefCell<Vec<(Tick, Event)>>,
    has_looked: Cell<bool>,
}

impl Traced {
    /// Begins one if the request is sampled.
    pub(super) fn begin(worker: &Worker, head: &RequestHead, is_secure: bool) -> Option<Box<Self>> {
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
    pub(super) fn sends(&self, head: &mut RequestHead) {
        head.fields.remove(Names::of(&[Name::Traceparent]));
        *self.sent_path.borrow_mut() = head.path().to_owned();
    }

    /// What the attempt of that number tells its replica.
    pub(super) fn traceparent(&self, number: usize) -> Traceparent {
        self.context.traceparent(number)
    }

    pub(super) fn note(&self, now: Tick, event: Event) {
        let mut events = self.events.borrow_mut();
        if events.len() < MAX_EVENTS {
            events.push((now, event));
        }
    }

    /// Notes which replicas of the service get no requests because of their breakers, once for a request.
    pub(super) fn look_at(&self, service: &Service, now: Tick) {
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
    pub(super) fn take_events(&self, began: Tick) -> Vec<(Duration, Event)> {
        self.events.take().into_iter().map(|(at, event)| (at.since(began), event)).collect()
    }
}
