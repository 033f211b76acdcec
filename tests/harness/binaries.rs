//! The programs under test, built once for each run of a test binary, so that they are never stale.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A command for the control plane.
pub fn control_plane() -> Command {
    command("gw-control-plane")
}

/// A command for the data plane.
pub fn data_plane() -> Command {
    command("gw-data-plane")
}

/// A command for the command-line client, which is also the demo and its replicas.
pub fn gwctl() -> Command {
    command("gwctl")
}

/// A program without what the caller's environment says to it: tests state every setting themselves.
fn command(program: &str) -> Command {
    let mut command = Command::new(directory().join(program));
    let is_ours = |name: &str| name.starts_with("GW_") || name.starts_with("GWCTL_");
    for (name, _) in std::env::vars().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command
}

/// Where cargo puts the programs of the profile that the tests were built with.
fn directory() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("a running test has a path");
        // <target>/<profile>/deps/<test>
        let directory = test.ancestors().nth(2).expect("cargo runs tests from its target directory");
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        // With a target of tests named, cargo resolves the same features as for them: nothing is built twice. Benches are built
        // for release anyhow, and the end-to-end tests would be for nothing.
        let target = if profile == "dev" { ["--test", "e2e"] } else { ["--bench", "drills"] };
        let status = Command::new(env!("CARGO"))
            .current_dir(workspace)
            .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
            .args(target)
            .status()
            .expect("cargo runs the tests, so it can be started");
        assert!(status.success(), "the programs under test do not build");
        directory.to_owned()
    })
}
