//! Whether services can be reached, and which words of operators are still in force.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use gateway_proto::{
    Health,
    policy::{FaultInjection, Partial, resolve},
    v1::{Breaker, BreakerState, OverrideEntry, Policy, Replica, ReplicaMode, Route, Service},
};

use super::{
    super::{
        get::{fault_terms, in_force, override_subject, override_terms},
        is_ready,
        policy::doubt_about,
    },
    finding::{Finding, Outcome, counted, listed},
    is_drained,
};
use crate::age;

pub(super) const NAME: &str = "services";

/// What was meant to be for a moment and is not.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// Addresses under several names that are listed.
const MAX_ADDRESSES: usize = 5;

/// All that is known of services.
#[derive(Debug, Clone, Default)]
pub(super) struct Overview {
    pub(super) services: Vec<Service>,
    pub(super) replicas: Vec<Replica>,
    /// Merged; of services that have one that is not closed.
    pub(super) breakers: Vec<Breaker>,
    pub(super) overrides: Vec<OverrideEntry>,
    pub(super) policies: Vec<Policy>,
    pub(super) routes: Vec<Route>,
}

/// What that means.
pub(super) fn findings(overview: &Overview, now: SystemTime) -> Vec<Finding> {
    let services = &overview.services;
    let replicas: i32 = services.iter().map(|service| service.replica_count).sum();
    let (all, with) = (counted(services.len(), "service"), counted(replicas, "replica"));
    let mut findings = vec![Finding::passed("services/registered", format!("{all} with {with} registered"))];
    for service in services {
        findings.extend(held(service, &overview.replicas, now));
        findings.extend(without_ready(service));
        findings.extend(panics(service).or_else(|| all_open(service, overview)));
    }
    findings.extend(single(services));
    findings.extend(shared_addresses(&overview.replicas));
    findings.extend(overview.replicas.iter().filter_map(|replica| drained_for_long(replica, now)));
    findings.extend(overview.overrides.iter().filter_map(|entry| forgotten(entry, now)));
    findings.extend(injected(&overview.policies, now));
    findings.extend(doubtful_policies(&overview.policies));
    findings.extend(into_nothing(&overview.routes, services));
    findings
}

/// The guard against mass removal holds replicas of which nobody hears.
fn held(service: &Service, replicas: &[Replica], now: SystemTime) -> Option<Finding> {
    let lost = service.lost_replica_count;
    if lost == 0 {
        return None;
    }
    let name = &service.service;
    let outcome = if service.ready_replica_count == 0 { Outcome::Failed } else { Outcome::Warned };
    let of_all = counted(service.replica_count, "replica");
    let is_lost = |replica: &&Replica| {
        replica.service == *name && Health::parse(replica.health) == Ok(Some(Health::Lost))
    };
    let lost_replicas: Vec<&Replica> = replicas.iter().filter(is_lost).collect();
    let since = lost_replicas.iter().filter_map(|replica| replica.state_change_time);
    let since = since.min_by_key(|at| (at.seconds, at.nanos));
    let since = since.map_or_else(String::new, |at| format!(", since {} ago", age::since(now, Some(at))));
    let description = format!("{name}: the guard holds {lost} of {of_all} as LOST{since}");
    let mut finding = Finding::new("services/guard", outcome, description);
    if outcome == Outcome::Failed {
        finding = finding.because("no other replica is ready: all requests go to those");
    }
    let ids: Vec<_> = lost_replicas.iter().map(|replica| replica.replica_id.as_str()).collect();
    if !ids.is_empty() {
        finding = finding.because(listed(&ids));
    }
    Some(finding.hint(format!("gwctl release-guard {name}   lets them go, if they are really gone")))
}

fn without_ready(service: &Service) -> Option<Finding> {
    let Service { service: name, replica_count: all, .. } = service;
    if *all == 0 || service.ready_replica_count > 0 || service.lost_replica_count > 0 {
        return None;
    }
    let why = match service.draining_replica_count {
        0 => String::new(),
        draining => format!(", {draining} of them drained or draining"),
    };
    let registered = counted(*all, "replica");
    Some(
        Finding::failed("services/ready", format!("{name} has no ready replica ({registered}{why})"))
            .hint(format!("gwctl get replicas {name}")),
    )
}

/// Some data plane asks replicas whose breakers are open, because too few others are left.
fn panics(service: &Service) -> Option<Finding> {
    let name = &service.service;
    let planes = counted(service.fail_open_node_count, "data plane");
    (service.fail_open_node_count > 0).then(|| {
        Finding::warned("services/panic", format!("{name} is in PANIC mode: it fails open on {planes}"))
            .because("too few of its replicas let traffic through, so that those with open breakers, or failing checks, are asked, too")
            .hint(format!("gwctl explain {name}"))
    })
}

