//! How replicas are checked, beside the requests that they are sent: by what, how often, and what follows.

use std::{fmt, str::FromStr, time::Duration};

use super::{MS, SECOND, text::text};
use crate::{Invalid, v1};

/// How replicas are checked, and what follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthCheck {
    /// What a check is. Default [`CheckType::Auto`].
    pub r#type: CheckType,
    /// Between two checks of a replica. Default 5 s, 100 ms..=1 h.
    pub interval: Duration,
    /// Between two checks while they contradict what is known, or nothing is known yet, and for ten minutes after they have
    /// taken a replica out; no longer than `interval`. Default 1 s, 100 ms..=1 h.
    pub fast_interval: Duration,
    /// Between two checks of a replica that has passed all of them for ten minutes; no shorter than `interval`. Default
    /// 15 s, 100 ms..=1 h.
    pub slow_interval: Duration,
    /// One check, from its connect to its verdict. Default 1 s, 10 ms..=1 min.
    pub timeout: Duration,
    /// Each pause is up to this share shorter or longer. Default 0.2, 0.0..=1.0.
    pub jitter: f64,
    /// Checks in a row that a replica must pass to get requests again. Default 2, 1..=100.
    pub rise: u8,
    /// Checks in a row that a replica must fail to get none. Default 3, 1..=100.
    pub fall: u8,
    /// What is asked for, with [`CheckType::Http`]. Default `/`.
    pub path: CheckPath,
    /// The host that is named, with [`CheckType::Http`] and [`CheckType::Grpc`]. Default empty: the replica's address.
    pub host: CheckHost,
    /// Answers that pass, with [`CheckType::Http`]. Default 200..=399.
    pub expected_statuses: Statuses,
    /// The service whose health is asked for, with [`CheckType::Grpc`]. Default empty: that of the whole server.
    pub grpc_service: GrpcService,
    /// Whether a new replica gets no requests before it has passed a check. Default false.
    pub wait_for_first: bool,
    /// Whether failing checks are only told. Default false.
    pub observe_only: bool,
    /// Whether passing checks close an open breaker. Default false.
    pub closes_breaker: bool,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            r#type: CheckType::default(),
            interval: 5 * SECOND,
            fast_interval: SECOND,
            slow_interval: 15 * SECOND,
            timeout: SECOND,
            jitter: 0.2,
            rise: 2,
            fall: 3,
            path: CheckPath::default(),
            host: CheckHost::default(),
            expected_statuses: Statuses::default(),
            grpc_service: GrpcService::default(),
            wait_for_first: false,
            observe_only: false,
            closes_breaker: false,
        }
    }
}

impl HealthCheck {
    /// Whether there is a replica that it would check.
    pub fn checks_any(&self) -> bool {
        self.r#type != CheckType::Off
    }

    /// What a check of a replica is; `None`: it is not checked. A permanent one has no lease by which its end would show.
    pub fn method(&self, is_permanent: bool) -> Option<CheckMethod> {
        match self.r#type {
            CheckType::Auto if is_permanent => Some(CheckMethod::Tcp),
            CheckType::Auto | CheckType::Off => None,
            CheckType::Tcp => Some(CheckMethod::Tcp),
            CheckType::Http => Some(CheckMethod::Http),
            CheckType::Grpc => Some(CheckMethod::Grpc),
        }
    }
}

/// What a check of a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckMethod {
    /// That a connection can be had, up to the end of a TLS handshake where the replica speaks TLS.
    Tcp,
    /// That a GET is answered with an expected status.
    Http,
    /// That the gRPC health service says SERVING.
    Grpc,
}

impl CheckMethod {
    /// As settings, logs and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => CheckType::Tcp.name(),
            Self::Http => CheckType::Http.name(),
            Self::Grpc => CheckType::Grpc.name(),
        }
    }
}

/// By what a service's replicas are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckType {
    /// Permanent replicas by TCP, those with a lease not at all.
    #[default]
    Auto,
    /// None of them.
    Off,
    /// All by TCP.
    Tcp,
    /// All by HTTP.
    Http,
    /// All by gRPC.
    Grpc,
}

