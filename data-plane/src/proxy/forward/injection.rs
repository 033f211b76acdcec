//! Faults injected on purpose: which requests, what is done to them, and how it is told.
//!
//! It stands between the gate and the first replica, so nothing of it is seen by one, or counts against one.

use std::time::Duration;

use bytes::Bytes;
use gateway_proto::policy::{FaultHeader, FaultInjection};
use http::StatusCode;
use tokio::time::sleep_until;

use super::stay::Stay;
use crate::{
    proxy::{
        body::response_body::Answer,
        errors::{GatewayError, refusals::Reason},
        head::{ResponseHead, fields::Fields},
        trail::Trail,
        worker::Worker,
    },
    routing::Tick,
    table::{FaultKind, Injection, RequestOutcome, bounded_delay},
};

/// What is logged of a request that gets no answer. Nobody is sent it.
const NO_ANSWER: u16 = 444;

/// What is done to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Decision {
    delay: Option<Duration>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Abort(StatusCode),
    Reset,
}

/// Decides on a request, by two numbers drawn from 0.0..1.0: delays have nothing to do with what comes after them.
fn decide(fault: &FaultInjection, delay_draw: f64, end_draw: f64) -> Decision {
    let delay = (delay_draw < fault.delay_ratio).then_some(fault.delay);
    let end = if end_draw < fault.abort_ratio {
        let status =
            u16::try_from(fault.abort_status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        Some(End::Abort(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)))
    } else {
        (end_draw < fault.abort_ratio + fault.reset_ratio).then_some(End::Reset)
    };
    Decision { delay, end }
}

/// Whether the request has the header that it must have.
fn has(fields: &Fields, header: &FaultHeader) -> bool {
    if header.is_empty() {
        return true;
    }
    let (name, value) = header.parts();
    fields.get_all_named(name).any(|found| value.is_none_or(|value| found == value.as_bytes()))
}

/// What a request comes to in place of what replicas would have made of it.
#[derive(Debug)]
pub(in crate::proxy) enum Injected {
    /// It has failed so: what stands in for failures stands in for this one, too.
    Failure(GatewayError),
    /// Its client gets no answer at all: this is what is told of it.
    Reset(Box<Answer>),
}

/// Injects what the draw says, if the request is one of those that faults are for. Yields how long it was held.
///
/// # Errors
/// What it comes to without a replica.
pub(in crate::proxy) async fn inject(
    injection: &Injection,
    (worker, service): (&Worker, &Stay),
    fields: &Fields,
    time: Duration,
    trail: Option<&Trail>,
) -> Result<Duration, Injected> {
    let fault = injection.fault();
    if worker.now() >= injection.ends_at() || !has(fields, &fault.header) {
        return Ok(Duration::ZERO);
    }
    let Decision { delay, end } = decide(fault, worker.random(), worker.random());
    let mut held = None;
    if let Some(delay) = delay.filter(|_| !worker.is_draining()) {
        match service.delay() {
            Some(_place) => {
                service.injected(worker.index(), FaultKind::Delay);
                if let Some(trail) = trail {
                    trail.injected(FaultKind::Delay.as_str());
                }
                held = Some(hold(injection, worker, delay.min(time)).await);
            }
            None => service.delay_skipped(worker.index()),
        }
    }
    if held.is_some_and(|held| held >= time) {
        return Err(Injected::Failure(GatewayError::DeadlineExceeded));
    }
    let (kind, told) = match (end, held.is_some()) {
        (None, _) => return Ok(held.unwrap_or_default()),
        (Some(End::Abort(_)), false) => (FaultKind::Abort, "abort"),
        (Some(End::Abort(_)), true) => (FaultKind::Abort, "delay+abort"),
        (Some(End::Reset), false) => (FaultKind::Reset, "reset"),
        (Some(End::Reset), true) => (FaultKind::Reset, "delay+reset"),
    };
    service.injected(worker.index(), kind);
    if let Some(trail) = trail {
        trail.injected(told);
    }
    Err(match end {
        Some(End::Abort(status)) => Injected::Failure(GatewayError::FaultInjected { status }),
        _ => Injected::Reset(reset(worker, service)),
    })
}

/// Waits, without a place at any replica, until the time is over, the fault ends or is changed, or the worker drains. Yields
/// how long it was.
async fn hold(injection: &Injection, worker: &Worker, delay: Duration) -> Duration {
    let began: Tick = worker.now();
    let due = began.plus(bounded_delay(delay, injection, began));
    tokio::select! {
        () = sleep_until(worker.instant(due).into()) => {}
        () = injection.changed() => {}
        () = worker.draining() => {}
    }
    worker.now().since(began)
}