/// Every replica that is ready is refused by a breaker, on every data plane.
fn all_open(service: &Service, overview: &Overview) -> Option<Finding> {
    let name = &service.service;
    let is_ready = |replica: &&Replica| replica.service == *name && is_ready(replica);
    let is_shut = |replica: &Replica| {
        overview.breakers.iter().any(|breaker| {
            breaker.service == *name
                && breaker.replica_id == replica.replica_id
                && matches!(breaker.state(), BreakerState::Open | BreakerState::ForcedOpen)
                && breaker.open_node_count == breaker.node_count
        })
    };
    let ready: Vec<&Replica> = overview.replicas.iter().filter(is_ready).collect();
    if ready.is_empty() || !ready.iter().all(|replica| is_shut(replica)) {
        return None;
    }
    let description = match ready.len() {
        1 => format!("{name}: the breaker of its only ready replica is open"),
        count => format!("{name}: the breakers of all {count} ready replicas are open"),
    };
    Some(Finding::failed("services/breakers", description).hint(format!("gwctl get breakers {name}")))
}

/// Services that the failure of one replica takes down, together.
fn single(services: &[Service]) -> Option<Finding> {
    let names: Vec<_> = services
        .iter()
        .filter(|service| service.replica_count == 1)
        .map(|service| &service.service)
        .collect();
    let description = match names[..] {
        [] => return None,
        [name] => format!("{name} has one replica: no failover is possible"),
        _ => format!("{} services have one replica: no failover is possible", names.len()),
    };
    let finding = Finding::warned("services/single", description);
    Some(if names.len() > 1 { finding.because(listed(&names)) } else { finding })
}

/// One address under several names, which can be meant: a process may serve more than one service.
fn shared_addresses(replicas: &[Replica]) -> Option<Finding> {
    let mut named: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for replica in replicas {
        let address = replica.endpoint.as_ref().map_or("", |endpoint| &endpoint.address);
        named.entry(address).or_default().push(format!("{}/{}", replica.service, replica.replica_id));
    }
    let shared: Vec<_> = named
        .into_iter()
        .filter(|(address, names)| !address.is_empty() && names.len() > 1)
        .map(|(address, names)| format!("{address} is {}", listed(&names)))
        .collect();
    let description = match &shared[..] {
        [] => return None,
        [_] => "one address is registered more than once".to_owned(),
        several => format!("{} addresses are registered more than once", several.len()),
    };
    let finding = Finding::passed("services/address", description)
        .hint("that is as it should be where one process serves all of these; else one of them is left over");
    Some(shared.iter().take(MAX_ADDRESSES).fold(finding, |finding, shared| finding.because(shared.clone())))
}

/// A drain that is past its deadline, or that nobody came back to.
fn drained_for_long(replica: &Replica, now: SystemTime) -> Option<Finding> {
    if !is_drained(replica) {
        return None;
    }
    let key = format!("{}/{}", replica.service, replica.replica_id);
    let drain = replica.drain.clone().unwrap_or_default();
    let by = if drain.author.is_empty() { String::new() } else { format!(" by {}", drain.author) };
    let over = drain.deadline_time.map(|at| age::elapsed(now, at)).unwrap_or_default();
    let description = match replica.mode() {
        ReplicaMode::Draining if !over.is_zero() => {
            format!("{key} still drains {} past its deadline", age::short(over))
        }
        ReplicaMode::Drained if over > FORGOTTEN_AFTER => {
            format!("{key} has been drained{by} for {}", age::since(now, drain.begin_time))
        }
        _ => return None,
    };
    let mut finding = Finding::warned("services/drain", description);
    if !drain.reason.is_empty() {
        finding = finding.because(format!("\"{}\"", drain.reason));
    }
    Some(finding.hint(format!("gwctl undrain {key}   or  gwctl deregister {key}")))
}

/// An override that outlasted what it was for, perhaps.
fn forgotten(entry: &OverrideEntry, now: SystemTime) -> Option<Finding> {
    let since = entry.create_time.map(|at| age::elapsed(now, at)).unwrap_or_default();
    (since > FORGOTTEN_AFTER).then(|| {
        let (subject, terms) = (override_subject(entry), override_terms(entry, now));
        Finding::warned("services/override", format!("{subject}, for {}", age::short(since)))
            .because(terms)
            .hint(format!("gwctl end-override {}", entry.override_id))
    })
}

