//! Explicit routes as the request path looks them up: which one counts for a request, and what it makes of the path.
//!
//! Pure. A lookup takes time in proportion to the request's host and to the part of its path that routes reach into,
//! however many routes and services there are, and allocates nothing. The order of routes is [`Route::precedence`]: hosts
//! decide first, so each has a tree of path segments of its own, in which what lies deeper goes first.

use std::{collections::HashMap, sync::Arc};

use gateway_proto::route::{Header, Host, Route};
use http::Method;

use crate::{
    handles::Handles,
    header_fields::{HeaderFields, Said},
};

/// What of a request routes are told apart by.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// As it was sent, with its port if it has one.
    pub host: Option<&'a str>,
    /// As it was sent, without the query.
    pub path: &'a str,
    /// Its method.
    pub method: &'a Method,
    /// Its header fields.
    pub fields: &'a dyn HeaderFields,
}

/// A route, made ready for requests.
#[derive(Debug)]
pub struct Rule {
    route: Arc<Route>,
    handles: Handles<Arc<Route>>,
}

/// A route as requests of a worker hold it: by a count that no other worker writes.
pub type HeldRoute = Arc<Arc<Route>>;

/// How a target becomes the one that replicas see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite<'a> {
    /// So many bytes of its beginning do not pass.
    pub stripped: usize,
    /// What stands in their place.
    pub prefix: &'a str,
}

/// All routes. `Default` has none.
#[derive(Debug, Default)]
pub struct Routes {
    names: HashMap<Box<str>, Segment>,
    below: HashMap<Box<str>, Segment>,
    /// The longest key of `below`.
    longest_below: usize,
    any: Segment,
    len: usize,
}

/// One segment of paths, and what lies below it.
#[derive(Debug, Default)]
struct Segment {
    /// Of paths that end here or go on below, the one that counts first at the front.
    rules: Vec<Rule>,
    children: HashMap<Box<str>, Segment>,
}

/// Longer hosts are none of any route's.
const MAX_HOST_BYTES: usize = 253;

impl Routes {
    /// Makes all of them ready for so many workers; of two that are in conflict, which the registry does not store, the first by name goes
    /// first.
    pub fn new<'a>(routes: impl IntoIterator<Item = &'a Route>, workers: usize) -> Self {
        let mut all = Self::default();
        for route in routes {
            let tree = match &route.host {
                Host::Name(name) => all.names.entry(name.clone()).or_default(),
                Host::Below(name) => {
                    all.longest_below = all.longest_below.max(name.len());
                    all.below.entry(name.clone()).or_default()
                }
                Host::Any => &mut all.any,
            };
            let segments = route.path_prefix.split('/').filter(|_| &*route.path_prefix != "/").skip(1);
            let place = segments.fold(tree, |segment, name| segment.children.entry(name.into()).or_default());
            let rule = Rule::new(route, workers);
            let at = place.rules.partition_point(|known| known.route.precedence(route).is_le());
            place.rules.insert(at, rule);
            all.len += 1;
        }
        all
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The one that counts for a request; `None` when none matches.
    pub fn find(&self, asked: Asked<'_>) -> Option<&Rule> {
        if self.is_empty() {
            return None;
        }
        let mut buffer = [0; MAX_HOST_BYTES];
        let host = asked.host.and_then(|host| name_of(host, &mut buffer));
        if let Some(host) = host {
            let by_name = self.names.get(host).and_then(|tree| tree.find(asked));
            if let Some(rule) = by_name.or_else(|| self.find_below(host, asked)) {
                return Some(rule);
            }
        }
        self.any.find(asked)
    }

    /// Looks at the names that a host lies below, the longest first.
    fn find_below(&self, host: &str, asked: Asked<'_>) -> Option<&Rule> {
        let mut rest = host;
        while let Some((_, above)) = rest.split_once('.').filter(|_| self.longest_below > 0) {
            rest = above;
            let tree = if above.len() > self.longest_below { None } else { self.below.get(above) };
            if let Some(rule) = tree.and_then(|tree| tree.find(asked)) {
                return Some(rule);
            }
        }
        None
    }
}

impl Segment {
    fn find(&self, asked: Asked<'_>) -> Option<&Rule> {
        // "*", for instance, is no path.
        let below = asked.path.strip_prefix('/')?;
        self.find_in(Some(below), asked)
    }

    /// Looks at what is `below` this segment, and then at the segment itself. It goes as deep as routes do.
    fn find_in(&self, below: Option<&str>, asked: Asked<'_>) -> Option<&Rule> {
        let deeper = below.filter(|_| !self.children.is_empty()).and_then(|below| {
            let (name, rest) = match below.split_once('/') {
                Some((name, rest)) => (name, Some(rest)),
                None => (below, None),
            };
            self.children.get(name)?.find_in(rest, asked)
        });
        deeper.or_else(|| self.rules.iter().find(|rule| rule.fits(asked)))
    }
}

impl Rule {
    fn new(route: &Route, workers: usize) -> Self {
        Self { route: Arc::new(route.clone()), handles: Handles::new(workers) }
    }

    /// The route itself.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The route for a request of this worker, which goes by it although there may be others by then.
    pub fn held_by(&self, worker: usize) -> HeldRoute {
        let handle = self.handles.of(worker, || Arc::clone(&self.route));
        handle.map_or_else(|| Arc::new(Arc::clone(&self.route)), Arc::clone)
    }

    /// Whether the method and the headers of a request are this route's; its path and host are.
    fn fits(&self, asked: Asked<'_>) -> bool {
        self.route.methods.has(asked.method.as_str())
            && self.route.headers.iter().all(|Header { name, value }| {
                match (asked.fields.said(name), value) {
                    (Said::Nothing, _) => false,
                    (Said::Once(_) | Said::Several, None) => true,
                    (Said::Once(said), Some(value)) => said == value.as_bytes(),
                    // Said twice, it does not say one thing.
                    (Said::Several, Some(_)) => false,
                }
            })
    }
}

impl<'a> Rewrite<'a> {
    /// What becomes of the target, path and query, of a request that this route matches; `None` if it stays as it is.
    pub fn by(route: &'a Route, target: &str) -> Option<Self> {
        let prefix = route.rewrite_prefix.as_deref()?;
        let stripped = route.path_prefix.trim_end_matches('/').len();
        Some(Self::new(target, stripped, prefix.trim_end_matches('/')))
    }

    /// Of a target: `prefix`, which does not end in a slash, in place of so many of its bytes. What is seen of "/api" and
    /// "/api?x=1" without their "/api" is the root of what is below.
    pub fn new(target: &str, stripped: usize, prefix: &'a str) -> Self {
        let begins_below = target.as_bytes().get(stripped) == Some(&b'/');
        Self { stripped, prefix: if prefix.is_empty() && !begins_below { "/" } else { prefix } }
    }
}

/// A host without its port, in lower case; `None` for one that is longer than any name.
fn name_of<'a>(host: &'a str, buffer: &'a mut [u8; MAX_HOST_BYTES]) -> Option<&'a str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if !name.bytes().any(|b| b.is_ascii_uppercase()) {
        return (name.len() <= MAX_HOST_BYTES).then_some(name);
    }
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests;
