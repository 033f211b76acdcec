//! `gwctl get replicas`: one row a replica, with its lease and its breaker merged over all data planes.

use std::{collections::HashMap, time::SystemTime};

use gateway_proto::{
    Health, Mode, Protocol, ServiceName,
    time::{non_negative, system_time},
    v1::{Breaker, BreakerState, Endpoint, EndpointProtocol, HealthCheck, HealthCheckState, Replica},
};

use super::{alarm, attempts, state_cell};
use crate::{
    age::{self, NONE, or_none},
    control::{Control, Query, Scope},
    error::Error,
    figure,
    output::Listing,
    partial::or_without,
    table::{ALARM, CAUTION, Cell, GOOD, Table},
};

pub(super) async fn list(
    service: Option<&ServiceName>,
    query: &Query,
    control: &Control,
    view: super::View,
) -> Result<Listing, Error> {
    let response = control.replicas_of(service, query).await?;
    let mut missing = Vec::new();
    let table = if view.with_rows {
        let breakers = control.breakers(&Scope::from(service), false).await;
        let breakers = or_without(breakers, "breakers", &mut missing).breakers;
        let view = View { with_service: service.is_none(), wide: view.wide };
        Some(table(&response.replicas, &breakers, SystemTime::now(), view))
    } else {
        None
    };
    let names = response.replicas.iter().map(|r| format!("{}/{}", r.service, r.replica_id));
    let empty = response.replicas.is_empty().then_some(match query.filter.as_str() {
        "" => "no replica is registered yet: gwctl register SERVICE HOST:PORT",
        _ => "no replica passes the filter",
    });
    let notes = empty.map(str::to_owned).into_iter().chain(missing);
    Ok(Listing::new(&response, "replicas", names, table).with_notes(notes))
}

/// Replicas of one service, as `gwctl describe` shows them.
pub(in crate::commands) fn replicas_table(
    replicas: &[Replica],
    breakers: &[Breaker],
    now: SystemTime,
) -> Table {
    table(replicas, breakers, now, View { with_service: false, wide: false })
}

/// Which columns there are.
#[derive(Debug, Clone, Copy)]
struct View {
    with_service: bool,
    wide: bool,
}

fn table(replicas: &[Replica], breakers: &[Breaker], now: SystemTime, view: View) -> Table {
    let mut headings = vec![
        "REPLICA", "ADDRESS", "HEALTH", "MODE", "BREAKER", "CHECK", "LEASE", "INFLIGHT", "RPS", "SUCCESS",
        "P99", "WEIGHT", "AGE",
    ];
    if view.with_service {
        headings.insert(0, "SERVICE");
    }
    if view.wide {
        headings.extend(["PROTOCOL", "PRIORITY", "INCARNATION", "ATTEMPTS", "ZONE", "VERSION", "LABELS"]);
    }
    let breakers: HashMap<_, _> =
        breakers.iter().map(|b| ((b.service.as_str(), b.replica_id.as_str()), b)).collect();
    let mut table = Table::new(headings);
    for replica in replicas {
        let breaker = breakers.get(&(replica.service.as_str(), replica.replica_id.as_str())).copied();
        let seen = replica.observed.as_ref();
        let mut row: Vec<Cell> = vec![
            (&replica.replica_id).into(),
            replica.endpoint.as_ref().map_or(NONE, |endpoint| &endpoint.address).into(),
            health_cell(replica.health),
            mode_cell(replica, now),
            breaker.map_or_else(|| NONE.into(), |breaker| breaker_cell(breaker, now)),
            check_cell(breaker.and_then(|breaker| breaker.health_check.as_ref())),
            lease(replica, now).into(),
            breaker.map_or_else(|| NONE.into(), inflight),
            figure::rate(seen.and_then(|seen| seen.attempt_rate)).into(),
            figure::success(seen.and_then(|seen| seen.success_ratio)),
            figure::latency(seen.and_then(|seen| seen.latency_p99).and_then(non_negative)).into(),
            replica.weight.to_string().into(),
            age::since(now, replica.create_time).into(),
        ];
        if view.with_service {
            row.insert(0, (&replica.service).into());
        }
        if view.wide {
            row.extend([
                replica.endpoint.as_ref().map_or_else(|| NONE.to_owned(), protocol).into(),
                replica.priority.to_string().into(),
                replica.incarnation.to_string().into(),
                breaker.map_or_else(|| NONE.to_owned(), attempts).into(),
                or_none(replica.locality.as_ref().map_or("", |locality| &locality.zone)).into(),
                or_none(&replica.version).into(),
                or_none(&labels(replica)).into(),
            ]);
        }
        table.push(row);
    }
    table
}

