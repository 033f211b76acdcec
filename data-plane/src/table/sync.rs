//! What threads share by. Here, and only here, so that [`super::pending`] can be built with a model of it.

pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering, fence},
};
