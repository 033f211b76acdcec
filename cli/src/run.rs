//! A supervisor for one program that knows nothing of the gateway: it is started, registered while it is ready, reported
//! the moment it dies, started again, and drained before it ends.
//!
//! [`restarts`] decides, with time as an argument, when a program that ended is started again; [`arguments`] and [`lines`]
//! transform text. The rest is a thin shell: [`child`] owns a process group, [`place`] finds a port, [`readiness`] asks
//! whether it answers, [`changes`] whether its source is another, [`registration`] keeps one replica in the registry over the
//! [`renewals`] that all of them share,
//! [`supervisor`] puts them together for one replica, [`signals`] says when to stop, and [`orphans`] ends the program when
//! this process is killed.

mod arguments;
mod changes;
mod child;
mod lines;
pub(crate) mod orphans;
pub(crate) mod place;
pub(crate) mod readiness;
mod registration;
mod renewals;
pub(crate) mod restarts;
pub(crate) mod signals;
pub(crate) mod supervisor;

pub(crate) use changes::Changes;
pub(crate) use child::{Live, StopSignal};
pub(crate) use lines::{Lines, Prefix};
pub(crate) use registration::{Described, Registration};
pub(crate) use renewals::Renewals;
