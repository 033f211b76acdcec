//! An explicit route, described: which requests it takes, where they go, which routes count before it, and who changed it.

use std::time::SystemTime;

use gateway_proto::{
    RouteName,
    json::to_json,
    nearest::nearest,
    v1::{Event, Route, Service},
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page, steps};
use crate::{
    age::{self, or_none},
    commands::route,
    control::{Control, Query, Scope, quoted},
    error::{Error, Exit},
    output::{Format, Output},
    partial::or_without,
};

/// What is known of a route.
#[derive(Debug, Clone, Default)]
struct About {
    route: Route,
    /// All of them, itself included.
    routes: Vec<Route>,
    /// Where it leads, if that is registered; `None`: nobody says.
    services: Option<Vec<Service>>,
    events: Vec<Event>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub(super) async fn run(name: &RouteName, control: &Control, output: &Output) -> Result<(), Error> {
    let routes = control.routes().await?.routes;
    let Some(route) = routes.iter().find(|route| route.name == name.as_str()).cloned() else {
        return Err(unknown(name, &routes));
    };
    if output.format == Format::Name {
        return output.data(format_args!("{name}\n"));
    }
    let mut missing = Vec::new();
    let query = Query { filter: format!("service = {}", quoted(&route.service)), ..Query::default() };
    let services = control.services_of(&query).await.map(|listed| Some(listed.services));
    let filter = format!("event_type = ROUTE_* AND metadata.route = {}", quoted(name.as_str()));
    let events = control.events(&Scope::default(), &filter, EVENT_LIMIT).await;
    let about = About {
        services: or_without(services, "services", &mut missing),
        events: or_without(events, "events", &mut missing).events,
        route,
        routes,
        missing,
    };
    match output.format {
        Format::Json => output.value(&about.to_json()),
        _ => output.data(render(&about, SystemTime::now())),
    }
}

fn unknown(name: &RouteName, routes: &[Route]) -> Error {
    let mut error = Error::new(Exit::NotFound, format!("there is no route \"{name}\""));
    let meant = nearest(name.as_str(), routes.iter().map(|route| route.name.as_str()));
    error.hints.extend(meant.map(|name| format!("did you mean \"{name}\"?")));
    error.hint("gwctl get routes")
}

impl About {
    fn to_json(&self) -> serde_json::Value {
        json!({"route": to_json(&self.route), "events": jsons(&self.events), "notShown": self.missing})
    }
}

fn render(about: &About, now: SystemTime) -> String {
    let About { route, services, .. } = about;
    let leads = match services.as_ref().map(|all| all.iter().find(|one| one.service == route.service)) {
        None => route.service.clone(),
        Some(None) => format!("{}, which is NOT REGISTERED: its requests are answered 503", route.service),
        Some(Some(Service { ready_replica_count: ready, replica_count: all, .. })) => {
            format!("{}, of which {ready} of {all} replicas are ready", route.service)
        }
    };
    let reason =
        if route.update_reason.is_empty() { String::new() } else { format!(": \"{}\"", route.update_reason) };
    let changed =
        format!("{} ago by {}{reason}", age::since(now, route.update_time), or_none(&route.updated_by));
    let mut page = Page::of([("Route", route.name.clone()), ("Leads to", leads), ("Changed", changed)]);
    page.section("Which requests", route::table(std::slice::from_ref(route), now), "");
    if about.routes.len() > 1 {
        page.section("All routes, in the order in which they count", route::table(&about.routes, now), "");
    }
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    let next = steps([
        (format!("gwctl describe service {}", route.service), "where it leads"),
        (format!("gwctl route set {} FIELD=VALUE --dry-run", route.name), "what a change would do"),
        (format!("gwctl route delete {}", route.name), "remove it"),
    ]);
    page.ending(&about.missing, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> Route {
        Route {
            name: name.into(),
            path_prefix: "/api".into(),
            service: "orders".into(),
            updated_by: "ana".into(),
            ..Default::default()
        }
    }

    fn plain(about: &About) -> String {
        anstream::adapter::strip_str(&render(about, SystemTime::UNIX_EPOCH)).to_string()
    }

    #[test]
    fn it_says_where_it_leads_and_that_nobody_is_there() {
        let there = Service {
            service: "orders".into(),
            replica_count: 3,
            ready_replica_count: 2,
            ..Default::default()
        };
        let mut about = About { route: route("api"), services: Some(vec![there]), ..About::default() };
        let text = plain(&about);
        assert!(text.contains("\nLeads to      orders, of which 2 of 3 replicas are ready\n"), "{text}");
        assert!(text.contains("\nChanged       - ago by ana\n"), "{text}");
        assert!(!text.contains("All routes"), "{text}");
        about.services = Some(Vec::new());
        about.routes = vec![route("api"), route("web")];
        let text = plain(&about);
        assert!(text.contains("orders, which is NOT REGISTERED: its requests are answered 503"), "{text}");
        assert!(text.contains("All routes, in the order in which they count\n"), "{text}");
        about.services = None;
        assert!(plain(&about).contains("\nLeads to      orders\n"));
    }

    #[test]
    fn a_typing_mistake_finds_the_one_that_was_meant() {
        let error = unknown(&RouteName::parse("apu").unwrap(), &[route("api")]);
        assert_eq!((error.exit, error.hints[0].as_str()), (Exit::NotFound, "did you mean \"api\"?"));
    }
}
