//! Rules of the source tree that no compiler checks.

mod links;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Decisions are made here; everything they need comes in as arguments, so that tests and the simulator own time,
/// chance and the network.
const PURE: &[&str] = &[
    "cli/src/run/arguments.rs",
    "cli/src/run/restarts.rs",
    "cli/src/figure.rs",
    "cli/src/top/board.rs",
    "cli/src/top/input.rs",
    "cli/src/top/view.rs",
    "data-plane/src/access_log/escape.rs",
    "data-plane/src/access_log/line.rs",
    "control-plane/src/auth/book.rs",
    "control-plane/src/auth/denied.rs",
    "control-plane/src/auth/endpoints.rs",
    "control-plane/src/auth/identity.rs",
    "control-plane/src/auth/limit.rs",
    "control-plane/src/auth/permission.rs",
    "control-plane/src/auth/roles.rs",
    "control-plane/src/auth/token",
    "control-plane/src/auth/token.rs",
    "control-plane/src/leases.rs",
    "control-plane/src/observe/changes.rs",
    "control-plane/src/observe/fold.rs",
    "control-plane/src/observe/matrix",
    "control-plane/src/observe/matrix.rs",
    "control-plane/src/observe/nodes",
    "control-plane/src/observe/nodes.rs",
    "control-plane/src/observe/peers.rs",
    "control-plane/src/observe/receipts.rs",
    "control-plane/src/observe/recent.rs",
    "control-plane/src/observe/report.rs",
    "control-plane/src/observe/row.rs",
    "control-plane/src/observe/scope.rs",
    "control-plane/src/observe/stats",
    "control-plane/src/observe/stats.rs",
    "control-plane/src/observe/tally.rs",
    "control-plane/src/observe/timeline.rs",
    "control-plane/src/publish/filter.rs",
    "control-plane/src/publish/log.rs",
    "control-plane/src/publish/session.rs",
    "control-plane/src/publish/snapshot.rs",
    "control-plane/src/query",
    "control-plane/src/registry",
    "data-plane/http2/src",
    "data-plane/src/discovery/assembly.rs",
    "data-plane/src/discovery/delta.rs",
    "data-plane/src/discovery/draft.rs",
    "data-plane/src/discovery/guard",
    "data-plane/src/discovery/guard.rs",
    "data-plane/src/discovery/mirror.rs",
    "data-plane/src/discovery/overrides.rs",
    "data-plane/src/discovery/parse.rs",
    "data-plane/src/discovery/services.rs",
    "data-plane/src/discovery/snapshot.rs",
    "data-plane/src/header_fields.rs",
    "data-plane/src/health/check.rs",
    "data-plane/src/health/schedule.rs",
    "data-plane/src/proxy/head/field_name.rs",
    "data-plane/src/proxy/head/fields.rs",
    "data-plane/src/proxy/head/forwarding.rs",
    "data-plane/src/proxy/h1/body.rs",
    "data-plane/src/proxy/h1/chunked.rs",
    "data-plane/src/proxy/h1/framing.rs",
    "data-plane/src/proxy/h1/limits.rs",
    "data-plane/src/proxy/h1/refusal.rs",
    "data-plane/src/proxy/h1/request.rs",
    "data-plane/src/proxy/h1/response.rs",
    "data-plane/src/proxy/h1/scan.rs",
    "data-plane/src/proxy/h1/target.rs",
    "data-plane/src/proxy/h1/write.rs",
    "data-plane/src/proxy/h2/flood.rs",
    "data-plane/src/proxy/h2/heads.rs",
    "data-plane/src/proxy/h2/reading.rs",
    "data-plane/src/proxy/head.rs",
    "data-plane/src/proxy/head/hints.rs",
    "data-plane/src/proxy/downstream/proxy_protocol.rs",
    "data-plane/src/proxy/head/trace_context.rs",
    "data-plane/src/proxy/body/pace.rs",
    "data-plane/src/request_rules",
    "data-plane/src/request_rules.rs",
    "data-plane/src/routes",
    "data-plane/src/routes.rs",
    "data-plane/src/routing",
    "proto/src/hazard.rs",
    "proto/src/networks.rs",
    "runtime/src/supervise/intensity.rs",
    "tests/harness/history.rs",
];

/// What a pure core would need to read a clock, do IO, draw lots or log.
const IMPURE: [&str; 8] = [
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "std::net",
    "std::fs",
    "std::thread::sleep",
    "rand::",
    "tracing",
];

const MAX_LINES: usize = 600;

const MEMBERS: [&str; 6] = ["cli", "control-plane", "data-plane", "proto", "runtime", "tests"];

