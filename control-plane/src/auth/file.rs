//! The auth file: TOML in which each entry says who somebody is and what he may do.
//!
//! Reading goes by what was written: an unknown key, a role without what it needs, or a token twice is refused with the
//! entry's name, and nothing of the file is used.

use std::{
    collections::HashMap,
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::Networks;
use gateway_runtime::{credentials::read_token, files::Watched};
use serde::Deserialize;
use toml::Spanned;

use super::{
    book::{Book, Token, User},
    identity::{Addresses, Grant, Pattern},
    remote::Remote,
    roles::Role,
    token::{
        Fingerprint, Secret,
        jwks::{self, Jwks},
        jwt::{self, Keys},
    },
};
use crate::registry::Quota;

const MAX_FILE_BYTES: u64 = 4 << 20;
const MAX_ENTRIES: usize = 10_000;
const MAX_NAME_CHARS: usize = 63;

/// What was read, and the files that it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) book: Book,
    pub(crate) files: Watched,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
    #[serde(default)]
    user: Vec<UserEntry>,
    jwt: Option<JwtEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TokenEntry {
    name: Spanned<String>,
    sha256: Option<String>,
    token_file: Option<PathBuf>,
    expires: Option<String>,
    roles: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
    addresses: Option<Vec<String>>,
    max_replicas: Option<NonZeroU32>,
    max_services: Option<NonZeroU32>,
    nodes: Option<Vec<String>>,
    from: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CertificateEntry {
    name: String,
    roles: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
    addresses: Option<Vec<String>>,
    max_replicas: Option<NonZeroU32>,
    max_services: Option<NonZeroU32>,
    nodes: Option<Vec<String>>,
    from: Option<Vec<String>>,
}

/// Whoever comes by a Unix socket is on this machine: there is no other place to take him from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct UserEntry {
    name: Spanned<String>,
    uid: u32,
    roles: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
    addresses: Option<Vec<String>>,
    max_replicas: Option<NonZeroU32>,
    max_services: Option<NonZeroU32>,
    nodes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JwtEntry {
    issuer: String,
    audiences: Vec<String>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    jwks_ca: Option<PathBuf>,
    #[serde(default = "subject")]
    name_claim: String,
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleEntry {
    claim: String,
    value: String,
    roles: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
    addresses: Option<Vec<String>>,
    max_replicas: Option<NonZeroU32>,
    max_services: Option<NonZeroU32>,
    nodes: Option<Vec<String>>,
    from: Option<Vec<String>>,
}

fn subject() -> String {
    "sub".into()
}

/// What an entry grants, as it was written.
struct Written<'a> {
    roles: &'a [String],
    services: &'a [String],
    addresses: Option<&'a [String]>,
    max_replicas: Option<NonZeroU32>,
    max_services: Option<NonZeroU32>,
    nodes: Option<&'a [String]>,
    from: Option<&'a [String]>,
}

/// Of any kind of entry: they have these keys in common.
macro_rules! written {
    ($entry:expr) => {
        Written {
            roles: &$entry.roles,
            services: &$entry.services,
            addresses: $entry.addresses.as_deref(),
            max_replicas: $entry.max_replicas,
            max_services: $entry.max_services,
            nodes: $entry.nodes.as_deref(),
            from: $entry.from.as_deref(),
        }
    };
}

/// Reads the file and those that it names; relative paths are from where it is.
///
/// # Errors
/// What is wrong, with the entry at fault; never what is secret in it.
pub(crate) fn load(path: &Path) -> Result<Loaded, String> {
    // Each is looked at before it is read.
    let mut files = Watched::default();
    files.add(path.to_owned());
    let text = read(path, MAX_FILE_BYTES)?;
    let text = String::from_utf8(text).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut open = |name: &Path| {
        let path = folder.join(name);
        files.add(path.clone());
        path
    };
    let book = parse(&text, &mut open).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(Loaded { book, files })
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let named = |why: String| format!("{}: {why}", path.display());
    let found = fs::metadata(path).map_err(|error| named(error.to_string()))?;
    if found.len() > limit {
        return Err(named(format!("is larger than {limit} bytes")));
    }
    fs::read(path).map_err(|error| named(error.to_string()))
}

/// Reads a file's text; `open` says where a file that it names is.
pub(crate) fn parse(text: &str, open: &mut dyn FnMut(&Path) -> PathBuf) -> Result<Book, String> {
    // What the parser quotes of a line that it does not understand may be a secret.
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| line(text, span.start));
        format!("line {at}: {}", error.message())
    })?;
    let count = document.token.len() + document.certificate.len() + document.user.len();
    if count > MAX_ENTRIES {
        return Err(format!("has {count} entries, at most {MAX_ENTRIES} are allowed"));
    }
    has_each_name_once(text, &document)?;
    let issuer = document.jwt.map(|entry| issuer(entry, open)).transpose()?;
    if count == 0 && issuer.is_none() {
        return Err("has no entry: nobody could do anything. Make one with  gwctl auth token".into());
    }
    let certificates = document.certificate.iter().map(certificate).collect::<Result<_, _>>()?;
    Ok(Book {
        tokens: tokens(&document.token, open)?,
        certificates: Some(certificates),
        issuer,
        users: users(&document.user)?,
    })
}

