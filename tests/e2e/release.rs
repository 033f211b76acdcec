//! What `deploy/release` makes of a repository, with a cargo that builds nothing.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use gateway_tests::{binaries, bounded};
use tempfile::TempDir;

/// Answers as cargo and its tools do, and leaves what they make: programs that say by which flags they were built, and what one
/// that counts has counted. What it was asked for is in the file `asked`.
const CARGO: &str = r#"#!/bin/sh
flags=$(printf %s "${CARGO_ENCODED_RUSTFLAGS-}" | tr '\037' ' ')
echo "$* RUSTFLAGS=$flags" >> "$HERE/asked"
case "$*" in *"${FAILS-no such thing}"*) exit 101 ;; esac
case "$*" in
*cyclonedx*) for member in control-plane data-plane cli proto; do echo '{}' > "$member/bom.json"; done ;;
*--training*) echo counts > "${LLVM_PROFILE_FILE%/*}/1.profraw" ;;
*build*)
    built=$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/dist
    mkdir -p "$built"
    for program in gw-control-plane gw-data-plane gwctl; do
        case "$*" in *"--bin=$program"*) ;; *) continue ;; esac
        printf '#!/bin/sh\n#%s\nexec "$GWCTL" "$@"\n' "$flags" > "$built/$program"
        chmod +x "$built/$program"
    done
    ;;
esac
"#;

/// Says which compiler it is, and where what belongs to it is.
const RUSTC: &str = r#"#!/bin/sh
case "$1" in
-vV) printf 'host: x86_64-unknown-linux-gnu\nLLVM version: 21.1.2\n' ;;
--print) echo "$HERE/sysroot" ;;
esac
"#;

/// Merges counts, and shows which functions have run.
const PROFDATA: &str = r#"#!/bin/sh
case "$1" in
--version) echo '  LLVM version 21.1.2-rust' ;;
merge) cat "$4" > "$3" ;;
show) printf '  forward, max count = 7\n  a.rs;route, max count = 3\n  never, max count = 0\n' ;;
esac
"#;

/// Where a compiler that says so has it.
const PROFDATA_PATH: &str = "sysroot/lib/rustlib/x86_64-unknown-linux-gnu/bin/llvm-profdata";

struct Repository(TempDir);

impl Repository {
    /// With a change log that has this section.
    fn with(section: &str) -> Self {
        let here = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let copy = |name: &str| {
            let copied = bounded("cp").arg("-r").arg(root.join(name)).arg(here.path()).status();
            assert!(copied.unwrap().success(), "{name}");
        };
        ["Cargo.toml", "LICENSE", "README.md", "SECURITY.md", "deploy", "docs"].into_iter().for_each(copy);
        for member in ["control-plane", "data-plane", "cli", "proto", "bin"] {
            fs::create_dir(here.path().join(member)).unwrap();
        }
        fs::write(here.path().join("CHANGELOG.md"), section).unwrap();
        fs::write(here.path().join(".gitignore"), "target\n/asked\n").unwrap();
        for (program, script) in [
            ("bin/cargo", CARGO),
            ("bin/cargo-deny", CARGO),
            ("bin/cargo-auditable", CARGO),
            ("bin/cargo-cyclonedx", CARGO),
            ("bin/rustc", RUSTC),
            (PROFDATA_PATH, PROFDATA),
        ] {
            let path = here.path().join(program);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let repository = Self(here);
        repository.git(&["init", "--quiet"]);
        repository.commit();
        repository
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn git(&self, args: &[&str]) {
        let author = ["-c", "user.name=a", "-c", "user.email=a@example"];
        let done = bounded("git").current_dir(self.0.path()).args(author).args(args).status();
        assert!(done.unwrap().success(), "git {args:?}");
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "all of it"]);
    }

    /// Whether it was made, and what was said.
    fn release(&self, args: &[&str]) -> (bool, String) {
        self.run("deploy/release", args, &[])
    }

