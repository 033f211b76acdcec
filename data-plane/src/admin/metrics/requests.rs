//! Requests and attempts of each service: how many, how they ended, how long they took.

use std::fmt;

use super::families::{Counted, Families};
use crate::{
    routing::{Tick, retry::Stop},
    table::{
        AttemptResult, CodeClass, DURATION_BOUNDS, Exceeding, FallbackKind, Histogram, Refusal,
        ReplicaCounters, RequestOutcome, Service, Services,
    },
};

/// As which service the histograms of all together are shown. None can have that name.
const ALL_SERVICES: &str = "*";

/// Histograms, of each service, or of all together where there are more than `most`.
pub(super) struct Grain {
    most: usize,
}

impl Grain {
    pub(super) fn new(most: usize) -> Self {
        Self { most }
    }

    fn histograms(
        &self,
        services: &Services,
        read: impl Fn(&Service) -> Option<Histogram>,
    ) -> Vec<([String; 1], Counted)> {
        let each = services.values().filter_map(|service| Some((service, read(service)?)));
        if services.len() <= self.most {
            return each.map(|(service, one)| ([service.name().to_string()], counted(&one))).collect();
        }
        let all = each.fold(Histogram::default(), |all, (_, one)| all.plus(&one));
        vec![([ALL_SERVICES.to_owned()], counted(&all))]
    }
}

fn counted(histogram: &Histogram) -> Counted {
    Counted { sum: histogram.sum, counts: histogram.counts.to_vec() }
}

pub(super) fn encode(services: &Services, grain: &Grain, now: Tick, out: &mut Families<'_>) -> fmt::Result {
    encode_requests(services, grain, out)?;
    encode_attempts(services, grain, out)?;
    encode_retries(services, now, out)?;
    encode_concurrency(services, grain, out)?;
    encode_rate_limits(services, out)?;
    encode_fallbacks(services, out)
}

fn encode_requests(services: &Services, grain: &Grain, out: &mut Families<'_>) -> fmt::Result {
    let mut requests = Vec::new();
    for service in services.values() {
        for outcome in RequestOutcome::ALL {
            for class in CodeClass::ALL {
                let count = service.counters().read(class, outcome);
                if count > 0 || outcome.comes_as(class) {
                    requests.push(([service.name().as_str(), class.as_str(), outcome.as_str()], count));
                }
            }
        }
    }
    out.counters(
        "gateway_requests",
        "Requests answered, by who answered, and those that their clients gave up before; the gateway's own answers to calls of gRPC by the status they stand for",
        ["service", "code_class", "outcome"],
        requests,
    )?;
    out.histograms(
        "gateway_request_duration_seconds",
        "From a request's head to the end of its answer",
        ["service"],
        &DURATION_BOUNDS,
        grain.histograms(services, |service| Some(service.request_durations())),
    )?;
    out.gauges(
        "gateway_requests_inflight",
        "Requests that have not ended",
        ["service"],
        services.values().map(|service| ([service.name().as_str()], service.requests_inflight())),
    )?;
    out.counters(
        "gateway_breaker_rejections",
        "Requests refused because the breakers of all replicas were open",
        ["service"],
        services.values().map(|service| ([service.name().as_str()], service.breaker_rejections())),
    )
}

fn encode_attempts(services: &Services, grain: &Grain, out: &mut Families<'_>) -> fmt::Result {
    let results = services.values().flat_map(|service| {
        let count = |result: AttemptResult| {
            ([service.name().as_str(), result.as_str()], service.counters().attempts(result))
        };
        AttemptResult::ALL.map(count)
    });
    out.counters(
        "gateway_upstream_attempts",
        "Attempts at replicas that have ended, by what they came to",
        ["service", "result"],
        results,
    )?;
    out.histograms(
        "gateway_upstream_attempt_duration_seconds",
        "From the beginning of an attempt, or the end of the request's body, to the replica's response head or failure",
        ["service"],
        &DURATION_BOUNDS,
        grain.histograms(services, |service| Some(service.attempt_durations())),
    )?;
    let attempts: Vec<_> =
        services.values().map(|service| (service.name().as_str(), service.attempts())).collect();
    let each = |read: fn(&ReplicaCounters) -> u64| {
        attempts.iter().map(move |(service, counters)| ([*service], read(counters)))
    };
    out.counters(
        "gateway_upstream_retries",
        "Attempts that followed a failed one of the same request",
        ["service"],
        each(|counters| counters.retries),
    )?;
    out.counters(
        "gateway_upstream_hedges",
        "Attempts made beside another of the same request that took long",
        ["service"],
        services.values().map(|service| ([service.name().as_str()], service.counters().hedges())),
    )?;
    out.gauges(
        "gateway_upstream_inflight",
        "Attempts that have not ended",
        ["service"],
        each(|counters| counters.inflight),
    )
}

