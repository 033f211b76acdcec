//! When the registry removes a replica that data planes cannot reach.

use std::time::Duration;

use super::MINUTE;

/// When the registry removes a replica that data planes cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eviction {
    /// How long a permanent replica's checks must have failed everywhere. Default 10 min; 0 s: never; 0 s..=30 d.
    pub after: Duration,
    /// Failures in a row, over all data planes, after which any replica goes. Default 0: never; 0..=1 000 000.
    pub failure_count: u32,
}

impl Default for Eviction {
    fn default() -> Self {
        Self { after: 10 * MINUTE, failure_count: 0 }
    }
}