#[test]
fn pure_cores_read_no_clock_do_no_io_draw_no_lots_and_log_nothing() {
    for core in PURE {
        let files = sources(core);
        assert!(!files.is_empty(), "{core} is gone: this list names the pure cores");
        for file in files.into_iter().filter(|file| !is_test(file)) {
            let text = read(&file);
            let code = text.lines().map(without_comment).take_while(|line| line.trim() != "#[cfg(test)]");
            for (number, line) in code.enumerate() {
                let found = IMPURE.iter().find(|word| line.contains(*word));
                assert_eq!(found, None, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
}

#[test]
fn neither_plane_depends_on_the_other_or_on_the_client() {
    let forbidden = [
        ("control-plane", ["data-plane", "gwctl"]),
        ("data-plane", ["control-plane", "gwctl"]),
        ("proto", ["control-plane", "data-plane"]),
        ("runtime", ["control-plane", "data-plane"]),
    ];
    for (package, others) in forbidden {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        for other in others {
            let depends = manifest.lines().any(|line| line.starts_with(other));
            assert!(!depends, "{package} depends on {other}");
        }
    }
}

#[test]
fn no_file_is_too_long_to_be_read_in_one_go() {
    for file in all_sources() {
        let lines = read(&file).lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines, at most {MAX_LINES}", file.display());
    }
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    for file in all_sources() {
        for part in file.strip_prefix(root()).expect("sources are below the root").components() {
            let name = part.as_os_str().to_string_lossy();
            let stem = name.trim_end_matches(".rs");
            let words: Vec<&str> = stem.split('_').collect();
            for empty in ["util", "utils", "helper", "helpers", "common", "manager", "misc"] {
                assert!(!words.contains(&empty), "{}: named {empty}", file.display());
            }
        }
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    // The tests of a module are introduced by the module.
    for file in all_sources().into_iter().filter(|file| !is_test(file)) {
        assert!(read(&file).starts_with("//!"), "{} does not begin with //!", file.display());
    }
}

#[test]
fn every_test_target_of_this_package_is_run_by_the_test_command() {
    let tests = root().join("tests");
    let (manifest, command) = (read(&tests.join("Cargo.toml")), read(&tests.join("run")));
    let targets = manifest.split("[[test]]").skip(1);
    let names = targets.filter_map(|target| target.split('"').nth(1));
    for name in names {
        assert!(command.contains(&format!("--test {name}")), "tests/run does not run --test {name}");
    }
}

#[test]
fn every_guarantee_cites_tests_that_exist_under_unique_names() {
    let document = read(&root().join("docs/semantics.md"));
    let guarantees = document.split("\n\n").filter(|paragraph| paragraph.starts_with("**"));
    let cited: Vec<_> = guarantees.map(|guarantee| (guarantee, cited_tests(guarantee))).collect();
    assert!(cited.len() > 10, "{} guarantees were found", cited.len());
    each_is_held("docs/semantics.md", &cited);
}

#[test]
fn every_feature_of_the_predecessors_cites_tests_that_exist() {
    let document = read(&root().join("docs/predecessors.md"));
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    let cited: Vec<_> =
        rows.map(|row| (row, in_backticks(row.rsplit(" | ").next().unwrap_or_default()))).collect();
    let numbers: Vec<_> =
        cited.iter().filter_map(|(row, _)| row.split(' ').nth(1)?.parse::<u32>().ok()).collect();
    assert_eq!(numbers, std::iter::once(16).chain(25..=51).collect::<Vec<_>>());
    each_is_held("docs/predecessors.md", &cited);
}

/// Whether all that a document says cites tests, each of which is there once.
fn each_is_held(document: &str, cited: &[(&str, Vec<&str>)]) {
    let sources: Vec<String> = all_sources().iter().map(|file| read(file)).collect();
    let mut missing = Vec::new();
    for (said, names) in cited {
        assert!(!names.is_empty(), "no test holds this:\n{said}");
        for name in names {
            let defined: usize =
                sources.iter().map(|source| source.matches(&format!("fn {name}(")).count()).sum();
            if defined != 1 {
                missing.push(format!("{name} is defined {defined} times"));
            }
        }
    }
    assert!(missing.is_empty(), "{document} cites tests that are not there once:\n{}", missing.join("\n"));
}

/// The names in backticks that stand behind the first suite in brackets.
fn cited_tests(guarantee: &str) -> Vec<&str> {
    const SUITES: [&str; 6] =
        ["[unit]", "[property]", "[threads]", "[simulation]", "[sockets]", "[end to end]"];
    let Some(start) = SUITES.iter().filter_map(|suite| guarantee.find(suite)).min() else {
        return Vec::new();
    };
    in_backticks(&guarantee[start..])
}

fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Whether a file of a package's `src` holds nothing but tests, which may do what they test does not.
fn is_test(file: &Path) -> bool {
    let inside = file.strip_prefix(root()).expect("sources are below the root");
    let is_named_so =
        file.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"));
    is_named_so || inside.components().skip(1).any(|part| part.as_os_str() == "tests")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

fn all_sources() -> Vec<PathBuf> {
    let files: Vec<_> = MEMBERS.iter().flat_map(|member| sources(member)).collect();
    assert!(files.len() > 50, "the walk found {} files only", files.len());
    files
}

/// The Rust files at or below a path of the workspace.
fn sources(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root().join(path), &mut found);
    found
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let is_foreign = path.file_name().is_some_and(|name| name == ".tools" || name == "target");
        if is_foreign {
            return;
        }
        for entry in fs::read_dir(path).expect("the workspace is readable") {
            walk(&entry.expect("the workspace is readable").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}
