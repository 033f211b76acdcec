//! Which services a data plane carries.

use std::collections::BTreeSet;

use gateway_proto::ServiceName;

/// All of them, or some by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Services {
    /// Every one, those to come included.
    #[default]
    All,
    /// These, whether they exist or not.
    Some(BTreeSet<ServiceName>),
}

impl Services {
    /// As a control plane is told it.
    pub(super) fn to_wire(&self) -> Vec<String> {
        match self {
            Self::All => vec!["*".into()],
            Self::Some(names) => names.iter().map(ServiceName::to_string).collect(),
        }
    }

    /// What keeps the snapshots of two such sets apart; `None` for all. The same in every process.
    pub(super) fn fingerprint(&self) -> Option<u64> {
        let Self::Some(names) = self else { return None };
        let bytes = names.iter().flat_map(|name| name.as_str().bytes().chain([0]));
        // FNV-1a.
        Some(bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> Services {
        Services::Some(names.iter().map(|name| ServiceName::parse(name).unwrap()).collect())
    }

    #[test]
    fn a_star_asks_for_all_and_names_are_asked_for_in_order() {
        assert_eq!(Services::All.to_wire(), ["*"]);
        assert_eq!(some(&["users", "orders"]).to_wire(), ["orders", "users"]);
    }

    #[test]
    fn other_services_have_another_fingerprint() {
        assert_eq!(Services::All.fingerprint(), None);
        assert_eq!(some(&["a", "b"]).fingerprint(), some(&["b", "a"]).fingerprint());
        assert_ne!(some(&["a", "b"]).fingerprint(), some(&["ab"]).fingerprint());
    }
}
