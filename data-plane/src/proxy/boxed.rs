//! Futures in boxes of their own, so that whoever awaits them has no room for them while they are not.

use std::pin::Pin;

/// The future that this `make`s, in a box. It is made where it is to lie, and never moved: [`Box::pin`] has it made elsewhere and copied,
/// kilobytes of it that are nothing yet.
#[inline(always)]
pub(super) fn boxed<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}
