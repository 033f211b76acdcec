//! The control plane's process.
fn main() {}
