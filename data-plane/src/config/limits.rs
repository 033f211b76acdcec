//! Flags of what clients may take up. docs/limits.md has a row for each of them, which a test compares.

use std::{ops::RangeInclusive, time::Duration};

use gateway_proto::size;
use gateway_runtime::Failure;

use crate::proxy::{HeadLimits, Limits, MinRate};

/// How much clients may take up: docs/limits.md says what happens beyond.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// How many client connections are open at once, 1..=1000000; more wait to be accepted
    #[arg(long, env = "GW_PROXY_MAX_CONNECTIONS", default_value = "10000", value_parser = count(1..=1_000_000), value_name = "N")]
    pub max_connections: u64,
    /// How many of those may come from one address, of IPv6 from one /64, 0..=1000000; 0: no limit
    #[arg(long, env = "GW_PROXY_MAX_CONNECTIONS_PER_ADDRESS", default_value = "0", value_parser = count(0..=1_000_000), value_name = "N")]
    pub max_connections_per_address: u64,
    /// Size of a head with its first line, 8KiB..=1MiB
    #[arg(long, env = "GW_PROXY_MAX_HEAD_BYTES", default_value = "64KiB", value_parser = bytes(8 << 10..=1 << 20), value_name = "SIZE")]
    pub max_head_bytes: u64,
    /// Fields of a head, 16..=4096
    #[arg(long, env = "GW_PROXY_MAX_HEAD_FIELDS", default_value = "256", value_parser = count(16..=4096), value_name = "N")]
    pub max_head_fields: u64,
    /// Size of a request's target, its path and query, 1KiB..=512KiB; less than that of a head
    #[arg(long, env = "GW_PROXY_MAX_TARGET_BYTES", default_value = "16KiB", value_parser = bytes(1 << 10..=512 << 10), value_name = "SIZE")]
    pub max_target_bytes: u64,
    /// Time for the first bytes of a connection, with TLS for its handshake, 1s..=5m
    #[arg(long, env = "GW_PROXY_BEGIN_TIMEOUT", default_value = "10s", value_parser = time(1_000..=300_000), value_name = "DURATION")]
    pub begin_timeout: Duration,
    /// Time for a whole request head, from its first byte, 1s..=5m
    #[arg(long, env = "GW_PROXY_HEAD_TIMEOUT", default_value = "10s", value_parser = time(1_000..=300_000), value_name = "DURATION")]
    pub head_timeout: Duration,
    /// Time that a connection may have no request, 1s..=1h
    #[arg(long, env = "GW_PROXY_IDLE_TIMEOUT", default_value = "60s", value_parser = time(1_000..=3_600_000), value_name = "DURATION")]
    pub idle_timeout: Duration,
    /// Time for a client to send what nobody reads, or to close its side when it is told to, 100ms..=1m
    #[arg(long, env = "GW_PROXY_LINGER_TIMEOUT", default_value = "2s", value_parser = time(100..=60_000), value_name = "DURATION")]
    pub linger_timeout: Duration,
    /// Time for a client to take anything of what is sent to it, 1s..=1h
    #[arg(long, env = "GW_PROXY_UNREAD_TIMEOUT", default_value = "60s", value_parser = time(1_000..=3_600_000), value_name = "DURATION")]
    pub unread_timeout: Duration,
    /// Bytes in a second that a client has to send of a body whose length it told, while it is waited for, 0B..=1MiB; 0B: any
    #[arg(long, env = "GW_PROXY_MIN_BODY_RATE", default_value = "100B", value_parser = bytes(0..=1 << 20), value_name = "SIZE")]
    pub min_body_rate: u64,
    /// Time for which it may be waited for beside that, 1s..=10m
    #[arg(long, env = "GW_PROXY_MIN_BODY_GRACE", default_value = "10s", value_parser = time(1_000..=600_000), value_name = "DURATION")]
    pub min_body_grace: Duration,
    /// Bytes in a second that a client has to take of an answer that waits for it, 0B..=1MiB; 0B: any
    #[arg(long, env = "GW_PROXY_MIN_RESPONSE_RATE", default_value = "100B", value_parser = bytes(0..=1 << 20), value_name = "SIZE")]
    pub min_response_rate: u64,
    /// Time for which an answer may wait beside that, 1s..=10m
    #[arg(long, env = "GW_PROXY_MIN_RESPONSE_GRACE", default_value = "60s", value_parser = time(1_000..=600_000), value_name = "DURATION")]
    pub min_response_grace: Duration,
    /// Requests on one connection, after which it ends, 0..=1000000000; 0: no limit
    #[arg(long, env = "GW_PROXY_MAX_REQUESTS_PER_CONNECTION", default_value = "0", value_parser = count(0..=1_000_000_000), value_name = "N")]
    pub max_requests_per_connection: u64,
    /// Requests at once on one HTTP/2 connection, 1..=10000
    #[arg(long, env = "GW_PROXY_MAX_STREAMS", default_value = "128", value_parser = count(1..=10_000), value_name = "N")]
    pub max_streams: u64,
    /// Streams of one HTTP/2 connection that a client may reset, at once and again in each half minute, 1..=1000000
    #[arg(long, env = "GW_PROXY_MAX_RESETS", default_value = "1000", value_parser = count(1..=1_000_000), value_name = "N")]
    pub max_resets: u64,
    /// Frames of one HTTP/2 connection that carry nothing, at once and again in each half minute, 100..=1000000
    #[arg(long, env = "GW_PROXY_MAX_CONTROL_FRAMES", default_value = "1000", value_parser = count(100..=1_000_000), value_name = "N")]
    pub max_control_frames: u64,
    /// Memory for one request's body that waits to be sent on, in HTTP/2, 64KiB..=16MiB
    #[arg(long, env = "GW_PROXY_STREAM_WINDOW", default_value = "1MiB", value_parser = bytes(64 << 10..=16 << 20), value_name = "SIZE")]
    pub stream_window: u64,
    /// Memory for all of them of one HTTP/2 connection, 64KiB..=64MiB
    #[arg(long, env = "GW_PROXY_CONNECTION_WINDOW", default_value = "1MiB", value_parser = bytes(64 << 10..=64 << 20), value_name = "SIZE")]
    pub connection_window: u64,
    /// Memory for one answer that waits to be taken, in HTTP/2, 16KiB..=4MiB
    #[arg(long, env = "GW_PROXY_SEND_BUFFER", default_value = "64KiB", value_parser = bytes(16 << 10..=4 << 20), value_name = "SIZE")]
    pub send_buffer: u64,
    /// Size of a request's body that is kept to be sent again, 0B..=16MiB; longer ones are sent once
    #[arg(long, env = "GW_PROXY_MAX_REPLAY_BYTES", default_value = "64KiB", value_parser = bytes(0..=16 << 20), value_name = "SIZE")]
    pub max_replay_bytes: u64,
    /// Memory for all bodies that are kept so, shared out among the workers, 0B..=64GiB
    #[arg(long, env = "GW_PROXY_REPLAY_MEMORY", default_value = "256MiB", value_parser = bytes(0..=64 << 30), value_name = "SIZE")]
    pub replay_memory: u64,
    /// Memory for the last good answers of services that fall back to them, and as much again for copies of answers on their
    /// way, shared out among the workers, 0B..=64GiB
    #[arg(long, env = "GW_PROXY_STALE_MEMORY", default_value = "64MiB", value_parser = bytes(0..=64 << 30), value_name = "SIZE")]
    pub stale_memory: u64,
    /// Idle connections to one replica that one worker keeps, 0..=65536
    #[arg(long, env = "GW_PROXY_MAX_IDLE_UPSTREAM", default_value = "256", value_parser = count(0..=65_536), value_name = "N")]
    pub max_idle_upstream: u64,
    /// Time after which an idle connection to a replica is closed, 1s..=1h; less than replicas take to close it
    #[arg(long, env = "GW_PROXY_IDLE_UPSTREAM_TIMEOUT", default_value = "30s", value_parser = time(1_000..=3_600_000), value_name = "DURATION")]
    pub idle_upstream_timeout: Duration,
}

