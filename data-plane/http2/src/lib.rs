//! HTTP/2 (RFC 9113) as bytes and rules, without sockets, tasks or clocks.
//!
//! [`hpack`] writes and reads heads, [`frame`] what they and everything else travel in. Both are told what was sent and say what it means, or which
//! rule it breaks: what follows from that is their caller's to decide.

pub mod frame;
pub mod hpack;
