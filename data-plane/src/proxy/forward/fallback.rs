//! What a client gets instead of a failure: the answer of another service, the last good one, or a short one of the
//! gateway's own.

use std::{mem, time::Duration};

use bytes::Bytes;
use gateway_proto::policy::{Fallback, Methods, RequestRules};
use http::{Method, StatusCode};

use super::{
    Ending, Journey,
    admission::check_policy,
    affinity, rate_limit, repeats,
    stale::{self, AGE, Copying, Held},
    stay::Stay,
};
use crate::{
    proxy::{
        body::response_body::{Answer, ResponseBody},
        h1::Length,
        head::{ResponseHead, field_name::Name, fields::Fields},
    },
    routing::Outcome,
    table::{AttemptPolicy, FallbackKind, HeldService},
};

impl Journey<'_> {
    /// Whether its service's policy has something else for how it ended.
    pub(super) fn may_fall_back(&self, ending: &Ending, fallback: &Fallback) -> bool {
        fallback.is_any() && self.upgrade.is_none() && self.is_failure(ending, fallback)
    }

    /// Has it known of the answer, if that may be kept, what is heard of its resource while it is waited for.
    pub(super) fn hold_resource(&self) -> Option<Held> {
        let keeps = || !self.service.policy().fallback.stale_max_age.is_zero();
        let is_held = self.service.has_fallback() && self.head.method == Method::GET && keeps();
        is_held.then(|| {
            let resource = stale::resource(self.service.id(), &self.head);
            self.worker.stale().borrow().hold(resource, self.started)
        })
    }

    /// Has a good answer kept, for when nobody gives another, in place of what it shows to be so no more.
    pub(super) fn keep(&self, ending: &Ending) {
        let Ok(Answer { head, body: ResponseBody::Replica(body), .. }) = ending else { return };
        if self.call.is_some() {
            return;
        }
        if !Methods::SAFE.has(self.head.method.as_str()) {
            self.withdraw_changed(head);
            return;
        }
        let Some(asked) = self.stale_asked() else { return };
        let (stale, now) = (self.worker.stale(), self.worker.now());
        let mut body = body.borrow_mut();
        let length = body.size_hint().exact();
        if !body.ends_by_close()
            && let Some(copying) = Copying::begin(stale, asked.clone(), head, length, self.started, now)
        {
            body.copy(copying);
            return;
        }
        // Of one that is merely not kept, nothing follows for those that are; nor, of what may be somebody's own, for others.
        let says_no = head.status != StatusCode::OK || stale::forbids(&head.fields);
        if asked.is_anybodys && says_no && stale::withdraws(head.status, false) {
            stale.borrow().withdraw(asked.key.resource, now);
        }
    }

    /// Has nobody given any more what its service has kept of a resource that this request, as this answer says, has changed.
    fn withdraw_changed(&self, head: &ResponseHead) {
        if !Methods::SAFE.has(self.head.method.as_str()) && stale::withdraws(head.status, true) {
            let resource = stale::resource(self.service.id(), &self.head);
            self.worker.stale().borrow().withdraw(resource, self.worker.now());
        }
    }

    /// What its answer is kept under, if it may be.
    fn stale_asked(&self) -> Option<stale::Asked> {
        let is_plain = self.upgrade.is_none() && self.call.is_none();
        let ignored = self.service.policy().fallback.stale_ignored_fields;
        is_plain.then(|| stale::asked(self.service.id(), &self.head, self.length, &ignored)).flatten()
    }

    /// The answer of a service that stands in, else the last good one, else the policy's own, else how it ended before.
    pub(super) async fn fall_back(&mut self, ending: Ending) -> (Ending, Option<FallbackKind>) {
        let fallback = self.service.policy().fallback;
        if let Some(service) = self.stand_in(&fallback) {
            let name = service.name().clone();
            let answer = self.ask_instead(service).await;
            if let Ok(mut answer) = answer
                && !self.is_failure_of(&answer, &fallback)
            {
                // Whoever carried it out, what was kept before is not so any more.
                self.withdraw_changed(&answer.head);
                self.mark(
                    &mut answer.head.fields,
                    &ending,
                    FallbackKind::Service,
                    &format!("service {name}"),
                );
                return (Ok(answer), Some(FallbackKind::Service));
            }
        }
        if let Some(answer) = self.stale_answer(&fallback, &ending) {
            return (Ok(answer), Some(FallbackKind::Stale));
        }
        match self.static_answer(&fallback, &ending) {
            Some(answer) => (Ok(answer), Some(FallbackKind::Static)),
            None => (ending, None),
        }
    }

    fn is_failure(&self, ending: &Ending, fallback: &Fallback) -> bool {
        match ending {
            Ok(answer) => self.is_failure_of(answer, fallback),
            // Whoever broke its request off waits for nothing.
            Err(error) => !self.source.client_failed() && fallback.statuses.has(error.status().as_u16()),
        }
    }

    /// Whether an answer counts as a failure; of calls, those that breakers count.
    fn is_failure_of(&self, answer: &Answer, fallback: &Fallback) -> bool {
        let is_failed_call =
            || self.call.is_some() && matches!(self.judged(&answer.head), Outcome::Failure(_));
        fallback.statuses.has(answer.head.status.as_u16()) || is_failed_call()
    }

    /// The service that may be asked instead, if there is one and the request can be sent there.
    fn stand_in(&self, fallback: &Fallback) -> Option<HeldService> {
        let name = fallback.service.as_str();
        let is_held = self.source.is_replayable() || !self.source.has_begun();
        if name.is_empty() || name == self.service.name().as_str() || !is_held || self.time_is_over() {
            return None;
        }
        let service = self.worker.table().service_held_by(self.worker.index(), name)?;
        let is_repeatable =
            !self.is_seen || self.is_idempotent && repeats(&service.policy().retry, &self.head);
        let rules = service.policy().request;
        let takes_it = check_policy(&rules, &self.head, self.length).is_ok() && !self.lets_more_in(&rules);
        // Last, because it counts.
        let is_in_time = || {
            let (address, now) = (self.client_address(), self.worker.now());
            rate_limit::exceeded(&service, &self.head, address, now).is_none()
        };
        (is_repeatable && takes_it && is_in_time()).then_some(service)
    }

    /// Whether nothing is left of the time that its caller has set.
    fn time_is_over(&self) -> bool {
        let is_limited = self.hints.time.is_some() || self.call.is_some_and(|call| call.deadline.is_some());
        let now = self.worker.now();
        is_limited && self.deadline(now) <= now
    }

    /// Whether the body was looked at by less than these rules ask for: it is judged as it comes, and once.
    fn lets_more_in(&self, rules: &RequestRules) -> bool {
        let own = self.service.policy().request;
        let is_unmeasured = matches!(self.length, Length::Chunked | Length::UntilClose);
        !matches!(self.length, Length::Empty)
            && (rules.json_only && !own.json_only
                || is_unmeasured && rules.max_body_bytes < own.max_body_bytes)
    }

    /// Asks another service as if the request had come for it, within what is left of the time that its caller set.
    async fn ask_instead(&mut self, service: HeldService) -> Ending {
        let now = self.worker.now();
        let left = self.hints.time.map_or(Duration::MAX, |_| self.deadline(now).since(now));
        {
            let policy = service.policy();
            self.policy = AttemptPolicy::from(&*policy);
            self.time = policy.timeout.request.min(left);
            self.key = affinity::key(&policy.balancing, &self.head.fields, self.client_address());
        }
        let (started, is_idempotent) = (self.started, self.is_idempotent);
        // By its own rules, of which the primary's may be laxer.
        self.is_idempotent = repeats(&self.policy.retry, &self.head);
        let primary = mem::replace(&mut self.service, Stay::begin(&self.worker, service));
        let before = self.attempts.get();
        (self.started, self.retries, self.was_pushed_back, self.last) = (now, 0, false, None);
        self.hedges = 0;
        self.tried.clear();
        self.service.budget().request(self.worker.index(), now);
        let answer = self.ask().await;
        let (status, outcome) = self.told_as(&answer);
        self.count_retries(before, &answer);
        self.service.answered(status, outcome);
        if let Ok(answer) = &answer {
            self.withdraw_changed(&answer.head);
        }
        let stand_in = mem::replace(&mut self.service, primary);
        if let Ok(Answer { body: ResponseBody::Replica(body), .. }) = &answer {
            body.borrow_mut().keep_beside(stand_in);
        }
        (self.started, self.is_idempotent) = (started, is_idempotent);
        answer
    }

    fn stale_answer(&self, fallback: &Fallback, ending: &Ending) -> Option<Answer> {
        if fallback.stale_max_age.is_zero() {
            return None;
        }
        let (asked, now) = (self.stale_asked()?, self.worker.now());
        let kept = self.worker.stale().borrow().get(&asked, fallback.stale_max_age, now)?;
        let mut head = kept.head.clone();
        let age = kept.age(now).as_secs();
        head.fields.retain(|name| !name.eq_ignore_ascii_case(AGE.as_bytes()));
        head.fields.append_other(AGE.as_bytes(), age.to_string().as_bytes());
        self.mark(&mut head.fields, ending, FallbackKind::Stale, "stale");
        let mut answer = Answer::new(head, kept.body.clone().into());
        answer.error = ending.as_ref().err().map(|error| error.reason().as_str());
        Some(answer)
    }

    fn static_answer(&self, fallback: &Fallback, ending: &Ending) -> Option<Answer> {
        let status = u16::try_from(fallback.static_status).ok().filter(|_| self.call.is_none())?;
        let status = StatusCode::from_u16(status).ok()?;
        let mut fields = Fields::default();
        // Which have no content, whatever the policy says (RFC 9110).
        let has_none = matches!(status.as_u16(), 204 | 205 | 304);
        let body = if has_none { "" } else { fallback.body.as_str() };
        if !body.is_empty() {
            fields.append(Name::ContentType, fallback.content_type.as_str().as_bytes());
        }
        fields.append(Name::XRequestId, self.request_id.as_bytes());
        self.mark(&mut fields, ending, FallbackKind::Static, "static");
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut answer = Answer::new(ResponseHead::new(status, fields), body.into());
        answer.error = ending.as_ref().err().map(|error| error.reason().as_str());
        Some(answer)
    }

    /// Says in an answer that it stands in for a failure, and for which.
    fn mark(&self, fields: &mut Fields, ending: &Ending, kind: FallbackKind, by: &str) {
        let via = self.worker.via().name();
        let failure = match ending {
            Ok(answer) => format!("{via}; received-status={}", answer.head.status.as_u16()),
            Err(error) => format!("{via}; error={}", error.proxy_error()),
        };
        let status = format!("{failure}; details=\"fallback={}\"", kind.as_str());
        fields.append(Name::ProxyStatus, status.as_bytes());
        fields.append_other(b"x-gw-fallback", by.as_bytes());
        if let Some(trail) = self.trail {
            trail.fell_back(kind);
        }
    }
}