impl LimitArgs {
    /// What each flag allows on its own is known by now.
    pub(super) fn validate(self) -> Result<Limits, Failure> {
        if self.max_target_bytes >= self.max_head_bytes {
            return Err(Failure::usage(format!(
                "--max-target-bytes {} is not less than --max-head-bytes {}: the target is a part of the head",
                size::exact(self.max_target_bytes),
                size::exact(self.max_head_bytes)
            )));
        }
        let head = HeadLimits {
            bytes: whole(self.max_head_bytes),
            fields: whole(self.max_head_fields),
            target: whole(self.max_target_bytes),
        };
        Ok(Limits {
            head,
            connections: whole(self.max_connections),
            connections_per_address: (self.max_connections_per_address > 0)
                .then_some(narrow(self.max_connections_per_address)),
            min_body_rate: MinRate { bytes_per_second: self.min_body_rate, grace: self.min_body_grace },
            min_response_rate: MinRate {
                bytes_per_second: self.min_response_rate,
                grace: self.min_response_grace,
            },
            begin_timeout: self.begin_timeout,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            linger_timeout: self.linger_timeout,
            unread_timeout: self.unread_timeout,
            requests_per_connection: (self.max_requests_per_connection > 0)
                .then_some(self.max_requests_per_connection),
            streams: narrow(self.max_streams),
            resets: narrow(self.max_resets),
            control_frames: narrow(self.max_control_frames),
            stream_window: narrow(self.stream_window),
            connection_window: narrow(self.connection_window),
            send_buffer: narrow(self.send_buffer),
            replay_bytes: whole(self.max_replay_bytes),
            replay_memory: whole(self.replay_memory),
            stale_memory: whole(self.stale_memory),
            idle_upstream: whole(self.max_idle_upstream),
            idle_upstream_timeout: self.idle_upstream_timeout,
        })
    }
}

/// What no machine of the time has more of than it can count is as good as all of it.
fn whole(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Reads a number within this range.
fn count(allowed: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().map_err(|_| "is no whole number".to_owned())?;
        within(number, &allowed, |number| number.to_string())
    }
}

/// Reads a size within this range.
fn bytes(allowed: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync {
    move |text| within(size::parse(text)?, &allowed, size::exact)
}

/// Reads a duration within this range of milliseconds.
fn time(allowed: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    let shown = |millis| humantime::format_duration(Duration::from_millis(millis)).to_string();
    move |text| {
        let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        within(millis, &allowed, shown).map(|_| time)
    }
}

fn within(value: u64, allowed: &RangeInclusive<u64>, shown: impl Fn(u64) -> String) -> Result<u64, String> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (shown(*allowed.start()), shown(*allowed.end()));
    Err(format!("is not in {least}..={most}"))
}

#[cfg(test)]
mod tests;
