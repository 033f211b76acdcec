//! The data plane: an HTTP proxy that routes from its own copy of the registry, with local circuit breaking.
//!
//! It serves from the last snapshot for as long as the control plane is away. [`routing`] decides, [`table`] holds
//! what requests are routed by, [`proxy`] carries them.

pub mod clock;
pub mod proxy;
pub mod routing;
pub mod table;
