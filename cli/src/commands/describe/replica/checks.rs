//! What active checks show of a replica, one row for each data plane that checks it.

use std::time::SystemTime;

use gateway_proto::{
    time::system_time,
    v1::{Breaker, HealthCheck, HealthCheckState, HealthCheckType},
};

use crate::{
    age::{self, NONE},
    table::{ALARM, CAUTION, Cell, GOOD, Table},
};

pub(super) fn table(breakers: &[Breaker], now: SystemTime) -> Table {
    let mut table = Table::new(["NODE", "TYPE", "STATE", "SINCE", "LAST", "NEXT", "EFFECT", "RESULT"]);
    for breaker in breakers {
        let Some(check) = &breaker.health_check else { continue };
        table.push(vec![
            (&breaker.node_id).into(),
            kind(check.r#type()).into(),
            state_cell(check.state()),
            age::since(now, check.state_change_time).into(),
            age::since(now, check.last_check_time).into(),
            next(check, now).into(),
            if check.keeps_out { "no new requests" } else { NONE }.into(),
            result(check).into(),
        ]);
    }
    table
}

fn kind(kind: HealthCheckType) -> &'static str {
    match kind {
        HealthCheckType::Tcp => "tcp",
        HealthCheckType::Http => "http",
        HealthCheckType::Grpc => "grpc",
        HealthCheckType::Unspecified | HealthCheckType::Auto | HealthCheckType::Off => NONE,
    }
}

fn state_cell(state: HealthCheckState) -> Cell {
    match state {
        HealthCheckState::Failing => Cell::styled("FAILING", ALARM),
        HealthCheckState::Passing => Cell::styled("passing", GOOD),
        HealthCheckState::Pending => Cell::styled("pending", CAUTION),
        HealthCheckState::Unspecified => NONE.into(),
    }
}

/// Data planes do not report every check, so a time that is over says nothing.
fn next(check: &HealthCheck, now: SystemTime) -> String {
    let coming = check.next_check_time.filter(|at| system_time(*at) > now);
    coming.map_or_else(|| NONE.to_owned(), |at| age::until(now, Some(at)))
}

fn result(check: &HealthCheck) -> String {
    match (check.last_failure.as_str(), check.streak_count) {
        (_, 0) => NONE.to_owned(),
        ("", _) => "passed".to_owned(),
        (failure, 1) => failure.to_owned(),
        (failure, streak) => format!("{failure} ({streak} in a row)"),
    }
}
