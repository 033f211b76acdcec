//! Every type of event there is, in one place: the timeline, what data planes may report, and `docs/events.md` go by it.

use gateway_proto::v1::EventSeverity::{self, Error, Info, Warning};

/// A type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventType {
    /// The wire's name of it.
    pub name: &'static str,
    /// Whether somebody should look.
    pub severity: EventSeverity,
    /// What happened, for `docs/events.md`.
    pub when: &'static str,
    /// Keys that its metadata may have.
    pub metadata: &'static [&'static str],
    /// Which of them fold into one.
    pub folding: Folding,
    /// Whether data planes report it.
    pub is_reported: bool,
}

/// Which events of one type, of the same service, replica, data plane and actor, fold into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// Those that say the same apart from numbers.
    Alike,
    /// Those that say the very same, asked for from the same place: who did what to which is to be found again.
    Same,
    /// None: each decision of a person is to be found again.
    Never,
}

impl EventType {
    /// The type of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        CATALOG.iter().find(|known| known.name == name)
    }

    /// Whether it is of a whole service, where other reported ones are of a replica.
    pub fn is_of_a_service(&self) -> bool {
        self.is_reported && self.metadata == FAIL_OPEN
    }

    /// Whether a breaker did it because an operator wanted it.
    pub fn is_forced(&self) -> bool {
        self.is_reported && self.metadata == FORCED
    }
}

const fn registry(
    name: &'static str,
    severity: EventSeverity,
    when: &'static str,
    metadata: &'static [&'static str],
) -> EventType {
    EventType { name, severity, when, metadata, folding: Folding::Alike, is_reported: false }
}

const fn decision(
    name: &'static str,
    severity: EventSeverity,
    when: &'static str,
    metadata: &'static [&'static str],
) -> EventType {
    EventType { folding: Folding::Never, ..registry(name, severity, when, metadata) }
}

const fn breaker(
    name: &'static str,
    severity: EventSeverity,
    when: &'static str,
    metadata: &'static [&'static str],
) -> EventType {
    EventType { is_reported: true, ..registry(name, severity, when, metadata) }
}

const REPLICA: &[&str] = &["revision", "address", "incarnation"];
const REVISION: &[&str] = &["revision"];
const POLICY: &[&str] = &["revision", "changes"];
const FAULT: &[&str] = &["revision", "fault", "end_time"];
const ROUTE: &[&str] = &["revision", "route"];
const DENIED: &[&str] = &["from", "request", "reason"];
const ASKED: &[&str] = &["from", "request", "outcome"];
const MOVE: &[&str] = &["to"];
const OVERRIDE: &[&str] = &["revision", "override_id"];
const TRIP: &[&str] = &[
    "from",
    "to",
    "address",
    "incarnation",
    "generation",
    "trip_count",
    "rule",
    "observed",
    "threshold",
    "fault",
    "failed",
    "total",
    "slow",
    "limit",
    "latency",
    "median",
    "peers",
    "last_errors",
    "request_ids",
];
const WITHHELD: &[&str] = &[
    "from",
    "to",
    "address",
    "incarnation",
    "generation",
    "trip_count",
    "rule",
    "observed",
    "threshold",
    "withheld",
    "fault",
    "failed",
    "total",
    "slow",
    "limit",
    "latency",
    "median",
    "peers",
    "last_errors",
    "request_ids",
];
const CHECK: &[&str] = &["address", "incarnation", "type", "streak", "failure"];
const FAIL_OPEN: &[&str] = &["letting_through", "total"];
const STEP: &[&str] = &["from", "to", "address", "incarnation", "generation", "trip_count", "observed"];
const FORCED: &[&str] =
    &["from", "to", "address", "incarnation", "generation", "trip_count", "override_id", "author", "reason"];

