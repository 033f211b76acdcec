//! Names of services, replicas and data planes.

use std::{fmt, str::FromStr, sync::Arc};

use crate::Invalid;

/// RFC 1123 label: what fits in a host name, a path segment, a metric label and a file name without escaping.
fn check_label(field: &str, text: &str, max: usize) -> Result<(), Invalid> {
    let refuse = |why: String| Err(Invalid::new(field, why));
    if text.is_empty() {
        return refuse("is required".into());
    }
    let length = text.chars().count();
    if length > max {
        return refuse(format!("has {length} characters, at most {max} are allowed"));
    }
    let bad = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'));
    if let Some(bad) = bad {
        return refuse(format!("may hold only a-z, 0-9 and '-', found '{}'", bad.escape_debug()));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return refuse("must begin and end with a letter or a digit".into());
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $field:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a label.
            ///
            /// # Errors
            /// [`Invalid`] naming the field when `text` is empty, too long, or not an RFC 1123 label.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                check_label($field, text, $max)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

label!(
    /// Name of a service: an RFC 1123 label of at most 63 characters, so that it can be a host name's first label.
    ServiceName, "service", 63
);
label!(
    /// Id of a replica within its service: an RFC 1123 label of at most 63 characters.
    ReplicaId, "replica_id", 63
);
label!(
    /// Id of a data plane, stable over its restarts: an RFC 1123 label of at most 63 characters.
    NodeId, "node_id", 63
);
label!(
    /// Name of an explicit route: an RFC 1123 label of at most 63 characters.
    RouteName, "name", 63
);

/// What names one replica in the whole registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaKey {
    /// The service it belongs to.
    pub service: ServiceName,
    /// Its id within that service.
    pub replica: ReplicaId,
}

impl ReplicaKey {
    /// Parses both parts, reporting what is wrong with either.
    ///
    /// # Errors
    /// [`Invalid`] with a violation for `service`, `replica_id` or both.
    pub fn parse(service: &str, replica_id: &str) -> Result<Self, Invalid> {
        let mut check = crate::invalid::Check::default();
        let service = check.take(ServiceName::parse(service));
        let replica = check.take(ReplicaId::parse(replica_id));
        check.finish()?;
        let (Some(service), Some(replica)) = (service, replica) else { unreachable!("nothing was refused") };
        Ok(Self { service, replica })
    }
}

impl fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.replica)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_that_name_hosts_are_accepted() {
        for name in ["a", "client-service", "9lives", "x".repeat(63).as_str()] {
            assert_eq!(ServiceName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_field_and_the_rule() {
        let long = "x".repeat(64);
        for (name, why) in [
            ("", "is required"),
            (long.as_str(), "has 64 characters, at most 63 are allowed"),
            ("Orders", "may hold only a-z, 0-9 and '-', found 'O'"),
            ("a b", "may hold only a-z, 0-9 and '-', found ' '"),
            ("a\r\nb", "may hold only a-z, 0-9 and '-', found '\\r'"),
            ("s\u{e9}rv", "may hold only a-z, 0-9 and '-', found '\u{e9}'"),
            ("a\u{202e}", "may hold only a-z, 0-9 and '-', found '\\u{202e}'"),
            ("../etc", "may hold only a-z, 0-9 and '-', found '.'"),
            ("-a", "must begin and end with a letter or a digit"),
            ("a-", "must begin and end with a letter or a digit"),
        ] {
            assert_eq!(ServiceName::parse(name), Err(Invalid::new("service", why)), "{name:?}");
        }
    }

    #[test]
    fn a_key_reports_both_of_its_parts() {
        let invalid = ReplicaKey::parse("A", "").unwrap_err();
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["service", "replica_id"]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_what_it_accepts(text in any::<String>()) {
            if let Ok(name) = ReplicaId::parse(&text) {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
