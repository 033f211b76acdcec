//! Which services a data plane carries.

use std::collections::BTreeSet;

use gateway_proto::{ServiceName, v1};

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
    /// Names that control planes take of one data plane.
    const MAX_NAMES: usize = 1000;

    /// Reads names, or one `*` for all.
    ///
    /// # Errors
    /// What is wrong, to be read after what they were named by.
    pub(crate) fn parse(names: &[&str]) -> Result<Self, String> {
        if names == ["*"] {
            return Ok(Self::All);
        }
        let parse = |name: &&str| ServiceName::parse(name).map_err(|why| format!("{name:?} {why}"));
        let names = names.iter().map(parse).collect::<Result<BTreeSet<_>, _>>()?;
        match names.len() {
            0 => Err("names no service: write * to carry all".into()),
            count if count > Self::MAX_NAMES => {
                Err(format!("names {count}, at most {} are allowed: write * to carry all", Self::MAX_NAMES))
            }
            _ => Ok(Self::Some(names)),
        }
    }

    /// Whether a service is among them.
    pub(super) fn admits(&self, name: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
        }
    }

    /// How a control plane is told, on a stream for these, that they are others from now on. `None`: all are named on a new
    /// stream only.
    pub(super) fn change_to(&self, next: &Self) -> Option<v1::SubscriptionChange> {
        let (Self::Some(before), Self::Some(after)) = (self, next) else { return None };
        let texts = |names: std::collections::btree_set::Difference<'_, ServiceName>| {
            names.map(ServiceName::to_string).collect()
        };
        Some(v1::SubscriptionChange {
            add_services: texts(after.difference(before)),
            remove_services: texts(before.difference(after)),
        })
    }

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
    fn names_are_read_and_what_is_none_is_shown() {
        assert_eq!(Services::parse(&["*"]), Ok(Services::All));
        assert_eq!(Services::parse(&["users", "orders", "users"]), Ok(some(&["orders", "users"])));
        for (names, why) in
            [(&[][..], "names no service"), (&["*", "a"], "\"*\" "), (&["Orders"], "\"Orders\" ")]
        {
            let refused = Services::parse(names).unwrap_err();
            assert!(refused.starts_with(why), "{refused}");
        }
        let many: Vec<_> = (0..=Services::MAX_NAMES).map(|number| format!("s-{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(Services::parse(&many).unwrap_err().starts_with("names 1001, at most 1000"));
    }

    #[test]
    fn a_change_names_what_comes_and_what_goes_and_all_are_no_change() {
        let change = some(&["a", "b"]).change_to(&some(&["b", "c"])).unwrap();
        assert_eq!((change.add_services, change.remove_services), (vec!["c".into()], vec!["a".into()]));
        assert_eq!(Services::All.change_to(&some(&["a"])), None);
        assert_eq!(some(&["a"]).change_to(&Services::All), None);
    }

    #[test]
    fn other_services_have_another_fingerprint() {
        assert_eq!(Services::All.fingerprint(), None);
        assert_eq!(some(&["a", "b"]).fingerprint(), some(&["b", "a"]).fingerprint());
        assert_ne!(some(&["a", "b"]).fingerprint(), some(&["ab"]).fingerprint());
    }
}
