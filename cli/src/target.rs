//! How people name one replica: `SERVICE/REPLICA`, where a unique beginning of the replica's id is enough.

use std::{fmt, str::FromStr};

use gateway_proto::{Invalid, ReplicaKey, ServiceName, nearest::nearest, v1};

use crate::error::{Error, Exit};

/// What was typed, not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) service: ServiceName,
    /// A replica id or the beginning of one; never empty.
    pub(crate) prefix: String,
}

impl FromStr for Target {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (service, prefix) = text
            .split_once('/')
            .filter(|(_, prefix)| !prefix.is_empty())
            .ok_or_else(|| Invalid::new("replica", "is written SERVICE/REPLICA"))?;
        Ok(Self { service: ServiceName::parse(service)?, prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.prefix)
    }
}

impl Target {
    /// Finds the replica among those of its service: an exact id before a beginning.
    ///
    /// # Errors
    /// When none fits, and when several do: then they are listed.
    pub(crate) fn find<'a>(&self, replicas: &'a [v1::Replica]) -> Result<&'a v1::Replica, Error> {
        if let Some(exact) = replicas.iter().find(|replica| replica.replica_id == self.prefix) {
            return Ok(exact);
        }
        let fitting: Vec<_> =
            replicas.iter().filter(|replica| replica.replica_id.starts_with(&self.prefix)).collect();
        match fitting[..] {
            [one] => Ok(one),
            [] => {
                let known = replicas.iter().map(|replica| replica.replica_id.as_str());
                let mut error = self.unknown();
                error
                    .hints
                    .extend(nearest(&self.prefix, known).map(|name| format!("did you mean \"{name}\"?")));
                Err(error.hint(format!("gwctl get replicas {}", self.service)))
            }
            _ => Err(Error::new(Exit::Usage, format!("\"{self}\" could be {} replicas", fitting.len()))
                .because(
                    fitting.iter().map(|replica| replica.replica_id.as_str()).collect::<Vec<_>>().join(", "),
                )
                .hint("type more of the id")),
        }
    }
}

impl Target {
    /// That there is none.
    pub(crate) fn unknown(&self) -> Error {
        Error::new(Exit::NotFound, format!("{} has no replica \"{}\"", self.service, self.prefix))
    }

    /// The whole name of the replica that was found for it.
    ///
    /// # Errors
    /// For a name that is none.
    pub(crate) fn key(&self, found: &v1::Replica) -> Result<ReplicaKey, Error> {
        ReplicaKey::parse(self.service.as_str(), &found.replica_id).map_err(|invalid| {
            Error::new(
                Exit::Failed,
                format!("the control plane tells of a replica with a bad name: {invalid}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(ids: &[&str]) -> Vec<v1::Replica> {
        ids.iter().map(|id| v1::Replica { replica_id: (*id).to_owned(), ..Default::default() }).collect()
    }

    fn find(typed: &str, ids: &[&str]) -> Result<String, Error> {
        let target: Target = typed.parse().unwrap();
        target.find(&replicas(ids)).map(|replica| replica.replica_id.clone())
    }

    #[test]
    fn a_unique_beginning_finds_its_replica_and_an_exact_id_wins_over_longer_ones() {
        assert_eq!(find("orders/r-7", &["r-7f3k", "r-91xq"]), Ok("r-7f3k".into()));
        assert_eq!(find("orders/r-1", &["r-1", "r-10", "r-11"]), Ok("r-1".into()));
    }

    #[test]
    fn a_beginning_of_several_lists_them() {
        let error = find("orders/r-", &["r-1", "r-2"]).unwrap_err();
        assert_eq!(error.headline, "\"orders/r-\" could be 2 replicas");
        assert_eq!(error.details, ["r-1, r-2"]);
        assert_eq!(error.exit, Exit::Usage);
    }

    #[test]
    fn a_beginning_of_none_is_not_found() {
        let error = find("orders/x", &["r-1"]).unwrap_err();
        assert_eq!((error.exit, error.headline.as_str()), (Exit::NotFound, "orders has no replica \"x\""));
    }

    #[test]
    fn a_typing_mistake_finds_what_was_meant() {
        let error = find("orders/r-7f3x", &["r-7f3k", "r-91xq"]).unwrap_err();
        assert_eq!(error.hints[0], "did you mean \"r-7f3k\"?");
    }

    #[test]
    fn anything_but_two_parts_is_refused() {
        for text in ["orders", "orders/", "/r-1", "Orders/r-1", ""] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