/// The number of the line with this byte.
fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Limits and events go by the name, of whichever kind its entry is: two of one name would be taken for one.
fn has_each_name_once(text: &str, document: &Document) -> Result<(), String> {
    let tokens = document.token.iter().map(|entry| ("token", &entry.name));
    let users = document.user.iter().map(|entry| ("user", &entry.name));
    let mut known = HashMap::new();
    for (kind, name) in tokens.chain(users) {
        let here = line(text, name.span().start);
        if let Some((other, there)) = known.insert(name.get_ref(), (kind, here)) {
            return Err(format!(
                "{kind} {:?}, line {here}: has the name of the {other} in line {there}: give it one of its own, limits and events go by it",
                name.get_ref()
            ));
        }
    }
    Ok(())
}

fn tokens(
    entries: &[TokenEntry],
    open: &mut dyn FnMut(&Path) -> PathBuf,
) -> Result<HashMap<Fingerprint, Token>, String> {
    let mut tokens = HashMap::new();
    for entry in entries {
        let TokenEntry { name, sha256, token_file, expires, .. } = entry;
        let name = name.get_ref();
        let at = |why: String| format!("token {name:?}: {why}");
        check_name(name).map_err(at)?;
        let fingerprint = match (sha256, token_file) {
            (Some(hex), None) => Fingerprint::parse(hex)
                .ok_or_else(|| at("sha256 is no SHA-256 in 64 hexadecimal digits".into()))?,
            (None, Some(file)) => Fingerprint::of(&Secret::new(&read_token(&open(file)).map_err(at)?)),
            _ => return Err(at("needs either sha256 or token-file".into())),
        };
        let expires = match expires {
            None => None,
            Some(text) => Some(
                time(text)
                    .ok_or_else(|| at(format!("expires {text:?} is no time such as 2027-01-31T00:00:00Z")))?,
            ),
        };
        let grant = Arc::new(written!(entry).grant().map_err(at)?);
        if tokens.insert(fingerprint, Token { name: name.as_str().into(), grant, expires }).is_some() {
            return Err(at("is the same token as another entry's".into()));
        }
    }
    Ok(tokens)
}

fn users(entries: &[UserEntry]) -> Result<HashMap<u32, User>, String> {
    let (mut users, nobody) = (HashMap::<_, User>::new(), overflow_uid());
    for UserEntry { name, uid, roles, services, addresses, max_replicas, max_services, nodes } in entries {
        let (name, max_replicas, max_services) = (name.get_ref(), *max_replicas, *max_services);
        let at = |why: String| format!("user {name:?}: {why}");
        check_name(name).map_err(at)?;
        if *uid == nobody {
            return Err(at(format!(
                "uid {uid} is nobody: the kernel says so of whoever it cannot name here"
            )));
        }
        let (addresses, nodes) = (addresses.as_deref(), nodes.as_deref());
        let written = Written { roles, services, addresses, max_replicas, max_services, nodes, from: None };
        let grant = Arc::new(written.grant().map_err(at)?);
        if let Some(other) = users.insert(*uid, User { name: name.as_str().into(), grant }) {
            return Err(at(format!("uid {uid} is that of user {:?}, too", other.name)));
        }
    }
    Ok(users)
}

/// What the kernel says of a user who has no number in this user namespace, whoever he is.
fn overflow_uid() -> u32 {
    const UNLESS_SET: u32 = 65_534;
    let set = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    set.and_then(|text| text.trim().parse().ok()).unwrap_or(UNLESS_SET)
}

/// Those of certificates and of JWTs have a colon, which tells them apart.
fn check_name(name: &str) -> Result<(), String> {
    let is_shown = name.chars().all(|c| c.is_ascii_graphic()) && (1..=MAX_NAME_CHARS).contains(&name.len());
    match is_shown && !name.contains(':') {
        true => Ok(()),
        false => Err(format!("a name is 1 to {MAX_NAME_CHARS} visible ASCII characters without ':'")),
    }
}

fn certificate(entry: &CertificateEntry) -> Result<(Pattern, Arc<Grant>), String> {
    let name = &entry.name;
    let at = |why: String| format!("certificate {name:?}: {why}");
    if !["spiffe://", "dns:", "cn:"].iter().any(|kind| name.starts_with(kind)) {
        return Err(at("begins with spiffe://, dns: or cn:, as the name of the client does".into()));
    }
    Ok((Pattern::parse(name).map_err(at)?, Arc::new(written!(entry).grant().map_err(at)?)))
}

