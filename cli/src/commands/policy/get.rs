//! `gwctl policy get`: what somebody set, and with `--resolved` what holds and where each value is from.

use std::{collections::HashMap, time::SystemTime};

use gateway_proto::{
    policy::field::FIELDS,
    v1::{Policy, ResolvePolicyResponse},
};

use super::Scope;
use crate::commands::get::View;
use crate::{
    age::{self, NONE, or_none},
    control::{Control, Filter},
    error::{Error, Exit},
    output::{Format, Listing, Output, Shown},
    table::{CAUTION, Cell, Table},
};

/// Flags of `gwctl policy get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service, or '*' for all of them; left out, every policy that is stored, or with --resolved what holds for a
    /// service that has none
    #[arg(value_name = "SERVICE")]
    scope: Option<Scope>,
    /// What holds, defaults included, and where each value is from
    #[arg(long)]
    resolved: bool,
}

pub(super) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    match (args.scope, args.resolved) {
        (None, false) => {
            let view = View { with_rows: output.needs_rows(&Shown::default()), wide: output.is_wide() };
            output.listing(list(&Filter::default(), control, view).await?, &Shown::default())
        }
        (scope, true) => resolved(&scope.unwrap_or(Scope::All), control, output).await,
        (Some(scope), false) => stored(&scope, control, output).await,
    }
}

/// Every stored policy, one row a setting.
pub(in crate::commands) async fn list(
    filter: &Filter,
    control: &Control,
    view: View,
) -> Result<Listing, Error> {
    let response = control.policies_of(&filter.expression).await?;
    let now = SystemTime::now();
    let tables = response
        .policies
        .iter()
        .filter(|_| view.with_rows)
        .map(|policy| table(std::slice::from_ref(policy), now));
    let tables: Vec<_> = tables.collect();
    let names = response.policies.iter().map(|policy| policy.service.clone());
    let empty = match filter.expression.as_str() {
        "" => "no policy is stored: the defaults hold (gwctl policy get --resolved)",
        _ => "no policy passes the filter",
    };
    let empty = response.policies.is_empty().then(|| empty.to_owned());
    let headings = view.with_rows.then(|| table(&[], now));
    Ok(Listing::new(&response, "policies", names, headings).with_rows(tables).with_notes(empty))
}

async fn stored(scope: &Scope, control: &Control, output: &Output) -> Result<(), Error> {
    let Some(policy) = control.policy(scope.as_str()).await? else {
        return Err(not_stored(scope, control).await);
    };
    match output.format {
        Format::Json => output.message(&policy),
        Format::Name => output.data(format_args!("{scope}\n")),
        Format::Table | Format::Wide => {
            let table = table(std::slice::from_ref(&policy), SystemTime::now());
            output.data(table.with_headings(output.headings))
        }
    }
}

/// Says that there is no such policy, and what holds instead.
pub(in crate::commands) async fn not_stored(scope: &Scope, control: &Control) -> Error {
    let mut error = Error::new(Exit::NotFound, format!("no policy is stored for \"{scope}\""))
        .hint(format!("gwctl policy get {} --resolved   shows what holds", scope.quoted()));
    if let Scope::Service(name) = scope {
        error.details.extend(control.doubt_about(name.as_str()).await);
    }
    error.code = format!("NOT_FOUND / {}", gateway_proto::reason::POLICY_NOT_FOUND);
    error
}

async fn resolved(scope: &Scope, control: &Control, output: &Output) -> Result<(), Error> {
    let response = control.resolved_policy(scope.as_str()).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{scope}\n")),
        Format::Table | Format::Wide => {
            let mut stored = HashMap::new();
            for level in [Some(&Scope::All), Some(scope).filter(|scope| **scope != Scope::All)] {
                let Some(level) = level else { continue };
                stored
                    .extend(control.policy(level.as_str()).await?.map(|policy| (level.to_string(), policy)));
            }
            let table = resolved_table(&response, &stored, SystemTime::now(), output.is_wide());
            output.data(table.with_headings(output.headings))?;
            if let Scope::Service(name) = scope
                && let Some(doubt) = control.doubt_about(name.as_str()).await
            {
                output.note(doubt);
            }
            Ok(())
        }
    }
}

