//! Whether clients should be sent to this data plane, and why. Pure.
//!
//! Ready is who has something to route by and is not leaving. A control plane that is away is shown and is no reason:
//! going on without it is what this data plane is for.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::discovery::{Guard, Mirror, Source, Status};

/// Services that a line names.
const NAMED: usize = 5;

/// The answer and its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) is_ready: bool,
    lines: Vec<String>,
}

impl Readiness {
    pub(super) fn new(
        mirror: &Mirror,
        status: &Status,
        is_draining: bool,
        checks_late: Duration,
        now: Instant,
        wall: SystemTime,
    ) -> Self {
        let mut lines = Vec::new();
        let has_snapshot = status.source != Source::None;
        lines.push(match status.age(now) {
            _ if !has_snapshot => "[-]snapshot none yet, from a control plane or from disk".to_owned(),
            None => format!("[+]snapshot ok ({})", status.source),
            Some(age) => {
                let (source, revision, age) = (status.source, mirror.snapshot().revision(), seconds(age));
                format!("[+]snapshot ok ({source}, revision {revision}, {age} old)")
            }
        });
        if status.source != Source::Static {
            let since = seconds(now.saturating_duration_since(status.changed));
            let serving = if has_snapshot { " (serving last known)" } else { "" };
            lines.push(match status.connected {
                true => {
                    let url = status.url.as_deref().map(|url| format!(" {url}")).unwrap_or_default();
                    format!("[+]control-plane{url} connected for {since}{}", left(status, wall))
                }
                false => format!("[-]control-plane down {since}{serving}"),
            });
        }
        if let Some(since) = status.store_silent_since {
            let silence = seconds(now.saturating_duration_since(since));
            lines.push(format!("[-]control-plane has not heard of its store for {silence}"));
        }
        if let Some(refusal) = &status.refusal {
            lines.push(format!("[-]update refused: {refusal}"));
        }
        if let Some(dispute) = &status.dispute {
            lines.push(format!("[-]content disputed: {dispute}"));
        }
        lines.extend(alarm(mirror.guard(), wall));
        if !checks_late.is_zero() {
            let late = seconds(checks_late);
            lines.push(format!(
                "[-]health checks are {late} late: too many for --health-check-rate, or they hang"
            ));
        }
        lines.push(if is_draining { "[-]draining" } else { "[+]not draining" }.to_owned());
        Self { is_ready: has_snapshot && !is_draining, lines }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}", if self.is_ready { "ready" } else { "not ready" })
    }
}

/// Which control plane was left for the one that is followed.
fn left(status: &Status, wall: SystemTime) -> String {
    let Some(left) = &status.left else { return String::new() };
    let ago = seconds(wall.duration_since(left.at).unwrap_or_default());
    format!(" (left {} {ago} ago: {})", left.url, left.reason)
}

/// What the guard against mass removal holds, if anything. It is no reason not to send clients here: traffic flows.
fn alarm(guard: &Guard, wall: SystemTime) -> Option<String> {
    let since = guard.replicas().map(|(_, held)| held.missing_since).min()?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (service, _) in guard.replicas() {
        *counts.entry(service.as_str()).or_default() += 1;
    }
    let named: Vec<_> =
        counts.iter().take(NAMED).map(|(service, count)| format!("{service} {count}")).collect();
    let rest = if counts.len() > NAMED { ", ..." } else { "" };
    let age = seconds(wall.duration_since(since).unwrap_or_default());
    let (total, named) = (guard.len(), named.join(", "));
    let replicas = if total == 1 { "replica" } else { "replicas" };
    Some(format!(
        "[-]guard holds {total} {replicas} that the registry has dropped ({named}{rest}), for {age}"
    ))
}

