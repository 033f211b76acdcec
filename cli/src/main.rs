//! gwctl.
fn main() {}