/// Faults that somebody injects on purpose.
fn injected(policies: &[Policy], now: SystemTime) -> Vec<Finding> {
    let finding = |(policy, fault): (&Policy, FaultInjection)| {
        let (subject, typed) = match policy.service.as_str() {
            "*" => ("all services", "'*'"),
            name => (name, name),
        };
        Finding::warned("services/faults", format!("faults are injected into requests to {subject}: {fault}"))
            .because(fault_terms(policy, &fault, now))
            .hint(format!("gwctl fault clear {typed}   ends that now"))
    };
    in_force(policies, now).map(finding).collect()
}

/// Policies that probably do not mean what they say.
fn doubtful_policies(policies: &[Policy]) -> Vec<Finding> {
    let read = |policy: &Policy| Partial::parse(policy).ok();
    let star = policies.iter().find(|policy| policy.service == "*").and_then(read);
    let of_all = doubt_about(&resolve(star.as_ref(), None));
    let doubtful = policies.iter().filter_map(|policy| {
        let own = read(policy).filter(|_| policy.service != "*");
        let doubt = doubt_about(&resolve(star.as_ref(), own.as_ref()))?;
        // What a service has from "*" is told of "*".
        if policy.service != "*" && Some(&doubt) == of_all.as_ref() {
            return None;
        }
        let typed = if policy.service == "*" { "'*'" } else { &policy.service };
        Some(
            Finding::warned("services/policy", format!("policy of {}: {doubt}", policy.service))
                .because("the last attempts are cut short")
                .hint(format!("gwctl policy get {typed} --resolved")),
        )
    });
    doubtful.collect()
}

