//! A service, described: whether it is served and why not, its replicas, what holds for it, and what happened to it.

use std::time::SystemTime;

use gateway_proto::{
    ServiceName,
    json::to_json,
    time::non_negative,
    v1::{
        Event, ExplainServiceRequest, ExplainServiceResponse, ListBreakersResponse, OverrideEntry, Policy,
        Replica, ResolvePolicyResponse, Route, Service,
    },
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, facts::policy, jsons, page::Page};
use crate::{
    age,
    commands::{
        explain::{lines, steps},
        get::{fault_terms, in_force, override_subject, override_terms, replicas_table, service_breakers},
        route,
    },
    control::{Control, Query, Scope, quoted},
    error::Error,
    figure,
    output::{Format, Output},
    partial::{self, or_without},
    screen,
};

/// Replicas that have a row; there are others to list them all.
const MAX_REPLICAS: usize = 50;

/// What is left out first on a narrow terminal: who is out, and why, stays.
const LESS: [&str; 8] = ["LEASE", "WEIGHT", "AGE", "INFLIGHT", "P99", "RPS", "SUCCESS", "MODE"];

/// What is known of a service.
#[derive(Debug, Clone, Default)]
struct About {
    service: Service,
    replicas: Vec<Replica>,
    breakers: ListBreakersResponse,
    explained: ExplainServiceResponse,
    overrides: Vec<OverrideEntry>,
    policy: ResolvePolicyResponse,
    /// Its own, and that of all services.
    policies: Vec<Policy>,
    routes: Vec<Route>,
    events: Vec<Event>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub(super) async fn run(name: &ServiceName, control: &Control, output: &Output) -> Result<(), Error> {
    // One that is not registered is told with the name that was probably meant.
    let replicas = control.replicas(Some(name)).await?.replicas;
    if output.format == Format::Name {
        return output.data(format_args!("{name}\n"));
    }
    let scope = Scope::from(Some(name));
    let of_it = Query { filter: format!("service = {}", quoted(name.as_str())), ..Query::default() };
    let question = ExplainServiceRequest { service: name.to_string() };
    let mut missing = Vec::new();
    let services = or_without(control.services_of(&of_it).await, "counts", &mut missing).services;
    let policies = or_without(control.policies().await, "policies", &mut missing).policies;
    let routes = or_without(control.routes().await, "routes", &mut missing).routes;
    let about = About {
        service: services.into_iter().find(|one| one.service == name.as_str()).unwrap_or_default(),
        replicas,
        breakers: or_without(control.breakers(&scope, false).await, "breakers", &mut missing),
        explained: or_without(control.explain_service(question).await, "why replicas are out", &mut missing),
        overrides: or_without(control.overrides(name.as_str()).await, "overrides", &mut missing).overrides,
        policy: or_without(control.resolved_policy(name.as_str()).await, "what holds", &mut missing),
        policies: policies.into_iter().filter(|one| [name.as_str(), "*"].contains(&&*one.service)).collect(),
        routes: routes.into_iter().filter(|one| one.service == name.as_str()).collect(),
        events: or_without(control.events(&scope, "", EVENT_LIMIT).await, "events", &mut missing).events,
        missing,
    };
    match output.format {
        Format::Json => output.value(&about.to_json()),
        Format::Wide => output.data(render(name, &about, usize::MAX, SystemTime::now())),
        _ => output.data(render(name, &about, screen::columns(), SystemTime::now())),
    }
}

impl About {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "service": to_json(&self.service),
            "explanation": to_json(&self.explained),
            "replicas": jsons(&self.replicas),
            "breakers": jsons(&self.breakers.breakers),
            "unreachableNodeIds": self.breakers.unreachable_node_ids,
            "silentControlPlanes": jsons(&self.breakers.silent_control_planes),
            "overrides": jsons(&self.overrides),
            "policy": to_json(&self.policy),
            "storedPolicies": jsons(&self.policies),
            "routes": jsons(&self.routes),
            "events": jsons(&self.events),
            "notShown": self.missing,
        })
    }
}

fn render(name: &ServiceName, about: &About, columns: usize, now: SystemTime) -> String {
    let mut page = Page::of(facts(name, about, now));
    let shown = &about.replicas[..about.replicas.len().min(MAX_REPLICAS)];
    let replicas = replicas_table(shown, &about.breakers.breakers, now);
    // Sections are indented by two.
    page.section("Replicas", replicas.fitting(columns.saturating_sub(2), &LESS), "none is registered");
    if shown.len() < about.replicas.len() {
        page.remark(&format!(
            "... and {} more (gwctl get replicas {name})",
            about.replicas.len() - shown.len()
        ));
    }
    partial::notes(&about.breakers.silent_control_planes).for_each(|note| page.remark(&note));
    page.section_if_any("Replicas with something to explain", lines(&about.explained.replicas));
    page.section_if_any("Routes", route::table(&about.routes, now));
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    let mut next = steps(&about.explained.next_steps);
    for (command, why) in [
        (format!("gwctl policy get {name} --resolved"), "every setting that holds for it"),
        (format!("gwctl events -w --service {name}"), "watch what happens to it"),
        (format!("gwctl top {name}"), "watch who gets how many requests"),
    ] {
        next.push(vec![command.into(), why.into()]);
    }
    page.ending(&about.missing, next)
}