/// `10.0.0.13:8443, tls as orders.example`: HTTP/1.1 goes without saying.
pub(in crate::commands) fn spoken(endpoint: &Endpoint) -> String {
    match endpoint.protocol() {
        EndpointProtocol::Unspecified | EndpointProtocol::Http1 => endpoint.address.clone(),
        _ => format!("{}, {}", endpoint.address, protocol(endpoint)),
    }
}

/// `tls as orders.example`: what is spoken, and whose certificate is asked for.
fn protocol(endpoint: &Endpoint) -> String {
    let name = &endpoint.tls_server_name;
    match Protocol::parse(endpoint.protocol, name) {
        Ok(protocol) if name.is_empty() => protocol.to_string(),
        Ok(protocol) => format!("{protocol} as {name}"),
        Err(_) => "unknown".into(),
    }
}

fn breaker_cell(breaker: &Breaker, now: SystemTime) -> Cell {
    match breaker.state() {
        BreakerState::Open => Cell::styled(
            &format!("OPEN, retry {}", age::until(now, breaker.retry_time)),
            alarm(breaker.state()),
        ),
        BreakerState::HalfOpen if breaker.probe_success_target > 0 => Cell::styled(
            &format!("half-open {}/{}", breaker.probe_success_count, breaker.probe_success_target),
            alarm(breaker.state()),
        ),
        BreakerState::ForcedOpen | BreakerState::ForcedClosed => {
            let forced =
                if breaker.state() == BreakerState::ForcedOpen { "FORCED-OPEN" } else { "forced-closed" };
            let left = breaker.active_override.as_ref().map(|entry| age::until(now, entry.expire_time));
            let left = left.map_or_else(String::new, |left| format!(", {left} left"));
            Cell::styled(&format!("{forced}{left}"), alarm(breaker.state()))
        }
        _ => state_cell(breaker.state()),
    }
}

/// `FAILING on 1/2`: what active checks show, over all data planes that check it.
fn check_cell(check: Option<&HealthCheck>) -> Cell {
    let Some(check) = check else { return NONE.into() };
    let HealthCheck { node_count, failing_node_count, .. } = check;
    match check.state() {
        HealthCheckState::Failing if *node_count > 1 => {
            Cell::styled(&format!("FAILING on {failing_node_count}/{node_count}"), ALARM)
        }
        HealthCheckState::Failing => Cell::styled("FAILING", ALARM),
        HealthCheckState::Passing => Cell::styled("passing", GOOD),
        HealthCheckState::Pending => Cell::styled("pending", CAUTION),
        HealthCheckState::Unspecified => NONE.into(),
    }
}

/// `3`, or `3/50` where there is a limit, with attention when that is reached.
fn inflight(breaker: &Breaker) -> Cell {
    match (breaker.inflight_count, breaker.inflight_limit) {
        (count, 0) => count.to_string().into(),
        (count, limit) if count >= limit => Cell::styled(&format!("{count}/{limit}"), CAUTION),
        (count, limit) => format!("{count}/{limit}").into(),
    }
}

