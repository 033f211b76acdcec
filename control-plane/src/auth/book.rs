//! Who is known: what the auth file says, ready to be asked. Pure: files were read before, time is an argument.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_runtime::tls::PeerCertificate;

use super::{
    CredentialError,
    identity::{Grant, Identity, Kind, Pattern},
    remote::Remote,
    roles::Role,
    token::{
        Fingerprint, MAX_TOKEN_BYTES, Secret,
        jwks::Jwks,
        jwt::{self, Keys},
    },
};

/// What somebody shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Bearer(Secret),
    Certificate(Arc<PeerCertificate>),
    /// The number of a user of this machine: the kernel says so of whoever comes by a Unix socket.
    User(u32),
}

impl Credential {
    /// Whether who shows it is found out by verifying a signature, and not by looking it up.
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, Self::Bearer(secret) if jwt::looks_like_one(secret.reveal()))
    }
}

/// Everybody who is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pub(super) tokens: HashMap<Fingerprint, Token>,
    /// `None`: whoever shows a certificate may do everything, for nobody said otherwise.
    pub(super) certificates: Option<Vec<(Pattern, Arc<Grant>)>>,
    pub(super) issuer: Option<jwt::Issuer>,
    /// By their numbers.
    pub(super) users: HashMap<u32, User>,
}

/// A user of this machine that is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    pub(super) grant: Arc<Grant>,
}

/// One that is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) name: Arc<str>,
    pub(super) grant: Arc<Grant>,
    pub(super) expires: Option<SystemTime>,
}

impl Book {
    /// Nobody is in it by name: a certificate of the client authority is enough for everything.
    pub(crate) fn of_certificates() -> Self {
        Self::default()
    }

    /// When its tokens end, the first one first.
    pub(super) fn token_ends(&self) -> Vec<(SystemTime, &str)> {
        let tokens = self.tokens.values();
        let mut ends: Vec<_> = tokens.filter_map(|token| Some((token.expires?, &*token.name))).collect();
        ends.sort_unstable();
        ends
    }

    /// Who shows this.
    ///
    /// # Errors
    /// Why he is nobody.
    pub(crate) fn identify(
        &self,
        credential: &Credential,
        now: SystemTime,
    ) -> Result<Identity, CredentialError> {
        match credential {
            Credential::Bearer(secret) => self.by_token(secret, now),
            Credential::Certificate(certificate) => self.by_certificate(certificate, now),
            Credential::User(user) => self.by_user(*user),
        }
    }

    fn by_token(&self, secret: &Secret, now: SystemTime) -> Result<Identity, CredentialError> {
        if secret.reveal().len() > MAX_TOKEN_BYTES {
            return Err(CredentialError::invalid("is longer than 16 KiB"));
        }
        let fingerprint = Fingerprint::of(secret);
        let found = self.tokens.get_key_value(&fingerprint).filter(|(known, _)| known.is(&fingerprint));
        if let Some((_, token)) = found {
            if token.expires.is_some_and(|expires| now >= expires) {
                return Err(CredentialError::Expired);
            }
            let grants = vec![Arc::clone(&token.grant)];
            return Ok(Identity {
                name: Arc::clone(&token.name),
                kind: Kind::Token,
                grants,
                expires: token.expires,
            });
        }
        match &self.issuer {
            Some(issuer) if jwt::looks_like_one(secret.reveal()) => issuer.identify(secret.reveal(), now),
            _ => Err(CredentialError::invalid("is not known")),
        }
    }

    fn by_certificate(
        &self,
        certificate: &PeerCertificate,
        now: SystemTime,
    ) -> Result<Identity, CredentialError> {
        // It was good when the connection began.
        if now >= certificate.not_after + CLOCK_GRACE {
            return Err(CredentialError::Expired);
        }
        // Whoever signs may put anything into it, and it is shown to people.
        let name = certificate.name().filter(|name| !name.chars().any(char::is_control));
        let name = name.ok_or(CredentialError::Nameless)?;
        let grants = match &self.certificates {
            None => vec![Arc::new(Grant { roles: EVERYTHING.to_vec(), ..Grant::default() })],
            Some(known) => {
                let fitting = known.iter().filter(|(pattern, _)| pattern.matches(&name));
                fitting.map(|(_, grant)| Arc::clone(grant)).collect()
            }
        };
        Ok(Identity {
            name: name.into(),
            kind: Kind::Certificate,
            grants,
            expires: Some(certificate.not_after),
        })
    }

