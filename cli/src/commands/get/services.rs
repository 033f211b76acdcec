//! `gwctl get services`: one row a service.

use std::{collections::HashSet, time::SystemTime};

use anstyle::Style;
use gateway_proto::{
    time::non_negative,
    v1::{ListPoliciesResponse, Service},
};

use super::View;
use crate::{
    age::{self, NONE},
    control::{Control, Query},
    error::Error,
    figure,
    output::Listing,
    partial::or_without,
    table::{ALARM, CAUTION, Cell, GOOD, Table},
};

/// In a column of which nothing could be had.
const UNKNOWN: &str = "?";

pub(super) async fn list(query: &Query, control: &Control, view: View) -> Result<Listing, Error> {
    let response = control.services_of(query).await?;
    let mut missing = Vec::new();
    let table = match view.with_rows {
        true => {
            let names = |listed: ListPoliciesResponse| {
                Some(listed.policies.into_iter().map(|policy| policy.service).collect())
            };
            let stored = or_without(control.policies().await.map(names), "policies", &mut missing);
            Some(table(&response.services, stored.as_ref(), SystemTime::now(), view.wide))
        }
        false => None,
    };
    let names = response.services.iter().map(|service| service.service.clone());
    let empty = response.services.is_empty().then_some(match query.filter.as_str() {
        "" => "no service is registered yet: gwctl register SERVICE HOST:PORT",
        _ => "no service passes the filter",
    });
    let notes = empty.map(str::to_owned).into_iter().chain(missing);
    Ok(Listing::new(&response, "services", names, table).with_notes(notes))
}

/// `policies` are the names of those that are stored; `None`: nobody says.
fn table(services: &[Service], policies: Option<&HashSet<String>>, now: SystemTime, wide: bool) -> Table {
    let mut headings = vec![
        "NAME", "READY", "BREAKERS", "DRAINING", "LOST", "RPS", "SUCCESS", "P50", "P99", "POLICY", "AGE",
    ];
    if wide {
        headings.extend(["INFLIGHT", "PENDING", "REVISION"]);
    }
    let mut table = Table::new(headings);
    for service in services {
        let mut row = vec![
            Cell::from(&service.service),
            ready(service),
            breakers(service),
            attention(service.draining_replica_count, CAUTION),
            attention(service.lost_replica_count, ALARM),
            figure::rate(service.request_rate).into(),
            figure::success(service.success_ratio),
            figure::latency(service.latency_p50.and_then(non_negative)).into(),
            figure::latency(service.latency_p99.and_then(non_negative)).into(),
            policies.map_or(UNKNOWN, |policies| policy(&service.service, policies)).into(),
            age::since(now, service.create_time).into(),
        ];
        if wide {
            row.extend([
                service.inflight_count.to_string().into(),
                attention(service.pending_count, CAUTION),
                service.revision.to_string().into(),
            ]);
        }
        table.push(row);
    }
    table
}

fn ready(service: &Service) -> Cell {
    let (ready, all) = (service.ready_replica_count, service.replica_count);
    let style = match ready {
        0 => ALARM,
        _ if ready < all => CAUTION,
        _ => GOOD,
    };
    Cell::styled(&format!("{ready}/{all}"), style)
}

/// A count that is none as a rule.
fn attention(count: i32, style: Style) -> Cell {
    if count == 0 { NONE.into() } else { Cell::styled(&count.to_string(), style) }
}

/// `1 closed, 2 NOT CLOSED, PANIC`: the last where some data plane fails open, which also failing checks can have done.
pub(in crate::commands) fn breakers(service: &Service) -> Cell {
    let open = service.open_breaker_count;
    let text = match (service.replica_count - open, open) {
        (..=0, 0) => NONE.to_owned(),
        (closed, 0) => format!("{closed} closed"),
        (..=0, open) => format!("{open} NOT CLOSED"),
        (closed, open) => format!("{closed} closed, {open} NOT CLOSED"),
    };
    match (service.fail_open_node_count, open) {
        (0, 0) => text.into(),
        (0, _) => Cell::styled(&text, ALARM),
        _ => Cell::styled(&format!("{text}, PANIC"), ALARM),
    }
}

/// The stored policy that is nearest to a service: its own, or that of all.
fn policy<'a>(service: &'a str, stored: &HashSet<String>) -> &'a str {
    [service, "*"].into_iter().find(|name| stored.contains(*name)).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::time::{duration, timestamp};

    use super::*;

    #[test]
    fn the_policy_is_the_service_s_own_else_that_of_all_else_none() {
        let stored = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        assert_eq!(policy("orders", &stored(&["*", "orders"])), "orders");
        assert_eq!(policy("orders", &stored(&["*", "payments"])), "*");
        assert_eq!(policy("orders", &stored(&["payments"])), "-");
        let of = |replica_count, open_breaker_count| {
            breakers(&Service { replica_count, open_breaker_count, ..Default::default() }).text().to_owned()
        };
        assert_eq!([of(0, 0), of(2, 2), of(3, 0)], ["-", "2 NOT CLOSED", "3 closed"]);
        let panics = |open_breaker_count| {
            let service = Service {
                replica_count: 2,
                open_breaker_count,
                fail_open_node_count: 1,
                ..Default::default()
            };
            breakers(&service).text().to_owned()
        };
        assert_eq!([panics(2), panics(0)], ["2 NOT CLOSED, PANIC", "2 closed, PANIC"]);
    }

    #[test]
    fn a_row_shows_readiness_breakers_traffic_and_age_and_without_traffic_nothing_is_wrong() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let service = |name: &str, ready, all, open| Service {
            service: name.into(),
            replica_count: all,
            ready_replica_count: ready,
            open_breaker_count: open,
            create_time: Some(timestamp(now - Duration::from_secs(7200))),
            revision: 7,
            ..Default::default()
        };
        let millis = |millis| Some(duration(Duration::from_millis(millis)));
        let services = [
            Service {
                request_rate: Some(128.4),
                success_ratio: Some(0.9998),
                latency_p50: millis(4),
                latency_p99: millis(31),
                ..service("client-service", 3, 3, 0)
            },
            Service {
                draining_replica_count: 1,
                lost_replica_count: 2,
                request_rate: Some(7.2),
                success_ratio: Some(0.41),
                latency_p50: millis(1900),
                latency_p99: millis(2000),
                ..service("orders", 0, 2, 1)
            },
            service("mailer", 1, 1, 0),
        ];
        let stored: HashSet<String> = ["*", "orders", "gone"].map(str::to_owned).into();
        let plain = |wide| {
            anstream::adapter::strip_str(&table(&services, Some(&stored), now, wide).to_string()).to_string()
        };
        let unknown = table(&services[2..], None, now, false).to_string();
        assert!(
            anstream::adapter::strip_str(&unknown).to_string().ends_with("-     -     ?        2h\n"),
            "{unknown}"
        );
        assert_eq!(
            plain(false),
            "\
NAME             READY   BREAKERS                 DRAINING   LOST   RPS     SUCCESS   P50    P99    POLICY   AGE
client-service   3/3     3 closed                 -          -      128.4   99.98%    4ms    31ms   *        2h
orders           0/2     1 closed, 1 NOT CLOSED   1          2      7.2     41.00%    1.9s   2.0s   orders   2h
mailer           1/1     1 closed                 -          -      -       -         -      -      *        2h
"
        );
        assert!(plain(true).starts_with(
            "NAME             READY   BREAKERS                 DRAINING   LOST   RPS     SUCCESS   P50    P99    POLICY   AGE   INFLIGHT   "
        ));
    }
}