/// `draining, 27s left`: only what serves is written without attention.
fn mode_cell(replica: &Replica, now: SystemTime) -> Cell {
    match Mode::parse(replica.mode) {
        Ok(Mode::Serving) => "serving".into(),
        Ok(Mode::Draining) => {
            let deadline = replica.drain.as_ref().and_then(|drain| drain.deadline_time);
            let left = deadline.map_or_else(String::new, |at| match age::until(now, Some(at)).as_str() {
                "now" => ", overdue".to_owned(),
                left => format!(", {left} left"),
            });
            Cell::styled(&format!("draining{left}"), CAUTION)
        }
        Ok(Mode::Drained) => Cell::styled("drained", CAUTION),
        Err(_) => NONE.into(),
    }
}

/// A replica's health in its colour.
fn health_cell(health: i32) -> Cell {
    match Health::parse(health) {
        Ok(Some(health @ Health::Healthy)) => Cell::styled(&health.to_string(), GOOD),
        Ok(Some(health @ (Health::Starting | Health::Degraded))) => {
            Cell::styled(&health.to_string(), CAUTION)
        }
        Ok(Some(health @ (Health::Unhealthy | Health::Lost))) => {
            Cell::styled(&health.to_string().to_uppercase(), ALARM)
        }
        Ok(None) | Err(_) => NONE.into(),
    }
}

/// `22s/30s`: what is left of the lease, and its ttl.
fn lease(replica: &Replica, now: SystemTime) -> String {
    let Some(lease) = &replica.lease else { return NONE.into() };
    if lease.permanent {
        return "permanent".into();
    }
    let ttl = lease.ttl.and_then(non_negative);
    let ttl = ttl.map_or_else(|| NONE.to_owned(), age::short);
    match lease.expire_time {
        Some(at) => {
            let left = system_time(at).duration_since(now).unwrap_or_default();
            format!("{}/{ttl}", age::short(left))
        }
        None => ttl,
    }
}

