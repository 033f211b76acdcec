//! `gwctl get overrides`: what operators have decided against the rules, until when, and why.

use std::time::SystemTime;

use anstyle::Style;
use gateway_proto::{
    ServiceName,
    v1::{OverrideEntry, OverrideKind},
};

use super::View;
use crate::{
    age::{self, NONE, or_none},
    control::Control,
    error::Error,
    output::Listing,
    table::{ALARM, CAUTION, Cell, Table},
};

pub(super) async fn list(
    service: Option<&ServiceName>,
    control: &Control,
    view: View,
) -> Result<Listing, Error> {
    let name = service.map_or("", ServiceName::as_str);
    let response = control.overrides(name).await?;
    let table = view.with_rows.then(|| table(&response.overrides, SystemTime::now(), view.wide));
    let names = response.overrides.iter().map(|entry| entry.override_id.clone());
    let mut notes = Vec::new();
    if response.overrides.is_empty() && view.with_rows {
        notes.push("nothing is overridden: breakers, guards and registrations follow their rules".to_owned());
        notes.extend(control.doubt_about(name).await.filter(|_| !name.is_empty()));
    }
    Ok(Listing::new(&response, "overrides", names, table).with_notes(notes))
}

fn table(overrides: &[OverrideEntry], now: SystemTime, wide: bool) -> Table {
    let mut headings = vec!["SERVICE", "REPLICA", "NODE", "WHAT", "LEFT", "AGE", "BY", "REASON"];
    if wide {
        headings.extend(["ID", "ADDRESS"]);
    }
    let mut table = Table::new(headings);
    for entry in overrides {
        let mut row: Vec<Cell> = vec![
            (&entry.service).into(),
            replica(entry).into(),
            node(entry).into(),
            kind_cell(entry.kind()),
            age::until(now, entry.expire_time).into(),
            age::since(now, entry.create_time).into(),
            or_none(&entry.author).into(),
            or_none(&entry.reason).into(),
        ];
        if wide {
            row.extend([(&entry.override_id).into(), or_none(&entry.address).into()]);
        }
        table.push(row);
    }
    table
}

/// The replica, `all`, or nothing where it is about the service.
fn replica(entry: &OverrideEntry) -> &str {
    match entry.replica_id.as_str() {
        "-" => "all",
        "" => NONE,
        id => id,
    }
}

/// The data plane or `all`; nothing where it is the registry's business.
fn node(entry: &OverrideEntry) -> &str {
    match entry.kind() {
        OverrideKind::RegistrationBlocked => NONE,
        _ if entry.node_id.is_empty() => "all",
        _ => &entry.node_id,
    }
}

fn kind_cell(kind: OverrideKind) -> Cell {
    let style = match kind {
        OverrideKind::BreakerOpen => ALARM,
        OverrideKind::BreakerClosed | OverrideKind::GuardReleased | OverrideKind::RegistrationBlocked => {
            CAUTION
        }
        OverrideKind::BreakerReset | OverrideKind::Unspecified => Style::new(),
    };
    Cell::styled(kind_name(kind), style)
}

/// `breaker OPEN`.
fn kind_name(kind: OverrideKind) -> &'static str {
    match kind {
        OverrideKind::BreakerOpen => "breaker OPEN",
        OverrideKind::BreakerClosed => "breaker closed",
        OverrideKind::BreakerReset => "breaker reset",
        OverrideKind::GuardReleased => "guard released",
        OverrideKind::RegistrationBlocked => "registration blocked",
        OverrideKind::Unspecified => NONE,
    }
}

/// What an override is about and what it says: `orders/r-1 on dp-1: breaker OPEN`.
pub(crate) fn override_subject(entry: &OverrideEntry) -> String {
    let replica = match entry.replica_id.as_str() {
        "" => String::new(),
        "-" => ", every replica".to_owned(),
        id => format!("/{id}"),
    };
    let node = match entry.node_id.as_str() {
        "" => String::new(),
        id => format!(" on {id}"),
    };
    format!("{}{replica}{node}: {}", entry.service, kind_name(entry.kind()))
}

/// Who decided it, for how long still, and why: `ana, 11m left: "bad deploy"`.
pub(crate) fn override_terms(entry: &OverrideEntry, now: SystemTime) -> String {
    let author = if entry.author.is_empty() { "somebody" } else { &entry.author };
    let terms = format!("{author}, {} left", age::until(now, entry.expire_time));
    if entry.reason.is_empty() { terms } else { format!("{terms}: \"{}\"", entry.reason) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::time::timestamp;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(100_000)
    }

    fn entry(kind: OverrideKind, replica: &str, node: &str) -> OverrideEntry {
        OverrideEntry {
            override_id: format!("breaker/orders/{replica}"),
            service: "orders".into(),
            replica_id: replica.into(),
            node_id: node.into(),
            kind: kind.into(),
            create_time: Some(timestamp(now() - Duration::from_secs(240))),
            expire_time: Some(timestamp(now() + Duration::from_secs(660))),
            author: "ana".into(),
            reason: "bad deploy".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_row_says_what_is_overridden_until_when_by_whom_and_why() {
        let overrides = [
            entry(OverrideKind::BreakerOpen, "-", ""),
            entry(OverrideKind::BreakerClosed, "r-1", "dp-1"),
            OverrideEntry {
                author: String::new(),
                reason: "\x1b[2J".into(),
                ..entry(OverrideKind::GuardReleased, "", "")
            },
            OverrideEntry {
                address: "10.0.0.9:80".into(),
                ..entry(OverrideKind::RegistrationBlocked, "r-9", "")
            },
        ];
        let plain =
            |wide| anstream::adapter::strip_str(&table(&overrides, now(), wide).to_string()).to_string();
        assert_eq!(
            plain(false),
            "\
SERVICE   REPLICA   NODE   WHAT                   LEFT   AGE   BY    REASON
orders    all       all    breaker OPEN           11m    4m    ana   bad deploy
orders    r-1       dp-1   breaker closed         11m    4m    ana   bad deploy
orders    -         all    guard released         11m    4m    -     \\u{1b}[2J
orders    r-9       -      registration blocked   11m    4m    ana   bad deploy
"
        );
        assert!(plain(true).lines().last().unwrap().ends_with("breaker/orders/r-9   10.0.0.9:80"));
    }

    #[test]
    fn an_override_is_told_in_one_phrase() {
        let phrase =
            |entry: &OverrideEntry| format!("{} ({})", override_subject(entry), override_terms(entry, now()));
        assert_eq!(
            phrase(&entry(OverrideKind::BreakerOpen, "-", "dp-1")),
            "orders, every replica on dp-1: breaker OPEN (ana, 11m left: \"bad deploy\")"
        );
        assert_eq!(
            phrase(&entry(OverrideKind::BreakerClosed, "r-1", "")),
            "orders/r-1: breaker closed (ana, 11m left: \"bad deploy\")"
        );
    }
}
