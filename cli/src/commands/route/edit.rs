//! `gwctl route set` and `delete`: they show what changes, and with `--dry-run` change nothing.

use std::{collections::BTreeSet, fmt::Write as _};

use gateway_proto::{
    RouteName,
    time::duration,
    v1::{DeleteRouteRequest, Rollout, Route, UpdateRouteRequest},
};
use prost_types::FieldMask;

use super::{
    assignment::{Assignment, FIELDS, value_of},
    shown,
};
use crate::{
    authorship::Authorship,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    rollout::{Wait, reach},
};

/// Flags of `gwctl route set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Route; it is created where there is none of this name
    #[arg(value_name = "ROUTE")]
    name: RouteName,
    /// Field and value, such as path_prefix=/api; an empty value clears; headers=NAME:VALUE may be given several times;
    /// docs/routes.md lists them all
    #[arg(required = true, value_name = "FIELD=VALUE")]
    assignments: Vec<Assignment>,
    /// Check everything, show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    authorship: Authorship,
}

/// Flags of `gwctl route delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Route
    #[arg(value_name = "ROUTE")]
    name: RouteName,
    #[command(flatten)]
    authorship: Authorship,
}

pub(super) async fn set(args: Set, control: &Control, output: &Output) -> Result<(), Error> {
    let Set { name, assignments, dry_run, wait, authorship } = args;
    let mut change = Route { name: name.to_string(), ..Default::default() };
    let mut fields = BTreeSet::new();
    for assignment in &assignments {
        if !fields.insert(assignment.field) && !assignment.adds() {
            return Err(Error::new(Exit::Usage, format!("{} is given twice", assignment.field)));
        }
        assignment.write(&mut change);
    }
    let before = control.route(&name).await?;
    let request = UpdateRouteRequest {
        route: Some(change),
        update_mask: Some(FieldMask { paths: fields.into_iter().map(str::to_owned).collect() }),
        validate_only: dry_run,
        allow_missing: true,
        reason: authorship.reason,
        author: authorship.who.author,
        wait_timeout: Some(duration(wait.longest)),
        ..Default::default()
    };
    let response = control.update_route(request).await?;
    let after = response.route.clone().unwrap_or_default();
    match output.format {
        Format::Json => output.message(&response)?,
        Format::Name => output.data(format_args!("{name}\n"))?,
        Format::Table | Format::Wide if dry_run => output.data(proposal(&name, before.as_ref(), &after))?,
        Format::Table | Format::Wide => {
            output.data(done(&name, before.as_ref(), &after, response.rollout.as_ref()))?;
        }
    }
    if let Some(doubt) = control.doubt_about(&after.service).await {
        output.note(doubt);
    }
    wait.check(response.rollout.as_ref())
}

pub(super) async fn delete(args: Delete, control: &Control, output: &Output) -> Result<(), Error> {
    let Delete { name, authorship: Authorship { reason, who } } = args;
    let request =
        DeleteRouteRequest { name: name.to_string(), reason, author: who.author, ..Default::default() };
    let response = control.delete_route(request).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{name}\n")),
        Format::Table | Format::Wide => {
            output.data(format_args!("{name}: route deleted   rev {}\n", response.revision))
        }
    }
}

/// The fields that differ, with their values before and after.
fn changes(before: Option<&Route>, after: &Route) -> Vec<(&'static str, String, String)> {
    let nothing = Route::default();
    let before = before.unwrap_or(&nothing);
    let values = FIELDS.map(|field| (field, value_of(before, field), value_of(after, field)));
    values.into_iter().filter(|(_, before, after)| before != after).collect()
}

fn proposal(name: &RouteName, before: Option<&Route>, after: &Route) -> String {
    let changes = changes(before, after);
    let version = before.map_or_else(|| "not stored".to_owned(), |route| format!("rev {}", route.revision));
    if changes.is_empty() {
        return format!("{name}: nothing would change ({version})\n");
    }
    let mut text = format!("--- {name} ({version})\n+++ {name} (proposed)\n");
    for (field, before_value, after_value) in changes {
        // Writing to a String cannot fail.
        if before.is_some() {
            let _ = writeln!(text, "- {field}: {}", shown(&before_value));
        }
        let _ = writeln!(text, "+ {field}: {}", shown(&after_value));
    }
    text
}

fn done(name: &RouteName, before: Option<&Route>, after: &Route, rollout: Option<&Rollout>) -> String {
    let changes = changes(before, after);
    let revision = after.revision;
    if changes.is_empty() && before.is_some() {
        return format!("{name}: nothing to change   rev {revision}\n");
    }
    let what = if before.is_some() { "changed" } else { "set" };
    let mut text = format!("{name}: route {what} {}   rev {revision}\n", reach(rollout));
    let width = changes.iter().map(|(field, ..)| field.len()).max().unwrap_or_default();
    for (field, before_value, after_value) in changes {
        // Writing to a String cannot fail.
        let _ = match before {
            Some(_) => {
                writeln!(text, "  {field:width$}   {} -> {}", shown(&before_value), shown(&after_value))
            }
            None => writeln!(text, "  {field:width$}   {}", shown(&after_value)),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path_prefix: &str, revision: i64) -> Route {
        let service = "orders".into();
        Route {
            name: "shop".into(),
            service,
            path_prefix: path_prefix.into(),
            revision,
            ..Default::default()
        }
    }

    #[test]
    fn a_new_route_is_told_with_what_it_has_and_a_changed_one_with_what_differs() {
        let name: RouteName = "shop".parse().unwrap();
        let rollout = Rollout { node_count: 2, acked_node_count: 2, ..Default::default() };
        let (one, other) = (route("/api", 7), route("/", 8));
        assert_eq!(
            done(&name, None, &one, Some(&rollout)),
            "shop: route set on 2/2 data planes   rev 7\n  service       orders\n  path_prefix   /api\n"
        );
        assert_eq!(
            done(&name, Some(&one), &other, Some(&rollout)),
            "shop: route changed on 2/2 data planes   rev 8\n  path_prefix   /api -> /\n"
        );
        assert_eq!(done(&name, Some(&one), &one, None), "shop: nothing to change   rev 7\n");
    }

    #[test]
    fn a_dry_run_is_a_diff_against_what_is_stored() {
        let name: RouteName = "shop".parse().unwrap();
        let (one, other) = (route("/api", 7), route("/", 0));
        assert_eq!(
            proposal(&name, Some(&one), &other),
            "--- shop (rev 7)\n+++ shop (proposed)\n- path_prefix: /api\n+ path_prefix: /\n"
        );
        assert_eq!(proposal(&name, Some(&one), &one), "shop: nothing would change (rev 7)\n");
        assert!(
            proposal(&name, None, &one)
                .starts_with("--- shop (not stored)\n+++ shop (proposed)\n+ service: orders\n")
        );
    }
}
