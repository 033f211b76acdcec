//! A stored policy, described: what it sets, for whom that holds, what is doubtful, and who changed what.

use std::time::SystemTime;

use gateway_proto::{
    json::to_json,
    policy::{Partial, field::FIELDS, resolve},
    v1::{Event, Policy, Service},
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page, steps};
use crate::{
    age::{self, or_none},
    commands::{
        get::{fault_terms, in_force},
        policy::{Scope, doubt_about, not_stored},
    },
    control::{self, Control},
    error::Error,
    output::{Format, Output},
    partial::or_without,
    table::Table,
};

/// What is known of a policy.
#[derive(Debug, Clone, Default)]
struct About {
    policy: Policy,
    /// That of all services.
    star: Option<Policy>,
    /// How many policies are stored for services of their own.
    own_count: usize,
    services: Option<Vec<Service>>,
    events: Vec<Event>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub(super) async fn run(scope: &Scope, control: &Control, output: &Output) -> Result<(), Error> {
    let policies = control.policies().await?.policies;
    let Some(policy) = policies.iter().find(|policy| policy.service == scope.as_str()).cloned() else {
        return Err(not_stored(scope, control).await);
    };
    if output.format == Format::Name {
        return output.data(format_args!("{scope}\n"));
    }
    let mut missing = Vec::new();
    let services = control.services().await.map(|listed| Some(listed.services));
    let services = or_without(services, "services", &mut missing);
    let events = or_without(changes(scope, control).await, "events", &mut missing);
    let about = About {
        policy,
        star: policies.iter().find(|policy| policy.service == "*").cloned(),
        own_count: policies.iter().filter(|policy| policy.service != "*").count(),
        services,
        events,
        missing,
    };
    match output.format {
        Format::Json => output.value(&about.to_json()),
        _ => output.data(render(scope, &about, SystemTime::now())),
    }
}

/// What happened to it.
async fn changes(scope: &Scope, control: &Control) -> Result<Vec<Event>, Error> {
    let (service, of_nobody) = match scope {
        // Events of the policy of all are of no service.
        Scope::All => ("", " AND service = \"\""),
        Scope::Service(name) => (name.as_str(), ""),
    };
    let filter = format!("(event_type = POLICY_* OR event_type = FAULT_INJECTION_*){of_nobody}");
    let scope = control::Scope { service: service.to_owned(), ..Default::default() };
    Ok(control.events(&scope, &filter, EVENT_LIMIT).await?.events)
}

impl About {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "policy": to_json(&self.policy),
            "events": jsons(&self.events),
            "notShown": self.missing,
        })
    }
}

fn render(scope: &Scope, about: &About, now: SystemTime) -> String {
    let mut page = Page::of(facts(scope, about, now));
    page.section("Settings", settings(&about.policy), "none: it says nothing");
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    let typed = scope.quoted();
    let next = steps([
        (format!("gwctl policy get {typed} --resolved"), "every setting that holds, and where it is from"),
        (
            format!("gwctl policy set {typed} SETTING=VALUE --dry-run"),
            "what a change would do, and whom it would reach",
        ),
        (format!("gwctl policy delete {typed}"), "remove it: the next level holds again"),
    ]);
    page.ending(&about.missing, next)
}

fn facts(scope: &Scope, about: &About, now: SystemTime) -> Vec<(&'static str, String)> {
    let About { policy, star, services, .. } = about;
    let reason = if policy.update_reason.is_empty() {
        String::new()
    } else {
        format!(": \"{}\"", policy.update_reason)
    };
    let mut facts = vec![
        ("Policy", policy.service.clone()),
        (
            "Changed",
            format!("{} ago by {}{reason}", age::since(now, policy.update_time), or_none(&policy.updated_by)),
        ),
        ("Revision", policy.revision.to_string()),
    ];
    facts.extend(services.as_ref().map(|services| ("Holds for", reach(scope, about.own_count, services))));
    let own = Partial::parse(policy).ok().filter(|_| *scope != Scope::All);
    let star = star.as_ref().and_then(|star| Partial::parse(star).ok());
    facts.extend(doubt_about(&resolve(star.as_ref(), own.as_ref())).map(|doubt| ("Doubtful", doubt)));
    for (policy, fault) in in_force(std::slice::from_ref(policy), now) {
        facts.push(("Faults", format!("{fault} ({})", fault_terms(policy, &fault, now))));
    }
    facts
}