/// Routes to services that are not there, together: their requests are answered 503.
fn into_nothing(routes: &[Route], services: &[Service]) -> Option<Finding> {
    let is_registered = |name: &str| services.iter().any(|service| service.service == name);
    let lost: Vec<_> = routes.iter().filter(|route| !is_registered(&route.service)).collect();
    let description = match lost[..] {
        [] => return None,
        [route] => format!("route {} leads to {}, which is not registered", route.name, route.service),
        _ => format!("{} lead to services that are not registered", counted(lost.len(), "route")),
    };
    let finding = Finding::warned("services/route", description).hint("gwctl route get");
    let names: Vec<_> = lost.iter().map(|route| &route.name).collect();
    Some(if names.len() > 1 { finding.because(listed(&names)) } else { finding })
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        time::{duration, timestamp},
        v1::{Drain, HealthStatus, OverrideKind, TimeoutPolicy},
    };

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn ago(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(now() - Duration::from_secs(seconds)))
    }

    fn service(name: &str, ready: i32, all: i32) -> Service {
        Service { service: name.into(), replica_count: all, ready_replica_count: ready, ..Default::default() }
    }

    fn replica(service: &str, id: &str, health: HealthStatus) -> Replica {
        Replica {
            service: service.into(),
            replica_id: id.into(),
            health: health.into(),
            mode: ReplicaMode::Serving.into(),
            state_change_time: ago(240),
            ..Default::default()
        }
    }

    fn found(overview: &Overview) -> Vec<Finding> {
        let mut findings = findings(overview, now());
        findings.remove(0);
        findings
    }

    fn lines(overview: &Overview) -> Vec<(Outcome, String)> {
        found(overview).into_iter().map(|finding| (finding.outcome, finding.description)).collect()
    }

    #[test]
    fn services_that_are_as_they_should_be_are_one_line() {
        let overview = Overview {
            services: vec![service("orders", 3, 3), service("mailer", 2, 2)],
            ..Default::default()
        };
        let findings = findings(&overview, now());
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].description, "2 services with 5 replicas registered");
    }

    #[test]
    fn lost_replicas_are_counted_named_and_told_how_to_be_let_go() {
        let orders = Service { lost_replica_count: 2, ..service("orders", 1, 3) };
        let replicas = vec![
            replica("orders", "r-1", HealthStatus::Lost),
            Replica { state_change_time: ago(60), ..replica("orders", "r-2", HealthStatus::Lost) },
            replica("orders", "r-3", HealthStatus::Healthy),
        ];
        let overview = Overview { services: vec![orders], replicas, ..Default::default() };
        let held = found(&overview).remove(0);
        assert_eq!(held.outcome, Outcome::Warned);
        assert_eq!(held.description, "orders: the guard holds 2 of 3 replicas as LOST, since 4m ago");
        assert_eq!(held.details, ["r-1, r-2"]);
        assert_eq!(held.hints, ["gwctl release-guard orders   lets them go, if they are really gone"]);

        let only_lost = Service { lost_replica_count: 3, ..service("orders", 0, 3) };
        let overview = Overview { services: vec![only_lost], ..overview };
        let findings = found(&overview);
        assert_eq!(findings.len(), 1, "it is told once: {findings:?}");
        assert_eq!(findings[0].outcome, Outcome::Failed);
        assert_eq!(findings[0].details[0], "no other replica is ready: all requests go to those");
    }

    #[test]
    fn services_that_nobody_serves_fail() {
        let draining = Service { draining_replica_count: 1, ..service("payments", 0, 2) };
        let overview = Overview { services: vec![draining, service("orders", 0, 2)], ..Default::default() };
        assert_eq!(
            lines(&overview),
            [
                (
                    Outcome::Failed,
                    "payments has no ready replica (2 replicas, 1 of them drained or draining)".to_owned()
                ),
                (Outcome::Failed, "orders has no ready replica (2 replicas)".to_owned()),
            ]
        );
    }

    #[test]
    fn ready_replicas_behind_open_breakers_serve_nobody_either() {
        let breaker = |id: &str, state: BreakerState, open| Breaker {
            service: "orders".into(),
            replica_id: id.into(),
            state: state.into(),
            open_node_count: open,
            node_count: 2,
            ..Default::default()
        };
        let replicas = vec![
            replica("orders", "r-1", HealthStatus::Healthy),
            replica("orders", "r-2", HealthStatus::Degraded),
            replica("orders", "r-3", HealthStatus::Unhealthy),
        ];
        let with = |breakers| Overview {
            services: vec![Service { open_breaker_count: 2, ..service("orders", 2, 3) }],
            replicas: replicas.clone(),
            breakers,
            ..Default::default()
        };
        let shut =
            with(vec![breaker("r-1", BreakerState::Open, 2), breaker("r-2", BreakerState::ForcedOpen, 2)]);
        assert_eq!(
            lines(&shut),
            [(Outcome::Failed, "orders: the breakers of all 2 ready replicas are open".to_owned())]
        );
        // One data plane still sends to one of them.
        let ajar = with(vec![breaker("r-1", BreakerState::Open, 2), breaker("r-2", BreakerState::Open, 1)]);
        assert_eq!(lines(&ajar), []);
    }

    #[test]
    fn a_service_that_fails_open_is_in_panic_and_not_said_to_be_shut() {
        let breaker = Breaker {
            service: "orders".into(),
            replica_id: "r-1".into(),
            state: BreakerState::Open.into(),
            asked_regardless: true,
            open_node_count: 2,
            node_count: 2,
            ..Default::default()
        };
        let overview = Overview {
            services: vec![Service {
                open_breaker_count: 1,
                fail_open_node_count: 2,
                ..service("orders", 2, 2)
            }],
            replicas: vec![replica("orders", "r-1", HealthStatus::Healthy)],
            breakers: vec![breaker],
            ..Default::default()
        };
        let told = "orders is in PANIC mode: it fails open on 2 data planes";
        assert_eq!(lines(&overview), [(Outcome::Warned, told.to_owned())]);
        assert_eq!(found(&overview)[0].hints, ["gwctl explain orders"]);
    }

    #[test]
    fn an_address_under_several_names_is_a_hint_and_nothing_wrong() {
        let at = |service: &str, id: &str, address: &str| Replica {
            endpoint: Some(gateway_proto::v1::Endpoint { address: address.into(), ..Default::default() }),
            ..replica(service, id, HealthStatus::Healthy)
        };
        let mut overview = Overview {
            services: vec![service("orders", 2, 2), service("users", 2, 2)],
            replicas: vec![at("orders", "r-1", "10.0.0.1:80"), at("users", "r-2", "10.0.0.2:80")],
            ..Default::default()
        };
        assert_eq!(found(&overview), []);
        overview.replicas.push(at("users", "r-3", "10.0.0.1:80"));
        let finding = found(&overview).remove(0);
        assert_eq!(finding.outcome, Outcome::Passed);
        assert_eq!(finding.description, "one address is registered more than once");
        assert_eq!(finding.details, ["10.0.0.1:80 is orders/r-1, users/r-3"]);
        assert_eq!(finding.hints.len(), 1);
    }

    #[test]
    fn services_with_one_replica_are_told_together() {
        let overview = |services| Overview { services, ..Default::default() };
        assert_eq!(
            lines(&overview(vec![service("mailer", 1, 1), service("orders", 2, 2)])),
            [(Outcome::Warned, "mailer has one replica: no failover is possible".to_owned())]
        );
        let both = found(&overview(vec![service("mailer", 1, 1), service("search", 1, 1)]));
        assert_eq!(both[0].description, "2 services have one replica: no failover is possible");
        assert_eq!(both[0].details, ["mailer, search"]);
    }

    #[test]
    fn drains_that_hang_and_drains_that_were_forgotten_are_told() {
        let drained = |id: &str, mode: ReplicaMode, deadline: u64| Replica {
            mode: mode.into(),
            drain: Some(Drain {
                begin_time: ago(deadline + 30),
                deadline_time: ago(deadline),
                reason: "kernel update".into(),
                author: "ana".into(),
                ..Default::default()
            }),
            ..replica("orders", id, HealthStatus::Healthy)
        };
        let in_time = Replica {
            drain: Some(Drain {
                deadline_time: Some(timestamp(now() + Duration::from_secs(5))),
                ..Default::default()
            }),
            ..drained("r-4", ReplicaMode::Draining, 0)
        };
        let overview = Overview {
            services: vec![service("orders", 2, 6)],
            replicas: vec![
                drained("r-1", ReplicaMode::Draining, 90),
                drained("r-2", ReplicaMode::Drained, 3 * 3600),
                drained("r-3", ReplicaMode::Drained, 60),
                in_time,
            ],
            ..Default::default()
        };
        let findings = found(&overview);
        assert_eq!(
            lines(&overview),
            [
                (Outcome::Warned, "orders/r-1 still drains 1m past its deadline".to_owned()),
                (Outcome::Warned, "orders/r-2 has been drained by ana for 3h".to_owned()),
            ]
        );
        assert_eq!(findings[0].details, ["\"kernel update\""]);
        assert_eq!(findings[0].hints, ["gwctl undrain orders/r-1   or  gwctl deregister orders/r-1"]);
    }

    #[test]
    fn overrides_older_than_an_hour_are_told() {
        let entry = |age| OverrideEntry {
            override_id: "breaker/orders/r-1".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            kind: OverrideKind::BreakerOpen.into(),
            create_time: ago(age),
            expire_time: Some(timestamp(now() + Duration::from_secs(7200))),
            author: "ana".into(),
            reason: "bad deploy".into(),
            ..Default::default()
        };
        let overview = Overview { overrides: vec![entry(3600), entry(3 * 3600)], ..Default::default() };
        let findings = found(&overview);
        assert_eq!(lines(&overview), [(Outcome::Warned, "orders/r-1: breaker OPEN, for 3h".to_owned())]);
        assert_eq!(findings[0].details, ["ana, 2h left: \"bad deploy\""]);
        assert_eq!(findings[0].hints, ["gwctl end-override breaker/orders/r-1"]);
    }

    #[test]
    fn a_policy_whose_attempts_do_not_fit_is_told() {
        let request = |seconds| TimeoutPolicy {
            request: Some(duration(Duration::from_secs(seconds))),
            ..Default::default()
        };
        let policy = |service: &str, timeout| Policy {
            service: service.into(),
            timeout: Some(timeout),
            ..Default::default()
        };
        let overview = Overview {
            policies: vec![
                policy("*", request(5)),
                policy("orders", request(60)),
                policy("payments", TimeoutPolicy::default()),
            ],
            ..Default::default()
        };
        assert_eq!(
            lines(&overview),
            [(
                Outcome::Warned,
                "policy of *: 3 attempts of timeout.per_try 10s do not fit into timeout.request 5s"
                    .to_owned()
            )]
        );
    }

    #[test]
    fn routes_to_services_that_are_not_registered_are_told_together() {
        let route = |name: &str, service: &str| Route {
            name: name.into(),
            service: service.into(),
            ..Default::default()
        };
        let mut overview = Overview { services: vec![service("orders", 2, 2)], ..Default::default() };
        overview.routes = vec![route("a", "orders")];
        assert_eq!(found(&overview), []);
        overview.routes.push(route("b", "users"));
        let told = "route b leads to users, which is not registered";
        assert_eq!(lines(&overview), [(Outcome::Warned, told.to_owned())]);
        overview.routes.push(route("c", "carts"));
        let findings = found(&overview);
        assert_eq!(findings[0].description, "2 routes lead to services that are not registered");
        assert_eq!(findings[0].details, ["b, c"]);
    }
}