fn issuer(entry: JwtEntry, open: &mut dyn FnMut(&Path) -> PathBuf) -> Result<jwt::Issuer, String> {
    let at = |why: String| format!("jwt: {why}");
    if entry.issuer.is_empty() || entry.audiences.is_empty() {
        return Err(at("needs an issuer and at least one of audiences".into()));
    }
    if entry.rule.is_empty() {
        return Err(at("has no rule: no token would grant anything".into()));
    }
    let ca = entry.jwks_ca.as_deref().map(&mut *open);
    let keys = match (&entry.jwks_file, &entry.jwks_url) {
        (Some(file), None) if ca.is_none() => {
            let path = open(file);
            let set = read(&path, jwks::MAX_FILE_BYTES as u64).map_err(at)?;
            Keys::Read(Jwks::parse(&set).map_err(|why| at(format!("{}: {why}", path.display())))?)
        }
        (None, Some(url)) => Keys::Published(Remote::parse(url, ca).map_err(at)?, None),
        _ => {
            return Err(at(
                "needs either jwks-file, or jwks-url with jwks-ca if its authority is not a public one"
                    .into(),
            ));
        }
    };
    let rules = entry.rule.iter().map(|rule| {
        let RuleEntry { claim, value, .. } = rule;
        let at = |why: String| format!("jwt rule {claim} = {value:?}: {why}");
        let (value, grant) =
            (Pattern::parse(value).map_err(at)?, Arc::new(written!(rule).grant().map_err(at)?));
        Ok(jwt::Rule { claim: claim.clone(), value, grant })
    });
    Ok(jwt::Issuer {
        rules: rules.collect::<Result<_, String>>()?,
        name: entry.issuer,
        audiences: entry.audiences,
        name_claim: entry.name_claim,
        keys,
    })
}

impl Written<'_> {
    fn grant(&self) -> Result<Grant, String> {
        let names = Role::ALL.map(Role::name).join(", ");
        let role = |name: &String| {
            Role::parse(name).ok_or_else(|| format!("there is no role {name:?}: the roles are {names}"))
        };
        let roles = self.roles.iter().map(role).collect::<Result<Vec<_>, _>>()?;
        if roles.is_empty() {
            return Err(format!("has no role: the roles are {names}"));
        }
        let is_replica = roles.contains(&Role::Replica);
        if is_replica && self.services.is_empty() {
            return Err(
                "the role replica needs services, such as [\"orders\", \"team-a-*\"], or [\"*\"] for all"
                    .into(),
            );
        }
        if !is_replica && (!self.services.is_empty() || self.addresses.is_some()) {
            return Err("services and addresses are for the role replica, which it does not have".into());
        }
        let numbers = [self.max_replicas, self.max_services];
        if numbers.iter().any(Option::is_some) && (!is_replica || roles.contains(&Role::Operator)) {
            return Err("max-replicas and max-services are for the role replica alone: an operator may have any number".into());
        }
        if self.nodes.is_some() && !roles.contains(&Role::DataPlane) {
            return Err("nodes are for the role data-plane, which it does not have".into());
        }
        let services = patterns("services", self.services)?;
        let nodes = self.nodes.map(|texts| patterns("nodes", texts)).transpose()?;
        let addresses = self.addresses.map(addresses).transpose()?;
        let from = self.from.map(|texts| networks("from", texts)).transpose()?;
        let [replicas, services_at_most] = numbers.map(|number| Some(number?.get() as usize));
        let quota = Quota { replicas, services: services_at_most };
        Ok(Grant { roles, services, addresses, quota, nodes, from })
    }
}

fn patterns(key: &str, texts: &[String]) -> Result<Vec<Pattern>, String> {
    let pattern = |text: &String| Pattern::parse(text).map_err(|why| format!("{key}: {text:?} {why}"));
    texts.iter().map(pattern).collect()
}

fn addresses(texts: &[String]) -> Result<Addresses, String> {
    let is_name =
        |text: &&String| text.chars().any(|c| c.is_ascii_alphabetic()) && !text.contains([':', '/']);
    let (names, others): (Vec<_>, Vec<_>) = texts.iter().partition(is_name);
    for name in &names {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        if rest.contains('*') || rest.is_empty() {
            return Err(format!("addresses: {name:?} is no name, and none such as *.orders.svc"));
        }
    }
    let others: Vec<String> = others.into_iter().cloned().collect();
    let names = names.into_iter().map(|name| name.to_ascii_lowercase().into()).collect();
    Ok(Addresses { networks: networks("addresses", &others)?, names })
}

fn networks(key: &str, texts: &[String]) -> Result<Networks, String> {
    if texts.len() > Networks::MAX {
        return Err(format!("{key} has {}, at most {} are allowed", texts.len(), Networks::MAX));
    }
    Networks::parse(texts.iter().map(String::as_str)).map_err(|(text, why)| format!("{key}: {text:?} {why}"))
}

/// A time as RFC 3339 has it, in UTC.
fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

#[cfg(test)]
mod tests;
