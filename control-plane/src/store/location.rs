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
        let mut members = Vec::new();
        for endpoint in &etcd.endpoints {
            let named = named(endpoint);
            let is_looked_up = named.as_ref().is_none_or(|member| member.socket().is_none());
            members.extend(named);
            if is_looked_up {
                let led_to = leads_to(endpoint).await;
                if led_to.is_empty() {
                    tracing::warn!(
                        member = %endpoint,
                        "the name of a member of the store leads to nothing now: replicas at its addresses are not refused as the store"
                    );
                }
                members.extend(led_to);
            }
        }
        members
    }
}

/// A member as a replica's address would have it. `None`: no replica goes by such a name, though resolvers take it.
fn named(endpoint: &str) -> Option<Address> {
    let (host, port) = endpoint.rsplit_once(':')?;
    // The root at a name's end makes it no other.
    let host = host.strip_suffix('.').unwrap_or(host);
    Address::parse(&format!("{host}:{port}")).ok()
}

/// What a member's name leads to, by whatever rules the connection to it goes.
async fn leads_to(endpoint: &str) -> Vec<Address> {
    match timeout(LOOKUP, lookup_host(endpoint)).await {
        Ok(Ok(found)) => found.filter_map(|at| Address::parse(&at.to_string()).ok()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
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

    #[tokio::test]
    async fn members_by_names_that_no_replica_may_have_are_known_by_what_these_lead_to() {
        let store: StoreLocation = "etcd://127.1:1,etcd-0.invalid.:2/gw".parse().unwrap();
        let members = store.members().await;
        for member in ["127.0.0.1:1", "etcd-0.invalid:2"] {
            assert!(members.contains(&Address::parse(member).unwrap()), "{member} of {members:?}");
        }
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
