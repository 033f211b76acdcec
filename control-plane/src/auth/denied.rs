//! Why somebody is refused.

use std::{sync::Arc, time::Duration};

use gateway_proto::{Address, ServiceName, reason};

/// Why a request is not for its caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// He has not shown who he is.
    #[error("{0}")]
    Nobody(CredentialError),
    /// He has, and may not.
    #[error("{sentence}")]
    Permission { sentence: String, service: Option<ServiceName> },
    /// No replica may be there.
    #[error("the address {address} {why}")]
    Address { address: Address, why: String, service: ServiceName },
    /// He asks too often.
    #[error("{name} asks more often than one caller may")]
    TooOften { name: String, retry: Duration },
    /// What comes from where he is, is wrong too often.
    #[error("too many wrong credentials come from this address: none are looked at for a moment")]
    Guesses { retry: Duration },
    /// He has too many connections.
    #[error("{name} has more connections than one caller may: {limit} at once from one address")]
    Crowd { name: Arc<str>, limit: usize },
}

/// Why nobody knows who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error(
        "this needs credentials: send a token as authorization: Bearer TOKEN, or show a client certificate"
    )]
    Missing,
    #[error("the token {why}")]
    Invalid { why: String },
    #[error("the token is signed by a key that the JWK set does not have for this algorithm")]
    UnknownKey,
    #[error(
        "the keys of the issuer have not been fetched yet: try again, and see the log of the control plane"
    )]
    NoKeys,
    #[error("the token or certificate has expired: get a new one")]
    Expired,
    #[error("the client certificate has neither a SPIFFE id nor a DNS name nor a common name")]
    Nameless,
}

impl CredentialError {
    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid { why: why.into() }
    }
}

impl Denied {
    /// The machine-readable reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Nobody(CredentialError::Missing) => reason::CREDENTIALS_REQUIRED,
            Self::Nobody(CredentialError::Expired) => reason::CREDENTIALS_EXPIRED,
            Self::Nobody(_) => reason::CREDENTIALS_INVALID,
            Self::Permission { .. } => reason::PERMISSION_DENIED,
            Self::Address { .. } => reason::ADDRESS_NOT_ALLOWED,
            Self::TooOften { .. } | Self::Guesses { .. } => reason::RATE_LIMITED,
            Self::Crowd { .. } => reason::QUOTA_EXCEEDED,
        }
    }

    /// The service that it is about, if about one.
    pub(crate) fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Permission { service, .. } => service.as_ref(),
            Self::Address { service, .. } => Some(service),
            Self::Nobody(_) | Self::TooOften { .. } | Self::Guesses { .. } | Self::Crowd { .. } => None,
        }
    }
}