/// For whom it is there, and for whom it is not.
fn reach(scope: &Scope, own_count: usize, services: &[Service]) -> String {
    let Scope::Service(name) = scope else {
        let count = services.len();
        let services = if count == 1 { "1 service".to_owned() } else { format!("{count} services") };
        return match own_count {
            0 => format!("all of {services}"),
            1 => format!("all of {services}, as far as the policy of its own that one has says nothing else"),
            own => format!(
                "all of {services}, as far as the policies of their own that {own} have say nothing else"
            ),
        };
    };
    match services.iter().find(|service| service.service == name.as_str()) {
        Some(Service { ready_replica_count: ready, replica_count: all, .. }) => {
            format!("{name}, of which {ready} of {all} replicas are ready")
        }
        None => format!("{name}, which is not registered now"),
    }
}

fn settings(policy: &Policy) -> Table {
    let mut table = Table::new(["SETTING", "VALUE", "DEFAULT", "ALLOWED"]);
    for field in &FIELDS {
        if let Ok(Some(value)) = field.read(policy) {
            table.push(vec![
                field.path().into(),
                value.to_string().into(),
                field.default_value().to_string().into(),
                field.range().to_string().into(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::TimeoutPolicy,
    };

    use super::*;

    fn plain(scope: &str, about: &About) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        anstream::adapter::strip_str(&render(&scope.parse().unwrap(), about, now)).to_string()
    }

    fn policy(service: &str, seconds: u64) -> Policy {
        let timeout =
            TimeoutPolicy { request: Some(duration(Duration::from_secs(seconds))), ..Default::default() };
        Policy {
            service: service.into(),
            timeout: Some(timeout),
            update_time: Some(timestamp(
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - 3 * 86_400),
            )),
            updated_by: "ana".into(),
            update_reason: "flaky".into(),
            revision: 12,
            ..Default::default()
        }
    }

    #[test]
    fn it_says_what_it_sets_for_whom_that_holds_and_what_is_doubtful() {
        let orders = Service {
            service: "orders".into(),
            replica_count: 3,
            ready_replica_count: 2,
            ..Default::default()
        };
        let about = About {
            policy: policy("orders", 5),
            own_count: 1,
            services: Some(vec![orders]),
            ..About::default()
        };
        let text = plain("orders", &about);
        for line in [
            "Policy        orders",
            "Changed       3d ago by ana: \"flaky\"",
            "Revision      12",
            "Holds for     orders, of which 2 of 3 replicas are ready",
            "Doubtful      3 attempts of timeout.per_try 10s do not fit into timeout.request 5s",
            "  none since the control plane started",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n\n{text}");
        }
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.lines().any(|line| words(line).starts_with("timeout.request 5s 30s ")), "{text}");
    }

    #[test]
    fn that_of_all_says_for_how_many_and_one_of_nobody_that_nobody_is_there() {
        let services = |count: usize| Some(vec![Service::default(); count]);
        let all = About { policy: policy("*", 60), services: services(3), ..About::default() };
        assert!(plain("*", &all).contains("\nHolds for     all of 3 services\n"));
        let some = About { own_count: 2, ..all };
        assert!(plain("*", &some).contains("policies of their own that 2 have say nothing else\n"));
        let nobody = About { policy: policy("orders", 60), services: services(0), ..About::default() };
        assert!(plain("orders", &nobody).contains("\nHolds for     orders, which is not registered now\n"));
    }
}
