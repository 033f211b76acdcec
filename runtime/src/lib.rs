//! What every process of the gateway needs to run, and nothing about gateways.
//!
//! [`accept`] tells connections apart, [`build`] says which build this is, [`credentials`] reads the token that is shown to others,
//! [`failure`] ends a process with a sentence and an exit code, [`files`] are read again when they change, [`hosts`] are names that
//! a server may be asked by, [`logs`] writes them to stderr, [`notify`] tells a service manager how the process fares, [`open_files`] raises their limit, [`panics`] draws a line around
//! each, [`passed`] takes sockets that a service manager has bound, [`printable`] makes text from others fit to be shown, [`process`] runs a program to its end, [`ready`] announces bound
//! addresses on stdout, [`shutdown`] turns signals into an orderly end, [`supervise`] owns the tasks that live as long, [`tls`] reads
//! certificates, [`unix_socket`] listens at paths and connects there, [`usage`] says what the process takes.

pub mod accept;
pub mod build;
pub mod credentials;
pub mod failure;
pub mod files;
pub mod hosts;
pub mod logs;
pub mod notify;
pub mod open_files;
pub mod panics;
pub mod passed;
pub mod printable;
pub mod process;
pub mod ready;
pub mod shutdown;
pub mod supervise;
pub mod tls;
pub mod unix_socket;
pub mod usage;

pub use failure::{Failure, root_cause};
pub use shutdown::Shutdown;
