//! Why a message of the snapshot stream was not applied.

use gateway_proto::v1;

/// A message that cannot be right. The data plane stays on what it holds and says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not continue what is held: another epoch, another base, or a revision that goes back.
    #[error("{0}")]
    BaseMismatch(String),
    /// It is of an older revision than what is held of the same epoch: the control plane is behind the one before it.
    #[error("{0}")]
    Behind(String),
    /// What is held is not what the registry has at that revision.
    #[error("{0}")]
    ContentMismatch(String),
    /// One service, replica or override is named twice.
    #[error("{0} is named twice")]
    DuplicateKey(String),
    /// A name, an address, a policy or a number is not valid.
    #[error("{0}")]
    InvalidResource(String),
    /// A part of a full snapshot is missing, repeated, or interrupted by something else.
    #[error("{0}")]
    PartsOutOfOrder(String),
}

impl Refusal {
    /// The machine-readable reason that travels in a nack.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BaseMismatch(_) | Self::Behind(_) => "BASE_MISMATCH",
            Self::ContentMismatch(_) => "CONTENT_MISMATCH",
            Self::DuplicateKey(_) => "DUPLICATE_KEY",
            Self::InvalidResource(_) => "INVALID_RESOURCE",
            Self::PartsOutOfOrder(_) => "PARTS_OUT_OF_ORDER",
        }
    }

    /// What the control plane is told.
    pub fn to_nack(&self) -> v1::Nack {
        v1::Nack { reason: self.reason().into(), message: self.to_string() }
    }
}
