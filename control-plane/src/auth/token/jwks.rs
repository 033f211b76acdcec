//! The public keys of an issuer, from a JWK set (RFC 7517): out of a file, or as they were fetched.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use super::decode;
use crate::auth::CredentialError;

/// Keys that one set may have.
const MAX_KEYS: usize = 100;
pub(in crate::auth) const MAX_FILE_BYTES: usize = 1024 * 1024;

/// The algorithms that are believed. What a token says of its algorithm must be what the key is for: a public key is never
/// taken for a shared secret, and `none` is none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

/// The keys of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct Jwks(Vec<Key>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

impl Jwks {
    /// Reads a set. Keys for encryption and of other kinds are left out.
    ///
    /// # Errors
    /// What is wrong with it; also when no key is left.
    pub(in crate::auth) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_FILE_BYTES {
            return Err("is larger than 1 MiB".into());
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| format!("is no JWK set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("has {} keys, at most {MAX_KEYS} are allowed", set.keys.len()));
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::of).collect();
        if keys.is_empty() {
            return Err("has no key for signatures by RS256 (2048 bits or more), ES256 or EdDSA".into());
        }
        let mut ids: Vec<_> = keys.iter().filter_map(|key| key.id.as_ref()).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("has two keys with the kid {:?}", pair[0])),
            None => Ok(Self(keys)),
        }
    }

    /// Whether a signature is that of the key which the token names; without a name, of the only key of its algorithm.
    pub(super) fn verify(
        &self,
        (algorithm, id): (Algorithm, Option<&str>),
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CredentialError> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm() == algorithm);
        let key = match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        let key = key.ok_or(CredentialError::UnknownKey)?;
        key.verify(message, signature).ok_or_else(|| CredentialError::invalid("has a wrong signature"))
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let field = |field: Option<&String>| decode(field?);
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: field(jwk.n.as_ref())?, e: field(jwk.e.as_ref())? },
            ("EC", Some("P-256")) => {
                let (x, y) = (field(jwk.x.as_ref())?, field(jwk.y.as_ref())?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                // An uncompressed point (SEC 1, section 2.3.3).
                Material::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(field(jwk.x.as_ref()).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let key = Self { id: jwk.kid, material };
        let is_for_it = jwk.alg.as_deref().is_none_or(|name| Algorithm::parse(name) == Some(key.algorithm()));
        let is_long_enough = match &key.material {
            Material::Rsa { n, .. } => {
                (256..=1024).contains(&n.iter().skip_while(|byte| **byte == 0).count())
            }
            Material::P256(_) | Material::Ed25519(_) => true,
        };
        (is_for_it && is_long_enough).then_some(key)
    }

    fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        match &self.material {
            Material::Rsa { n, e } => {
                let n: Vec<u8> = n.iter().copied().skip_while(|byte| *byte == 0).collect();
                RsaPublicKeyComponents { n: &n, e }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .ok()
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).ok()
            }
            Material::Ed25519(x) => UnparsedPublicKey::new(&ED25519, x).verify(message, signature).ok(),
        }
    }
}