/// All types of events.
pub const CATALOG: &[EventType] = &[
    // The registry's own.
    registry("REPLICA_REGISTERED", Info, "a replica that was not there before registered", REPLICA),
    registry(
        "REPLICA_REPLACED",
        Info,
        "a replica registered anew, in the place of its earlier registration",
        REPLICA,
    ),
    registry("REPLICA_DEREGISTERED", Info, "a replica was removed, by its owner or by an operator", REVISION),
    registry("LEASE_EXPIRED", Warning, "a replica was removed because its owner fell silent", REVISION),
    registry(
        "REPLICA_EVICTED",
        Warning,
        "a replica was removed because data planes could not reach it, see the policy's eviction",
        REVISION,
    ),
    registry("HEALTH_CHANGED", Info, "a replica reported another health of itself", REPLICA),
    registry(
        "REPLICA_LOST",
        Warning,
        "a replica fell silent together with too many others of its service, and the guard holds it",
        REPLICA,
    ),
    registry("REPLICA_FOUND", Info, "a lost replica was heard of again", REPLICA),
    decision("REPLICA_DRAINING", Info, "somebody asked that a replica gets no new requests", REPLICA),
    registry(
        "REPLICA_DRAINED",
        Info,
        "nothing is in flight at a draining replica any more, or its time is over",
        REPLICA,
    ),
    decision("REPLICA_UNDRAINED", Info, "a draining or drained replica gets requests again", REPLICA),
    decision("POLICY_UPDATED", Info, "a policy was set or changed", POLICY),
    decision("POLICY_DELETED", Info, "a policy was removed", POLICY),
    decision(
        "FAULT_INJECTION_BEGAN",
        Warning,
        "a policy began to inject faults into requests on purpose, or other ones than before",
        FAULT,
    ),
    decision(
        "FAULT_INJECTION_ENDED",
        Info,
        "a policy injects no faults any more: somebody cleared them, or their time was over",
        REVISION,
    ),
    decision("ROUTE_UPDATED", Info, "an explicit route was set or changed", ROUTE),
    decision("ROUTE_DELETED", Info, "an explicit route was removed", ROUTE),
    decision("OVERRIDE_SET", Warning, "an operator decided against the rules, for a time", OVERRIDE),
    decision("OVERRIDE_ENDED", Info, "an override was ended, or its time was over", OVERRIDE),
    decision(
        "STORE_READ",
        Info,
        "somebody read all that the registry keeps, ids of leases with it, to copy or move it to another store",
        &[],
    ),
    decision(
        "STORE_CLOSED",
        Warning,
        "changes are refused for as long as somebody moves the registry to another store",
        MOVE,
    ),
    decision(
        "STORE_MOVED",
        Warning,
        "the registry has moved to another store, and takes no changes here",
        MOVE,
    ),
    decision(
        "STORE_REOPENED",
        Warning,
        "changes are taken again: a move did not come to its end, or somebody wants the registry here although it has moved",
        MOVE,
    ),
    registry(
        "CHANGES_FOUND",
        Warning,
        "the store turned out to hold changes of which it does not tell any more by whom they were made, or why",
        &["after", "revision"],
    ),
    registry(
        "ACCESS_DENIED",
        Warning,
        "somebody was refused what he may not have, or did not say who he is",
        DENIED,
    ),
    EventType {
        folding: Folding::Same,
        ..registry(
            "CHANGE_ASKED",
            Info,
            "a caller who is known asked for a change: from where, and what came of it",
            ASKED,
        )
    },
    // What data planes report.
    breaker(
        "BREAKER_OPENED",
        Warning,
        "a breaker opened by one of its rules: no requests until the next probe",
        TRIP,
    ),
    breaker(
        "BREAKER_WITHHELD",
        Warning,
        "a rule would have opened a breaker, and the policy withheld it: it only observes, or as many are open as it allows",
        WITHHELD,
    ),
    breaker("BREAKER_HALF_OPENED", Info, "an open breaker let a probe through", STEP),
    breaker("BREAKER_CLOSED", Info, "probes succeeded: the replica gets its share again", STEP),
    breaker("BREAKER_FORCED_OPEN", Warning, "a breaker took on an operator's word that it is open", FORCED),
    breaker(
        "BREAKER_FORCED_CLOSED",
        Warning,
        "a breaker took on an operator's word that it is closed",
        FORCED,
    ),
    breaker("BREAKER_RESET", Info, "a breaker forgot its counts and closed, by an operator's word", FORCED),
    breaker(
        "BREAKER_RELEASED",
        Info,
        "an operator's word about a breaker ended: its rules hold again",
        FORCED,
    ),
    breaker(
        "HEALTH_CHECK_FAILED",
        Warning,
        "a replica failed as many active checks in a row as the policy says, or its first: no new requests on that data plane, unless the policy only observes",
        CHECK,
    ),
    breaker(
        "HEALTH_CHECK_PASSED",
        Info,
        "a replica whose checks had failed passed as many in a row as the policy says: it gets requests again",
        CHECK,
    ),
    breaker(
        "FAIL_OPEN_BEGAN",
        Warning,
        "too few replicas of a service let traffic through on a data plane, which asks those with open breakers, or with failing checks, too",
        FAIL_OPEN,
    ),
    breaker(
        "FAIL_OPEN_ENDED",
        Info,
        "enough replicas let traffic through again, and only they are asked",
        FAIL_OPEN,
    ),
    // Of data planes.
    registry(
        "NODE_CONNECTED",
        Info,
        "a data plane began to follow the registry; where it has left another control plane for this one, which and why",
        &["address", "version", "left", "left_reason"],
    ),
    registry("NODE_DISCONNECTED", Warning, "a data plane no longer follows the registry", &[]),
    registry("NODE_LEFT", Info, "a data plane was told to end, and has finished what was in flight", &[]),
    registry(
        "NODE_NACKED",
        Warning,
        "a data plane refused what it was sent and stays on what it had",
        &["reason"],
    ),
    registry("NODE_EVENTS_LOST", Warning, "a data plane could not tell all that happened on it", &["lost"]),
    registry(
        "EVICTION_HELD",
        Warning,
        "replicas of a service were to be evicted, and stay: nothing else of it passes, or they are too many at once",
        &["count"],
    ),
    // Of the guard against mass removal: the registry's, about a service, or a data plane's.
    registry(
        "GUARD_HOLDING",
        Error,
        "the registry's guard began to hold lost replicas of a service, or that of a data plane began to hold replicas that the registry no longer has",
        &["held", "services"],
    ),
    registry("GUARD_CLEARED", Info, "that guard holds nothing any more", &[]),
    // Of the control plane itself.
    registry(
        "TASK_RESTARTED",
        Error,
        "a task of the control plane panicked and was started again",
        &["task", "panic"],
    ),
    registry(
        "CONTROL_PLANE_SILENT",
        Warning,
        "another control plane does not tell any more what its data planes report: what is shown of them may be over",
        &["control_plane"],
    ),
    registry(
        "CONTROL_PLANE_HEARD",
        Info,
        "another control plane tells, for the first time or again, what its data planes report",
        &["control_plane"],
    ),
    registry(
        "TASK_GIVEN_UP",
        Error,
        "a task of the control plane panicked too often: the process ends",
        &["task", "panic"],
    ),
    registry(
        "HANDLER_PANICKED",
        Error,
        "the handler of one request or stream panicked: its caller was told INTERNAL",
        &["task", "panic"],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::EventKind;

    #[test]
    fn whatever_the_registry_tells_is_in_it_as_it_is_told() {
        for kind in EventKind::ALL {
            let known = EventType::find(kind.name()).unwrap_or_else(|| panic!("{kind:?}"));
            assert_eq!((known.severity, known.is_reported), (kind.severity(), false), "{kind:?}");
        }
    }

    #[test]
    fn names_are_unique_and_in_capitals() {
        for (index, one) in CATALOG.iter().enumerate() {
            assert!(one.name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{}", one.name);
            let first = CATALOG.iter().position(|known| known.name == one.name);
            assert_eq!(first, Some(index), "{}", one.name);
        }
    }

    /// The table in `docs/events.md`, as it must be.
    fn table() -> String {
        let row = |known: &EventType| {
            let severity = known.severity.as_str_name().trim_start_matches("EVENT_SEVERITY_");
            let metadata: Vec<_> = known.metadata.iter().map(|key| format!("`{key}`")).collect();
            format!("| `{}` | {severity} | {} | {} |\n", known.name, known.when, metadata.join(", "))
        };
        let rows: String = CATALOG.iter().map(row).collect();
        format!("| type | severity | when | metadata |\n|---|---|---|---|\n{rows}")
    }

    #[test]
    fn what_data_planes_report_is_of_breakers_and_by_rule_or_by_force() {
        let names = |forced| {
            let reported = CATALOG.iter().filter(|known| known.is_reported && known.is_forced() == forced);
            reported.map(|known| known.name).collect::<Vec<_>>()
        };
        assert_eq!(
            names(false),
            [
                "BREAKER_OPENED",
                "BREAKER_WITHHELD",
                "BREAKER_HALF_OPENED",
                "BREAKER_CLOSED",
                "HEALTH_CHECK_FAILED",
                "HEALTH_CHECK_PASSED",
                "FAIL_OPEN_BEGAN",
                "FAIL_OPEN_ENDED"
            ]
        );
        let forced = ["BREAKER_FORCED_OPEN", "BREAKER_FORCED_CLOSED", "BREAKER_RESET", "BREAKER_RELEASED"];
        assert_eq!(names(true), forced);
    }

    #[test]
    fn the_document_lists_every_type_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md");
        let document = std::fs::read_to_string(path).unwrap();
        let table = table();
        assert!(document.contains(&table), "the table in docs/events.md must be:\n{table}");
    }
}
