//! Lists of protocols that a connection may be upgraded to (RFC 9110 section 7.8).

use std::fmt;

use super::text::{ShortText, shown};
use crate::token::is_token;

/// What stands for no protocol at all, and alone.
const NONE: &str = "none";
/// What would have a replica read the bytes behind a request as requests that this gateway never saw.
const SMUGGLING: [&str; 4] = ["h2", "h2c", "http", "tls"];

/// The protocols that clients may switch to on a connection of their own: lower case, sorted, perhaps none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Upgrades(
    /// Names with commas between them.
    ShortText<{ Upgrades::MAX_LENGTH }>,
);

impl Upgrades {
    /// The longest text, commas included.
    pub const MAX_LENGTH: usize = 63;

    /// Reads names of protocols, whose case says nothing, in any order; or `none` alone.
    ///
    /// # Errors
    /// What is wrong: a name that is no token with or without a version behind a slash, one that is never let through, `none`
    /// beside others, too many, or no name at all.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut protocols, mut has_none) = (Vec::new(), false);
        for name in names {
            if name.eq_ignore_ascii_case(NONE) {
                has_none = true;
                continue;
            }
            protocols.push(protocol(name)?);
        }
        match (has_none, protocols.is_empty()) {
            (true, true) => {}
            (true, false) => return Err("\"none\" stands for no protocol and has none beside it".to_owned()),
            (false, true) => return Err("names no protocol: write \"none\" to refuse all of them".to_owned()),
            (false, false) => {}
        }
        protocols.sort_unstable();
        protocols.dedup();
        ShortText::new(&protocols.join(","))
            .map(Self)
            .ok_or_else(|| format!("names more than {} characters of protocols", Self::MAX_LENGTH))
    }

    /// Whether a protocol is among them.
    pub fn has(&self, protocol: &[u8]) -> bool {
        self.protocols().any(|name| name.as_bytes().eq_ignore_ascii_case(protocol))
    }

    /// Their names in alphabetical order.
    pub fn protocols(&self) -> impl Iterator<Item = &str> {
        self.0.as_str().split(',').filter(|name| !name.is_empty())
    }

    /// As settings are written: their names, or `none`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let none = self.0.as_str().is_empty().then_some(NONE);
        none.into_iter().chain(self.protocols())
    }
}

impl Default for Upgrades {
    /// `websocket`.
    fn default() -> Self {
        Self(ShortText::new("websocket").expect("it is short enough"))
    }
}

impl fmt::Display for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upgrades({self})")
    }
}

/// A protocol's name, in lower case: a token, with or without a slash and a version.
fn protocol(name: &str) -> Result<String, String> {
    let short = shown(name);
    let mut parts = name.split('/');
    if name == "*" {
        return Err("\"*\" is not offered: name each protocol".to_owned());
    }
    if !parts.by_ref().take(2).all(is_token) || parts.next().is_some() {
        return Err(format!("\"{short}\" is no protocol: a token, or one with its version as in spdy/3.1"));
    }
    let lower = name.to_ascii_lowercase();
    if SMUGGLING.contains(&lower.split('/').next().unwrap_or_default()) {
        return Err(format!(
            "\"{short}\" is never let through: what follows it would be requests that nobody checks"
        ));
    }
    Ok(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_what_was_named_and_says_so_in_one_order() {
        let list = Upgrades::parse(["WebSocket", "SPDY/3.1", "websocket"]).unwrap();
        assert_eq!(list.to_string(), "spdy/3.1,websocket");
        assert_eq!(Upgrades::parse(list.names()), Ok(list));
        assert!(list.has(b"websocket") && list.has(b"WEBSOCKET") && list.has(b"spdy/3.1"));
        for other in ["", "spdy", "spdy/3", "web", "websocket2", "spdy/3.1,websocket", "none"] {
            assert!(!list.has(other.as_bytes()), "{other}");
        }
        assert_eq!(Upgrades::default().to_string(), "websocket");
    }

    #[test]
    fn none_stands_for_nothing_and_alone() {
        let none = Upgrades::parse(["None"]).unwrap();
        assert_eq!((none.to_string().as_str(), none.protocols().count()), ("none", 0));
        assert_eq!(Upgrades::parse(none.names()), Ok(none));
        assert!(!none.has(b"none") && !none.has(b""));
        assert!(Upgrades::parse(["none", "websocket"]).unwrap_err().contains("has none beside it"));
        assert_eq!(
            Upgrades::parse([]).unwrap_err(),
            "names no protocol: write \"none\" to refuse all of them"
        );
    }

    #[test]
    fn what_would_carry_requests_past_the_gateway_is_never_let_through() {
        for name in ["h2c", "H2C", "h2", "HTTP/2.0", "http", "http/1.1", "TLS/1.0", "tls"] {
            assert!(Upgrades::parse([name]).unwrap_err().contains("is never let through"), "{name}");
        }
        assert!(Upgrades::parse(["*"]).unwrap_err().contains("is not offered"));
    }

    #[test]
    fn what_is_no_protocol_or_too_much_is_refused() {
        for name in ["", "a b", "a,b", "/", "a/", "/1", "a/1/2", "a\r\nb", "ä"] {
            assert!(Upgrades::parse([name]).unwrap_err().contains("is no protocol"), "{name:?}");
        }
        assert!(Upgrades::parse(["x".repeat(Upgrades::MAX_LENGTH).as_str()]).is_ok());
        let long = "x".repeat(Upgrades::MAX_LENGTH + 1);
        assert_eq!(
            Upgrades::parse([long.as_str()]).unwrap_err(),
            "names more than 63 characters of protocols"
        );
        assert!(Upgrades::parse(["\0".repeat(100_000).as_str()]).unwrap_err().len() < 300);
    }
}