impl CheckType {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Off, Self::Tcp, Self::Http, Self::Grpc];

    /// Their names, in the same order.
    pub const NAMES: [&'static str; 5] = ["auto", "off", "tcp", "http", "grpc"];

    /// As settings name it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The type of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The type of that number; `None` when this version knows none.
    pub(super) fn numbered(number: i32) -> Option<Self> {
        Some(match v1::HealthCheckType::try_from(number).ok()? {
            v1::HealthCheckType::Unspecified => return None,
            v1::HealthCheckType::Auto => Self::Auto,
            v1::HealthCheckType::Off => Self::Off,
            v1::HealthCheckType::Tcp => Self::Tcp,
            v1::HealthCheckType::Http => Self::Http,
            v1::HealthCheckType::Grpc => Self::Grpc,
        })
    }

    /// Its number on the wire.
    pub fn number(self) -> i32 {
        let wire = match self {
            Self::Auto => v1::HealthCheckType::Auto,
            Self::Off => v1::HealthCheckType::Off,
            Self::Tcp => v1::HealthCheckType::Tcp,
            Self::Http => v1::HealthCheckType::Http,
            Self::Grpc => v1::HealthCheckType::Grpc,
        };
        wire.into()
    }
}

text!(
    /// A path, with or without a query, as a request line has it.
    CheckPath(127),
    "a path that begins with / and has at most 127 visible ASCII characters, none of them #",
    "/",
    |text| text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
);

text!(
    /// The name of a host, with or without a port; empty for the replica's address.
    CheckHost(63),
    "empty or a host, with or without a port, of at most 63 characters",
    "",
    |text| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
    }
);

text!(
    /// The name of a gRPC service, as its health service knows it; empty for the whole server.
    GrpcService(63),
    "empty or a name of at most 63 letters, digits, dots, hyphens and underscores",
    "",
    |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
);

/// A set of HTTP statuses that is not empty. There is one form for each set: its ranges are in order and do not touch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Statuses {
    count: u8,
    /// First and last of each range; zeros behind `count`.
    ranges: [(u16, u16); Self::MAX_RANGES],
}

impl Statuses {
    /// The most ranges that a set may have.
    pub const MAX_RANGES: usize = 8;

    /// What it may be.
    pub const FORMS: &'static str = "statuses and ranges of them in 200..=599, e.g. 200..=299,404, at most 8";

    /// Whether a status is in the set.
    pub fn has(&self, status: u16) -> bool {
        self.ranges().any(|(first, last)| (first..=last).contains(&status))
    }

    fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        self.ranges.into_iter().take(self.count.into())
    }

    fn of(mut written: Vec<(u16, u16)>) -> Option<Self> {
        written.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(written.len());
        for (first, last) in written {
            match merged.last_mut() {
                Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        let mut ranges = [(0, 0); Self::MAX_RANGES];
        ranges.get_mut(..merged.len()).filter(|ranges| !ranges.is_empty())?.copy_from_slice(&merged);
        Some(Self { count: u8::try_from(merged.len()).ok()?, ranges })
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self::of(vec![(200, 399)]).expect("one range fits")
    }
}

impl FromStr for Statuses {
    type Err = Invalid;

    /// Reads statuses, e.g. `204`, and ranges, e.g. `200..=299` or `200-299`, with commas between them.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let status = |text: &str| text.trim().parse().ok().filter(|status| (200..=599).contains(status));
        let range = |text: &str| {
            let ends = text.split_once("..=").or_else(|| text.split_once('-')).unwrap_or((text, text));
            let (first, last) = (status(ends.0)?, status(ends.1)?);
            (first <= last).then_some((first, last))
        };
        // Far more than a set can have once its ranges are put together, and no work for whoever writes megabytes.
        let short = Some(text).filter(|text| text.len() <= 512);
        let ranges = short.and_then(|text| text.split(',').map(range).collect::<Option<Vec<_>>>());
        ranges.and_then(Self::of).ok_or_else(|| super::text::refusal(text, Self::FORMS))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}..={last}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The shortest time between two checks of a replica.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The shortest time that a check may be given.
pub(super) const MIN_TIMEOUT: Duration = MS.saturating_mul(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_name_and_a_number_of_its_own() {
        for kind in CheckType::ALL {
            assert_eq!(CheckType::named(kind.name()), Some(kind));
            assert_eq!(CheckType::numbered(kind.number()), Some(kind));
            let wire = format!("HEALTH_CHECK_TYPE_{}", kind.name().to_uppercase());
            assert_eq!(v1::HealthCheckType::try_from(kind.number()).unwrap().as_str_name(), wire);
        }
        assert_eq!(
            (CheckType::named("ping"), CheckType::numbered(0), CheckType::numbered(77)),
            (None, None, None)
        );
    }

    #[test]
    fn permanent_replicas_are_checked_by_tcp_unless_somebody_says_otherwise_and_leased_ones_are_not() {
        let method = |kind: CheckType, is_permanent| {
            HealthCheck { r#type: kind, ..HealthCheck::default() }.method(is_permanent)
        };
        assert_eq!(HealthCheck::default().method(true), Some(CheckMethod::Tcp));
        assert_eq!(HealthCheck::default().method(false), None);
        assert_eq!([method(CheckType::Off, true), method(CheckType::Off, false)], [None, None]);
        for (kind, expected) in [
            (CheckType::Tcp, CheckMethod::Tcp),
            (CheckType::Http, CheckMethod::Http),
            (CheckType::Grpc, CheckMethod::Grpc),
        ] {
            assert_eq!([method(kind, true), method(kind, false)], [Some(expected), Some(expected)]);
            assert_eq!(expected.name(), kind.name());
        }
    }

    #[test]
    fn statuses_are_written_in_one_form_however_they_came() {
        for (written, read) in [
            ("200", "200"),
            ("404, 200..=299", "200..=299,404"),
            ("200-299,300..=399", "200..=399"),
            ("250..=399,200..=300,200", "200..=399"),
            ("200..=599", "200..=599"),
        ] {
            let statuses: Statuses = written.parse().unwrap();
            assert_eq!(statuses.to_string(), read);
            assert_eq!(read.parse(), Ok(statuses));
        }
        let some: Statuses = "200..=299,404".parse().unwrap();
        assert!(some.has(200) && some.has(299) && some.has(404));
        assert!(!some.has(300) && !some.has(199) && !some.has(0) && !some.has(405));
    }

    #[test]
    fn what_is_no_set_of_statuses_is_refused_with_what_would_be_one() {
        let many: String = (0..9).map(|nth| format!("{},", 200 + 2 * nth)).collect();
        let long = "200,".repeat(10_000);
        for text in [
            "",
            ",",
            "2xx",
            "199",
            "600",
            "299..=200",
            "200,",
            "-1",
            "200..299",
            many.trim_end_matches(','),
            &long,
        ] {
            let why = text.parse::<Statuses>().unwrap_err().to_string();
            assert!(why.contains("is not statuses and ranges of them in 200..=599"), "{text}: {why}");
            assert!(why.len() < 300, "{why}");
        }
    }

    #[test]
    fn paths_hosts_and_grpc_services_are_checked_where_they_are_set() {
        let path = |text: &str| text.parse::<CheckPath>().is_ok();
        assert!(path("/") && path("/health?full=1") && path(&format!("/{}", "p".repeat(126))));
        for wrong in [
            "",
            "health",
            "/a b",
            "/a\r\nX: y",
            "/ä",
            "/#x",
            "*",
            "http://host/",
            &format!("/{}", "p".repeat(127)),
        ] {
            assert!(!path(wrong), "{wrong}");
        }
        let host = |text: &str| text.parse::<CheckHost>().is_ok();
        assert!(
            host("")
                && host("orders.example:8080")
                && host("[::1]:80")
                && !host("a b")
                && !host("a/b")
                && !host("a@b")
        );
        let service = |text: &str| text.parse::<GrpcService>().is_ok();
        assert!(
            service("") && service("shop.v1.Orders") && !service("shop/Orders") && !service(&"s".repeat(64))
        );
    }
}
