//! Which keys of etcd are ours, and what each is for.
//!
//! ```text
//! /PREFIX/meta                             says that all of this is ours, and its epoch
//! /PREFIX/live/head                        the last commit: whoever commits does so on the one that he knows
//! /PREFIX/live/fence                       there while all of this moves to another store, or from one: nobody commits
//! /PREFIX/live/leases/SERVICE/REPLICA      there while a lease of etcd's lasts: whoever renews ours renews that
//! /PREFIX/live/peers/NODE                  a control plane, for as long as it runs
//! /PREFIX/records/replicas/SERVICE/REPLICA a record, and so for policies, overrides and routes
//! ```
//!
//! Everything below `live/` is watched, and nothing else: a commit says in `live/head` what it does to records.

use gateway_proto::ReplicaKey;

use crate::registry::Key;

const META: &str = "meta";
const HEAD: &str = "live/head";
const FENCE: &str = "live/fence";
const LIVE: &str = "live/";
const LEASES: &str = "live/leases/";
const PEERS: &str = "live/peers/";
const REPLICAS: &str = "records/replicas/";
const POLICIES: &str = "records/policies/";
const OVERRIDES: &str = "records/overrides/";
const ROUTES: &str = "records/routes/";

/// The keys below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// What a key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Meta,
    Head,
    Fence,
    Lease(ReplicaKey),
    Peer(String),
    Record(RecordKind),
    /// Nothing that this version knows.
    Unknown,
}

/// Which kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    Replica,
    Policy,
    Override,
    Route,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("/{prefix}/") }
    }

    /// Without slashes at its ends.
    pub(super) fn prefix(&self) -> &str {
        self.prefix.trim_matches('/')
    }

    /// All keys that are ours: the first, and the first behind them.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        range(self.prefix.clone())
    }

    /// Those that are watched.
    pub(super) fn live(&self) -> (Vec<u8>, Vec<u8>) {
        range(format!("{}{LIVE}", self.prefix))
    }

    pub(super) fn meta(&self) -> Vec<u8> {
        self.at(META)
    }

    pub(super) fn head(&self) -> Vec<u8> {
        self.at(HEAD)
    }

    pub(super) fn fence(&self) -> Vec<u8> {
        self.at(FENCE)
    }

    pub(super) fn peer(&self, node: &str) -> Vec<u8> {
        self.at(&format!("{PEERS}{node}"))
    }

    pub(super) fn lease(&self, key: &ReplicaKey) -> Vec<u8> {
        self.at(&format!("{LEASES}{}/{}", key.service, key.replica))
    }

    pub(super) fn record(&self, key: &Key) -> Vec<u8> {
        self.at(&match key {
            Key::Replica(key) => format!("{REPLICAS}{}/{}", key.service, key.replica),
            Key::Policy(scope) => format!("{POLICIES}{scope}"),
            Key::Override(id) => format!("{OVERRIDES}{id}"),
            Key::Route(name) => format!("{ROUTES}{name}"),
        })
    }

    /// What a key is for.
    pub(super) fn role(&self, key: &[u8]) -> Role {
        let path = str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.prefix));
        let Some(path) = path else { return Role::Unknown };
        let replica = |rest: &str| {
            let (service, replica) = rest.split_once('/')?;
            ReplicaKey::parse(service, replica).ok()
        };
        match path {
            META => Role::Meta,
            HEAD => Role::Head,
            FENCE => Role::Fence,
            _ => {
                if let Some(rest) = path.strip_prefix(LEASES) {
                    return replica(rest).map_or(Role::Unknown, Role::Lease);
                }
                if let Some(node) = path.strip_prefix(PEERS) {
                    return Role::Peer(node.to_owned());
                }
                let records = [
                    (REPLICAS, RecordKind::Replica),
                    (POLICIES, RecordKind::Policy),
                    (OVERRIDES, RecordKind::Override),
                    (ROUTES, RecordKind::Route),
                ];
                let kind = records.into_iter().find(|(folder, _)| path.starts_with(folder));
                kind.map_or(Role::Unknown, |(_, kind)| Role::Record(kind))
            }
        }
    }

    fn at(&self, path: &str) -> Vec<u8> {
        format!("{}{path}", self.prefix).into_bytes()
    }
}

/// From a prefix to what comes first behind all that begin with it: `/` is followed by `0`.
fn range(prefix: String) -> (Vec<u8>, Vec<u8>) {
    let first = prefix.into_bytes();
    let mut end = first.clone();
    end.pop();
    end.push(b'0');
    (first, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Scope;

    #[test]
    fn a_key_tells_what_it_is_for() {
        let keys = Keys::new("gw");
        let key = ReplicaKey::parse("orders", "r-1").unwrap();
        for (bytes, role) in [
            (keys.meta(), Role::Meta),
            (keys.head(), Role::Head),
            (keys.fence(), Role::Fence),
            (keys.lease(&key), Role::Lease(key.clone())),
            (keys.peer("a"), Role::Peer("a".into())),
            (keys.record(&Key::Replica(key)), Role::Record(RecordKind::Replica)),
            (keys.record(&Key::Policy(Scope::All)), Role::Record(RecordKind::Policy)),
            (b"/gw/live/leases/orders".to_vec(), Role::Unknown),
            (b"/gw/other".to_vec(), Role::Unknown),
            (b"/gx/meta".to_vec(), Role::Unknown),
            (vec![255], Role::Unknown),
        ] {
            assert_eq!(keys.role(&bytes), role, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_range_has_all_that_begin_with_its_prefix_and_nothing_else() {
        let (first, end) = Keys::new("gw").all();
        let is_in = |key: &[u8]| key >= first.as_slice() && key < end.as_slice();
        assert!(is_in(b"/gw/") && is_in(b"/gw/\xff") && is_in(b"/gw/meta"));
        assert!(!is_in(b"/gw0") && !is_in(b"/gw") && !is_in(b"/gw-2/meta"));
    }
}
