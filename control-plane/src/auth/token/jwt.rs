//! JSON Web Tokens (RFC 7519) in compact form, signed; and what their claims grant. Time is an argument.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::{
    decode,
    jwks::{Algorithm, Jwks},
};
use crate::auth::{
    CredentialError,
    identity::{Grant, Identity, Kind, Pattern},
    remote::Remote,
};

/// How far the issuer's clock may be from ours.
pub(in crate::auth) const LEEWAY: Duration = Duration::from_secs(60);
const MAX_NAME_CHARS: usize = 200;

/// Whose tokens are believed, and what they grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct Issuer {
    pub(in crate::auth) name: String,
    pub(in crate::auth) audiences: Vec<String>,
    /// The claim that names who has the token.
    pub(in crate::auth) name_claim: String,
    pub(in crate::auth) keys: Keys,
    pub(in crate::auth) rules: Vec<Rule>,
}

/// By what its tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) enum Keys {
    /// They were in a file.
    Read(Jwks),
    /// They are published; those that were fetched last, if any were.
    Published(Remote, Option<Jwks>),
}

/// What a claim grants when it says this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct Rule {
    /// Its name; a dot leads into an object, such as `realm_access.roles`.
    pub(in crate::auth) claim: String,
    pub(in crate::auth) value: Pattern,
    pub(in crate::auth) grant: Arc<Grant>,
}

/// Whether a token has the form of a JWT.
pub(in crate::auth) fn looks_like_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Issuer {
    /// Who has this token.
    pub(in crate::auth) fn identify(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Identity, CredentialError> {
        let claims = self.verified(token)?;
        let expires = self.check(&claims, now)?;
        let name = claims.get(&self.name_claim).and_then(Value::as_str).unwrap_or_default();
        let is_shown =
            !name.is_empty() && name.chars().count() <= MAX_NAME_CHARS && !name.chars().any(char::is_control);
        if !is_shown {
            let why = format!("names nobody in its claim {}", self.name_claim);
            return Err(CredentialError::invalid(why));
        }
        let grants = self.rules.iter().filter(|rule| rule.holds(&claims)).map(|rule| Arc::clone(&rule.grant));
        Ok(Identity {
            name: format!("jwt:{name}").into(),
            kind: Kind::Jwt,
            grants: grants.collect(),
            expires: Some(expires),
        })
    }

    /// The claims of a token whose signature is good.
    fn verified(&self, token: &str) -> Result<Map<String, Value>, CredentialError> {
        let invalid = |why: &str| CredentialError::invalid(why);
        let (Keys::Read(keys) | Keys::Published(_, Some(keys))) = &self.keys else {
            return Err(CredentialError::NoKeys);
        };
        let mut parts = token.splitn(4, '.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid("is no JWT of three parts"));
        };
        let fields = object(header).ok_or_else(|| invalid("has a header that is no JSON object"))?;
        // Extensions that must be understood, and none is (RFC 7515, section 4.1.11).
        if fields.contains_key("crit") {
            return Err(invalid("asks for extensions, which are not known here"));
        }
        let name = fields.get("alg").and_then(Value::as_str).unwrap_or_default();
        let algorithm = Algorithm::parse(name)
            .ok_or_else(|| invalid("is signed by another algorithm than RS256, ES256 and EdDSA"))?;
        let id = match fields.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(invalid("has a kid that is no text")),
        };
        let signature = decode(signature).ok_or_else(|| invalid("has a signature that is not base64url"))?;
        let message = &token.as_bytes()[..header.len() + 1 + claims.len()];
        keys.verify((algorithm, id), message, &signature)?;
        object(claims).ok_or_else(|| invalid("has claims that are no JSON object"))
    }

    /// Whether they are of this issuer, for us, and for now; until when.
    fn check(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<SystemTime, CredentialError> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.name) {
            return Err(CredentialError::invalid("is of another issuer"));
        }
        let is_ours = |audience: &Value| {
            audience.as_str().is_some_and(|one| self.audiences.iter().any(|ours| ours == one))
        };
        let is_for_us = match claims.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if !is_for_us {
            return Err(CredentialError::invalid("is for another audience"));
        }
        let exp = instant(claims, "exp")?.ok_or_else(|| CredentialError::invalid("has no end (exp)"))?;
        if now >= exp + LEEWAY {
            return Err(CredentialError::Expired);
        }
        for claim in ["nbf", "iat"] {
            if instant(claims, claim)?.is_some_and(|begin| begin > now + LEEWAY) {
                return Err(CredentialError::invalid(format!(
                    "is not valid yet ({claim}): compare the clocks"
                )));
            }
        }
        Ok(exp + LEEWAY)
    }
}

impl Rule {
    fn holds(&self, claims: &Map<String, Value>) -> bool {
        let found = match claims.get(&self.claim) {
            // A name with dots in it, such as a URL, is itself first.
            Some(found) => Some(found),
            None => {
                let mut way = self.claim.split('.');
                let first = way.next().and_then(|name| claims.get(name));
                way.fold(first, |found, name| found?.as_object()?.get(name))
            }
        };
        let says = |value: &Value| value.as_str().is_some_and(|text| self.value.matches(text));
        match found {
            Some(Value::Array(values)) => values.iter().any(says),
            Some(value) => says(value),
            None => false,
        }
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&decode(part)?).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// A claim that is a time: seconds of Unix time, which may have a fraction.
fn instant(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, CredentialError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=253_402_300_799.0).contains(seconds));
    let refused = || CredentialError::invalid(format!("has a time that is none ({name})"));
    seconds.map(|seconds| Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))).ok_or_else(refused)
}

#[cfg(test)]
mod tests;