    /// One who is not in the book has shown nothing, and may still show a token.
    fn by_user(&self, user: u32) -> Result<Identity, CredentialError> {
        let User { name, grant } = self.users.get(&user).ok_or(CredentialError::Missing)?;
        let (name, grants) = (Arc::clone(name), vec![Arc::clone(grant)]);
        Ok(Identity { name, kind: Kind::User, grants, expires: None })
    }

    /// Where keys are published that are to be fetched, if any are.
    pub(super) fn remote(&self) -> Option<&Remote> {
        match &self.issuer.as_ref()?.keys {
            Keys::Published(remote, _) => Some(remote),
            Keys::Read(_) => None,
        }
    }

    /// The keys that were fetched there last, if any were.
    fn fetched(&self) -> Option<&Jwks> {
        match &self.issuer.as_ref()?.keys {
            Keys::Published(_, fetched) => fetched.as_ref(),
            Keys::Read(_) => None,
        }
    }

    /// The same with keys that were fetched at `remote`; `None` where they are for nothing, or no others than before.
    pub(super) fn with_keys(&self, remote: &Remote, keys: &Jwks) -> Option<Self> {
        let is_news = self.remote() == Some(remote) && self.fetched() != Some(keys);
        is_news.then(|| {
            let mut book = self.clone();
            if let Some(issuer) = &mut book.issuer {
                issuer.keys = Keys::Published(remote.clone(), Some(keys.clone()));
            }
            book
        })
    }

    /// The same with the keys that `before` had fetched, where they are published at the same place.
    pub(super) fn keeping_keys(&self, before: &Self) -> Self {
        let kept = before.remote().zip(before.fetched());
        kept.and_then(|(remote, keys)| self.with_keys(remote, keys)).unwrap_or_else(|| self.clone())
    }

    /// How many of each: tokens, certificates, users, rules for JWTs.
    pub(crate) fn counts(&self) -> (usize, usize, usize, usize) {
        let rules = self.issuer.as_ref().map_or(0, |issuer| issuer.rules.len());
        (self.tokens.len(), self.certificates.as_ref().map_or(0, Vec::len), self.users.len(), rules)
    }
}

/// What an operator and a data plane may do, which together is everything.
const EVERYTHING: [Role; 2] = [Role::Operator, Role::DataPlane];
/// The handshake has looked at the time already.
const CLOCK_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::permission::Permission;

    fn certificate(name: &str) -> Credential {
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let certificate =
            PeerCertificate { uris: vec![name.into()], dns: Vec::new(), common_name: None, not_after };
        Credential::Certificate(Arc::new(certificate))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_list_a_certificate_of_the_authority_is_enough_for_everything() {
        let known = Book::of_certificates().identify(&certificate("spiffe://p/a"), at(0)).unwrap();
        for permission in [Permission::Operate, Permission::Follow, Permission::Read, Permission::Register] {
            assert!(known.has(permission, None));
        }
    }

    #[test]
    fn with_a_list_a_certificate_grants_what_the_list_says_of_its_name_and_else_nothing() {
        let grant = Arc::new(Grant { roles: vec![Role::Reader], ..Grant::default() });
        let book = Book {
            certificates: Some(vec![(Pattern::parse("spiffe://p/*").unwrap(), grant)]),
            ..Book::default()
        };
        let has = |name: &str| book.identify(&certificate(name), at(0)).unwrap().has(Permission::Read, None);
        assert!(has("spiffe://p/a") && !has("spiffe://q/a"));
    }

    #[test]
    fn a_name_that_could_not_be_shown_is_none() {
        let nameless = Book::of_certificates().identify(&certificate("spiffe://p/\u{1b}[31m"), at(0));
        assert_eq!(nameless, Err(CredentialError::Nameless));
    }

    #[test]
    fn a_user_of_this_machine_is_known_by_his_number_and_a_stranger_has_shown_nothing() {
        let grant = Arc::new(Grant { roles: vec![Role::Reader], ..Grant::default() });
        let users = [(1000, User { name: "ana".into(), grant })].into();
        let book = Book { users, ..Book::default() };
        let known = book.identify(&Credential::User(1000), at(0)).unwrap();
        assert_eq!((&*known.name, known.kind, known.has(Permission::Read, None)), ("ana", Kind::User, true));
        assert_eq!(book.identify(&Credential::User(1001), at(0)), Err(CredentialError::Missing));
    }

    #[test]
    fn a_certificate_ends_while_its_connection_lasts() {
        let ended = Book::of_certificates().identify(&certificate("spiffe://p/a"), at(1002));
        assert_eq!(ended, Err(CredentialError::Expired));
    }
}
