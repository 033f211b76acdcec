//! What every process of the gateway needs to run, and nothing about gateways.
//!
//! [`accept`] tells connections apart, [`failure`] ends a process with a sentence and an exit code, [`logs`] writes them to stderr, [`open_files`] raises
//! their limit, [`ready`] announces bound addresses on stdout, [`shutdown`] turns signals into an orderly end.

pub mod accept;
pub mod failure;
pub mod logs;
pub mod open_files;
pub mod ready;
pub mod shutdown;

pub use failure::{Failure, root_cause};
pub use shutdown::Shutdown;
