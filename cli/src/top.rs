//! `gwctl top`: who gets how many requests and how they fare, worst first, as it happens.
//!
//! [`board`] keeps the figures, [`input`] turns bytes into keys and keys into what they ask for, [`view`] writes both as text:
//! all pure. The command talks to the control plane and to the terminal.

pub(crate) mod board;
pub(crate) mod input;
pub(crate) mod view;
