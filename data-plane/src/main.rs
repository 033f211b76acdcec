//! The data plane's process.
fn main() {}