    /// The same of a script, with these variables.
    fn run(&self, script: &str, args: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
        let mut command = bounded(self.path(script));
        let system = std::env::var("PATH").unwrap();
        // Without tools of cargo's that somebody has installed.
        let is_system = |folder: &&str| !Path::new(folder).join("cargo-cyclonedx").exists();
        let system: Vec<_> = system.split(':').filter(is_system).collect();
        let path = format!("{}:{}", self.path("bin").display(), system.join(":"));
        command.args(args).current_dir(self.0.path()).env("PATH", path).env("HERE", self.0.path());
        command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        command.env_remove("CARGO_BUILD_TARGET").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.envs(variables.iter().copied());
        command.env("GWCTL", binaries::gwctl().get_program());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

fn released() -> String {
    format!("# Changelog\n\n## {} - 2026-11-29\n", env!("CARGO_PKG_VERSION"))
}

#[test]
fn a_release_has_programs_manuals_completions_bills_and_checksums_that_are_right() {
    let repository = Repository::with(&released());
    let (is_made, said) = repository.release(&[]);
    assert!(is_made, "{said}");
    let out = repository.path(&format!("target/release-{}", env!("CARGO_PKG_VERSION")));
    for name in [
        "gw-control-plane",
        "gw-data-plane",
        "gwctl",
        "man/gwctl.1",
        "completions/gwctl.bash",
        "completions/gwctl.zsh",
        "completions/gwctl.fish",
        "control-plane.cdx.json",
        "data-plane.cdx.json",
        "cli.cdx.json",
        "deploy/docker/Dockerfile",
        "deploy/systemd/gw-data-plane.service",
        "deploy/kubernetes/kustomization.yaml",
        "deploy/kubernetes-etcd/kustomization.yaml",
        "deploy/prometheus/alerts.yaml",
        "docs/runbooks.md",
        "SECURITY.md",
        "LICENSE",
        "CHANGELOG.md",
    ] {
        assert!(out.join(name).metadata().is_ok_and(|found| found.len() > 0), "{name}");
    }
    let checked = bounded("sha256sum").current_dir(&out).args(["--check", "--strict", "SHA256SUMS"]).output();
    let checked = String::from_utf8(checked.unwrap().stdout).unwrap();
    assert!(checked.lines().count() > 25 && checked.lines().all(|line| line.ends_with(": OK")), "{checked}");
    let asked = fs::read_to_string(repository.path("asked")).unwrap();
    assert!(asked.contains("deny check licenses bans sources") && asked.contains("--locked"), "{asked}");
    assert!(asked.contains("deny check --disable-fetch advisories"), "{asked}");
    assert!(said.contains("without a signature") && !out.join("SHA256SUMS.sig").exists(), "{said}");
    assert!(!repository.path("proto/bom.json").exists(), "nothing is left in the tree");
    assert_trained(&repository, &asked, &out);
}

/// Asserts that the data plane was built to count, driven, and built by what it had counted, and the other programs once.
fn assert_trained(repository: &Repository, asked: &str, out: &Path) {
    let of_data_plane = |line: &&str| line.contains("build") && line.contains("gw-data-plane");
    let built: Vec<_> = asked.lines().filter(of_data_plane).collect();
    let [counting, trained] = built[..] else { panic!("{asked}") };
    assert!(counting.starts_with("auditable build") && counting.contains("-Cprofile-generate"), "{asked}");
    assert!(trained.starts_with("auditable build") && trained.contains("-Cprofile-use="), "{asked}");
    assert!(asked.contains("--training --programs"), "{asked}");
    let flags = |path: PathBuf| fs::read_to_string(path).unwrap().lines().nth(1).unwrap().to_owned();
    assert!(flags(repository.path("target/training/driven/gw-data-plane")).contains("-Cprofile-generate"));
    let shipped = flags(out.join("gw-data-plane"));
    assert!(shipped.contains("-Cprofile-use="), "{shipped}");
    assert_eq!(flags(out.join("gwctl")), "#");
    let (_, order) = shipped.split_once("--symbol-ordering-file=").expect("it is laid out by what has run");
    let order = fs::read_to_string(order.split(',').next().unwrap()).unwrap();
    assert_eq!(order, "forward\nroute\n", "what has run, and nothing else");
}

#[test]
fn checksums_are_signed_by_the_key_that_is_named_and_no_other_passes_for_it() {
    let repository = Repository::with(&released());
    let keys = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = keys.path().join(name);
        let made = bounded("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
        assert!(made.unwrap().success());
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        fs::write(path.with_extension("signers"), format!("gateway {public}")).unwrap();
        path
    };
    let (ours, others) = (make("ours"), make("others"));
    let variables = [("RELEASE_KEY", ours.to_str().unwrap())];
    let (is_made, said) = repository.run("deploy/release", &["--without-tools"], &variables);
    assert!(is_made, "{said}");
    let out = repository.path(&format!("target/release-{}", env!("CARGO_PKG_VERSION")));
    let passes = |key: &Path| {
        // As docs/versions.md says it.
        let line = "ssh-keygen -Y verify -f \"$SIGNERS\" -I gateway -n gateway-release -s SHA256SUMS.sig <SHA256SUMS";
        let mut verified = bounded("sh");
        verified
            .current_dir(&out)
            .args(["-c", line])
            .env("SIGNERS", key.with_extension("signers"))
            .status()
            .unwrap()
            .success()
    };
    assert!(passes(&ours) && !passes(&others));
}

#[test]
fn a_release_stops_at_an_advisory_and_not_at_a_network_that_is_not_there() {
    let repository = Repository::with(&released());
    let (is_made, said) =
        repository.run("deploy/release", &[], &[("FAILS", "deny check --disable-fetch advisories")]);
    assert!(!is_made, "{said}");
    let (is_made, said) = repository.run("deploy/release", &[], &[("FAILS", "deny fetch db")]);
    assert!(is_made && said.contains("advisories were NOT checked"), "{said}");
}

#[test]
fn a_build_that_fails_half_way_leaves_the_programs_that_were_there() {
    let repository = Repository::with(&released());
    let out = repository.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("gw-data-plane"), "of before").unwrap();
    let (is_made, said) = repository.run("deploy/build", &["out"], &[("FAILS", "--bin=gwctl")]);
    assert!(!is_made, "{said}");
    let left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["gw-data-plane"], "{said}");
    assert_eq!(fs::read_to_string(out.join("gw-data-plane")).unwrap(), "of before");
}

