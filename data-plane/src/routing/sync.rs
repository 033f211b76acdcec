//! What the breaker's threads meet in. Apart, so that `tests/breaker.rs` can put loom's model of it in its place.

pub(super) use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread::yield_now,
};
