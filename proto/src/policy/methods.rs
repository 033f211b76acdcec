//! Sets of HTTP methods: which of them a service lets through.
//!
//! A set is one word, so that policies are copied and not allocated. It can hold the methods of IANA's registry that a
//! gateway can forward; [`Methods::ALL`] alone lets others through.

use std::fmt;

use crate::nearest::nearest;

/// IANA's HTTP Method Registry in its order, without CONNECT, which asks for a tunnel, and without PRI and `*`, which are no
/// methods of requests.
const REGISTERED: [&str; 38] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// A set of HTTP methods that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods(u64);

impl Methods {
    /// Every method there is or will be.
    pub const ALL: Self = Self(u64::MAX);

    /// Those of RFC 9110 section 9.2.1: a request asks for nothing to be changed.
    pub const SAFE: Self = {
        let (mut set, mut index) = (0, 0);
        while index < REGISTERED.len() {
            if matches!(REGISTERED[index].as_bytes(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE") {
                set |= 1 << index;
            }
            index += 1;
        }
        Self(set)
    };

    /// Those of RFC 9110 section 9.2.2: doing a request twice is like doing it once.
    pub const IDEMPOTENT: Self = {
        let (mut set, mut index) = (Self::SAFE.0, 0);
        while index < REGISTERED.len() {
            if matches!(REGISTERED[index].as_bytes(), b"DELETE" | b"PUT") {
                set |= 1 << index;
            }
            index += 1;
        }
        Self(set)
    };

    /// Reads names of methods, which are case-sensitive, in any order; or `*` alone for all.
    ///
    /// # Errors
    /// What is wrong: a name that is not registered, `*` beside others, or no name at all.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut set, mut has_star) = (0, false);
        for name in names {
            if name == "*" {
                has_star = true;
                continue;
            }
            set |= bit(name).ok_or_else(|| unknown(name))?;
        }
        match (has_star, set) {
            (true, 0) => Ok(Self::ALL),
            (true, _) => Err("\"*\" stands for all methods and has none beside it".to_owned()),
            (false, 0) => Err("names no method: write \"*\" for all of them".to_owned()),
            (false, set) => Ok(Self(set)),
        }
    }

    /// Whether a method is in the set.
    #[inline]
    pub fn has(self, method: &str) -> bool {
        self == Self::ALL || bit(method).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Whether some method is in both.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The names of its methods in alphabetical order; `*` for all.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = (self == Self::ALL).then_some("*");
        let set = if self == Self::ALL { 0 } else { self.0 };
        let named = REGISTERED.iter().enumerate().filter(move |(index, _)| set & (1 << index) != 0);
        all.into_iter().chain(named.map(|(_, name)| *name))
    }
}

/// As `Allow` has it, without spaces: `GET,HEAD`.
impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

fn bit(name: &str) -> Option<u64> {
    REGISTERED.iter().position(|registered| *registered == name).map(|index| 1 << index)
}

fn unknown(name: &str) -> String {
    let short: String = name.chars().take(32).collect();
    let upper = short.to_ascii_uppercase();
    let meant = REGISTERED.iter().find(|registered| **registered == upper).copied();
    let meant = meant.or_else(|| nearest(&short, REGISTERED));
    let hint = meant.map_or_else(String::new, |meant| format!(" (did you mean \"{meant}\"?)"));
    format!("\"{}\" is no registered HTTP method{hint}", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_named_and_says_so_in_one_order() {
        let set = Methods::parse(["POST", "GET", "POST"]).unwrap();
        assert_eq!(set.to_string(), "GET,POST");
        assert_eq!(Methods::parse(set.names()), Ok(set));
        assert!(set.has("GET") && set.has("POST"));
        for other in ["HEAD", "get", "GE", "GETX", "", "X-CUSTOM", "*"] {
            assert!(!set.has(other), "{other}");
        }
    }

    #[test]
    fn every_registered_method_has_a_place_of_its_own() {
        for name in REGISTERED {
            let set = Methods::parse([name]).unwrap();
            assert_eq!(set.to_string(), name);
            assert_eq!(REGISTERED.iter().filter(|other| set.has(other)).count(), 1);
        }
        assert!(REGISTERED.is_sorted());
        // All of them named are still not all there are.
        let named = Methods::parse(REGISTERED).unwrap();
        assert!(named != Methods::ALL && !named.has("X-CUSTOM"));
    }

    #[test]
    fn a_star_stands_for_all_and_alone() {
        assert_eq!(Methods::parse(["*"]), Ok(Methods::ALL));
        assert_eq!(Methods::ALL.to_string(), "*");
        assert!(Methods::ALL.has("X-CUSTOM"));
        assert!(Methods::parse(["*", "GET"]).is_err());
    }

    #[test]
    fn a_request_that_changes_nothing_may_be_done_twice() {
        assert_eq!(Methods::SAFE.to_string(), "GET,HEAD,OPTIONS,TRACE");
        assert_eq!(Methods::IDEMPOTENT.to_string(), "DELETE,GET,HEAD,OPTIONS,PUT,TRACE");
    }

    #[test]
    fn sets_meet_where_they_have_a_method_in_common() {
        let set = |names: &[&str]| Methods::parse(names.iter().copied()).unwrap();
        assert!(set(&["GET", "PUT"]).intersects(set(&["PUT", "POST"])));
        assert!(!set(&["GET"]).intersects(set(&["POST"])));
        assert!(Methods::ALL.intersects(set(&["QUERY"])) && Methods::ALL.intersects(Methods::ALL));
    }

    #[test]
    fn what_names_no_method_is_refused_with_what_was_meant() {
        for (name, why) in [
            ("get", "\"get\" is no registered HTTP method (did you mean \"GET\"?)"),
            ("PSOT", "\"PSOT\" is no registered HTTP method (did you mean \"POST\"?)"),
            ("CONNECT", "\"CONNECT\" is no registered HTTP method"),
            ("", "\"\" is no registered HTTP method"),
        ] {
            assert!(Methods::parse([name]).unwrap_err().starts_with(why), "{name}");
        }
        assert_eq!(Methods::parse([]).unwrap_err(), "names no method: write \"*\" for all of them");
        assert!(Methods::parse(["X".repeat(100_000).as_str()]).unwrap_err().len() < 200);
    }
}
