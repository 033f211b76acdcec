//! `gwctl route`: explicit routes, looked at and changed.

use std::time::SystemTime;

use clap::Subcommand;
use gateway_proto::{Route, RouteName, reason, v1};

use super::get::View;
use crate::{
    age::{self, NONE, or_none},
    control::Control,
    error::{Error, Exit},
    output::{Format, Listing, Output, Shown},
    table::Table,
};

mod assignment;
mod edit;

/// What to do with routes.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show routes, in the order in which they count
    Get {
        /// Route; all of them when left out
        #[arg(value_name = "ROUTE")]
        name: Option<RouteName>,
    },
    /// Create a route, or change fields of one
    Set(edit::Set),
    /// Remove a route
    Delete(edit::Delete),
}

/// Looks at routes, or changes one.
///
/// # Errors
/// What is no field or no value, what the control plane refuses, and [`Exit::Partial`] when not every data plane has taken
/// a change on within the wait.
pub(crate) async fn run(verb: Verb, control: &Control, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Get { name: None } => {
            let view = View { with_rows: output.needs_rows(&Shown::default()), wide: output.is_wide() };
            output.listing(list(control, view).await?, &Shown::default())
        }
        Verb::Get { name: Some(name) } => one(&name, control, output).await,
        Verb::Set(args) => edit::set(args, control, output).await,
        Verb::Delete(args) => edit::delete(args, control, output).await,
    }
}

/// Every route, one a row.
pub(super) async fn list(control: &Control, view: View) -> Result<Listing, Error> {
    let response = control.routes().await?;
    let table = view.with_rows.then(|| table(&response.routes, SystemTime::now()));
    let names = response.routes.iter().map(|route| route.name.clone());
    let empty = "no route is set: the host or the first segment of the path names the service".to_owned();
    let empty = response.routes.is_empty().then_some(empty);
    Ok(Listing::new(&response, "routes", names, table).with_notes(empty))
}

async fn one(name: &RouteName, control: &Control, output: &Output) -> Result<(), Error> {
    let Some(route) = control.route(name).await? else {
        let mut error = Error::new(Exit::NotFound, format!("there is no route {name}"))
            .hint("gwctl route get   shows all of them");
        error.code = format!("NOT_FOUND / {}", reason::ROUTE_NOT_FOUND);
        return Err(error);
    };
    match output.format {
        Format::Json => output.message(&route),
        Format::Name => output.data(format_args!("{name}\n")),
        Format::Table | Format::Wide => {
            let table = table(std::slice::from_ref(&route), SystemTime::now());
            output.data(table.with_headings(output.headings))
        }
    }
}

/// The routes in the order in which they count.
pub(super) fn table(routes: &[v1::Route], now: SystemTime) -> Table {
    let mut table = Table::new([
        "NAME", "HOST", "PATH", "METHODS", "HEADERS", "PRIORITY", "SERVICE", "REWRITE", "CHANGED", "BY",
        "REASON",
    ]);
    // What a newer control plane may have that this does not know is shown last, as it came.
    let mut rows: Vec<_> = routes.iter().map(|wire| (Route::parse(wire).ok(), wire)).collect();
    rows.sort_by(|(one, _), (other, _)| match (one, other) {
        (Some(one), Some(other)) => one.precedence(other),
        (one, other) => one.is_none().cmp(&other.is_none()),
    });
    for (_, route) in rows {
        let methods = match route.methods.join(",") {
            none if none.is_empty() => "any".to_owned(),
            methods => methods,
        };
        let headers: Vec<_> = route.headers.iter().map(assignment::header_text).collect();
        table.push(vec![
            (&route.name).into(),
            if route.host.is_empty() { "any" } else { &route.host }.into(),
            (&route.path_prefix).into(),
            methods.into(),
            or_none(&headers.join(" ")).into(),
            route.priority.to_string().into(),
            (&route.service).into(),
            or_none(&route.rewrite_prefix).into(),
            age::since(now, route.update_time).into(),
            or_none(&route.updated_by).into(),
            or_none(&route.update_reason).into(),
        ]);
    }
    table
}

/// The value of a field, for people.
fn shown(value: &str) -> &str {
    if value.is_empty() { NONE } else { value }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::time::timestamp;

    use super::*;

    #[test]
    fn routes_are_shown_in_the_order_in_which_they_count() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let route = |name: &str, host: &str, path_prefix: &str| v1::Route {
            name: name.into(),
            service: "orders".into(),
            host: host.into(),
            path_prefix: path_prefix.into(),
            update_time: Some(timestamp(now - Duration::from_secs(60))),
            updated_by: "ana".into(),
            ..Default::default()
        };
        let header = v1::HeaderMatch { name: "x-canary".into(), value: "1".into() };
        let canary = v1::Route {
            methods: vec!["GET".into(), "HEAD".into()],
            headers: vec![header],
            rewrite_prefix: "/".into(),
            ..route("canary", "", "/api")
        };
        let routes =
            [route("all", "", "/"), route("api", "", "/api"), canary, route("shop", "*.example", "/")];
        let text = anstream::adapter::strip_str(&table(&routes, now).to_string()).to_string();
        assert_eq!(
            text,
            "\
NAME     HOST        PATH   METHODS    HEADERS      PRIORITY   SERVICE   REWRITE   CHANGED   BY    REASON
shop     *.example   /      any        -            0          orders    -         1m        ana   -
canary   any         /api   GET,HEAD   x-canary:1   0          orders    /         1m        ana   -
api      any         /api   any        -            0          orders    -         1m        ana   -
all      any         /      any        -            0          orders    -         1m        ana   -
"
        );
    }
}
