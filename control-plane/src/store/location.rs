//! Which store to use, as `--store` says it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use gateway_proto::Address;
use tokio::{net::lookup_host, time::timeout};

use super::EtcdLocation;

/// For finding out what the name of a member leads to. The store was reached by such names a moment ago.
const LOOKUP: Duration = Duration::from_secs(1);

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

impl StoreLocation {
    /// Where its members are: by the names that it was given, and by what these lead to now. None for what is no server.
    pub(crate) async fn members(&self) -> Vec<Address> {
        let Self::Etcd(etcd) = self else { return Vec::new() };
        let mut members: Vec<_> =
            etcd.endpoints.iter().filter_map(|member| Address::parse(member).ok()).collect();
        let named = members.clone().into_iter().filter(|member| member.socket().is_none());
        let found = async |member: Address| match lookup_host(member.as_str()).await {
            Ok(found) => found.filter_map(|at| Address::parse(&at.to_string()).ok()).collect(),
            // By its name it is known all the same.
            Err(_) => Vec::new(),
        };
        for member in named {
            members.extend(timeout(LOOKUP, found(member)).await.unwrap_or_default());
        }
        members
    }
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

    #[tokio::test]
    async fn members_of_an_etcd_are_known_by_their_names_and_by_what_these_lead_to() {
        let store: StoreLocation = "etcd://localhost:1,10.0.0.5/gw".parse().unwrap();
        let members = store.members().await;
        for member in ["localhost:1", "10.0.0.5:2379", "127.0.0.1:1"] {
            assert!(members.contains(&Address::parse(member).unwrap()), "{member} of {members:?}");
        }
        assert_eq!(StoreLocation::Memory.members().await, []);
    }

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
