//! Who may do what.
//!
//! ```text
//!  connection (certificate) ─┐
//!  request (bearer token) ───┴▶ gate ─▶ book: who is it? ─▶ identity, grants
//!                                │                              │
//!                                ▼                              ▼
//!                 permission: what does it take? ──────▶ caller: may he? ─▶ handlers
//!                                                               │
//!                                                               └▶ audit
//! ```
//!
//! All but the gate, the pace of refusals, the audit and what is fetched from a URL is pure: [`permission`] is the table of what can be asked, [`book`] what the auth file says,
//! [`caller`] decides. Handlers take the [`Caller`] from the request, and hand him on with what he wants: [`Edge`] carries no
//! command out that he may not have.
//!
//! [`Edge`]: crate::edge::Edge

mod audit;
pub(crate) mod book;
mod caller;
mod denied;
mod endpoints;
pub(crate) mod file;
mod gate;
pub(crate) mod identity;
mod limit;
mod pace;
pub(crate) mod permission;
mod rates;
mod remote;
mod roles;
mod settings;
mod share;
pub(crate) mod token;
mod watched;

pub use self::settings::{Settings, SettingsArgs};
pub(crate) use self::{
    audit::Audit,
    caller::{Caller, Subject},
    denied::{CredentialError, Denied},
    gate::{Gate, Lock},
    permission::Permission,
    share::{PLACES, Share},
    watched::Wire,
};
