//! The auth file, for tools: whether it is right, and how a token is written in it.

use std::path::Path;

use crate::auth::{file, token};

/// What an auth file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Tokens.
    pub tokens: usize,
    /// Certificates, by name or by the beginning of names.
    pub certificates: usize,
    /// Users of this machine.
    pub users: usize,
    /// Rules on the claims of JWTs.
    pub jwt_rules: usize,
}

/// Reads a file and those that it names, as the control plane does.
///
/// # Errors
/// What is wrong, with the entry at fault.
pub fn check(path: &Path) -> Result<Found, String> {
    let loaded = file::load(path)?;
    let (tokens, certificates, users, jwt_rules) = loaded.book.counts();
    Ok(Found { tokens, certificates, users, jwt_rules })
}

/// Reads the text of a file that names no other.
///
/// # Errors
/// What is wrong, with the entry at fault.
pub fn check_text(text: &str) -> Result<(), String> {
    file::parse(text, &mut Path::to_owned).map(drop)
}

/// The `sha256` of a token's entry.
pub fn fingerprint(token: &str) -> String {
    token::Fingerprint::of(&token::Secret::new(token)).to_string()
}
