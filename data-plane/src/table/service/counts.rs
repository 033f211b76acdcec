//! What a service counts: its requests, its attempts, and what stands in for them.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
    time::Duration,
};

use super::Service;
use crate::table::{
    counters::{FallbackKind, ReplicaCounters, Traffic, TunnelCounts},
    durations::Histogram,
};

impl Service {
    /// What requests became that have switched protocols.
    pub fn tunnels(&self) -> &TunnelCounts {
        &self.tunnels
    }

    /// Another answered a request to it in place of a failure.
    pub fn fell_back(&self, kind: FallbackKind) {
        self.fallbacks[kind as usize].fetch_add(1, Relaxed);
    }

    /// How often that was so since the start.
    pub fn fallbacks(&self, kind: FallbackKind) -> u64 {
        self.fallbacks[kind as usize].load(Relaxed)
    }

    /// A request for it begins: to be called by `worker` only, which says when it [ends](Service::request_ended).
    pub fn request_began(&self, worker: usize) {
        self.requests_inflight.begin(worker);
    }

    /// A request for it has ended after so long, answered or not: to be called by the `worker` that began it.
    pub fn request_ended(&self, worker: usize, duration: Duration) {
        self.requests_inflight.end(worker);
        self.request_durations.record(worker, duration);
    }

    /// Requests that have not ended.
    pub fn requests_inflight(&self) -> u64 {
        self.requests_inflight.read()
    }

    /// How long its requests took, from their heads to the ends of their answers.
    pub fn request_durations(&self) -> Histogram {
        self.request_durations.read()
    }

    /// How long its attempts took to their response heads, or to their failures without one.
    pub fn attempt_durations(&self) -> Histogram {
        self.attempt_durations.read()
    }

    /// A request for it was refused because all breakers are open.
    pub fn rejected_by_breakers(&self) {
        self.breaker_rejections.fetch_add(1, Relaxed);
    }

    /// How often that was so since the start.
    pub fn breaker_rejections(&self) -> u64 {
        self.breaker_rejections.load(Relaxed)
    }

    /// The attempts of all its replicas, those that are gone included.
    pub fn attempts(&self) -> ReplicaCounters {
        let roster = self.roster();
        roster.replicas.iter().map(|replica| replica.counters()).fold(roster.gone, ReplicaCounters::plus)
    }

    /// Its requests and attempts so far: for who looks at many services, and has nothing to see where none came.
    pub fn traffic(&self) -> Traffic {
        Traffic(self.inflight.sum().wrapping_add(self.requests_inflight.sum()))
    }

    /// The same, and whatever else changes what its replicas show, but for time that passes.
    pub fn activity(&self) -> Traffic {
        Traffic(self.traffic().0.wrapping_add(self.stirred.load(Acquire) << 32))
    }

    /// Something has changed of what a replica shows, and it was no request.
    pub(in crate::table) fn stir(&self) {
        self.stirred.fetch_add(1, Release);
    }
}