/// The settings of stored policies, and who set them.
fn table(policies: &[Policy], now: SystemTime) -> Table {
    let mut table = Table::new(["SERVICE", "SETTING", "VALUE", "CHANGED", "BY", "REASON"]);
    for policy in policies {
        let rows =
            FIELDS.iter().filter_map(|field| Some((field.path(), field.read(policy).ok()??.to_string())));
        let mut rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            // A policy that says nothing is stored all the same.
            rows.push((NONE, NONE.to_owned()));
        }
        for (path, value) in rows {
            table.push(vec![
                (&policy.service).into(),
                path.into(),
                value.into(),
                age::since(now, policy.update_time).into(),
                or_none(&policy.updated_by).into(),
                or_none(&policy.update_reason).into(),
            ]);
        }
    }
    table
}

/// Every setting, with the level that its value is from: `orders   (ana, 2d ago)`.
fn resolved_table(
    response: &ResolvePolicyResponse,
    stored: &HashMap<String, Policy>,
    now: SystemTime,
    wide: bool,
) -> Table {
    let mut headings = vec!["SETTING", "VALUE", "FROM"];
    if wide {
        headings.extend(["DEFAULT", "ALLOWED"]);
    }
    let mut table = Table::new(headings);
    let policy = response.policy.clone().unwrap_or_default();
    for field in &FIELDS {
        let value =
            field.read(&policy).ok().flatten().map_or_else(|| NONE.to_owned(), |value| value.to_string());
        let origin = response.origins.get(field.path()).map_or(NONE, String::as_str);
        let mut row: Vec<Cell> =
            vec![field.path().into(), value.into(), from_cell(origin, stored.get(origin), now)];
        if wide {
            row.extend([field.default_value().to_string().into(), field.range().to_string().into()]);
        }
        table.push(row);
    }
    table
}

fn from_cell(origin: &str, policy: Option<&Policy>, now: SystemTime) -> Cell {
    let Some(policy) = policy else { return origin.into() };
    let author = if policy.updated_by.is_empty() { "somebody" } else { &policy.updated_by };
    let text = format!("{origin}   ({author}, {} ago)", age::since(now, policy.update_time));
    Cell::styled(&text, CAUTION)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{Policy as Resolved, time::timestamp};

    use super::{super::assignment::Assignment, *};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn policy(service: &str, assignments: &[&str]) -> Policy {
        let mut policy = Policy {
            service: service.into(),
            update_time: Some(timestamp(now() - Duration::from_secs(3 * 86_400))),
            updated_by: "ana".into(),
            update_reason: "flaky".into(),
            ..Default::default()
        };
        for text in assignments {
            text.parse::<Assignment>().unwrap().write(&mut policy);
        }
        policy
    }

    fn plain(table: &Table) -> String {
        anstream::adapter::strip_str(&table.to_string()).to_string()
    }

    #[test]
    fn a_stored_policy_shows_what_is_set_by_whom_and_why() {
        let policies = [policy("*", &["timeout.request=5s", "guard.enabled=false"]), policy("orders", &[])];
        assert_eq!(
            plain(&table(&policies, now())),
            "\
SERVICE   SETTING           VALUE   CHANGED   BY    REASON
*         timeout.request   5s      3d        ana   flaky
*         guard.enabled     false   3d        ana   flaky
orders    -                 -       3d        ana   flaky
"
        );
    }

    #[test]
    fn what_holds_shows_where_each_value_is_from() {
        let mut resolved = Resolved::default();
        resolved.timeout.request = Duration::from_secs(5);
        resolved.breaker.failure_ratio = 0.25;
        let origin = |path: &str| match path {
            "timeout.request" => "*",
            "breaker.failure_ratio" => "orders",
            _ => "default",
        };
        let response = ResolvePolicyResponse {
            policy: Some(resolved.to_wire()),
            origins: FIELDS.iter().map(|f| (f.path().to_owned(), origin(f.path()).to_owned())).collect(),
        };
        let stored = ["*", "orders"].map(|name| (name.to_owned(), policy(name, &[]))).into_iter().collect();
        let text = plain(&resolved_table(&response, &stored, now(), false));
        // However wide the columns are.
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(lines.len(), 1 + FIELDS.len());
        assert_eq!(lines[0], "SETTING VALUE FROM");
        assert_eq!(lines[1], "timeout.connect 1s default");
        assert_eq!(lines[3], "timeout.request 5s * (ana, 3d ago)");
        assert!(lines.contains(&"breaker.failure_ratio 0.25 orders (ana, 3d ago)".to_owned()), "{text}");
        let wide = plain(&resolved_table(&response, &stored, now(), true));
        let ratio = wide.lines().find(|line| line.starts_with("breaker.failure_ratio")).unwrap();
        assert!(words(ratio).ends_with("0.5 above 0.0 and up to 1.0"), "{wide}");
    }
}