fn facts(name: &ServiceName, about: &About, now: SystemTime) -> Vec<(&'static str, String)> {
    let About { service, explained, policies, .. } = about;
    let mut facts = vec![("Service", name.to_string())];
    if !explained.summary.is_empty() {
        facts.push(("Status", explained.summary.clone()));
    }
    // Without counts, the list of replicas says as much.
    if !service.service.is_empty() {
        facts.extend([
            ("Replicas", replicas(service)),
            ("Breakers", service_breakers(service).text().to_owned()),
            ("Traffic", traffic(service)),
            ("In flight", format!("{}   {} wait", service.inflight_count, service.pending_count)),
            (
                "Registered",
                format!("{} ago   revision {}", age::since(now, service.create_time), service.revision),
            ),
        ]);
    }
    for entry in &about.overrides {
        facts.push(("Override", format!("{} ({})", override_subject(entry), override_terms(entry, now))));
    }
    // Faults of "*" are for those that inject none of their own.
    let faults: Vec<_> = in_force(policies, now).collect();
    let own = faults.iter().find(|(policy, _)| policy.service == name.as_str());
    if let Some((policy, fault)) = own.or(faults.first()) {
        facts.push(("Faults", format!("{fault} ({})", fault_terms(policy, fault, now))));
    }
    if about.policy.policy.is_some() {
        // Faults have a line of their own.
        let mut resolved = about.policy.clone();
        resolved.origins.retain(|path, _| !path.starts_with("fault."));
        facts.push(("Policy", policy(&resolved)));
    }
    facts
}

/// `3 of 5 ready, 1 draining, 1 LOST`.
fn replicas(service: &Service) -> String {
    let mut text = format!("{} of {} ready", service.ready_replica_count, service.replica_count);
    for (count, what) in
        [(service.draining_replica_count, "draining or drained"), (service.lost_replica_count, "LOST")]
    {
        if count > 0 {
            text = format!("{text}, {count} {what}");
        }
    }
    text
}