#[test]
fn a_release_is_not_made_without_a_tool_that_could_not_be_installed_unless_that_is_asked_for() {
    let repository = Repository::with(&released());
    fs::remove_file(repository.path("bin/cargo-cyclonedx")).unwrap();
    repository.commit();
    let (is_made, said) = repository.run("deploy/release", &[], &[("FAILS", "install")]);
    assert!(!is_made && said.contains("cargo-cyclonedx could not be installed"), "{said}");
}

#[test]
fn a_build_takes_the_flags_of_the_environment_and_a_target_with_spaces() {
    let repository = Repository::with(&released());
    let target = repository.path("the target");
    let variables =
        [("CARGO_TARGET_DIR", target.to_str().unwrap()), ("RUSTFLAGS", "-Ctarget-cpu=native  -g")];
    let (is_made, said) = repository.run("deploy/build", &["out"], &variables);
    assert!(is_made, "{said}");
    let shipped = fs::read_to_string(repository.path("out/gw-data-plane")).unwrap();
    let flags = format!("#-Ctarget-cpu=native -g -Cprofile-use={}/training/", target.display());
    assert!(shipped.lines().any(|line| line.starts_with(&flags)), "{shipped}");
}

#[test]
fn a_build_for_another_machine_is_refused_before_anything_is_built_unless_it_is_untrained() {
    let repository = Repository::with(&released());
    let other = [("CARGO_BUILD_TARGET", "aarch64-unknown-linux-gnu")];
    let (is_made, said) = repository.run("deploy/build", &["out"], &other);
    assert!(!is_made && said.contains("cannot be trained") && said.contains("--untrained"), "{said}");
    assert!(!repository.path("asked").exists(), "{said}");
}

#[test]
fn what_a_release_is_made_without_is_said() {
    let repository = Repository::with(&released());
    let (is_made, said) = repository.release(&["--without-tools"]);
    assert!(is_made, "{said}");
    for what in [
        "licenses, sources and advisories are not checked",
        "without a trained data plane",
        "no bills of materials",
    ] {
        assert!(said.contains(what), "{said}");
    }
    let asked = fs::read_to_string(repository.path("asked")).unwrap();
    assert!(!asked.contains("deny") && !asked.contains("profile-use"), "{asked}");
}

#[test]
fn nothing_is_released_of_no_commit_or_without_a_section_of_the_change_log() {
    let repository = Repository::with("# Changelog\n\n## Unreleased\n");
    let (is_made, said) = repository.release(&[]);
    assert!(!is_made && said.contains("has no section"), "{said}");
    let repository = Repository::with(&released());
    fs::write(repository.path("LICENSE"), "none").unwrap();
    let (is_made, said) = repository.release(&[]);
    assert!(!is_made && said.contains("not committed"), "{said}");
    assert!(!repository.path("asked").exists());
}
