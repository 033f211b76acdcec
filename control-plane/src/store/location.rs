//! Which store to use, as `--store` says it.

use std::{fmt, path::PathBuf, str::FromStr};

use super::EtcdLocation;

/// Which store to use, as `--store` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// A file of our own, `redb:PATH`. One process at a time.
    Redb(PathBuf),
    /// An etcd, `etcd://HOST:PORT,…/PREFIX`. Any number of control planes at a time.
    Etcd(EtcdLocation),
    /// Nothing survives, `memory:`.
    Memory,
}

impl FromStr for StoreLocation {
    type Err = String;

    /// Reads `redb:PATH`, `etcd://[USER@]HOST[:PORT][,HOST[:PORT]…]/PREFIX` or `memory:`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("redb", "")) => Err("redb: needs a path, e.g. redb:gateway.redb".into()),
            Some(("redb", path)) => Ok(Self::Redb(path.into())),
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("etcd", rest)) => rest.parse().map(Self::Etcd),
            _ => Err("is none of redb:PATH, etcd://HOST:PORT,…/PREFIX and memory:".into()),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redb(path) => write!(f, "redb:{}", path.display()),
            Self::Etcd(location) => location.fmt(f),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_says_what_it_is_or_what_would_be_allowed() {
        assert_eq!("redb:a/b.redb".parse(), Ok(StoreLocation::Redb("a/b.redb".into())));
        assert_eq!("memory:".parse(), Ok(StoreLocation::Memory));
        let etcd: StoreLocation = "etcd://a:1,b/gw".parse().unwrap();
        assert_eq!(etcd.to_string(), "etcd://a:1,b:2379/gw");
        for (text, why) in [
            ("redb:", "redb: needs a path, e.g. redb:gateway.redb"),
            ("a.redb", "is none of redb:PATH, etcd://HOST:PORT,…/PREFIX and memory:"),
            ("memory:x", "is none of redb:PATH, etcd://HOST:PORT,…/PREFIX and memory:"),
            ("", "is none of redb:PATH, etcd://HOST:PORT,…/PREFIX and memory:"),
        ] {
            assert_eq!(text.parse::<StoreLocation>(), Err(why.to_owned()), "{text:?}");
        }
    }
}