/// `env=prod team=web`, in the order of the keys.
pub(in crate::commands) fn labels(replica: &Replica) -> String {
    let mut pairs: Vec<_> = replica.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort_unstable();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::{Drain, Endpoint, HealthStatus, Lease, Locality, ObservedHealth, OverrideEntry, ReplicaMode},
    };

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn replica(id: &str, health: HealthStatus, lease: Lease) -> Replica {
        Replica {
            service: "orders".into(),
            replica_id: id.into(),
            endpoint: Some(Endpoint { address: "10.0.0.11:8080".into(), ..Default::default() }),
            weight: 100,
            health: health.into(),
            lease: Some(lease),
            create_time: Some(timestamp(now() - Duration::from_secs(60))),
            incarnation: 3,
            ..Default::default()
        }
    }

    fn leased(left: u64) -> Lease {
        Lease {
            ttl: Some(duration(Duration::from_secs(30))),
            expire_time: Some(timestamp(now() + Duration::from_secs(left))),
            ..Default::default()
        }
    }

    fn breaker(id: &str, state: BreakerState) -> Breaker {
        Breaker {
            service: "orders".into(),
            replica_id: id.into(),
            state: state.into(),
            retry_time: Some(timestamp(now() + Duration::from_secs(4))),
            probe_success_count: 1,
            probe_success_target: 2,
            ..Default::default()
        }
    }

    /// With attempts a second, the part of them that went well, and how many milliseconds they took.
    fn seen(attempts: (f64, Option<f64>), p99: Option<u64>, replica: Replica) -> Replica {
        let observed = ObservedHealth {
            attempt_rate: Some(attempts.0),
            success_ratio: attempts.1,
            latency_p99: p99.map(|millis| duration(Duration::from_millis(millis))),
            ..Default::default()
        };
        Replica { observed: Some(observed), ..replica }
    }

    fn failing(failing: i32, of: i32) -> HealthCheck {
        HealthCheck {
            state: HealthCheckState::Failing.into(),
            node_count: of,
            failing_node_count: failing,
            ..Default::default()
        }
    }

    #[test]
    fn a_row_shows_health_mode_breaker_traffic_and_what_is_left_of_the_lease() {
        let draining = |mode: ReplicaMode, deadline| Replica {
            mode: mode.into(),
            drain: Some(Drain { deadline_time: Some(timestamp(deadline)), ..Default::default() }),
            ..replica("r-5", HealthStatus::Healthy, leased(9))
        };
        let replicas = [
            seen((22.13, Some(1.0)), Some(38), replica("r-1", HealthStatus::Healthy, leased(22))),
            replica("r-2", HealthStatus::Degraded, Lease { permanent: true, ..Default::default() }),
            seen((0.0, None), None, replica("r-3", HealthStatus::Unhealthy, leased(0))),
            replica("r-4", HealthStatus::Lost, leased(0)),
            draining(ReplicaMode::Draining, now() + Duration::from_secs(27)),
            draining(ReplicaMode::Draining, now() - Duration::from_secs(1)),
            draining(ReplicaMode::Drained, now()),
        ];
        let expire_time = Some(timestamp(now() + Duration::from_secs(660)));
        let breakers = [
            Breaker { inflight_count: 3, ..breaker("r-1", BreakerState::Closed) },
            Breaker { health_check: Some(failing(1, 2)), ..breaker("r-2", BreakerState::HalfOpen) },
            Breaker { inflight_count: 50, inflight_limit: 50, ..breaker("r-3", BreakerState::Open) },
            Breaker {
                active_override: Some(OverrideEntry { expire_time, ..Default::default() }),
                ..breaker("r-5", BreakerState::ForcedOpen)
            },
        ];
        let table = table(&replicas, &breakers, now(), View { with_service: false, wide: false });
        assert_eq!(
            anstream::adapter::strip_str(&table.to_string()).to_string(),
            "\
REPLICA   ADDRESS          HEALTH      MODE                 BREAKER                 CHECK            LEASE       INFLIGHT   RPS    SUCCESS   P99    WEIGHT   AGE
r-1       10.0.0.11:8080   healthy     serving              closed                  -                22s/30s     3          22.1   100.00%   38ms   100      1m
r-2       10.0.0.11:8080   degraded    serving              half-open 1/2           FAILING on 1/2   permanent   0          -      -         -      100      1m
r-3       10.0.0.11:8080   UNHEALTHY   serving              OPEN, retry 4s          -                0s/30s      50/50      0.0    -         -      100      1m
r-4       10.0.0.11:8080   LOST        serving              -                       -                0s/30s      -          -      -         -      100      1m
r-5       10.0.0.11:8080   healthy     draining, 27s left   FORCED-OPEN, 11m left   -                9s/30s      0          -      -         -      100      1m
r-5       10.0.0.11:8080   healthy     draining, overdue    FORCED-OPEN, 11m left   -                9s/30s      0          -      -         -      100      1m
r-5       10.0.0.11:8080   healthy     drained              FORCED-OPEN, 11m left   -                9s/30s      0          -      -         -      100      1m
"
        );
    }

    #[test]
    fn all_services_and_wide_add_columns_and_labels_cannot_act_on_the_terminal() {
        let mut replica = replica("r-1", HealthStatus::Starting, leased(22));
        replica.labels = [("team", "web"), ("env", "\x1b[31mprod")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        replica.locality = Some(Locality { region: "eu".into(), zone: "eu-1a".into() });
        let breaker = Breaker { attempt_count: 44, failure_count: 2, ..breaker("r-1", BreakerState::Closed) };
        let table = table(&[replica], &[breaker], now(), View { with_service: true, wide: true });
        assert_eq!(
            anstream::adapter::strip_str(&table.to_string()).to_string(),
            "\
SERVICE   REPLICA   ADDRESS          HEALTH     MODE      BREAKER   CHECK   LEASE     INFLIGHT   RPS   SUCCESS   P99   WEIGHT   AGE   PROTOCOL   PRIORITY   INCARNATION   ATTEMPTS       ZONE    VERSION   LABELS
orders    r-1       10.0.0.11:8080   starting   serving   closed    -       22s/30s   0          -     -         -     100      1m    http1      0          3             44, 2 failed   eu-1a   -         env=\\u{1b}[31mprod team=web
"
        );
    }
}