/// `61.0 requests a second, 98.20% good, P50 11ms, P99 240ms`.
fn traffic(service: &Service) -> String {
    let Some(rate) = service.request_rate else { return "none in the last ten seconds".into() };
    format!(
        "{} requests a second, {} good, P50 {}, P99 {}",
        figure::rate(Some(rate)),
        figure::success(service.success_ratio).text(),
        figure::latency(service.latency_p50.and_then(non_negative)),
        figure::latency(service.latency_p99.and_then(non_negative)),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::{
            BreakerState, Endpoint, EventSeverity, FaultOrigin, FaultPolicy, HealthStatus, NextStep,
            OverrideKind, ReplicaLine, ReplicaVerdict,
        },
    };

    use super::*;

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn plain(about: &About) -> String {
        plain_on(usize::MAX, about)
    }

    fn plain_on(columns: usize, about: &About) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let name = ServiceName::parse("orders").unwrap();
        anstream::adapter::strip_str(&render(&name, about, columns, now)).to_string()
    }

    fn replica(id: &str) -> Replica {
        Replica {
            service: "orders".into(),
            replica_id: id.into(),
            endpoint: Some(Endpoint { address: "10.0.0.13:8080".into(), ..Default::default() }),
            weight: 100,
            health: HealthStatus::Healthy.into(),
            create_time: at(2800),
            ..Default::default()
        }
    }

    #[test]
    fn a_service_in_trouble_shows_why_what_holds_for_it_and_what_to_do() {
        let breaker = gateway_proto::v1::Breaker {
            service: "orders".into(),
            replica_id: "r-2".into(),
            state: BreakerState::Open.into(),
            retry_time: at(10_004),
            asked_regardless: true,
            ..Default::default()
        };
        let fault = FaultPolicy {
            delay: Some(duration(Duration::from_millis(200))),
            delay_ratio: Some(0.1),
            end_time: at(10_660),
            ..Default::default()
        };
        let origin = FaultOrigin { author: "ana".into(), reason: "game day".into(), ..Default::default() };
        let about = About {
            service: Service {
                service: "orders".into(),
                replica_count: 2,
                ready_replica_count: 2,
                open_breaker_count: 1,
                fail_open_node_count: 1,
                inflight_count: 6,
                request_rate: Some(61.0),
                success_ratio: Some(0.982),
                latency_p50: Some(duration(Duration::from_millis(11))),
                latency_p99: Some(duration(Duration::from_millis(240))),
                create_time: at(2800),
                revision: 12,
                ..Default::default()
            },
            replicas: vec![replica("r-1"), replica("r-2")],
            breakers: ListBreakersResponse { breakers: vec![breaker], ..Default::default() },
            explained: ExplainServiceResponse {
                summary: "served by 1 of 2 replicas everywhere; 1 out".into(),
                replicas: vec![ReplicaLine {
                    replica_id: "r-2".into(),
                    verdict: ReplicaVerdict::Out.into(),
                    summary: "out on dp-1 since 12s: connect refused".into(),
                    ..Default::default()
                }],
                next_steps: vec![NextStep {
                    command: "gwctl explain orders/r-2".into(),
                    purpose: "the worst of them in full".into(),
                }],
                ..Default::default()
            },
            overrides: vec![OverrideEntry {
                service: "orders".into(),
                replica_id: "r-1".into(),
                kind: OverrideKind::BreakerClosed.into(),
                author: "ana".into(),
                reason: "try".into(),
                expire_time: at(10_060),
                ..Default::default()
            }],
            policy: ResolvePolicyResponse {
                policy: Some(Policy::default()),
                origins: [("breaker.failure_ratio", "orders"), ("fault.delay", "*")]
                    .map(|(path, from)| (path.to_owned(), from.to_owned()))
                    .into(),
            },
            policies: vec![Policy {
                service: "*".into(),
                fault: Some(fault),
                fault_origin: Some(origin),
                ..Default::default()
            }],
            routes: vec![Route {
                name: "api".into(),
                path_prefix: "/api".into(),
                service: "orders".into(),
                ..Default::default()
            }],
            events: vec![Event {
                event_time: at(9984),
                severity: EventSeverity::Warning.into(),
                event_type: "FAIL_OPEN_BEGAN".into(),
                service: "orders".into(),
                node_id: "dp-1".into(),
                message: "fails open: 1 of 2 let traffic through, so that all are asked".into(),
                ..Default::default()
            }],
            missing: Vec::new(),
        };
        assert_eq!(
            plain(&about),
            "\
Service       orders
Status        served by 1 of 2 replicas everywhere; 1 out
Replicas      2 of 2 ready
Breakers      1 closed, 1 NOT CLOSED, PANIC
Traffic       61.0 requests a second, 98.20% good, P50 11ms, P99 240ms
In flight     6   0 wait
Registered    2h ago   revision 12
Override      orders/r-1: breaker closed (ana, 1m left: \"try\")
Faults        delay 200ms of 0.1 (ana, 11m left: \"game day\")
Policy        breaker.failure_ratio from orders, the rest by default

Replicas
  REPLICA   ADDRESS          HEALTH    MODE      BREAKER          CHECK   LEASE   INFLIGHT   RPS   SUCCESS   P99   WEIGHT   AGE
  r-1       10.0.0.13:8080   healthy   serving   -                -       -       -          -     -         -     100      2h
  r-2       10.0.0.13:8080   healthy   serving   OPEN, retry 4s   -       -       0          -     -         -     100      2h

Replicas with something to explain
  REPLICA   VERDICT   WHY
  r-2       OUT       out on dp-1 since 12s: connect refused

Routes
  NAME   HOST   PATH   METHODS   HEADERS   PRIORITY   SERVICE   REWRITE   CHANGED   BY   REASON
  api    any    /api   any       -         0          orders    -         -         -    -

Events, newest first
  16s ago   warn   FAIL_OPEN_BEGAN   orders   dp-1   fails open: 1 of 2 let traffic through, so that all are asked

Next
  gwctl explain orders/r-2             the worst of them in full
  gwctl policy get orders --resolved   every setting that holds for it
  gwctl events -w --service orders     watch what happens to it
  gwctl top orders                     watch who gets how many requests
"
        );
    }

    #[test]
    fn what_may_not_be_read_is_named_and_the_rest_is_shown() {
        let about = About {
            replicas: (0..52).map(|number| replica(&format!("r-{number}"))).collect(),
            missing: vec!["not shown: events: no (PERMISSION_DENIED)".into()],
            ..About::default()
        };
        let narrow = plain_on(60, &about);
        assert!(
            narrow.contains("\n  REPLICA   ADDRESS          HEALTH    BREAKER   CHECK\n"),
            "who is out, and why, stays: {narrow}"
        );
        let text = plain(&about);
        assert!(text.starts_with("Service       orders\n\nReplicas\n  REPLICA "), "{text}");
        assert!(text.contains("\n  ... and 2 more (gwctl get replicas orders)\n"), "{text}");
        assert!(text.contains("\n\nnot shown: events: no (PERMISSION_DENIED)\n\nNext\n"), "{text}");
    }
}
