//! Why nobody may change what a store holds: it is on its way from one store to another.

use std::fmt;

/// A store with a fence takes changes only from whoever has put it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// It has a part of what another store holds.
    Filling {
        /// That one.
        from: String,
    },
    /// What it holds is being copied to another store.
    Moving {
        /// That one.
        to: String,
    },
    /// What it holds is in another store, and goes on there.
    Moved {
        /// That one.
        to: String,
    },
}

impl Fence {
    /// As a store keeps it: a line for people who look.
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Filling { from } => format!("filling from {from}"),
            Self::Moving { to } => format!("moving to {to}"),
            Self::Moved { to } => format!("moved to {to}"),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// What it is instead.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(bytes);
        let after = |start| text.strip_prefix(start).map(str::to_owned);
        after("filling from ")
            .map(|from| Self::Filling { from })
            .or_else(|| after("moving to ").map(|to| Self::Moving { to }))
            .or_else(|| after("moved to ").map(|to| Self::Moved { to }))
            .ok_or_else(|| {
                format!("it is closed to changes in a way that this version does not know: {text:?}")
            })
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filling { from } => write!(
                f,
                "it is being filled from {from}; if that was interrupted, remove what is there and begin again"
            ),
            Self::Moving { to } => write!(
                f,
                "it is being moved to {to}; if that was interrupted, have changes taken here again by  gwctl store reopen"
            ),
            Self::Moved { to } => write!(
                f,
                "it has moved to {to}: use that store, or have changes taken here again by  gwctl store reopen"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_its_bytes_and_nothing_else_is_taken_for_it() {
        let place = || "etcd://a:2379/gw".to_owned();
        for fence in
            [Fence::Filling { from: place() }, Fence::Moving { to: place() }, Fence::Moved { to: place() }]
        {
            assert_eq!(Fence::decode(fence.encode().as_bytes()), Ok(fence));
        }
        for other in [&b""[..], b"moving", &[255]] {
            assert!(Fence::decode(other).is_err());
        }
    }
}