fn encode_retries(services: &Services, now: Tick, out: &mut Families<'_>) -> fmt::Result {
    let results = services.values().flat_map(|service| {
        let counters = service.counters();
        [
            ("recovered", counters.retries(true)),
            ("failed", counters.retries(false)),
            ("budget_denied", counters.stops(Stop::BudgetExhausted)),
            ("not_replayable", counters.stops(Stop::NotReplayable)),
        ]
        .map(|(result, count)| ([service.name().as_str(), result], count))
    });
    out.counters(
        "gateway_retries",
        "Requests of which an attempt failed, by what came of trying again, or why that was denied",
        ["service", "result"],
        results,
    )?;
    let denied = services.values().flat_map(|service| {
        let count = |stop: Stop| ([service.name().as_str(), stop.as_str()], service.counters().stops(stop));
        Stop::ALL.map(count)
    });
    out.counters(
        "gateway_retries_denied",
        "Failed requests that were not tried again, by why",
        ["service", "reason"],
        denied,
    )?;
    let budgets = services.values().map(|service| {
        let budget = service.budget().view(now, service.policy().retry.budget_ratio);
        ([service.name().as_str()], u64::from(budget.remaining))
    });
    out.gauges(
        "gateway_retry_budget_remaining",
        "Retries that the budget of the last ten seconds still has",
        ["service"],
        budgets,
    )
}

fn encode_concurrency(services: &Services, grain: &Grain, out: &mut Families<'_>) -> fmt::Result {
    let each = |read: fn(&Service) -> u64| {
        services.values().map(move |service| ([service.name().as_str()], read(service)))
    };
    out.gauges(
        "gateway_concurrency_limit",
        "Attempts that may be in flight now, fixed or found by latency; 0 without a limit",
        ["service"],
        each(|service| service.limit().unwrap_or(0)),
    )?;
    out.gauges(
        "gateway_pending_requests",
        "Requests that wait for a place",
        ["service"],
        each(|service| service.pending() as u64),
    )?;
    let refused = services.values().flat_map(|service| {
        Refusal::ALL.map(|refusal| ([service.name().as_str(), refusal.as_str()], service.refused(refusal)))
    });
    out.counters(
        "gateway_requests_refused",
        "Requests refused for want of a place, by why",
        ["service", "reason"],
        refused,
    )?;
    let times = grain.histograms(services, |service| {
        let times = service.queue_times();
        // Nobody waits without a limit.
        (service.is_limited() || times.count() > 0).then_some(times)
    });
    out.histograms(
        "gateway_queue_time_seconds",
        "How long requests waited for a place, of services with a limit",
        ["service"],
        &DURATION_BOUNDS,
        times,
    )
}

fn encode_rate_limits(services: &Services, out: &mut Families<'_>) -> fmt::Result {
    let counts = services.values().flat_map(|service| {
        Exceeding::ALL.map(|one| ([service.name().as_str(), one.as_str()], service.exceeding(one)))
    });
    out.counters(
        "gateway_rate_limited_requests",
        "Requests beyond the rate that their service's policy lets through: refused, or only observed",
        ["service", "action"],
        counts,
    )
}

fn encode_fallbacks(services: &Services, out: &mut Families<'_>) -> fmt::Result {
    let counts = services.values().flat_map(|service| {
        FallbackKind::ALL.map(|kind| ([service.name().as_str(), kind.as_str()], service.fallbacks(kind)))
    });
    out.counters(
        "gateway_fallbacks",
        "Requests that another service, the last good answer, or the policy's own, was the answer to in place of a failure",
        ["service", "kind"],
        counts,
    )
}
