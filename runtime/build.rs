//! Tells the build of itself: which compiler it is by, and of which revision, where the environment says so.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GATEWAY_REVISION");
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().ok();
    let version = version.and_then(|output| String::from_utf8(output.stdout).ok());
    let version = version.as_deref().and_then(|text| text.split_whitespace().nth(1)).unwrap_or("unknown");
    println!("cargo::rustc-env=GATEWAY_RUSTC={version}");
    let revision = env::var("GATEWAY_REVISION").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=GATEWAY_REVISION={revision}");
}