fn seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Snapshot, tests as wire};

    fn text(mirror: &Mirror, status: &Status, is_draining: bool, now: Instant) -> (bool, String) {
        let wall = noon() + Duration::from_secs(90);
        let readiness = Readiness::new(mirror, status, is_draining, Duration::ZERO, now, wall);
        (readiness.is_ready, readiness.to_string())
    }

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(43_200)
    }

    fn mirror(snapshot: Snapshot) -> Mirror {
        Mirror::new("dp-1".parse().unwrap(), snapshot, Guard::default(), noon())
    }

    #[test]
    fn nobody_is_ready_without_a_snapshot() {
        let now = Instant::now();
        let status = Status::new(Source::None, Duration::ZERO, now);
        let (is_ready, text) =
            text(&mirror(Snapshot::default()), &status, false, now + Duration::from_secs(4));
        assert!(!is_ready);
        assert_eq!(
            text,
            "[-]snapshot none yet, from a control plane or from disk\n[-]control-plane down 4s\n[+]not draining\nnot ready\n"
        );
    }

    #[test]
    fn a_cached_snapshot_is_enough_and_the_missing_control_plane_is_shown() {
        let now = Instant::now();
        let status = Status::new(Source::Cached, Duration::from_secs(60), now);
        let mirror = mirror(Snapshot::new("e", 12, vec![]));
        let (is_ready, text) = text(&mirror, &status, false, now + Duration::from_secs(41));
        assert!(is_ready);
        assert_eq!(
            text,
            "[+]snapshot ok (cached, revision 12, 1m 41s old)\n[-]control-plane down 41s (serving last known)\n[+]not draining\nready\n"
        );
    }

    #[test]
    fn a_followed_control_plane_and_a_refused_update_are_shown() {
        // Of a machine that has been up for a while.
        let now = Instant::now() + Duration::from_secs(60);
        let mut status = Status::new(Source::None, Duration::ZERO, now);
        status.set_connected(true, now);
        status.confirm(now, Duration::from_secs(9));
        status.refuse("service orders is named twice".into());
        status.hear_of_store(Duration::from_secs(9), now);
        let mirror = mirror(Snapshot::new("e", 12, vec![]));
        let (is_ready, text) = text(&mirror, &status, false, now + Duration::from_secs(3));
        assert!(is_ready);
        assert_eq!(
            text,
            "[+]snapshot ok (live, revision 12, 12s old)\n[+]control-plane connected for 3s\n\
             [-]control-plane has not heard of its store for 12s\n\
             [-]update refused: service orders is named twice\n[+]not draining\nready\n"
        );
    }

    #[test]
    fn the_control_plane_that_was_left_is_named_with_why() {
        let now = Instant::now();
        let mut status = Status::new(Source::Live, Duration::ZERO, now);
        status.follow("http://a:7400", now);
        status.end("outdated", now, noon());
        status.follow("http://b:7400", now);
        let (_, text) = text(&mirror(Snapshot::default()), &status, false, now);
        let line = text.lines().find(|line| line.contains("control-plane"));
        assert_eq!(
            line,
            Some("[+]control-plane http://b:7400 connected for 0s (left http://a:7400 1m 30s ago: outdated)")
        );
    }

    #[test]
    fn a_static_list_needs_no_control_plane_and_draining_ends_readiness() {
        let now = Instant::now();
        let status = Status::new(Source::Static, Duration::ZERO, now);
        let mirror = mirror(Snapshot::new("static", 0, vec![]));
        assert_eq!(
            text(&mirror, &status, false, now),
            (true, "[+]snapshot ok (static)\n[+]not draining\nready\n".into())
        );
        assert_eq!(
            text(&mirror, &status, true, now),
            (false, "[+]snapshot ok (static)\n[-]draining\nnot ready\n".into())
        );
    }

    #[test]
    fn what_the_guard_holds_and_a_disputed_hash_are_alarms_and_no_reason_to_turn_clients_away() {
        let now = Instant::now();
        let mut status = Status::new(Source::None, Duration::ZERO, now);
        status.confirm(now, Duration::ZERO);
        status.set_connected(true, now);
        status.dispute("hashes differ".into());
        let mut mirror = mirror(Snapshot::default());
        mirror.tell(
            wire::full(5, vec![wire::service("orders", vec![wire::replica("orders", "r-1", 1)])]),
            noon(),
        );
        mirror.tell(wire::full(6, vec![]), noon());
        let (is_ready, text) = text(&mirror, &status, false, now);
        assert!(is_ready);
        assert_eq!(
            text,
            "[+]snapshot ok (live, revision 6, 0s old)\n[+]control-plane connected for 0s\n\
             [-]content disputed: hashes differ\n\
             [-]guard holds 1 replica that the registry has dropped (orders 1), for 1m 30s\n\
             [+]not draining\nready\n"
        );
    }

    #[test]
    fn health_checks_that_are_late_are_told_of_and_are_no_reason() {
        let now = Instant::now();
        let status = Status::new(Source::Static, Duration::ZERO, now);
        let mirror = mirror(Snapshot::new("static", 0, vec![]));
        let readiness = |late| Readiness::new(&mirror, &status, false, late, now, noon());
        let (late, usual) = (readiness(Duration::from_secs(28)), readiness(Duration::ZERO));
        assert!(late.is_ready && usual.is_ready);
        assert!(late.to_string().contains("[-]health checks are 28s late: "), "{late}");
        assert!(!usual.to_string().contains("health checks"), "{usual}");
    }
}