/// In place of an answer: the end of the connection, or of the stream.
fn reset(worker: &Worker, service: &Stay) -> Box<Answer> {
    let status = StatusCode::from_u16(NO_ANSWER).expect("three digits make a status");
    worker.refused(Reason::FaultInjected);
    service.answered(status, RequestOutcome::GatewayError);
    let head = ResponseHead::new(status, Fields::default());
    let error = Some(Reason::FaultInjected.as_str());
    Box::new(Answer { error, resets: true, ..Answer::new(head, Bytes::new().into()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    fn fault(delay: f64, abort: f64, reset: f64) -> FaultInjection {
        FaultInjection {
            delay: Duration::from_millis(200),
            delay_ratio: delay,
            abort_ratio: abort,
            reset_ratio: reset,
            ..Default::default()
        }
    }

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.append_other(name.as_bytes(), value.as_bytes()));
        fields
    }

    #[test]
    fn a_request_is_delayed_or_not_and_aborted_or_reset_or_neither() {
        let fault = fault(0.5, 0.25, 0.25);
        let delay = Some(fault.delay);
        let abort = Some(End::Abort(StatusCode::SERVICE_UNAVAILABLE));
        for (draws, delay, end) in [
            ((0.0, 0.0), delay, abort),
            ((0.49, 0.24), delay, abort),
            ((0.5, 0.25), None, Some(End::Reset)),
            ((0.99, 0.49), None, Some(End::Reset)),
            ((0.49, 0.5), delay, None),
        ] {
            assert_eq!(decide(&fault, draws.0, draws.1), Decision { delay, end }, "{draws:?}");
        }
    }

    #[test]
    fn a_header_picks_requests_by_name_or_by_name_and_value() {
        let found = |header: &str, list: &[(&str, &str)]| has(&fields(list), &header.parse().unwrap());
        assert!(found("", &[]));
        assert!(found("x-chaos", &[("X-Chaos", "anything")]));
        assert!(found("x-chaos", &[("x-chaos", "")]));
        assert!(found("x-chaos=1", &[("x-chaos", "0"), ("x-chaos", "1")]));
        assert!(!found("x-chaos", &[]) && !found("x-chaos", &[("x-chaos-2", "1")]));
        assert!(!found("x-chaos=1", &[("x-chaos", "11")]) && !found("x-chaos=a", &[("x-chaos", "A")]));
    }

    proptest! {
        #[test]
        fn a_zero_ratio_never_and_a_full_one_always_injects(delay in 0.0..1.0_f64, end in 0.0..1.0_f64) {
            prop_assert_eq!(decide(&fault(0.0, 0.0, 0.0), delay, end), Decision::default());
            let all = decide(&fault(1.0, 0.0, 1.0), delay, end);
            prop_assert_eq!(all, Decision { delay: Some(Duration::from_millis(200)), end: Some(End::Reset) });
            prop_assert!(matches!(decide(&fault(0.0, 1.0, 0.0), delay, end).end, Some(End::Abort(_))));
        }

        #[test]
        fn over_many_draws_each_share_is_what_was_asked_for(
            delay in 0.0..=1.0_f64, abort in 0.0..=0.5_f64, reset in 0.0..=0.5_f64, seed in any::<u64>(),
        ) {
            const DRAWS: u32 = 20_000;
            let (fault, mut random) = (fault(delay, abort, reset), SmallRng::seed_from_u64(seed));
            let (mut delays, mut aborts, mut resets) = (0, 0, 0);
            for _ in 0..DRAWS {
                let decision = decide(&fault, random.random(), random.random());
                delays += u32::from(decision.delay.is_some());
                aborts += u32::from(matches!(decision.end, Some(End::Abort(_))));
                resets += u32::from(decision.end == Some(End::Reset));
            }
            for (count, ratio) in [(delays, delay), (aborts, abort), (resets, reset)] {
                // Six standard deviations: once in 500 million.
                let tolerance = 6.0 * (ratio * (1.0 - ratio) / f64::from(DRAWS)).sqrt() + 1e-9;
                let share = f64::from(count) / f64::from(DRAWS);
                prop_assert!((share - ratio).abs() <= tolerance, "{} of {}", share, ratio);
            }
        }
    }
}
