//! `gwctl get services`: one row a service.

use std::time::SystemTime;

use anstyle::Style;
use gateway_proto::v1::Service;

use super::View;
use crate::{
    age::{self, NONE},
    control::{Control, Query},
    error::Error,
    output::Listing,
    table::{ALARM, CAUTION, Cell, GOOD, Table},
};

pub(super) async fn list(query: &Query, control: &Control, view: View) -> Result<Listing, Error> {
    let response = control.services_of(query).await?;
    let table = view.with_rows.then(|| table(&response.services, SystemTime::now(), view.wide));
    let names = response.services.iter().map(|service| service.service.clone());
    let empty = response.services.is_empty().then_some(match query.filter.as_str() {
        "" => "no service is registered yet: gwctl register SERVICE HOST:PORT",
        _ => "no service passes the filter",
    });
    Ok(Listing::new(&response, "services", names, table).with_notes(empty.map(str::to_owned)))
}

fn table(services: &[Service], now: SystemTime, wide: bool) -> Table {
    let mut headings = vec!["NAME", "READY", "BREAKERS", "DRAINING", "LOST", "AGE"];
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

fn breakers(service: &Service) -> Cell {
    match service.open_breaker_count {
        0 if service.replica_count == 0 => NONE.into(),
        0 => "all closed".into(),
        count => Cell::styled(&format!("{count} NOT CLOSED"), ALARM),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::time::timestamp;

    use super::*;

    #[test]
    fn a_row_shows_readiness_breakers_and_age() {
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
        let services = [
            service("client-service", 3, 3, 0),
            Service { draining_replica_count: 1, lost_replica_count: 2, ..service("orders", 0, 2, 1) },
        ];
        let plain = |wide| anstream::adapter::strip_str(&table(&services, now, wide).to_string()).to_string();
        assert_eq!(
            plain(false),
            "\
NAME             READY   BREAKERS       DRAINING   LOST   AGE
client-service   3/3     all closed     -          -      2h
orders           0/2     1 NOT CLOSED   1          2      2h
"
        );
        assert!(plain(true).starts_with(
            "NAME             READY   BREAKERS       DRAINING   LOST   AGE   INFLIGHT   PENDING   REVISION\n"
        ));
    }
}
