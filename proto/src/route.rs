//! Explicit routes: what a request must have, and which service it is for then.
//!
//! [`Route`] holds only what is valid, in one form for each content. Which of several routes counts is [`Route::rank`], and
//! two that could match one request under the same rank are in conflict, see [`Route::conflicts_with`]: a set without
//! conflicts has one answer to every request, whatever order it was made in. Matching itself is for data planes.

use std::{cmp::Ordering, fmt};

use prost_types::FieldMask;

use crate::{Check, Invalid, RouteName, ServiceName, nearest::nearest, policy::Methods, v1};

mod mask;
mod text;

pub use mask::updated;

/// Headers that one route may name.
const MAX_HEADERS: usize = 4;
const MAX_PRIORITY: u16 = 1000;

/// An explicit route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What names it.
    pub name: RouteName,
    /// Which service its requests are for, registered or not.
    pub service: ServiceName,
    /// Which hosts it is for.
    pub host: Host,
    /// `/`, or segments of a path, each behind a slash, without one at the end.
    pub path_prefix: Box<str>,
    /// Which methods it is for; [`Methods::ALL`] where it names none.
    pub methods: Methods,
    /// All of these must match; in the order of their names, which are all different.
    pub headers: Box<[Header]>,
    /// The higher one counts between routes that are as specific as one another. 0..=1000.
    pub priority: u16,
    /// What replicas see in the place of `path_prefix`; `None`: the same.
    pub rewrite_prefix: Option<Box<str>>,
}

/// The hosts that a route is for, in lower case and without a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Every one, and requests without.
    Any,
    /// All names below this one.
    Below(Box<str>),
    /// This one.
    Name(Box<str>),
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Header {
    /// In lower case.
    pub name: Box<str>,
    /// The one field of this name says just this; `None`: there is a field of this name.
    pub value: Option<Box<str>>,
}

/// How specific a route is. Of all routes that match a request, the one with the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Any host, below a name by its length, a name.
    host: (u8, usize),
    path: usize,
    has_methods: bool,
    headers: usize,
    priority: u16,
}

impl Route {
    /// Reads a route; its output fields are not looked at.
    ///
    /// # Errors
    /// [`Invalid`] with one violation for each field at fault.
    pub fn parse(wire: &v1::Route) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let name = check.take(RouteName::parse(&wire.name));
        let service = check.take(ServiceName::parse(&wire.service));
        let host = check.take(text::host(&wire.host));
        let path_prefix = check.take(text::path_prefix("path_prefix", &wire.path_prefix));
        let methods = check.take(text::methods(&wire.methods));
        let headers = check.take(text::headers(&wire.headers));
        let priority = check.take(text::priority(wire.priority));
        let rewrite_prefix = match wire.rewrite_prefix.as_str() {
            "" => Some(None),
            prefix => check.take(text::path_prefix("rewrite_prefix", prefix)).map(Some),
        };
        check.finish()?;
        let read = (name, service, host, path_prefix, methods, headers, priority, rewrite_prefix);
        let (
            Some(name),
            Some(service),
            Some(host),
            Some(path_prefix),
            Some(methods),
            Some(headers),
            Some(priority),
            Some(rewrite_prefix),
        ) = read
        else {
            unreachable!("nothing was refused")
        };
        // What is replaced by itself stays.
        let rewrite_prefix = rewrite_prefix.filter(|prefix| *prefix != path_prefix);
        Ok(Self { name, service, host, path_prefix, methods, headers, priority, rewrite_prefix })
    }

    /// Writes it without output fields.
    pub fn to_wire(&self) -> v1::Route {
        let header = |header: &Header| v1::HeaderMatch {
            name: header.name.to_string(),
            value: header.value.as_deref().unwrap_or_default().to_owned(),
        };
        v1::Route {
            name: self.name.to_string(),
            service: self.service.to_string(),
            host: self.host.to_string(),
            path_prefix: self.path_prefix.to_string(),
            methods: match self.methods {
                Methods::ALL => Vec::new(),
                methods => methods.names().map(str::to_owned).collect(),
            },
            headers: self.headers.iter().map(header).collect(),
            priority: self.priority.into(),
            rewrite_prefix: self.rewrite_prefix.as_deref().unwrap_or_default().to_owned(),
            ..Default::default()
        }
    }

    /// How specific it is.
    pub fn rank(&self) -> Rank {
        Rank {
            host: match &self.host {
                Host::Any => (0, 0),
                Host::Below(name) => (1, name.len()),
                Host::Name(_) => (2, 0),
            },
            path: self.path_prefix.len(),
            has_methods: self.methods != Methods::ALL,
            headers: self.headers.len(),
            priority: self.priority,
        }
    }

    /// Whether some request matches both, and nothing says which of the two counts.
    ///
    /// Where both match and the rank is the same, so are host and path prefix: a request has one host and one path.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.name != other.name
            && self.rank() == other.rank()
            && self.host == other.host
            && self.path_prefix == other.path_prefix
            && self.methods.intersects(other.methods)
            && !self.excludes_by_header(other)
    }

    /// Whether a header would have to say two things at once.
    fn excludes_by_header(&self, other: &Self) -> bool {
        let excludes = |one: &Header, other: &Header| {
            one.name == other.name && one.value.is_some() && other.value.is_some() && one.value != other.value
        };
        self.headers.iter().any(|one| other.headers.iter().any(|other| excludes(one, other)))
    }

    /// In which order routes are looked at: the one that counts first; the name orders those of one rank, of which no two
    /// match the same request.
    pub fn precedence(&self, other: &Self) -> Ordering {
        other.rank().cmp(&self.rank()).then_with(|| self.name.cmp(&other.name))
    }

    /// What it matches, for people: `*.example.com/api GET,HEAD x-canary=1`.
    pub fn conditions(&self) -> String {
        let mut text = format!("{}{}", self.host, self.path_prefix);
        if self.methods != Methods::ALL {
            text.push_str(&format!(" {}", self.methods));
        }
        for Header { name, value } in &self.headers {
            match value {
                Some(value) => text.push_str(&format!(" {name}={value}")),
                None => text.push_str(&format!(" {name}")),
            }
        }
        text
    }
}

/// As the contract has it; empty for any.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests;
